"""A config's backbone, as parts need it."""

from __future__ import annotations

from fastreid.config import CfgNode
from fastreid.modeling.backbones import build_backbone
from torch import nn

from .stages import StagedBackbone, has_stages, input_size, stages_of, take_stride
from .tokens import set_up


def build_parts_backbone(cfg: CfgNode) -> nn.Module:
    """Build the backbone of a config so that it gives a map, with LAST_STRIDE obeyed in every family.

    fast-reid's convolutional backbones come as they are, and so does one of a family that has no adapter; its ViT comes
    as a `StagedBackbone`, which gives its patches.

    Args:
        cfg: its MODEL.BACKBONE and the size of its training images are read.

    Raises:
        ValueError: LAST_STRIDE or READOUT asks for what the backbone cannot do.
    """
    return prepared(build_backbone(cfg), cfg)


def prepared(backbone: nn.Module, cfg: CfgNode) -> nn.Module:
    """Make a backbone what `build_parts_backbone` says.

    Args:
        backbone: as a builder gives it; its layers are used, and may be changed.
        cfg: the config that it was built from.

    Raises:
        ValueError: see `build_parts_backbone`.
    """
    if not has_stages(backbone):
        return backbone
    stages = stages_of(backbone)
    if cfg.MODEL.BACKBONE.LAST_STRIDE == 1:
        take_stride(stages, input_size(cfg))
    return StagedBackbone(stages) if set_up(stages.values(), cfg) else backbone
