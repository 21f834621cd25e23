"""What the host gets wrong about devices, batches and losses, patched in place. Weights are read in `pretrained.py`."""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.layers.batch_norm import FrozenBatchNorm, SyncBatchNorm
from fastreid.layers.non_local import Non_local
from fastreid.layers.pooling import GlobalMaxPool
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.backbones import build as host_backbones
from fastreid.modeling.heads import build_heads
from fastreid.modeling.heads.embedding_head import EmbeddingHead
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.modeling.meta_arch import build as host_build
from fastreid.modeling.meta_arch.baseline import Baseline
from fastreid.modeling.meta_arch.distiller import Distiller
from fastreid.modeling.meta_arch.mgn import MGN
from fastreid.modeling.meta_arch.moco import MoCo
from torch import nn

from ..backbones import (
    StagedBackbone,
    has_stages,
    input_size,
    last_stride,
    map_shape,
    output_shape,
    prepared,
    stages_of,
    take_stride,
)
from ..backbones.hosts import ResNetStage
from ..devices import available
from ..losses.triplet import TripletSettings
from ..parts_head import NORMS, HeadSettings, check_pooling, check_settings_are_read
from . import pretrained
from .overlay import Overlay, wrap

logger = logging.getLogger(__name__)

Batch: TypeAlias = dict[str, Any] | torch.Tensor

_BASELINE_LOSSES = frozenset(("CrossEntropyLoss", "TripletLoss", "CircleLoss", "Cosface"))
# What each of the host's `losses` methods computes. MGN's is handed the settings of two more and never reads them.
_COMPUTED: dict[Callable[..., Any], frozenset[str]] = {
    Baseline.losses: _BASELINE_LOSSES,
    MoCo.losses: _BASELINE_LOSSES,
    Distiller.losses: _BASELINE_LOSSES,
    MGN.losses: frozenset(("CrossEntropyLoss", "TripletLoss")),
}


def apply() -> None:
    """Patch the host's models."""
    wrap(SyncBatchNorm, "__init__", _init_sync_batch_norm)
    # layers/weight_init.py: asks every batch norm whether it has a weight to set, and the frozen one does not say.
    # CMBN's reversal block takes the backbone's norm.
    FrozenBatchNorm.affine = False
    pretrained.apply()
    # meta_arch/build.py: MODEL.DEVICE is "cuda" by default, and fails on a machine without CUDA. `build_model` makes a
    # device of the key and moves the model there: in its module, and there only, a device that is missing is the CPU.
    # The config keeps what its author wrote, and a script that imported `build_model` before the plugin is served too.
    host_build.torch = Overlay(host_build.torch, device=available)
    wrap(host_backbones, "build_backbone", _build_backbone)
    wrap(GlobalMaxPool, "forward", _exportable_maximum)
    wrap(EmbeddingHead, "from_config", _checked_head)
    wrap(MGN, "from_config", _mgn_of_any_backbone)
    for architecture in (Baseline, MGN):
        wrap(architecture, "preprocess_image", _normalized_copy)
        wrap(architecture, "forward", _forward_on_device)
        wrap(architecture, "from_config", _checked_from_config)


def _init_sync_batch_norm(original: Callable, self: SyncBatchNorm, *args: Any, **kwargs: Any) -> None:
    """layers/batch_norm.py: NORM syncBN without a GPU fails at the first forward, or once the model is wrapped."""
    if not torch.cuda.is_available():
        raise ValueError(
            "NORM syncBN needs CUDA, which this machine lacks. Set MODEL.BACKBONE.NORM BN and MODEL.HEADS.NORM BN; "
            "weights that were trained with syncBN fit."
        )
    original(self, *args, **kwargs)


def _build_backbone(original: Callable, cfg: CfgNode) -> nn.Module:
    """backbones/build.py: a DEPTH that a backbone does not know is `KeyError: '50x'`, a key that it ignores is nothing.

    The first becomes an error with the depths that it has, the second a line in the log: the host's own sbs_S50.yml
    sets WITH_NL for a ResNeSt, which has no such blocks.
    """
    keys, read = cfg.MODEL.BACKBONE, {"NAME", "FEAT_DIM"}
    builder = BACKBONE_REGISTRY.get(keys.NAME)
    if not builder.__module__.startswith("fastreid."):
        return original(cfg)

    class Recorded(CfgNode):
        def __getitem__(self, key: str) -> Any:
            read.add(key)
            return super().__getitem__(key)

    recorded = cfg.clone()
    recorded.defrost()
    recorded.MODEL.BACKBONE = Recorded(keys)
    try:
        backbone = original(recorded)
    except (KeyError, ValueError, NotImplementedError) as error:
        if unknown := _unknown_kind(keys, builder, error):
            raise ValueError(unknown) from error
        raise
    if keys.WITH_NL and not any(isinstance(module, Non_local) for module in backbone.modules()):
        read.discard("WITH_NL")
    if has_stages(backbone) and keys.LAST_STRIDE == 2 == last_stride(stages_of(backbone), input_size(cfg)):
        read.add("LAST_STRIDE")  # which most builders do not read, as their networks have that stride
    for name, default in get_cfg().MODEL.BACKBONE.items():
        if name not in read and keys.get(name, default) != default:  # a config from before the plugin lacks its keys
            logger.warning(
                "MODEL.BACKBONE.%s is %r, which has no effect on %s with DEPTH %s",
                name, keys[name], keys.NAME, keys.DEPTH,
            )  # fmt: skip
    return backbone


