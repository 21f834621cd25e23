"""Small images and datasets that the data tests write for themselves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def noise(seed: int, height: int = 24, width: int = 12) -> np.ndarray:
    """(H, W, 3) uint8, another picture for each seed."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_image(path: Path, seed: int = 0, size: Any = (24, 12), **save_options: Any) -> Path:
    """Write one noise image in the format of the path's extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    formats = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".webp": "WEBP", ".tif": "TIFF"}
    Image.fromarray(noise(seed, *size)).save(path, format=formats[path.suffix.lower()], **save_options)
    return path


def write_folders(root: Path, names: Mapping[str, Iterable[str]]) -> Path:
    """Write `{folder: file names}` below root."""
    for folder, files in names.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(files):
            write_image(root / folder / name, seed=number)
    return root


def truncate(path: Path, keep: float) -> Path:
    """Cut a file down to the given share of its bytes."""
    os.truncate(path, int(path.stat().st_size * keep))
    return path
