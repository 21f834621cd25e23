"""Every kind of model that leaves the plugin, small and untrained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from torch import nn

from ..test_every_key import MODELS as METHODS

#: Name -> height, width and overrides: the five methods, their combination, and fast-reid's own.
MODELS: dict[str, tuple[int, int, tuple]] = {
    **METHODS,
    "BagTricks": (96, 24, ()),
    "MGN": (96, 24, ("MODEL.META_ARCHITECTURE", "MGN", "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"))),
}


def build(tiny_cfg: Callable[..., CfgNode], name: str, *overrides: object, seed: int = 0) -> tuple[CfgNode, nn.Module]:
    """A config and its model, in whose state nothing is as it was initialized."""
    height, width, own = MODELS[name]
    cfg = tiny_cfg(*own, "INPUT.SIZE_TEST", [height, width], "MODEL.HEADS.NUM_CLASSES", 5, *overrides)
    torch.manual_seed(seed)
    model = build_model(cfg).eval()
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value += 0.05 * torch.rand(value.shape)
    return cfg, model
