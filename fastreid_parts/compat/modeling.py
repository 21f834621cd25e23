"""What the host gets wrong about devices, batches and losses, patched in place. Weights are read in `pretrained.py`."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from fastreid.config import CfgNode
from fastreid.layers.batch_norm import SyncBatchNorm
from fastreid.modeling.heads import build_heads
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.modeling.meta_arch import build as host_build
from fastreid.modeling.meta_arch.baseline import Baseline
from fastreid.modeling.meta_arch.distiller import Distiller
from fastreid.modeling.meta_arch.mgn import MGN
from fastreid.modeling.meta_arch.moco import MoCo
from torch import nn

from ..backbones import StagedBackbone, map_shape, prepared, stages_of, take_stride
from ..backbones.hosts import ResNetStage
from ..parts_head import check_settings_are_read
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
    pretrained.apply()
    host_build.torch = Overlay(host_build.torch, device=_available_device)
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


def _available_device(*args: Any, **kwargs: Any) -> torch.device:
    """meta_arch/build.py: MODEL.DEVICE is "cuda" by default, and fails on a machine without CUDA.

    `build_model` makes a device of the key and moves the model there. In its module, and there only, a CUDA device is
    the CPU when CUDA is missing; one line in the log says so. The config keeps what its author wrote, and a script
    that imported `build_model` before the plugin is served too.
    """
    device = torch.device(*args, **kwargs)
    if device.type == "cuda" and not torch.cuda.is_available():
        _log_fallback(str(device))
        return torch.device("cpu")
    return device


@functools.cache  # one line a process
def _log_fallback(device: str) -> None:
    logger.warning("MODEL.DEVICE is %s, but CUDA is not available here: using the CPU", device)


_MGN_HEADS = ("b1", "b2", "b21", "b22", "b3", "b31", "b32", "b33")
_baseline_arguments = Baseline.from_config.__func__  # bound before it is patched: MGN's settings are checked as MGN's


def _mgn_of_any_backbone(original: Callable, cls: type[nn.Module], cfg: CfgNode) -> dict[str, Any]:
    """meta_arch/mgn.py: written out for ResNet-50 and 101 without non-local blocks, which it ignores.

    Other depths and families fail when it is built. Here each branch gets a copy of what follows the first block of
    `layer3`, or all of `layer3` where that is not built of residual blocks, and the local branches have no stride in
    `layer4`, where it can do without. All else is as the host does it.
    """
    backbone, size = cfg.MODEL.BACKBONE, cfg.INPUT.SIZE_TRAIN
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
    """Refuse names in MODEL.LOSSES.NAME that the architecture never computes.

    Args:
        cfg: its MODEL.LOSSES.NAME is checked.
        architecture: the class to check them for, by default the one that MODEL.META_ARCHITECTURE names. One that
            computes its losses in a method of its own is not checked here.

    Raises:
        ValueError: the message lists the losses that the architecture knows.
    """
    architecture = architecture or META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    computed_by: Any = getattr(architecture, "losses", None)
    if computed_by not in _COMPUTED:
        return
    known = _COMPUTED[computed_by]
    unknown = [name for name in cfg.MODEL.LOSSES.NAME if name not in known]
    if unknown:
        raise ValueError(
            f"MODEL.LOSSES.NAME: {architecture.__name__} does not compute {', '.join(unknown)}; it would be ignored "
            f"without a word. Known: {', '.join(sorted(known))}"
        )


def _checked_from_config(original: Callable, cls: type[nn.Module], cfg: CfgNode) -> dict[str, Any]:
    """meta_arch/baseline.py and mgn.py: a loss that `losses` does not look for is ignored, FocalLoss among them.

    Base-MGN with CircleLoss or Cosface trains without them. Checked where every architecture that inherits one of the
    host's `losses` reads its config. So are the plugin's keys, which one of the host's models would ignore as well.
    """
    check_losses(cfg, cls)
    arguments = original(cls, cfg)
    check_settings_are_read(cfg, cls, arguments.values())
    return arguments
