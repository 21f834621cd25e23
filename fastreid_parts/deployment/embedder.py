"""Features of crops in a program: the object that a tracker, an application or a notebook holds."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fastreid.config import CfgNode
from fastreid.evaluation.evaluator import inference_context
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from ..data.transforms import build_transforms
from ..evaluation.features import features_of_batch
from ..retrieval.fingerprint import model_fingerprint
from .crops import as_image, list_crops
from .description import ModelDescription
from .hub import find_folder, save_folder
from .inference import describe
from .sources import load_source

_SHOWN_AFTER = 3.0  # seconds, then a progress bar: a tracker asks for some crops many times a second


class Embedder:
    """Features of images, as a test of the model takes them: its resizing, TEST.FLIP and TEST.FEATURES.

    Args:
        cfg: the model's config.
        model: with its weights: any fast-reid meta-architecture, or an `ExportedModel`.

    Attributes:
        cfg: see above.
        model: see above.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        self.cfg, self.model = cfg, model
        self._transform = build_transforms(cfg, is_train=False)

    @classmethod
    def load(
        cls,
        source: str | os.PathLike,
        config: str | os.PathLike | CfgNode = "",
        opts: Sequence[str] = (),
        device: str = "",
    ) -> Embedder:
        """Load a model from where it lies.

        Args:
            source: the folder of a training, a checkpoint, a folder of a hub, or an exported file.
            config: of a checkpoint that does not hold its own.
            opts: KEY, VALUE pairs that change the config.
            device: `cpu` or `cuda`; by default what the config says, and the CPU where there is no GPU or the source is
                an exported file.

        Raises:
            FileNotFoundError: there is no such file or folder.
            ImportError: what reads the file is not installed.
            KeyError: a key does not exist.
            ValueError: the source is none of these, is damaged, or does not say what the model is.
        """
        return cls(*load_source(source, config, opts, device))

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike, *, revision: str = "", opts: Sequence[str] = (), device: str = ""
    ) -> Embedder:
        """Load a model that `save_pretrained` wrote, from a folder or from the Hugging Face Hub.

        Nothing is unpickled, and no code of the folder is run.

        Args:
            name: a folder, or OWNER/NAME on the hub.
            revision: a branch, tag or commit there.
            opts: see `load`.
            device: see `load`.

        Raises:
            ImportError: huggingface_hub or safetensors is not installed.
            KeyError: a key does not exist.
            OSError: there is no such folder, or it cannot be fetched.
            ValueError: it holds no weights of safetensors, they are damaged, or the model is not known here.
        """
        return cls.load(find_folder(name, revision), "", opts, device)

    def save_pretrained(self, folder: str | os.PathLike, **options: Any) -> None:
        """Write a folder that others load: weights, description, config and a model card.

        Args:
            folder: made where it is not there.
            **options: `name`, `license`, `results`, `threshold` and `overwrite` of
                `fastreid_parts.deployment.hub.save_folder`.

        Raises:
            FileNotFoundError: a file of results is not there.
            FolderError: one of the files is in the folder already.
            ImportError: huggingface_hub or safetensors is not installed.
            ValueError: results are of another model, or this is an exported file.
        """
        save_folder(self.cfg, self.model, folder, **options)

    @functools.cached_property
    def description(self) -> ModelDescription:
        """What the model is; found by running it once, or read from an exported file."""
        with inference_context(self.model):
            return getattr(self.model, "description", None) or describe(self.cfg, self.model)

    @property
    def fingerprint(self) -> str:
        """Which features can be compared with those of this object, see `model_fingerprint`."""
        return model_fingerprint(self.cfg, self.model)

    @property
    def dimension(self) -> int:
        """D of a feature."""
        return self.description.dimension

    @torch.no_grad()
    def __call__(
        self, images: Any, boxes: Any = None, *, normalize: bool = False, bgr: bool = False, batch_size: int = 32
    ) -> np.ndarray:
        """Take features of crops, or of the boxes in a frame.

        Args:
            images: a list of arrays (H, W, 3) of uint8, images of Pillow's and paths of files; with `boxes`, one such
                image, the frame.
            boxes: (N, 4): left, top, right and bottom in pixels of the frame, of a file after it is turned upright.
            normalize: give features unit length, for which the cosine similarity is the inner product.
            bgr: arrays are in OpenCV's order of channels. Files and images of Pillow's are read as what they are.
            batch_size: images that the model sees at once.

        Returns:
            (N, D) float32, (0, D) without images.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: a file cannot be read as an image.
            TypeError: an image is of a type that is not known.
            ValueError: an array or a box is not as described, a single image is given without boxes, or a frame of
                Pillow's is not upright.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it is at least 1")
        crops = list_crops(images, boxes, bgr)
        parts = [np.empty((0, self.dimension), np.float32)]
        starts = range(0, len(crops), batch_size)
        with inference_context(self.model):
            for start in tqdm(starts, desc="features", unit="batch", leave=False, disable=None, delay=_SHOWN_AFTER):
                pixels = [self._transform(as_image(one, bgr)) for one in crops[start : start + batch_size]]
                parts.append(features_of_batch(self.model, {"images": torch.stack(pixels)}, self.cfg.TEST.FLIP.ENABLED))
        features = np.concatenate(parts)
        return F.normalize(torch.from_numpy(features), dim=1).numpy() if normalize else features
