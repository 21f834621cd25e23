"""timm's models as backbones: MODEL.BACKBONE.NAME build_timm_backbone, and the model's name in MODEL.BACKBONE.TIMM.

Decisions:
- LAST_STRIDE is obeyed in all; DROP_PATH_RATIO, DROP_RATIO, ATT_DROP_RATE and STRIDE_SIZE (overlapping patches) where a
  model has such a thing. They and the keys of fast-reid's own builders are refused where they are set and not read.
- The map is what timm's `forward_features` gives: the stages run the same layers in the same order, which is compared
  when they are built, and a model of which they do not is refused. What comes after its pooling, ConvNeXt's norm and
  MobileNet's last layer, is left out: here a head pools.
- ConvNeXt, RepViT, FastViT, ResNet, RegNet and Swin come in four stages after a stem. EfficientNet and MobileNet are
  grouped by stride, ViT, DeiT, DINO and EVA as `tokens` says.
- CONV_STEM is the stem of TransReID-SSL's ICS models and CION's ViTs (Luo et al., Self-Supervised Pre-Training for
  Transformer-Based Person Re-Identification): three convolutions, the first at stride 2, before patches of half size.
- Swin: windows that a map or stripe does not fill are padded, as timm does for any size; attention never crosses the
  stripes of RMGL. It merges 2x2 neighbors and cannot do without that stride: LAST_STRIDE 2.
"""

from __future__ import annotations

import difflib
import inspect
import itertools
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.layers import IBN
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from torch import nn

from ..pretrained import load_pretrained
from ..settings import Declares, Settings, key
from .stages import StagedBackbone, by_stride, in_order, input_size, map_shape, output_shape
from .tokens import TokenStem, transformer_stages

logger = logging.getLogger(__name__)


class TimmSettings(Settings, section="MODEL.BACKBONE", role="features"):
    """timm's models (build_timm_backbone)."""

    for_any_model = True

    timm: str = key("", "the model's name in timm, such as convnext_tiny.fb_in22k")
    conv_stem: bool = key(
        False, "a ViT has three convolutions with IBN before its patches, as TransReID-SSL's and CION's"
    )


class _Stem(Declares, nn.Sequential):
    """The stem of one of timm's models; it declares the key that chose the model."""

    reads = {"timm": TimmSettings}


class ConvStem(nn.Sequential):
    """Three convolutions with IBN, IBN and batch norm, and a projection of patches of half the size.

    Args:
        patches: the projection of patches of the image that it stands for.
    """

    def __init__(self, patches: nn.Conv2d) -> None:
        super().__init__()
        width, half = 64, patches.kernel_size[0] // 2
        convolutions = [nn.Conv2d(3, width, 7, 2, 3, bias=False)]
        convolutions += [nn.Conv2d(width, width, 3, 1, 1, bias=False) for _ in range(2)]
        norms = [IBN(width, "BN"), IBN(width, "BN"), nn.BatchNorm2d(width)]
        layers = [layer for pair in zip(convolutions, norms) for layer in (*pair, nn.ReLU(inplace=True))]
        self.conv = nn.Sequential(*layers)
        self.proj = nn.Conv2d(width, patches.out_channels, half, half)


