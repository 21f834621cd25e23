"""What a trained model is used for: features kept on disk, with the model and the images that they are of."""

from __future__ import annotations

from .extraction import extract_images, extract_items, extract_to_store, image_items, list_images
from .fingerprint import model_fingerprint
from .store import FeatureSet, load_feature_set, save_feature_set

__all__ = [
    "FeatureSet",
    "extract_images",
    "extract_items",
    "extract_to_store",
    "image_items",
    "list_images",
    "load_feature_set",
    "model_fingerprint",
    "save_feature_set",
]
