"""Datasets, augmentations and loaders."""

from . import datasets, shifting  # noqa: F401  registration
from .transforms import TRANSFORMS, build_transforms