class _ChannelsFirst(nn.Module):
    """A module over (N, H, W, C), Swin's or a patch embedding, with maps (N, C, H, W) on either side.

    Args:
        module: what is run.
        from_image: its input is an image, or a map, (N, C, H, W) as it is.
    """

    def __init__(self, module: nn.Module, from_image: bool = False) -> None:
        super().__init__()
        self.module, self.from_image = module, from_image

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C_in, H_in, W_in) -> (N, C, H, W)."""
        return self.module(x if self.from_image else x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


#: Keys of MODEL.BACKBONE that only fast-reid's own builders read; DEPTH is one too, but has no value that says nothing
_UNREAD = ("NORM", "WITH_IBN", "WITH_SE", "WITH_NL")
#: Those that some models read, by timm's names for them
_OPTIONS = {
    "DROP_PATH_RATIO": ("drop_path_rate",),
    "DROP_RATIO": ("pos_drop_rate", "proj_drop_rate"),
    "ATT_DROP_RATE": ("attn_drop_rate",),
}


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode) -> StagedBackbone:
    """Build the model that MODEL.BACKBONE.TIMM names, in stages.

    Args:
        cfg: the config; position embeddings are made for the size of its training images, and PRETRAIN without a path
            means timm's own weights.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: timm has no such model, its layers are not known here, or a key is set that it does not read.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "MODEL.BACKBONE.NAME build_timm_backbone needs timm: pip install 'fastreid_parts[timm]'"
        ) from error
    settings = TimmSettings.from_cfg(cfg)
    name = settings.timm
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.3) or ["resnet50"]
        raise ValueError(f"MODEL.BACKBONE.TIMM is '{name}', which timm does not have; it has {', '.join(near)} ...")
    model = timm.create_model(name, num_classes=0, **_options(timm, name, cfg))
    tokens = isinstance(model, _with_tokens(timm))
    if settings.conv_stem:
        if not tokens or tuple(cfg.MODEL.BACKBONE.STRIDE_SIZE) != model.patch_embed.patch_size:
            raise ValueError(f"MODEL.BACKBONE.CONV_STEM is for a ViT whose patches do not overlap, not for {name}")
        model.patch_embed.proj = ConvStem(model.patch_embed.proj)
    load_pretrained(model, cfg)
    size = input_size(cfg)
    try:
        stages = _transformer(model, cfg) if tokens else _convolutional(model, size)
    except ValueError:
        raise
    except Exception as error:  # of windows or patches that do not fit, some of them without a word
        raise ValueError(
            f"MODEL.BACKBONE.TIMM {name} is a {type(model).__name__}, which has no map of {size[0]} x {size[1]} pixels "
            f"({str(error).strip() or type(error).__name__}): set another INPUT.SIZE_TRAIN, or another model"
        ) from error
    held = {id(parameter) for stage in stages.values() for parameter in stage.parameters()}
    # Those of modules are for the comparison of layers; a copy of the position embedding is cut to the grid
    lost = [one for one, p in model.named_parameters(recurse=False) if one != "pos_embed" and id(p) not in held]
    if not stages or lost or map_shape(StagedBackbone(stages), size)[0] != model.num_features:
        raise ValueError(
            f"MODEL.BACKBONE.TIMM {name} is a {type(model).__name__}, whose layers are not known as stages here; those "
            "of ResNet, RegNet, EfficientNet, MobileNet, ConvNeXt, RepViT, FastViT, Swin, ViT and EVA are"
        )
    stages["stem"] = _Stem(stages["stem"])
    return StagedBackbone(stages)


def _with_tokens(timm: Any) -> tuple[type[nn.Module], ...]:
    """The classes whose stages are made of tokens, by `_transformer`."""
    return timm.models.VisionTransformer, timm.models.Eva


def _options(timm: Any, name: str, cfg: CfgNode) -> dict[str, Any]:
    """What of the config the class of a model takes, under timm's names."""
    with torch.device("meta"):
        kind = type(timm.create_model(name))
    taken: set[str] = set()
    for base in kind.__mro__:
        parameters = inspect.signature(base).parameters
        taken.update(parameters)
        if all(one.kind is not one.VAR_KEYWORD for one in parameters.values()):  # which go to the next one
            break
    mine, defaults = cfg.MODEL.BACKBONE, get_cfg().MODEL.BACKBONE
    options, unread = {}, [one for one in _UNREAD if mine[one] != defaults[one]]
    for one, names in _OPTIONS.items():
        options.update({option: mine[one] for option in names if option in taken})
        if mine[one] != defaults[one] and not any(option in taken for option in names):
            unread.append(one)
    if tuple(mine.STRIDE_SIZE) != tuple(defaults.STRIDE_SIZE) and not issubclass(kind, _with_tokens(timm)):
        unread.append("STRIDE_SIZE")
    if unread:
        raise ValueError(f"timm's {name} does not read MODEL.BACKBONE.{', '.join(unread)}: leave it at its default")
    if "dynamic_img_size" in taken:
        options.update(img_size=input_size(cfg), dynamic_img_size=True)
    return options


class _Features(nn.Module):
    """timm's `forward_features` of a model.

    Args:
        model: one of timm's.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> what the model gives, a map."""
        return self.model.forward_features(images)


def _layers_run(network: nn.Module, size: Sequence[int]) -> list[nn.Module]:
    """The modules that a network runs for an image, in the order in which they end, but for those that do nothing."""
    ran: list[nn.Module] = []
    hooks = [one.register_forward_hook(lambda module, *_: ran.append(module)) for one in network.modules()]
    try:
        output_shape(network, size)
    finally:
        for hook in hooks:
            hook.remove()
    return [module for module in ran if not isinstance(module, nn.Identity)]


