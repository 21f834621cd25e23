"""Which model features come from: distances between features of different models mean nothing."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling.heads.embedding_head import EmbeddingHead
from torch import nn

from ..checkpoints import needed_in_evaluation
from ..config import flat_keys
from ..data.transforms import TransformSettings
from ..parts_head import HeadSettings, PartsHead
from ..settings import Declares, all_keys

# fast-reid's keys that decide which pixels the model sees, and what becomes of its output
_HOST_KEYS = ("MODEL.", "INPUT.SIZE_TEST", "INPUT.CROP.ENABLED", "INPUT.CROP.SIZE", "TEST.FLIP.")
# Those below MODEL of where and how a model is trained or run; its features are the same whatever they say
_WITHOUT_INFLUENCE = (
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "MODEL.FREEZE_LAYERS",
    "MODEL.QUEUE_SIZE",
    "MODEL.LOSSES.",
    "MODEL.BACKBONE.PRETRAIN",  # and PRETRAIN_PATH
    "MODEL.HEADS.NAME",  # the class of the head that was built says it
)


def model_fingerprint(cfg: CfgNode, model: nn.Module) -> str:
    """Digest a model and the way that it is tested: equal where features are of the same kind.

    It covers the weights that evaluation uses, what the model's modules declare as `feature_settings`, the class of its
    head, and fast-reid's keys of the model, the test size and TEST.FLIP. Weights that evaluation does not use, such as
    classifiers, are left out: a checkpoint may lack them, and then they are random. Of the keys only those that differ
    from their default count, so that a key that a later version adds leaves fingerprints as they were.

    Args:
        cfg: the model's config.
        model: with its weights; or one that has the `fingerprint` of another, of which it is an exported form.

    Returns:
        64 hexadecimal digits, SHA-256.
    """
    model = getattr(model, "module", model)  # DistributedDataParallel keeps the model inside
    if known := getattr(model, "fingerprint", ""):
        return known
    digest = hashlib.sha256(json.dumps(_settings(cfg, model), sort_keys=True, default=str).encode())
    state = model.state_dict()
    for name in sorted(needed_in_evaluation(model, state)):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _settings(cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    """What features depend on besides weights, as far as it is not at its default."""
    # A key that is written as a tuple or as a list says the same
    default, mine = (
        {key: list(value) if isinstance(value, tuple) else value for key, value in flat_keys(node).items()}
        for node in (get_cfg(), cfg)
    )
    declared = {one.name for one in all_keys()}
    roles = {one.name: one.role for one in HeadSettings.declared_keys()}
    settings = {
        key: value
        for key, value in mine.items()
        if key.startswith(_HOST_KEYS)
        and key not in declared
        and not key.startswith(_WITHOUT_INFLUENCE)
        and roles.get(key) != "training"
        and (key not in default or default[key] != value)
    }
    settings.update(TransformSettings.from_cfg(cfg).changed_feature_settings())
    for name, module in model.named_children():
        if isinstance(module, (PartsHead, EmbeddingHead)):
            # GlobalHead differs from fast-reid's in TEST_FEAT alone, which it declares
            kind = (
                EmbeddingHead if isinstance(module, PartsHead) and isinstance(module, EmbeddingHead) else type(module)
            )
            settings[name] = kind.__name__
    for module in model.modules():
        if isinstance(module, Declares):
            settings.update(module.feature_settings())
    return settings
