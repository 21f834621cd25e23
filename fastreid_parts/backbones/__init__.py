"""Backbones as ordered lists of named stages, whatever they are made of; one adapter a family."""

from . import hosts
from .branched import BranchedBackbone
from .build import build_parts_backbone, prepared
from .stages import (
    STAGES,
    StagedBackbone,
    State,
    Tokens,
    adapter,
    has_stages,
    input_size,
    last_stride,
    map_shape,
    on_map,
    output_shape,
    spatial,
    stages_of,
    take_stride,
)
from .timm_models import build_timm_backbone
from .tokens import TokenSettings, TokenStem