def _unknown_kind(keys: CfgNode, builder: Callable, error: Exception) -> str:
    """What an error says of the DEPTH or NORM of a backbone that is built; empty where it is of other things."""
    unknown = error.args[0] if isinstance(error, KeyError) and error.args else None
    if unknown == keys.NORM != keys.DEPTH:
        return f"MODEL.BACKBONE.NORM is '{keys.NORM}'; it is one of {', '.join(NORMS)}"
    of_depth = unknown == keys.DEPTH or isinstance(error, NotImplementedError) or "Unsupported model" in str(error)
    if not of_depth:
        return ""
    tables = [node for node in ast.walk(ast.parse(inspect.getsource(builder))) if isinstance(node, ast.Dict)]
    depths = [[str(key.value) for key in table.keys if isinstance(key, ast.Constant)] for table in tables]
    known = [depth for depth in (depths[0] if depths else ()) if all(depth in others for others in depths)]
    return f"MODEL.BACKBONE.DEPTH is '{keys.DEPTH}', which {keys.NAME} does not know" + (
        f"; it knows {', '.join(known)}" if known else ""
    )


def _exportable_maximum(original: Callable, self: GlobalMaxPool, x: torch.Tensor) -> torch.Tensor:
    """layers/pooling.py: `adaptive_max_pool2d` has no form in torch's newer exporter to ONNX, and `amax` has one.

    The values are the same. Where a channel has its maximum several times, `amax` shares the gradient among all of
    them, so a training step is left as it is.
    """
    if self.output_size not in (1, (1, 1)) or (self.training and torch.is_grad_enabled()):
        return original(self, x)
    return x.amax(dim=(2, 3), keepdim=True)


def _checked_head(original: Callable, cls: type[nn.Module], cfg: CfgNode) -> dict[str, Any]:
    """heads/embedding_head.py: an unknown POOL_LAYER or CLS_LAYER is an AssertionError, an unknown NORM a KeyError."""
    HeadSettings.from_cfg(cfg)
    return original(cls, cfg)


_MGN_HEADS = ("b1", "b2", "b21", "b22", "b3", "b31", "b32", "b33")
_baseline_arguments = Baseline.from_config.__func__  # bound before it is patched: MGN's settings are checked as MGN's


def _mgn_of_any_backbone(original: Callable, cls: type[nn.Module], cfg: CfgNode) -> dict[str, Any]:
    """meta_arch/mgn.py: written out for ResNet-50 and 101 without non-local blocks, which it ignores.

    Other depths and families fail when it is built. Here each branch gets a copy of what follows the first block of
    `layer3`, or all of `layer3` where that is not built of residual blocks, and the local branches have no stride in
    `layer4`, where it can do without. All else is as the host does it.
    """
    backbone, size = cfg.MODEL.BACKBONE, input_size(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    if backbone.NAME == "build_resnet_backbone" and backbone.DEPTH in ("50x", "101x") and not backbone.WITH_NL:
        cfg.MODEL.BACKBONE.FEAT_DIM = 2048  # which is written out, too
        return original(cls, cfg)
    arguments = _baseline_arguments(Baseline, cfg)  # MGN takes the settings of the losses and the mean as they are
    stages = stages_of(prepared(arguments.pop("backbone"), cfg))
    del arguments["heads"]
    cfg.MODEL.BACKBONE.FEAT_DIM = map_shape(StagedBackbone(stages), size)[0]
    local = {**stages, "layer4": copy.deepcopy(stages["layer4"])}
    with contextlib.suppress(ValueError):  # what merges neighbors, as Swin does, keeps its stride
        take_stride(local, size)
    shared, third = [stages["stem"], stages["layer1"], stages["layer2"]], stages["layer3"]
    if isinstance(third, ResNetStage):
        first, third = third.split()
        shared.append(first)
    necks = [copy.deepcopy(nn.Sequential(third, last)) for last in (stages["layer4"], local["layer4"], local["layer4"])]
    heads = {f"{name}_head": build_heads(cfg) for name in _MGN_HEADS}
    return {**arguments, "backbone": nn.Sequential(*shared), **dict(zip(("neck1", "neck2", "neck3"), necks)), **heads}


def _normalized_copy(original: Callable, self: nn.Module, batched_inputs: Batch) -> torch.Tensor:
    """meta_arch/baseline.py and mgn.py, `preprocess_image`: the batch is normalized in place.

    TEST.FLIP then mirrors normalized images and normalizes them again, so the mean of the two passes is of different
    things. The batch is left as it came; Baseline's also moves images to its device, as MGN's does.
    """
    images = batched_inputs["images"] if isinstance(batched_inputs, dict) else batched_inputs
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"a batch is a dict or a tensor of images, but this is a {type(images).__name__}")
    return (images.to(self.device) - self.pixel_mean) / self.pixel_std


