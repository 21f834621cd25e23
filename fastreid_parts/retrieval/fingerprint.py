"""Which model features come from: distances between features of different models mean nothing."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from fastreid.config import CfgNode, get_cfg
from torch import nn

from ..checkpoints import needed_in_evaluation

__all__ = ["model_fingerprint"]

# Beside MODEL: what decides which pixels the model sees, and what becomes of its output
_KEYS = ("MODEL.", "INPUT.SIZE_TEST", "INPUT.CROP.ENABLED", "INPUT.CROP.SIZE", "TEST.FLIP.", "TEST.FEATURES")
# Keys below MODEL of where and how a model is trained or run; its features are the same whatever they say
_WITHOUT_INFLUENCE = (
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "MODEL.FREEZE_LAYERS",
    "MODEL.QUEUE_SIZE",
    "MODEL.LOSSES.",
    "MODEL.BACKBONE.PRETRAIN",  # and PRETRAIN_PATH
    "MODEL.HEADS.NUM_CLASSES",
    "MODEL.HEADS.CLS_LAYER",
    "MODEL.HEADS.SCALE",
    "MODEL.HEADS.MARGIN",
    "MODEL.CGE.NUM_STRIPES",
    "MODEL.CGE.REVISE",
    "MODEL.CGE.ALPHA",  # and ALPHA_VALUE
    "MODEL.CGE.DETACH_LOCAL",
    "MODEL.CGE.BRANCHES",
    "MODEL.CMBN.REVERSAL_BRANCH",
    "MODEL.CMBN.MASK_GENERATOR",
    "MODEL.CMBN.CONTEXTUAL_DETACHMENT",
    "MODEL.CMBN.GRL_LAMBDA",
    "MODEL.CMBN.CHAOS_WEIGHT",
    "MODEL.CMBN.DETACH_MASK",
    "MODEL.CMBN.INFERENCE_ONLY",
    "MODEL.RMGL.CHECKPOINT",
    "MODEL.RMGL.CHANNELS_LAST",
)


def model_fingerprint(cfg: CfgNode, model: nn.Module) -> str:
    """A number for a model and the way that it is tested: equal where features are of the same kind.

    It covers the weights that evaluation uses, the keys of MODEL other than those of training alone, the test size,
    TEST.FLIP and TEST.FEATURES. Weights that evaluation does not use, such as classifiers, are left out: a checkpoint
    may lack them, and then they are random. Of the keys only those that differ from their default count, so that a key
    that a later version adds leaves fingerprints as they were.

    Args:
        cfg: the model's config.
        model: with its weights.

    Returns:
        64 hexadecimal digits, SHA-256.
    """
    digest = hashlib.sha256(json.dumps(_settings(cfg), sort_keys=True, default=str).encode())
    model = getattr(model, "module", model)  # DistributedDataParallel keeps the model inside
    state = model.state_dict()
    for name in sorted(needed_in_evaluation(model, state)):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _settings(cfg: CfgNode) -> dict[str, Any]:
    """The keys that features depend on, as far as they are not at their default."""
    default = _flat(get_cfg())
    return {
        key: value
        for key, value in _flat(cfg).items()
        if key.startswith(_KEYS)
        and not key.startswith(_WITHOUT_INFLUENCE)
        and (key not in default or default[key] != value)
    }


def _flat(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    """{"SECTION.KEY": value}, sequences as lists: a key written as a tuple or as a list says the same."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, CfgNode):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = list(value) if isinstance(value, (tuple, list)) else value
    return flat
