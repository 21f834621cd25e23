"""Where a trained model lies: the folder of a run, a checkpoint, a folder from a hub, an exported file."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from fastreid.config import CfgNode
from torch import nn

from ..checkpoints import safe_load
from ..config import config_of
from .exported import load_exported
from .loading import for_inference, inference_config, known_here, load_model
from .runtimes import FORMATS, format_of
from .safetensors_files import DESCRIPTION, WEIGHTS, load_safetensors, read_safetensors

logger = logging.getLogger(__name__)

_LAST, _CONFIG = "last_checkpoint", "config.yaml"
_PLACES = "the folder of a training, a checkpoint with its config, a folder of save_pretrained, or an exported file"


def load_source(
    source: str | os.PathLike, config: str | os.PathLike | CfgNode = "", opts: Sequence[str] = (), device: str = ""
) -> tuple[CfgNode, nn.Module]:
    """Load a trained model, in evaluation mode, from where it lies.

    Args:
        source: the folder of a training, of which its last checkpoint is taken; a checkpoint; a folder that
            `save_pretrained` wrote; an exported file.
        config: of a checkpoint, a file as `find_config` takes it or a node; without, what the checkpoint holds, or the
            config.yaml beside it.
        opts: KEY, VALUE pairs that change the config.
        device: MODEL.DEVICE; without, the config's, and `cpu` for an exported file.

    Returns:
        The config and the model.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ImportError: what reads the file is not installed.
        KeyError: a key does not exist.
        ValueError: it is none of these, is damaged, the weights are another model's, or nothing says what the model is.
    """
    path = os.fspath(source)
    opts = [*opts, *(("MODEL.DEVICE", device) if device else ())]
    if os.path.isdir(path):
        path = _weights_in(path)
    if not os.path.isfile(path):
        hint = "; a model of the hub is loaded by from_pretrained" if path.count("/") == 1 else ""
        raise FileNotFoundError(f"there is neither a file nor a folder '{path}': name {_PLACES}{hint}")
    if not takes_config(path):
        if config:
            raise ValueError(f"'{path}' holds its config: name no other one")
        if format_of(path) != "safetensors":
            return load_exported(path, opts)
        _check_beside(path)
        return load_safetensors(path, opts)
    cfg = _config_for(path, config, opts)
    return cfg, load_model(cfg, path)


def takes_config(path: str | os.PathLike) -> bool:
    """Tell whether a file is a checkpoint, which a config belongs to, and not one that holds its config."""
    return Path(path).suffix not in FORMATS


def _weights_in(folder: str) -> str:
    """The weights of a folder of a hub, or the checkpoint that a training wrote last."""
    if os.path.isfile(path := os.path.join(folder, WEIGHTS)):
        return path
    try:
        path = os.path.join(folder, Path(folder, _LAST).read_text(encoding="utf-8").strip())
    except FileNotFoundError:
        raise FileNotFoundError(
            f"'{folder}' holds neither {_LAST} of a training nor {WEIGHTS} of a hub: name {_PLACES}"
        ) from None
    logger.info("%s: its last checkpoint, %s", folder, os.path.basename(path))
    return path


def _check_beside(weights: str) -> None:
    """Refuse a folder of a hub whose config or description is another model's: the weights' header is what counts."""
    if os.path.basename(weights) != WEIGHTS:
        return
    said = read_safetensors(weights, weights=False)[0]
    beside = Path(weights).with_name(_CONFIG)
    if beside.is_file():
        with known_here(weights):
            same = config_of(beside.read_text(encoding="utf-8")) == config_of(said.config)
        if not same:
            raise ValueError(
                f"'{beside}' was changed and is not the config that {WEIGHTS} was saved with: put it back, and change "
                "keys with opts"
            )
    beside = Path(weights).with_name(DESCRIPTION)
    there = None
    with contextlib.suppress(FileNotFoundError, ValueError):
        there = json.loads(beside.read_text(encoding="utf-8"))
    if isinstance(there, dict) and there.get("fingerprint", said.fingerprint) != said.fingerprint:
        raise ValueError(
            f"'{beside}' describes another model than {WEIGHTS} holds, whose threshold it has: save the model again"
        )


def _config_for(weights: str, config: str | os.PathLike | CfgNode, opts: Sequence[str]) -> CfgNode:
    """The config of a checkpoint: the one that is named, its own, or the one beside it."""
    if isinstance(config, CfgNode):
        cfg = config.clone()
    elif config:
        return inference_config(os.fspath(config), opts)
    else:
        held = safe_load(weights)
        held = held.get("config") if isinstance(held, dict) else None
        beside = os.path.join(os.path.dirname(weights), _CONFIG)
        if not isinstance(held, str) and not os.path.isfile(beside):
            raise ValueError(
                f"'{weights}' holds no config and there is no {_CONFIG} beside it: name the config of its training"
            )
        cfg = config_of(held) if isinstance(held, str) else config_of(Path(beside).read_text(encoding="utf-8"))
    cfg.defrost()
    cfg.merge_from_list(list(opts))
    return for_inference(cfg)
