"""Every kind of model that leaves the plugin, small and untrained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from torch import nn

from ..methods import test_can, test_cge, test_rrid
from ..test_every_key import MODELS as METHODS

#: Name -> height, width and overrides: the five methods, their combination, and fast-reid's own.
MODELS: dict[str, tuple[int, int, tuple]] = {
    **METHODS,
    "BagTricks": (96, 24, ()),
    "MGN": (96, 24, ("MODEL.META_ARCHITECTURE", "MGN", "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"))),
}

_VIT = ("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.BACKBONE.TIMM", "test_vit", "INPUT.SIZE_TRAIN", [96, 32])
#: What is exported by the default tests: these, and the methods on a ViT and on further poolings and scales.
EXPORTED: dict[str, tuple[int, int, tuple]] = {
    **MODELS,
    "CGE, AGW": (96, 24, (*test_cge.BOT, *test_cge.AGW)),
    "RRID, one scale": (96, 24, (*test_rrid.OVERRIDES, "MODEL.RRID.PARTS", [6])),
    "CAN, uneven": (112, 24, (*test_can.OVERRIDES, "MODEL.CAN.PARTS", [3, 5], "MODEL.CAN.WINDOWS", "adaptive")),
    **{f"{name}, ViT": (96, 32, (*METHODS[name][2], *_VIT)) for name in ("CMBN", "CGE", "RRID", "CAN", "RMGL")},
}

#: Keys that say how a model is tested, not what it is
_OF_ITS_TESTS = ("TEST.FLIP.ENABLED", "INPUT.RESIZE")
_built: dict[tuple, nn.Module] = {}


def build(tiny_cfg: Callable[..., CfgNode], name: str, *overrides: object) -> tuple[CfgNode, nn.Module]:
    """A config and its model, in whose state nothing is as it was initialized; tests share the model."""
    height, width, own = EXPORTED[name]
    cfg = tiny_cfg(*own, "INPUT.SIZE_TEST", [height, width], "MODEL.HEADS.NUM_CLASSES", 5, *overrides)
    own_model = [pair for pair in zip(overrides[::2], overrides[1::2]) if pair[0] not in _OF_ITS_TESTS]
    key = (name, repr(own_model))
    if key not in _built:
        torch.manual_seed(0)
        model = _built[key] = build_model(cfg).eval()
        with torch.no_grad():
            for value in model.state_dict().values():
                if value.is_floating_point():
                    value += 0.02 * (torch.rand(value.shape) - 0.5)
    return cfg, _built[key]
