"""Which places of an image a feature depends on, found by covering one after the other."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from fastreid.evaluation.evaluator import inference_context
from torch import nn
from tqdm import tqdm

from .features import device_of, features_of

#: Cells of a map, whatever the size of the images, and cells that a window covers: rows and columns.
CELLS, WINDOW = (16, 8), (3, 2)


class _Window(NamedTuple):
    """A rectangle of cells that is covered."""

    rows: slice
    columns: slice


@torch.no_grad()
def occlusion_maps(model: nn.Module, images: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
    """Measure how far the feature of an image moves where a window over it is covered.

    The occlusion sensitivity of Zeiler and Fergus (ECCV 2014), for features in place of a class score. A window has the
    mean color of its image, and moves by one cell, beyond the edges too. A cell is the mean over the windows that cover
    it of 1 - cosine between the feature with the window and without. Unlike an activation map, which is what a
    layer gives, it is of the representation that is compared, and as fine for a small map as for a large one.

    Args:
        model: any fast-reid meta-architecture, in evaluation mode or not.
        images: (N, 3, H, W) in 0 to 255.
        batch_size: covered images that go through the model at once.

    Returns:
        (N, 16, 8) float32, on the device of the model, between 0 and 2.

    Raises:
        ValueError: an image has fewer rows or columns than the map, or the model gives no feature.
    """
    if images.shape[-2] < CELLS[0] or images.shape[-1] < CELLS[1]:
        raise ValueError(
            f"an occlusion map has {CELLS[0]} x {CELLS[1]} cells, and the images are {images.shape[-2]} x "
            f"{images.shape[-1]}: set a larger INPUT.SIZE_TEST"
        )
    model = getattr(model, "module", model)  # DistributedDataParallel keeps the model inside
    images = images.to(device_of(model))
    windows = _windows()
    total, covering = images.new_zeros(len(images), *CELLS), images.new_zeros(CELLS)
    for window in windows:
        covering[window] += 1
    with inference_context(model):
        plain = features_of(model, {}, images.clone()).float()
        jobs = [(image, window) for image in range(len(images)) for window in windows]
        starts = range(0, len(jobs), batch_size)
        for start in tqdm(starts, desc="occlusion", unit="batch", leave=False, disable=None, delay=2):
            batch = jobs[start : start + batch_size]
            covered = torch.stack([_cover(images[image], window) for image, window in batch])
            features = features_of(model, {}, covered).float()
            moved = 1 - F.cosine_similarity(features, plain[[image for image, _ in batch]])
            for (image, window), distance in zip(batch, moved):
                total[image][window] += distance
    return total / covering


def _windows() -> list[_Window]:
    """All places of the window that cover a cell."""
    rows, columns = (
        [slice(max(0, first), min(cells, first + size)) for first in range(1 - size, cells)]
        for cells, size in zip(CELLS, WINDOW)
    )
    return [_Window(one, other) for one in rows for other in columns]


def _cover(image: torch.Tensor, window: _Window) -> torch.Tensor:
    """A copy of an image (3, H, W) whose window has the image's mean color."""
    covered = image.clone()
    rows, columns = (
        slice(part.start * size // cells, part.stop * size // cells)
        for part, size, cells in zip(window, image.shape[1:], CELLS)
    )
    covered[:, rows, columns] = image.mean(dim=(1, 2), keepdim=True)
    return covered
