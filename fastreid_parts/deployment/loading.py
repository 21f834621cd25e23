"""A trained model from a config and a checkpoint."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from fastreid.config import CfgNode
from fastreid.modeling import build_model
from fastreid.utils.checkpoint import Checkpointer
from torch import nn

from ..config import load_config


def inference_config(config_file: str, opts: Sequence[str]) -> CfgNode:
    """Read the config of a trained model that is looked at, not trained.

    Args:
        config_file: see `config.load_config`.
        opts: see `config.load_config`.

    Raises:
        FileNotFoundError: there is no such config file.
        KeyError: a key does not exist.
        ValueError: a value does not fit its key.
    """
    return for_inference(load_config(config_file, opts))


def for_inference(cfg: CfgNode) -> CfgNode:
    """Change a config, in place, so that its model can be built without a dataset and without pretrained weights."""
    cfg.MODEL.BACKBONE.PRETRAIN = False
    if cfg.MODEL.HEADS.NUM_CLASSES == 0:
        cfg.MODEL.HEADS.NUM_CLASSES = 1  # the classifier must be there, but a feature map does not depend on it
    return cfg


@contextlib.contextmanager
def known_here(path: str | os.PathLike) -> Iterator[None]:
    """Say what to do where a file's config names what is not registered.

    Args:
        path: of the file.

    Raises:
        ValueError: a key or a module does not exist.
    """
    try:
        yield
    except KeyError as error:
        raise ValueError(
            f"'{os.fspath(path)}' is of a model that is not known here ({error.args[0]}): import the module that "
            "registers it (--import of a command), or install the version of fastreid_parts that wrote the file"
        ) from error


def load_model(cfg: CfgNode, weights: str) -> nn.Module:
    """Build the model of a config with trained weights, in evaluation mode.

    Args:
        cfg: the config.
        weights: a checkpoint.

    Raises:
        FileNotFoundError: there is no such weights file.
        ValueError: the file holds the weights of another model.
    """
    return load_with_missing(cfg, weights)[0]


def load_with_missing(cfg: CfgNode, weights: str, trained_as: str = "") -> tuple[nn.Module, set[str]]:
    """Load a model as `load_model` does, and name what the file lacks.

    Args:
        cfg: the config; its MODEL.WEIGHTS becomes the checkpoint, as what is stored with features says what made them.
        weights: a checkpoint.
        trained_as: name of a model that is to have as many identities as in its training.

    Returns:
        The model; the names of its tensors that the file does not hold, which evaluation does not need.

    Raises:
        FileNotFoundError: there is no such weights file.
        ValueError: the file holds the weights of another model.
    """
    check_weights(weights)
    model = build_model(cfg)
    checkpointer = Checkpointer(model)
    try:
        checkpointer.load(weights)
    finally:  # it says more than the error that there may be
        if trained_as:
            _check_identities(checkpointer, weights, trained_as, cfg)
    cfg.MODEL.WEIGHTS = os.path.abspath(weights)
    return model.eval(), set(checkpointer.last_incompatible.missing_keys)


def _check_identities(checkpointer: Any, weights: str, name: str, cfg: CfgNode) -> None:
    """A classifier or a memory whose length differs along one axis, the identities."""
    incompatible, identities = checkpointer.last_incompatible, cfg.MODEL.HEADS.NUM_CLASSES
    for key, in_file, in_model in incompatible.incorrect_shapes if incompatible is not None else ():
        differing = [(a, b) for a, b in zip(in_file, in_model) if a != b]
        if len(in_file) == len(in_model) and len(differing) == 1 and differing[0][1] == identities:
            raise ValueError(
                f"'{weights}' was trained on {differing[0][0]} identities ({key}), but {name}'s "
                f"training set, DATASETS.NAMES {', '.join(cfg.DATASETS.NAMES)}, has {identities}: use the config and "
                "the dataset of the training"
            )


def check_weights(weights: str) -> None:
    """Refuse a checkpoint that is not there.

    Raises:
        FileNotFoundError: there is no such weights file.
    """
    if not os.path.isfile(weights):
        raise FileNotFoundError(f"no weights file '{weights}'")
