"""Datasets, augmentations and loaders."""

try:
    from . import datasets  # noqa: F401  registration
except ModuleNotFoundError as _e:
    if "synthetic" not in str(_e):
        raise
from .transforms import TRANSFORMS, build_transforms

__all__ = ["TRANSFORMS", "build_transforms"]
