"""Weights in a file that cannot run code, with what they are in its header."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from torch import nn

from ..checkpoints import CheckpointError, needed_in_evaluation
from ..config import config_of
from ..extras import optional
from ..files import write_bytes
from ..retrieval.fingerprint import model_fingerprint
from .description import ModelDescription
from .inference import CALIBRATED, InferenceModel
from .loading import for_inference, known_here

#: The names by which a folder of a hub has its weights, and what programs are to know of them.
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def save_safetensors(
    model: InferenceModel, path: str | os.PathLike, description: ModelDescription | None = None
) -> None:
    """Write the weights of a model, without those of training, in one step; folders on the way are made.

    Args:
        model: see `InferenceModel`; the weights are those of the model in it, which takes pixels in 0 to 255.
        path: the file; one that is there is replaced.
        description: of the model; by default its own.

    Raises:
        ImportError: safetensors is not installed.
    """
    library = optional("safetensors.torch", "hub", "a file of safetensors")
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in model.model.state_dict().items()}
    said = (description or model.describe()).to_map()
    write_bytes(path, library.save(tensors, {"format": "pt", **said}))  # `format` is what other readers look for


def load_safetensors(path: str | os.PathLike, opts: Sequence[str] = ()) -> tuple[CfgNode, nn.Module]:
    """Build the model that a file describes, with its weights, in evaluation mode.

    Args:
        path: of `save_safetensors`.
        opts: KEY, VALUE pairs that change its config.

    Returns:
        The config, whose MODEL.WEIGHTS is the file, and the model, which knows the file's threshold.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: safetensors is not installed.
        KeyError: a key does not exist.
        ValueError: the file is cut short, describes no model of this plugin or one that is not known here, or does not
            hold what it describes.
    """
    description, tensors = read_safetensors(path)
    with known_here(path):
        cfg = for_inference(config_of(description.config))
    changed = cfg.clone()
    changed.merge_from_list(list(opts))
    cfg.MODEL.DEVICE = changed.MODEL.DEVICE
    with known_here(path):
        model = _filled(cfg, tensors, path)
    if model_fingerprint(cfg, model) != description.fingerprint:
        raise ValueError(
            f"'{os.fspath(path)}' does not hold the model that it describes (fingerprint "
            f"{description.fingerprint[:12]}): it was changed, or was written by another version; save it again"
        )
    if changed != cfg:  # what features depend on may be another now
        cfg, model = changed, _filled(changed, tensors, path)
    setattr(model, CALIBRATED, (description.threshold, description.fingerprint, description.metric))
    cfg.MODEL.WEIGHTS = os.path.abspath(path)
    return cfg, model


def read_safetensors(path: str | os.PathLike, weights: bool = True) -> tuple[ModelDescription, dict[str, torch.Tensor]]:
    """Read what a file says of itself, and its tensors.

    Args:
        path: the file.
        weights: with the tensors.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: safetensors is not installed.
        ValueError: the file is cut short, or describes no model of this plugin.
    """
    library = optional("safetensors", "hub", "a file of safetensors")
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file '{path}'")
    try:
        with library.safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in (file.keys() if weights else ())}
    except library.SafetensorError as error:
        raise CheckpointError(f"'{path}' is cut short or no file of safetensors: {error}") from error
    try:
        return ModelDescription.from_map(said), tensors
    except ValueError as error:
        raise ValueError(f"'{path}': {error}") from error


def _filled(cfg: CfgNode, tensors: Mapping[str, torch.Tensor], path: str | os.PathLike) -> nn.Module:
    model = build_model(cfg).eval()
    state = model.state_dict()
    unfit = [
        name
        for name in needed_in_evaluation(model, state)
        if name not in tensors or tensors[name].shape != state[name].shape
    ]
    if unfit:
        raise CheckpointError(
            f"'{os.fspath(path)}' holds the weights of another model: {len(unfit)} tensors that "
            f"{type(model).__name__} needs are missing or of another shape ({', '.join(unfit[:5])}, ...)"
        )
    model.load_state_dict(tensors, strict=False)
    return model
