"""Small galleries of features, and the indexes that the tests build of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fastreid_parts.evaluation import Features
from fastreid_parts.retrieval import FeatureSet, GalleryIndex, load_feature_set

DIMENSIONS, QUERIES, IMAGES = 16, 20, 700
# Small enough to be trained on 700 images; with every list and 300 candidates compared again, nothing is left to chance
PARAMETERS: dict[str, dict[str, int]] = {
    "flat": {},
    "ivfpq": {"nlist": 4, "m": 4, "nbits": 4, "nprobe": 4, "rescore": 30},
    "hnsw": {},
}
KINDS = tuple(PARAMETERS)


def feature_set(images: int = IMAGES, seed: int = 0, queries: int = QUERIES, fingerprint: str = "abc") -> FeatureSet:
    """Queries, then images of 40 identities, in no order."""
    random = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(40, DIMENSIONS))
    pids = random.integers(0, 40, queries + images)
    matrix = (centers[pids] + random.normal(size=(len(pids), DIMENSIONS)) / 2).astype(np.float32)
    paths = [f"{seed}/{number}.jpg" for number in range(len(pids))]
    return FeatureSet(Features(matrix, pids, random.integers(0, 6, len(pids)), paths), queries, fingerprint, "", "")


def build(kind: str, gallery: FeatureSet, metric: str = "cosine") -> GalleryIndex:
    return GalleryIndex.build(gallery, kind, metric, **PARAMETERS[kind])


def changed(there: FeatureSet, matrix: np.ndarray) -> FeatureSet:
    features = there.features
    moved = Features(matrix, features.pids, features.camids, features.paths)
    return FeatureSet(moved, there.num_query, there.fingerprint, there.config, there.dataset)


def given_by(folder: Path) -> list[Any]:
    """All that a store gives, arrays as bytes."""
    if (folder / "features.npy").exists():
        there = load_feature_set(folder)
        images: Any = there.features
        said, arrays = [there.num_query, there.fingerprint, there.config, there.dataset], [images.features]
    else:
        index = GalleryIndex.load(folder)
        images = index.images
        said = [index.describe(), index.config, index.calibration, index.last_change]
        queries = np.random.default_rng(0).normal(size=(5, index.dimensions)).astype(np.float32)
        arrays = [images.present, *index.search(queries, 7)]
    return [*said, list(images.paths), *(array.tobytes() for array in (images.pids, images.camids, *arrays))]
