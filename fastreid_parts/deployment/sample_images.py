"""Images that exported files are compared and calibrated on."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from fastreid.config import CfgNode
from tqdm import tqdm

from ..data.build import build_reid_test_loader
from ..data.transforms import build_transforms
from ..pedestrians import Studio, sample_identities, sample_view
from ..retrieval import list_images
from .crops import AnyImage, as_image

#: Fewer leave the ranges that int8 is calibrated to, to chance; more take longer and move them little.
LEAST, MOST = 32, 256
_DRAWN = 12


def find_sample(cfg: CfgNode, places: Sequence[str], dataset: str = "") -> tuple[list[AnyImage], str]:
    """Find images to try a model on: those that are named, those of a dataset, or drawn people.

    Args:
        cfg: the model's config; its first test set is taken where nothing is named and its images are here.
        places: image files and folders.
        dataset: a dataset.

    Returns:
        The images, query images first, and what they are.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the dataset that is named cannot be read.
    """
    if places:
        return list(list_images(*places)), f"images of {', '.join(places)}"
    name = dataset or next(iter(cfg.DATASETS.TESTS), "")
    try:
        if name:
            loader, _ = build_reid_test_loader(cfg, dataset_name=name, evaluated=False)
            return [path for path, *_ in loader.dataset.img_items], f"images of {name}"
    except (OSError, ValueError, RuntimeError):
        if dataset:
            raise
    return list(draw_people(_DRAWN)), "drawn people"


def draw_people(count: int, seed: int = 0) -> list[np.ndarray]:
    """Draw people, each in another view.

    Args:
        count: how many.
        seed: of all that is random.

    Returns:
        Images (H, W, 3) uint8, RGB.
    """
    studio, rng = Studio(seed, cameras=1), np.random.default_rng(seed)
    people = sample_identities(seed, 0, count)
    return [studio.render(person, 1, sample_view(rng), rng)[:, :, ::-1] for person in people]


def spread(images: Sequence[AnyImage], most: int) -> list[AnyImage]:
    """Take some images, evenly from the whole list.

    Args:
        images: all of them.
        most: how many at most.
    """
    chosen = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int)
    return [images[row] for row in chosen]


def check_calibration(images: Sequence[AnyImage], where: str) -> None:
    """Refuse images that int8 cannot be calibrated on.

    Args:
        images: the images.
        where: what they are.

    Raises:
        ValueError: they are too few.
    """
    if len(images) < LEAST:
        raise ValueError(
            f"int8 is calibrated on {LEAST} images at least, better {MOST}, of people as the model will see them; here "
            f"are {len(images)} ({where}): name more with --calibrate"
        )


def load_raw(cfg: CfgNode, images: Sequence[AnyImage | str | os.PathLike]) -> torch.Tensor:
    """Load images as a test of the model sees them: (N, 3, H, W), RGB, 0 to 255.

    Args:
        cfg: the model's config.
        images: files, arrays or images of Pillow's.

    Raises:
        OSError: a file cannot be read as an image.
    """
    transform = build_transforms(cfg, is_train=False)
    shown = tqdm(images, desc="images", unit="image", leave=False, disable=None, delay=3)
    return torch.stack([transform(as_image(image)) for image in shown])
