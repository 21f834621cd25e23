"""An exported file in its own runtime, where a model of torch would stand."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from fastreid.config import CfgNode
from torch import nn

from ..config import config_of, word_pairs
from .description import ModelDescription
from .inference import as_pixels
from .loading import for_inference, known_here
from .runtimes import Run, open_exported, read_description

logger = logging.getLogger(__name__)

# Keys that are built into a file, apart from the device
_IN_THE_FILE = ("MODEL.", "INPUT.", "TEST.FLIP", "TEST.FEATURES")


class ExportedModel(nn.Module):
    """What takes batches and gives features as a fast-reid model does in evaluation, by an exported file.

    Args:
        path: the file, of any format but safetensors.
        device: `cpu` or `cuda`.

    Attributes:
        description: what the file says of itself.
        flips: whether features are means with those of mirrored images already.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: its runtime is not installed.
        ValueError: it is damaged, says nothing of itself, or its runtime lacks the device.
    """

    def __init__(self, path: str | os.PathLike, device: str = "cpu") -> None:
        super().__init__()
        self.path = os.path.abspath(path)
        self.description: ModelDescription = read_description(self.path)
        self.flips = self.description.flip
        self.run: Run = open_exported(self.path, device)
        self.register_buffer("where", torch.empty(0), persistent=False)  # the device of the batches

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model that was exported.

        Raises:
            ValueError: the file gives features of unit length, which are not those of the model.
        """
        if self.description.normalized:
            raise ValueError(
                f"'{self.path}' gives features of unit length, and those that are kept have the model's own lengths: "
                "export it without normalization; what compares by the cosine normalizes them itself"
            )
        return self.description.fingerprint

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        """{"images": (N, 3, H, W) RGB in 0 to 255} -> (N, D); a file knows no cameras."""
        pixels = as_pixels(batch["images"], self.description.pixels, self.description.colors)
        return torch.from_numpy(self.run(pixels.numpy()))


def load_exported(path: str | os.PathLike, opts: Sequence[str] = ()) -> tuple[CfgNode, ExportedModel]:
    """Open an exported file.

    Args:
        path: the file, of any format but safetensors.
        opts: KEY, VALUE pairs that change what is not built into it; MODEL.DEVICE is `cpu` unless it is among them.

    Returns:
        The config of its model, whose MODEL.WEIGHTS is the file, and the model.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: its runtime is not installed.
        KeyError: a key does not exist.
        ValueError: it is damaged, says nothing of itself, its runtime lacks the device, or a key is built into it.
    """
    asked = dict(word_pairs(opts))
    device = "cuda" if asked.get("MODEL.DEVICE", "cpu").startswith("cuda") and torch.cuda.is_available() else "cpu"
    if fixed := [key for key in asked if key.startswith(_IN_THE_FILE) and key != "MODEL.DEVICE"]:
        raise ValueError(
            f"{fixed[0]} is built into '{os.fspath(path)}' and cannot be changed any more: export the checkpoint anew"
        )
    model = ExportedModel(path, device)
    if (precision := model.description.precision) != "float32":
        logger.warning("%s is in %s: its features are near those of the checkpoint, not equal", path, precision)
    with known_here(path):
        cfg = for_inference(config_of(model.description.config))
    cfg.merge_from_list(["MODEL.DEVICE", device, *opts])
    cfg.MODEL.WEIGHTS = model.path
    return cfg, model
