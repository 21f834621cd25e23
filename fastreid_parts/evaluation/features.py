"""Features of a dataset, taken with any fast-reid model."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from fastreid.evaluation.evaluator import inference_context
from torch import nn
from tqdm import tqdm

from ..data.names import BY_NUMBER, Label, Names, joined
from ..words import printable


@dataclass(frozen=True)
class Features:
    """Features of N images with what re-identification needs to know about each.

    Attributes:
        features: (N, D) float32.
        pids: (N,) int64, identities.
        camids: (N,) int64, cameras.
        paths: N image files.
        names: what identities and cameras are called.

    Raises:
        ValueError: the four do not agree in length, or `features` is not a matrix.
    """

    features: np.ndarray
    pids: np.ndarray
    camids: np.ndarray
    paths: Sequence[str]
    names: Names = BY_NUMBER

    def __post_init__(self) -> None:
        if self.features.ndim != 2:
            raise ValueError(f"features must be a matrix (N, D), not of shape {self.features.shape}")
        lengths = {name: len(getattr(self, name)) for name in ("features", "pids", "camids", "paths")}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"every image needs one row in each of the four columns, got the lengths {lengths}")

    def __len__(self) -> int:
        return len(self.pids)

    def split(self, num_query: int) -> tuple[Features, Features]:
        """Divide into the first `num_query` images and the rest: query and gallery, in the test loader's order.

        Raises:
            ValueError: query or gallery would be empty.
        """
        if not 0 < num_query < len(self):
            raise ValueError(
                f"{num_query} of {len(self)} images as queries leave the query set or the gallery empty; "
                "pass the number of queries that the test loader was built with"
            )
        return self.take(slice(None, num_query)), self.take(slice(num_query, None))

    def take(self, rows: slice | np.ndarray) -> Features:
        """Take some of the images; a slice of features is no copy."""
        paths = np.array(self.paths, dtype=object)[rows].tolist()
        return Features(self.features[rows], self.pids[rows], self.camids[rows], paths, self.names)

    @classmethod
    def concatenate(cls, parts: Sequence[Features]) -> Features:
        """Put the images of several into one, in order; identities and cameras of one name become one."""
        features = np.concatenate([part.features for part in parts])
        pids, camids, names = joined([(part.pids, part.camids, part.names) for part in parts])
        return cls(features, pids, camids, [path for part in parts for path in part.paths], names)


class Named(Protocol):
    """Images of which identities and cameras are known, such as `Features`."""

    @property
    def pids(self) -> np.ndarray:
        """Give (N,) identities."""
        ...

    @property
    def camids(self) -> np.ndarray:
        """Give (N,) cameras."""
        ...

    @property
    def names(self) -> Names:
        """Give what these are called."""
        ...


def who_and_where(images: Named, row: int) -> dict[str, Label]:
    """Name the `identity` and the `camera` of an image, as every output does; None where it is not known.

    Args:
        images: one of them is asked for.
        row: which.
    """
    return {
        "identity": images.names.identity(images.pids[row]),
        "camera": images.names.camera(images.camids[row]),
    }


def identity_and_camera(images: Named, row: int, long: bool = False) -> list[str]:
    """Say whom an image shows and which camera took it: `id 7`, `cam 3`; what is not known is left out.

    Args:
        images: one of them is asked for.
        row: which.
        long: in whole words, `identity 7`, `camera 3`.
    """
    words = {"identity": "identity", "camera": "camera"} if long else {"identity": "id", "camera": "cam"}
    known = {what: printable(label) for what, label in who_and_where(images, row).items() if label is not None}
    return [f"{words[what]} {label}" for what, label in known.items()]


@torch.no_grad()
def extract(model: nn.Module, loader: Iterable[dict], flip: bool = False) -> Features:
    """Take features of every image of a test loader, with a progress bar on a terminal.

    The model runs in evaluation mode on the device where its parameters are. In a run of several processes
    the result covers the share of the data that the loader gives to this process.

    Args:
        model: any fast-reid meta-architecture; in evaluation mode it maps a batch to (N, D) features.
        loader: batches with `images` (N, 3, H, W), `targets`, `camids` and `img_paths`, as
            `fastreid.data.build_reid_test_loader` makes them; its dataset may have `names`.
        flip: average the features of an image and of its mirror image, as TEST.FLIP does.

    Raises:
        ValueError: the loader is empty, its identities or cameras are not numbers, or the model does not
            return one (N, D) tensor.
    """
    names = getattr(getattr(loader, "dataset", None), "names", BY_NUMBER)
    parts: list[Features] = []
    with inference_context(model):
        for batch in tqdm(loader, desc="features", unit="batch", leave=False, disable=None):
            output = features_of_batch(model, batch, flip)
            pids, camids = _numbers(batch["targets"], "identities"), _numbers(batch["camids"], "cameras")
            parts.append(Features(output, pids, camids, batch["img_paths"], names))
    if not parts:
        raise ValueError("the loader gave no batch: the dataset to take features of is empty")
    return Features.concatenate(parts)


def features_of_batch(model: nn.Module, batch: dict, flip: bool) -> np.ndarray:
    """Compute the features (N, D) float32 of a batch.

    Args:
        model: as in `extract`, in evaluation mode. One that has `flips` averages over mirror images by itself.
        batch: `images` (N, 3, H, W) in 0 to 255, and what else the model takes.
        flip: as in `extract`.

    Raises:
        ValueError: the model does not return one (N, D) tensor.
    """
    # A copy: a model may normalize its input in place, and the loader's batch is not ours to change.
    images = batch["images"].to(device_of(model), copy=True)
    flip = flip and not getattr(model, "flips", False)
    return mean_of_mirrored(functools.partial(features_of, model, batch), images, flip).float().cpu().numpy()


def device_of(model: nn.Module) -> torch.device:
    """Find where a model is, by its first parameter or buffer."""
    return next(itertools.chain(model.parameters(), model.buffers())).device


def mean_of_mirrored(
    features: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, flip: bool
) -> torch.Tensor:
    """Compute features of images, or with `flip` the means of them and of those of the mirror images.

    Args:
        features: images (N, 3, H, W) -> (N, D); it may write into them.
        images: the images.
        flip: as TEST.FLIP says.
    """
    mirrored = images.flip(dims=[3]) if flip else None
    output = features(images)
    return output if mirrored is None else (output + features(mirrored)) / 2


def features_of(model: nn.Module, batch: dict, images: torch.Tensor) -> torch.Tensor:
    """Compute the features (N, D) of a batch.

    Args:
        model: any fast-reid meta-architecture, in evaluation mode.
        batch: what it takes besides the images.
        images: (N, 3, H, W) in 0 to 255, on the model's device.

    Raises:
        ValueError: the model gives something else.
    """
    output = model({**batch, "images": images})
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != len(images):
        raise ValueError(
            f"in evaluation mode the model must map {len(images)} images to one tensor ({len(images)}, D), got "
            f"{shape_or_type(output)}"
        )
    return output


def shape_or_type(output: object) -> object:
    """Say what a model gave where a tensor of another shape was expected."""
    return tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__


def _numbers(column: object, what: str) -> np.ndarray:
    if not isinstance(column, torch.Tensor):
        raise ValueError(
            f"the loader gives {what} that are not numbers ({type(column).__name__}): use the query and "
            "gallery images, not the training images"
        )
    return column.cpu().numpy().astype(np.int64)
