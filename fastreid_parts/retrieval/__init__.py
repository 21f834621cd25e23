"""What a trained model is used for: features kept on disk, a gallery to search, a threshold for "the same person"."""

from __future__ import annotations

from .calibration import Calibration, calibrate, calibrate_pairs, read_pairs
from .extraction import (
    OtherFeaturesError,
    extract_images,
    extract_items,
    extract_share,
    extract_to_store,
    image_items,
    label_items,
    list_images,
)
from .fingerprint import model_fingerprint
from .gallery import Gallery
from .index import GalleryIndex
from .milvus_gallery import MilvusGallery
from .store import FeatureSet, load_feature_set, remove_feature_set, save_feature_set