def _convolutional(model: nn.Module, size: tuple[int, int]) -> dict[str, nn.Module]:
    """The stages of a model with maps between its layers, which run what its `forward_features` does; {}: not known.

    Raises:
        Exception: timm's model does not take an image of that height and width.
    """
    try:
        if not _by_name(model, ()):
            return {}
    except ValueError:  # its strides are others
        return {}
    theirs = _layers_run(_Features(model), size)
    try:
        stages = _by_name(model, theirs)
        ours = _layers_run(StagedBackbone(stages), size) if stages else []
    except (ValueError, RuntimeError):  # what stands between them is done by no module
        return {}
    same = all(one is other for one, other in itertools.zip_longest(*map(_leaves, (ours, theirs))))
    return stages if same else {}


def _leaves(modules: Iterable[nn.Module]) -> list[nn.Module]:
    return [module for module in modules if not any(module.children())]


def _by_name(model: nn.Module, ran: Sequence[nn.Module]) -> dict[str, nn.Module]:
    """Stages by the names that timm gives the children of a model, of which the last ones are those that ran."""
    children = dict(model.named_children())
    known = children.keys()
    if known >= {"conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4"}:
        stem = [children[one] for one in ("conv1", "bn1", "act1", "maxpool")]
        return in_order(stem, model.layer1, model.layer2, model.layer3, model.layer4)
    if known >= {"conv_stem", "bn1", "blocks"}:
        stem = [children[one] for one in ("conv_stem", "bn1", "act1") if one in known]  # GhostNet's norm has none in it
        head = [model.conv_head, model.bn2] if known >= {"conv_head", "bn2"} else []  # MobileNet's is after its pooling
        return by_stride([nn.Sequential(*stem), *model.blocks, *head])
    if known >= {"stem", "s1", "s2", "s3", "s4", "final_conv"}:
        return in_order(model.stem, model.s1, model.s2, model.s3, (model.s4, model.final_conv))
    if known >= {"patch_embed", "layers", "norm"} and len(model.layers) == 4:
        layers = [_ChannelsFirst(layer) for layer in (*model.layers, model.norm)]
        return in_order(_ChannelsFirst(model.patch_embed, from_image=True), *layers[:3], layers[3:])
    if known >= {"stem", "stages"} and len(model.stages) == 4:
        # Those that do nothing stay, for the names of weights
        after = [children[one] for one in ("norm_pre", "norm", "final_conv", "final_act") if one in known]
        after = [one for one in after if isinstance(one, nn.Identity) or any(one is other for other in ran)]
        return in_order(model.stem, *model.stages[:3], (model.stages[3], *after))
    return {}


def _transformer(model: nn.Module, cfg: CfgNode) -> dict[str, nn.Module]:
    """The stages of a ViT of any pre-training: DeiT, DINO, EVA."""
    embed, stride = model.patch_embed, tuple(cfg.MODEL.BACKBONE.STRIDE_SIZE)
    grid = embed.grid_size
    if stride != tuple(get_cfg().MODEL.BACKBONE.STRIDE_SIZE):
        embed.proj.stride = stride
    elif stride != tuple(embed.patch_size):
        logger.info(
            "MODEL.BACKBONE.STRIDE_SIZE is at its default, which here is that of the patches of %s: %d x %d",
            cfg.MODEL.BACKBONE.TIMM, *embed.patch_size,
        )  # fmt: skip
    rope = getattr(model, "rope", None)
    if getattr(model, "rope_mixed", False):
        raise ValueError(f"{cfg.MODEL.BACKBONE.TIMM} learns its rotary positions, which stages do not support yet")
    after = nn.Sequential(model.pos_drop, model.norm_pre)
    project = _ChannelsFirst(embed, from_image=True)
    has_class_token = model.cls_token is not None
    tokens = (getattr(model, name, None) for name in ("cls_token", "dist_token", "reg_token"))
    extra = [token for token in tokens if token is not None]
    stem = TokenStem(project, model.pos_embed, extra, grid, input_size(cfg), after, has_class_token)
    norm = model.fc_norm if isinstance(model.norm, nn.Identity) else model.norm
    return transformer_stages(stem, list(model.blocks), norm, rope)
