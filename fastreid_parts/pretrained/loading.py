"""The one way in which weights come into a backbone: read, named as it names them, counted, then loaded or refused.

What a file is, its tensors' names say; `formats.py` has what is recognized. A log line says how many of the backbone's
tensors it filled. Fewer than 95 % of them, a tensor of another shape, or more than 5 % of tensors that the
backbone has no place for are an error, which lists them, and the backbone stays as it was.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from fastreid.config import CfgNode
from torch import nn

from ..checkpoints import safe_load
from .formats import encoder_of, fitted, is_head, tensors_of
from .published import TIMM, default_set, weights_file

logger = logging.getLogger(__name__)

#: The share of a backbone's tensors that a file has at least
NEEDED = 0.95
# What a config adds to a backbone, and starts untrained where the file lacks it
_ADDED = re.compile(r"NL_\d\.|layer\d\.\d+\.se\.|sie_embed$")


def load_pretrained(backbone: nn.Module, cfg: CfgNode) -> None:
    """Load what MODEL.BACKBONE.PRETRAIN and PRETRAIN_PATH ask for; nothing where PRETRAIN is False.

    Without a path it is the set that is published for this backbone, and of one of timm's models timm's.

    Args:
        backbone: as its builder gave it, before it is cut into stages or branches.
        cfg: the config.

    Raises:
        As for `load_weights`, and ValueError: no weights are known for this backbone.
    """
    keys = cfg.MODEL.BACKBONE
    if not keys.PRETRAIN:
        return
    hub = (getattr(backbone, "pretrained_cfg", None) or {}).get("hf_hub_id")
    if hub and not keys.PRETRAIN_PATH:  # not all of timm's models are published below timm/
        _fill(backbone, hub, _from_hub(hub))
    else:
        load_weights(backbone, keys.PRETRAIN_PATH or default_set(keys).name)


def load_weights(backbone: nn.Module, source: str) -> None:
    """Load a file or a published set into a backbone; the log says how much of it was filled.

    Args:
        backbone: its weights are overwritten, except those of non-local and SE blocks that the file lacks.
        source: a file, the name of a set that `fastreid-parts weights` lists, or timm/MODEL.TAG.

    Raises:
        FileNotFoundError: there is no such file; the message says where to get it and where to place it.
        OSError: it cannot be downloaded.
        CheckpointError: it is cut short or no checkpoint, or asks for more than weights need.
        ValueError: it is another model's, or lacks tensors.
    """
    _fill(backbone, source, _read(source))


def _fill(backbone: nn.Module, source: str, content: Any) -> None:
    tensors, left_out = encoder_of(tensors_of(content))
    own = backbone.state_dict()
    tensors = fitted(tensors, backbone)
    # Counters of batches, which older files lack, train nothing
    own = {name: t for name, t in own.items() if name in tensors or not name.endswith("num_batches_tracked")}
    absent = [name for name in own if name not in tensors]
    added = [name for name in absent if _ADDED.match(name)]
    missing = [name for name in absent if name not in added]
    unknown = [name for name in tensors if name not in own]
    heads = [name for name in unknown if is_head(name)]
    unknown = [name for name in unknown if name not in heads and not name.endswith("num_batches_tracked")]
    differing = [name for name in own if name in tensors and tensors[name].shape != own[name].shape]
    found = len(own) - len(absent)
    tolerated = (1 - NEEDED) * (len(own) - len(added))
    if differing or len(missing) > tolerated or len(unknown) > tolerated:
        raise ValueError(
            f"{source} holds another model than the backbone, a {type(backbone).__name__}: {found - len(differing)} of "
            f"{len(own)} tensors fit."
            + _listed("Missing", missing)
            + _listed("Of another shape", differing)
            + "".join(f": {tuple(tensors[n].shape)} instead of {tuple(own[n].shape)}" for n in differing[:1])
            + _listed("Without a place in the backbone", unknown)
            + ". Set NAME, DEPTH, WITH_IBN, WITH_SE and NORM of MODEL.BACKBONE as the weights were trained, or name "
            "another file in its PRETRAIN_PATH"
        )
    backbone.load_state_dict({name: tensors[name] for name in own if name in tensors}, strict=False)
    left_out.update(name.split(".")[0] for name in heads + unknown)
    message = f"{source}: {found} of {len(own)} tensors of the backbone"
    message += _listed("; left out", left_out.elements(), first=False) + _listed("; untrained", absent, first=False)
    logger.log(logging.WARNING if missing else logging.INFO, message)


def _read(source: str) -> Any:
    if source.startswith(TIMM):
        return _from_hub(source)
    path = weights_file(source)
    if path.endswith(".safetensors"):
        from timm.models import load_state_dict

        return load_state_dict(path)
    return safe_load(path)


def _from_hub(name: str) -> dict[str, torch.Tensor]:
    try:
        from timm.models import load_state_dict_from_hf

        return load_state_dict_from_hf(name)
    except Exception as error:  # no timm, no network, no such model ...
        said = str(error).strip() or type(error).__name__
        raise OSError(
            f"the weights {name} cannot be fetched: {said.splitlines()[0]}. They are "
            f"model.safetensors of https://huggingface.co/{name}, which timm starts from; name the file in "
            "MODEL.BACKBONE.PRETRAIN_PATH, or set MODEL.BACKBONE.PRETRAIN False to start from random weights."
        ) from error


def _listed(title: str, names: Iterable[str], first: bool = True) -> str:
    """Names in words, counted by their first part, and the first one in full; "" for none."""
    names = list(names)
    if not names:
        return ""
    groups = ", ".join(f"{group} ({n})" for group, n in Counter(name.split(".")[0] for name in names).items())
    return f" {title}: ".replace(" ;", ";") + groups + (f", first {names[0]}" if first else "")
