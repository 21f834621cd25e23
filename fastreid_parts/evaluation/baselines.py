"""Features that need no training: what a learnt model has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from fastreid.data.data_utils import read_image
from tqdm import tqdm

from .features import Features

# Hue tells garments apart best and needs the finest steps; 16 x 4 x 4 = 256 bins over all
HSV_BINS = (16, 4, 4)


def color_histogram(image: np.ndarray, bins: Sequence[int] = HSV_BINS) -> np.ndarray:
    """Compute the joint HSV histogram of a whole image.

    The histogram is normalized to sum 1 and its square root taken, so that the Euclidean distance between two
    of them is, up to a factor, the Hellinger distance between the color distributions.

    Args:
        image: (H, W, 3) uint8, RGB.
        bins: number of bins for hue, saturation, value.

    Returns:
        (product of bins,) float32 of Euclidean length 1.

    Raises:
        ValueError: not an RGB image of bytes.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"expected an RGB image (H, W, 3) of uint8, got {image.shape} of {image.dtype}")
    hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
    # OpenCV stores the hue of bytes in half degrees
    counts = cv2.calcHist([hsv], [0, 1, 2], None, list(bins), [0, 180, 0, 256, 0, 256]).ravel()
    return np.sqrt(counts / counts.sum()).astype(np.float32)


def color_histogram_features(items: Sequence[tuple], bins: Sequence[int] = HSV_BINS) -> Features:
    """Color histograms of a dataset's images.

    Args:
        items: (path, identity, camera) of each image, the last two as numbers: what a fast-reid dataset holds
            in `query` and `gallery`.
        bins: as in `color_histogram`.

    Raises:
        ValueError: no images.
    """
    if not items:
        raise ValueError("no images to take color histograms of")
    images = tqdm(items, desc="histograms", unit="image", leave=False, disable=None)
    rows = [color_histogram(np.asarray(read_image(path, format="RGB")), bins) for path, *_ in images]
    pids = np.array([item[1] for item in items], dtype=np.int64)
    camids = np.array([item[2] for item in items], dtype=np.int64)
    return Features(np.stack(rows), pids, camids, [item[0] for item in items])
