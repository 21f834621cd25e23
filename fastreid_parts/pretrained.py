"""Weights for fast-reid's ResNet from a file: which of the public formats it has, and what of it the backbone takes.

Two formats are recognized by the names of their tensors:

- the state dict of a ResNet (`conv1.weight`, `layer1.0.conv1.weight`, ...), as torchvision and LUPerson publish it;
- a checkpoint of MoCo, in which the query encoder is `module.encoder_q.conv1.weight`, ...; its momentum encoder
  (`encoder_k`), its queue and its optimizer are left out.

Either may lie in an entry `state_dict` or `model`. A classifier or projection head (`fc`) is left out. LUPerson is from
Fu et al., Unsupervised Pre-training for Person Re-identification, CVPR 2021; its models learn with MoCo v2.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .checkpoints import safe_load

logger = logging.getLogger(__name__)

_LUPERSON = (
    'The ResNet-50 that was pre-trained on LUPerson is the file behind "R50" among the pre-trained models of '
    "https://github.com/DengpanFu/LUPerson (lup_moco_r50.pth). Place it at"
)
# Blocks per stage, and whether a block has a third convolution -> MODEL.BACKBONE.DEPTH
_DEPTHS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "18x",
    ((3, 4, 6, 3), False): "34x",
    ((3, 4, 6, 3), True): "50x",
    ((3, 4, 23, 3), True): "101x",
    ((3, 8, 36, 3), True): "152x",
}
# What a config adds to a ResNet, and starts untrained where the file lacks it
_ADDED = re.compile(r"NL_\d\.|.*\.se\.")


def check_weights_file(path: str) -> None:
    """See that the file of MODEL.BACKBONE.PRETRAIN_PATH is there.

    Raises:
        FileNotFoundError: it is not; of LUPerson's the message says where to get it and where to place it.
    """
    if not os.path.isfile(path):
        hint = f" {_LUPERSON} {os.path.abspath(path)}." if "lup" in os.path.basename(path).lower() else ""
        raise FileNotFoundError(f"no weights file '{path}', which MODEL.BACKBONE.PRETRAIN_PATH names.{hint}")


def load_resnet_weights(backbone: nn.Module, path: str | os.PathLike) -> None:
    """Load a file into a fast-reid ResNet; the log says what it is and how much of it was used.

    Args:
        backbone: its weights are overwritten, except those of non-local and SE blocks that the file lacks.
        path: MODEL.BACKBONE.PRETRAIN_PATH.

    Raises:
        FileNotFoundError: there is no such file; the message says where to get it.
        CheckpointError: it is cut short or no checkpoint, or asks for more than weights need.
        ValueError: it holds no ResNet, or one of another architecture than the backbone.
    """
    kind, state, left_out = read_resnet_weights(path)
    own = {name: tensor for name, tensor in backbone.state_dict().items() if not _is_counter(name)}
    new = [name for name in own if name not in state and _ADDED.match(name)]
    differences = [f"{name} is missing" for name in own if name not in state and name not in new]
    differences += [f"the backbone has no {name}" for name in state if name not in own]
    differences += [
        f"{name} is {tuple(state[name].shape)}, the backbone's {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if differences:
        more = f", and {len(differences) - 1} more" if len(differences) > 1 else ""
        raise ValueError(
            f"MODEL.BACKBONE.PRETRAIN_PATH {os.fspath(path)} holds a {_architecture(state)} and the backbone is a "
            f"{_architecture(own)}: {differences[0]}{more}. Set MODEL.BACKBONE.DEPTH, "
            "WITH_IBN, WITH_SE and NORM as the weights were trained, or name another file."
        )
    backbone.load_state_dict(state, strict=False)
    message = f"{os.fspath(path)}: {kind}, {len(own) - len(new)} of {len(own)} tensors of the backbone"
    if left_out:
        message += "; left out: " + ", ".join(f"{name} ({count})" for name, count in left_out.items())
    if new:
        message += f"; untrained: {', '.join(sorted({name.split('.')[0] for name in new}))} ({len(new)})"
    logger.info(message)


def read_resnet_weights(path: str | os.PathLike) -> tuple[str, dict[str, torch.Tensor], dict[str, int]]:
    """Read a ResNet's tensors from a file of either format, under the names that torchvision and fast-reid give them.

    Args:
        path: the file.

    Returns:
        What the file is, in words; {name: tensor} without classifier, projection head and counters of batches; and how
        many tensors of what were left out.

    Raises:
        As for `load_resnet_weights`.
    """
    path = os.fspath(path)
    check_weights_file(path)
    tensors = _tensors(safe_load(path))
    left_out: dict[str, int] = {}
    kind, state = "the state dict of a ResNet", tensors
    if any(name.startswith("encoder_q.") for name in tensors):
        kind = "a checkpoint of MoCo, its query encoder"
        state = {name.removeprefix("encoder_q."): t for name, t in tensors.items() if name.startswith("encoder_q.")}
        momentum = sum(name.startswith("encoder_k.") for name in tensors)
        left_out["momentum encoder"] = momentum
        left_out["queue and others"] = len(tensors) - len(state) - momentum
    head = [name for name in state if name.startswith("fc.")]
    left_out["classifier or projection head"] = len(head)
    state = {name: tensor for name, tensor in state.items() if name not in head and not _is_counter(name)}
    if "conv1.weight" not in state or "layer4.0.conv1.weight" not in state:
        found = ", ".join(list(tensors)[:3]) or "no tensors"
        raise ValueError(
            f"MODEL.BACKBONE.PRETRAIN_PATH {path} holds no ResNet: neither a state dict (conv1.weight, ...) nor a "
            f"checkpoint of MoCo (module.encoder_q.conv1.weight, ...), but {found}. A checkpoint of fast-reid belongs "
            "in MODEL.WEIGHTS."
        )
    return kind, state, {name: count for name, count in left_out.items() if count}


def _tensors(content: Any) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, without the `module.` of a model that was wrapped for several GPUs."""
    for entry in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
    if not isinstance(content, Mapping):
        return {}
    return {
        name.removeprefix("module."): value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _architecture(state: Mapping[str, torch.Tensor]) -> str:
    """A ResNet in words, as the config would name it."""
    blocks = tuple(len({n.split(".")[1] for n in state if n.startswith(f"layer{stage}.")}) for stage in range(1, 5))
    depth = _DEPTHS.get((blocks, "layer1.0.conv3.weight" in state), f"with {', '.join(map(str, blocks))} blocks")
    extras = [word for word, part in (("IBN", ".IN."), ("SE", ".se.")) if any(part in name for name in state)]
    return " ".join(["ResNet", depth, *(f"with {word}" for word in extras)])