def _forward_on_device(original: Callable, self: nn.Module, batched_inputs: Batch) -> Any:
    """meta_arch/baseline.py and mgn.py, `forward`: targets are used where they are, the model may be elsewhere.

    That is so with MODEL.DEVICE cpu on a machine with a GPU, where the loader has moved the batch, and with a plain
    loader for a model on the GPU.
    """
    if isinstance(batched_inputs, dict):
        batched_inputs = {
            key: value.to(self.device) if isinstance(value, torch.Tensor) else value
            for key, value in batched_inputs.items()
        }
    return original(self, batched_inputs)


def check_losses(cfg: CfgNode, architecture: type[nn.Module] | None = None) -> None:
    """Refuse names in MODEL.LOSSES.NAME that the architecture never computes, and forms that its triplet loss has not.

    Args:
        cfg: its MODEL.LOSSES.NAME and MODEL.LOSSES.TRI are checked.
        architecture: the class to check them for, by default the one that MODEL.META_ARCHITECTURE names. One that
            computes its losses in a method of its own is not checked here.

    Raises:
        ValueError: the message lists the losses that the architecture knows, or names the key.
    """
    architecture = architecture or META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    computed_by: Any = getattr(architecture, "losses", None)
    if computed_by not in _COMPUTED:
        return
    known = _COMPUTED[computed_by]
    if not cfg.MODEL.LOSSES.NAME:
        raise ValueError(f"MODEL.LOSSES.NAME is empty; {architecture.__name__} knows {', '.join(sorted(known))}")
    unknown = [name for name in cfg.MODEL.LOSSES.NAME if name not in known]
    if unknown:
        raise ValueError(
            f"MODEL.LOSSES.NAME: {architecture.__name__} does not compute {', '.join(unknown)}; it would be ignored "
            f"without a word. Known: {', '.join(sorted(known))}"
        )
    if "TripletLoss" in cfg.MODEL.LOSSES.NAME and not _host_computes(triplets := TripletSettings.from_cfg(cfg)):
        raise ValueError(
            f"MODEL.LOSSES.TRI.FORM is '{triplets.form}', and {architecture.__name__} computes fast-reid's triplets, "
            "with HARD_MINING hinge where MARGIN is above 0 and soft_margin where it is 0, SQUARED where NORM_FEAT is "
            "set and only there: set FORM to host, or MODEL.META_ARCHITECTURE to PartsBaseline"
        )


def _host_computes(triplets: TripletSettings) -> bool:
    """Whether fast-reid's rule, of FORM host, comes to the form that is asked for.

    Its distance between features of length 1 is 2 - 2 cos, which is the squared one.
    """
    same_form = triplets.form == ("hinge" if triplets.margin > 0 else "soft_margin")
    same_distance = triplets.squared == triplets.norm_feat
    return triplets.form == "host" or (same_form and triplets.hard_mining and same_distance)


def _checked_from_config(original: Callable, cls: type[nn.Module], cfg: CfgNode) -> dict[str, Any]:
    """meta_arch/baseline.py and mgn.py: a loss that `losses` does not look for is ignored, FocalLoss among them.

    Base-MGN with CircleLoss or Cosface trains without them. Checked where every architecture that inherits one of the
    host's `losses` reads its config. So are the plugin's keys, which one of the host's models would ignore as well,
    FEAT_DIM, of which a wrong one is "running_mean should contain 512 elements not 2048" in the first iteration, and
    a POOL_LAYER that leaves a map of which the head then takes one position.
    """
    check_losses(cfg, cls)
    arguments = original(cls, cfg)
    check_settings_are_read(cfg, cls, arguments.values())
    keys, network, finds_its_width = cfg.MODEL.BACKBONE, arguments["backbone"], "neck1" in arguments  # as MGN does
    if finds_its_width:
        network = nn.Sequential(network, arguments["neck1"])
    elif not has_stages(network):
        return arguments
    shape = output_shape(network, input_size(cfg))
    check_pooling(cfg, shape)
    if finds_its_width:
        return arguments
    if keys.LAST_STRIDE == 1 and last_stride(stages_of(network), input_size(cfg)) == 2:
        logger.warning(
            "MODEL.BACKBONE.LAST_STRIDE is 1, which has no effect on %s in %s: set it to 2, or "
            "MODEL.META_ARCHITECTURE to PartsBaseline, which obeys it in every backbone",
            keys.NAME, cls.__name__,
        )  # fmt: skip
    channels = shape[0]
    if channels != keys.FEAT_DIM:
        raise ValueError(
            f"MODEL.BACKBONE.FEAT_DIM is {keys.FEAT_DIM}, and the maps of {keys.NAME} with DEPTH {keys.DEPTH} have "
            f"{channels} channels: set MODEL.BACKBONE.FEAT_DIM {channels}"
        )
    return arguments
