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


_built: dict[tuple, tuple[CfgNode, nn.Module]] = {}


def build(tiny_cfg: Callable[..., CfgNode], name: str, *overrides: object) -> tuple[CfgNode, nn.Module]:
    """A config and its model, in whose state nothing is as it was initialized; tests share the model."""
    key = (name, repr(overrides))
    if key not in _built:
        height, width, own = MODELS[name]
        cfg = tiny_cfg(*own, "INPUT.SIZE_TEST", [height, width], "MODEL.HEADS.NUM_CLASSES", 5, *overrides)
        torch.manual_seed(0)
        model = build_model(cfg).eval()
        with torch.no_grad():
            for value in model.state_dict().values():
                if value.is_floating_point():
                    value += 0.02 * (torch.rand(value.shape) - 0.5)
        _built[key] = cfg, model
    cfg, model = _built[key]
    return cfg.clone(), model
