"""What a staged backbone is: five named stages over a map, of which the first takes images and the last gives a map.

Between stages stands a state: the map (N, C, H, W) alone, or `Tokens`, the map with tokens that have no place in it,
such as a ViT's class token. An adapter says for a family of backbones what its five stages are; strides, channels and
rows are measured on the stages themselves.

Decisions, for every method:
- `layer1` to `layer4` end where a ResNet's do: at strides 4, 8, 16 and 32, the last at 16 with LAST_STRIDE 1. What
  follows a network's last block (a 1x1 convolution, a norm) belongs to `layer4`.
- LAST_STRIDE 1 takes the stride from the layers of `layer4` that have one, in every family.
- A transformer of a single stride has its blocks in four equal groups; see `tokens`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from fastreid.config import CfgNode
from torch import nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from ..settings import Settings

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


class Tokens(NamedTuple):
    """A map, and tokens without a place in it.

    Attributes:
        map: (N, C, H, W).
        extra: (N, T, C).
    """

    map: torch.Tensor
    extra: torch.Tensor


State: TypeAlias = "torch.Tensor | Tokens"


def spatial(state: State) -> torch.Tensor:
    """Give the map (N, C, H, W) of a state."""
    return state.map if isinstance(state, Tokens) else state


def on_map(state: State, change: Callable[[torch.Tensor], torch.Tensor], copies: int = 1) -> State:
    """Change the map of a state.

    Args:
        state: what a stage gave.
        change: (N, C, H, W) -> (copies N, C, h, w), all images of the first copy before those of the second.
        copies: into how many images each one is cut; each gets the other tokens of the whole.
    """
    if not isinstance(state, Tokens):
        return change(state)
    return Tokens(change(state.map), state.extra.repeat(copies, 1, 1))


# ---- adapters -----------------------------------------------------------------------------------------------------

_Adapter = TypeVar("_Adapter", bound=Callable[[Any], Mapping[str, nn.Module]])
_ADAPTERS: dict[type[nn.Module], Callable[[Any], Mapping[str, nn.Module]]] = {}


def adapter(*kinds: type[nn.Module]) -> Callable[[_Adapter], _Adapter]:
    """Register a function that gives the stages of some classes of backbones, {name: module}, one for each of `STAGES`.

    The stages hold the very layers of the backbone. Run in order they give what it gives, or, where that is no map, its
    last map.
    """

    def register(function: _Adapter) -> _Adapter:
        _ADAPTERS.update(dict.fromkeys(kinds, function))
        return function

    return register


def has_stages(backbone: nn.Module) -> bool:
    """Tell whether a backbone is of a family that `stages_of` knows."""
    return isinstance(backbone, StagedBackbone) or not _ADAPTERS.keys().isdisjoint(type(backbone).__mro__)


def stages_of(backbone: nn.Module) -> dict[str, nn.Module]:
    """Give the stages of a backbone, {name: module} in the order of `STAGES`.

    Raises:
        ValueError: it is of no family that is known here.
    """
    if isinstance(backbone, StagedBackbone):
        return dict(backbone.stages.items())
    for kind in type(backbone).__mro__:
        if kind in _ADAPTERS:
            return dict(_ADAPTERS[kind](backbone))
    raise ValueError(
        f"branches are made of a backbone's stages, and those of {type(backbone).__name__} are not known; known are "
        f"{', '.join(sorted(kind.__name__ for kind in _ADAPTERS))}. For another family register an adapter, see "
        "fastreid_parts.backbones.adapter"
    )


def in_order(*groups: nn.Module | Sequence[nn.Module]) -> dict[str, nn.Module]:
    """Name five groups of layers: a group is a module, or several that run one after the other."""
    return {
        name: group if isinstance(group, nn.Module) else nn.Sequential(*group)
        for name, group in zip(STAGES, groups, strict=True)
    }


def by_stride(units: Iterable[nn.Module]) -> dict[str, nn.Module]:
    """Group the layers of a network, in order, by the stride at which they give their map: 2, 4, 8, 16 and 32.

    Raises:
        ValueError: one of the five strides does not occur.
    """
    groups: dict[str, list[nn.Module]] = {name: [] for name in STAGES}
    size = 64
    x = torch.empty(1, 3, size, size, device="meta")
    for unit in units:
        x = _on_meta(unit, x)
        groups[STAGES[(size // x.shape[-1]).bit_length() - 2]].append(unit)
    missing = [name for name, group in groups.items() if not group]
    if missing:
        raise ValueError(f"no layer gives its map at the stride of {', '.join(missing)}")
    return in_order(*groups.values())


# ---- measures -----------------------------------------------------------------------------------------------------


def input_size(cfg: CfgNode) -> tuple[int, int]:
    """Give a height and width at which a backbone can be measured: those of the training images, where that is known.

    fast-reid also takes an INPUT.SIZE_TRAIN of one number, the shorter side, or of [0], the size of INPUT.CROP or of
    the files. The first is taken as a square, and where no key has a size it is 256 by 128: strides and channels are
    the same at any.

    Args:
        cfg: its INPUT.SIZE_TRAIN and INPUT.CROP are read.
    """
    for size in (cfg.INPUT.SIZE_TRAIN, cfg.INPUT.CROP.SIZE if cfg.INPUT.CROP.ENABLED else ()):
        if size and min(size) > 0:
            return size[0], size[-1]
    return 256, 128


def map_shape(backbone: nn.Module, size: Sequence[int]) -> tuple[int, int, int]:
    """Measure what a backbone gives for an image, without computing it.

    Args:
        backbone: of a family that has stages; of one with branches the first one counts.
        size: height and width of the image.

    Returns:
        Channels, rows and columns of the last map.

    Raises:
        ValueError: see `stages_of`.
    """
    return output_shape(nn.Sequential(*stages_of(backbone).values()), size)


def output_shape(network: nn.Module, size: Sequence[int]) -> tuple[int, int, int]:
    """Measure what a network gives for an image, without computing it.

    Args:
        network: images (N, 3, H, W) -> (N, C, h, w).
        size: height and width of the image.

    Returns:
        C, h and w.
    """
    channels, rows, columns = _on_meta(network, torch.empty(1, 3, *size, device="meta")).shape[1:]
    return channels, rows, columns


def last_stride(stages: Mapping[str, nn.Module], size: Sequence[int]) -> int:
    """Measure by how much the last stage shrinks its map: 1 or 2.

    Args:
        stages: of a backbone.
        size: height and width of an image.
    """
    x, rows = _before_last(stages, size)
    return 1 if spatial(_on_meta(stages["layer4"], x)).shape[2] == rows else 2


def _before_last(stages: Mapping[str, nn.Module], size: Sequence[int]) -> tuple[Any, int]:
    """What the last stage is given for an image, and the rows of its map."""
    x: Any = torch.empty(1, 3, *size, device="meta")
    for name in STAGES[:-1]:
        x = _on_meta(stages[name], x)
    return x, spatial(x).shape[2]


def take_stride(stages: Mapping[str, nn.Module], size: Sequence[int]) -> None:
    """Give the last stage stride 1, where it has another.

    All convolutions of `layer4` that have stride 2 lose it, those of a shortcut too. An even kernel is padded below and
    to the right, so that the map keeps its size.

    Args:
        stages: of a backbone; layers of `layer4` are changed in place.
        size: height and width of an image.

    Raises:
        ValueError: the stage cannot do without.
    """
    last = stages["layer4"]
    x, rows = _before_last(stages, size)
    if spatial(_on_meta(last, x)).shape[2] == rows:
        return
    for module in last.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.stride = (1, 1)
            if module.kernel_size[0] % 2 == 0:
                module.padding = "same"
    try:
        taken = spatial(_on_meta(last, x)).shape[2] == rows
    except RuntimeError:  # a shortcut that pools has kept its stride, and no longer fits
        taken = False
    if not taken:
        raise ValueError(
            "MODEL.BACKBONE.LAST_STRIDE is 1, and the last stage of this backbone merges neighbors by other layers "
            "than convolutions, which cannot do without their stride: set it to 2"
        )


_measured: dict[tuple[Any, ...], Any] = {}
_MOST_MEASURED = 200  # the structure of a whole network takes some hundred KB


def _on_meta(module: nn.Module, x: Any) -> Any:
    """What a module gives in evaluation, as tensors without content; nothing of the module changes.

    It is run once for all modules of one structure: a model asks several times, and a process may build many.
    """
    try:
        structure = _structure(module, x)
    except _UnknownError:
        return _run_on_meta(module, x)
    if structure not in _measured:
        if len(_measured) == _MOST_MEASURED:
            _measured.clear()
        _measured[structure] = _run_on_meta(module, x)
    return _measured[structure]


class _UnknownError(Exception):
    """What a module gives may depend on something that cannot be compared."""


def _structure(module: nn.Module, x: Any) -> tuple[Any, ...]:
    """All that the shape of what a module gives depends on."""
    said: list[Any] = [tuple(tuple(tensor.shape) for tensor in (x if isinstance(x, Tokens) else (x,)))]
    for name, child in module.named_modules(remove_duplicate=False):
        attributes = vars(child)
        if any(attributes[hooks] for hooks in ("_forward_hooks", "_forward_pre_hooks")):
            raise _UnknownError
        said += [name, type(child), type(child).forward]
        said += [(key, _comparable(value)) for key, value in attributes.items() if key not in _OF_EVERY_MODULE]
        for tensors in (child.named_parameters(recurse=False), child.named_buffers(recurse=False)):
            said += [(key, tuple(tensor.shape)) for key, tensor in tensors]
    return tuple(said)


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device, type)


def _comparable(value: Any) -> Any:
    """What is equal for equal values, and keeps 1, 1.0 and True apart."""
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, (tuple, list)):
        return type(value), *map(_comparable, value)
    if isinstance(value, dict):
        return dict, *((_comparable(key), _comparable(one)) for key, one in value.items())
    if isinstance(value, Settings):
        return type(value), _comparable(vars(value))
    if isinstance(value, FunctionType) and value.__closure__ is None:
        return value
    raise _UnknownError


def _run_on_meta(module: nn.Module, x: Any) -> Any:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    training = [child for child in module.modules() if child.training]
    module.eval()
    try:
        with torch.no_grad(), _ShapesAlone():
            return functional_call(module, {name: t.to("meta") for name, t in tensors.items()}, (x,))
    finally:
        for child in training:
            child.training = True


_KEEP_THE_SHAPE = {F.batch_norm, F.relu, F.relu6, F.hardtanh, F.hardswish, F.hardsigmoid, F.silu, F.gelu, F.dropout}


class _ShapesAlone(TorchFunctionMode):
    """Leaves out what keeps the shape: without content it takes most of the time, in Python."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if args and func in _KEEP_THE_SHAPE else func(*args, **(kwargs or {}))


# ---- a backbone of its stages -------------------------------------------------------------------------------------


class StagedBackbone(nn.Module):
    """A backbone that is its stages.

    Args:
        stages: {name: module}, see `stages_of`.
    """

    def __init__(self, stages: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(stages)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, C, h, w)."""
        x = images
        for stage in self.stages.values():
            x = stage(x)
        return x
