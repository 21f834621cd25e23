"""Features on disk: written so that a folder is whole or refused, read without loading what is not looked at."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastreid.config import CfgNode

from ..config import config_of
from ..data.names import columns_of, names_of
from ..evaluation import Features
from ..evaluation.exact import check_features
from ..files import LOCK, csv_bytes, locked, remove_leftovers
from .manifest import IMAGE_COLUMNS, MANIFEST, FolderKind, check_file, read_images, write_described, write_manifest

_FEATURES, _IMAGES = "features.npy", "images.csv"
_SAID = {"num_query": int, "fingerprint": str, "dataset": str, "config": str}  # as in `FeatureSet`
_MAY_SAY = {"state": ""}  # not in sets of before it was an attribute
_KEYS = {"images": int, "dimensions": int, "dtype": str, **_SAID, "files": dict}
_AGAIN = "extract the features again"
_KIND = FolderKind(
    "feature set",
    _KEYS,
    mark="num_query",
    remedy=_AGAIN,
    unfinished="the command that extracts features finishes it when it is given the same arguments again",
)


@dataclass(frozen=True)
class FeatureSet:
    """Features of images, with what is needed to use them later.

    Attributes:
        features: of N images, query images first; identity and camera are -1 where they are unknown.
        num_query: how many of them are queries; 0 where there is no such division.
        fingerprint: of the model, see `model_fingerprint`; empty for features made by other means.
        config: the model's config as `cfg.dump()` writes it; empty as the fingerprint.
        dataset: name of the dataset; empty for images without one.
        state: digest of the image files' sizes and times when features were taken, see `extract_to_store`; empty where
            that is not known.

    Raises:
        ValueError: there are no images, or as many queries as images or more.
    """

    features: Features
    num_query: int
    fingerprint: str
    config: str
    dataset: str
    state: str = ""

    def __post_init__(self) -> None:
        if len(self.features) == 0:
            raise ValueError("a feature set needs at least one image")
        if not 0 <= self.num_query < len(self.features):
            raise ValueError(
                f"{self.num_query} of {len(self.features)} images as queries leave no gallery; 0 says that there are "
                "no queries"
            )

    def split(self) -> tuple[Features, Features]:
        """Query and gallery.

        Raises:
            ValueError: there are no queries.
        """
        if self.num_query == 0:
            raise ValueError(
                "these features are not divided into query and gallery: they are of images, not of a dataset's test set"
            )
        return self.features.split(self.num_query)

    def to_cfg(self) -> CfgNode:
        """Make the config a node; fast-reid's defaults where there is none.

        Raises:
            KeyError: the config has a key that this version does not know.
        """
        return config_of(self.config)


def save_feature_set(directory: str | os.PathLike, feature_set: FeatureSet, half: bool = False) -> None:
    """Write features and what belongs to them into a folder: features.npy, images.csv, and at last manifest.json.

    In images.csv stand path, identity and camera, the last two by name; what is not known is empty.

    Args:
        directory: made where it is not there; a feature set in it is replaced.
        feature_set: what to write.
        half: store float16, half the space: values keep three decimal digits.

    Raises:
        ValueError: a feature is NaN or infinite, or too large for float16; the folder holds something else, such as an
            index.
    """
    features = feature_set.features
    matrix = check_features(features.features, "extracted")
    if half:
        if too_large_for_half(matrix):
            raise ValueError("the features hold values above 65504, the largest of float16: store them as float32")
        matrix = matrix.astype(np.float16)
    directory = os.fspath(directory)
    _KIND.state(directory)
    images = csv_bytes(IMAGE_COLUMNS, zip(features.paths, *names_of(features.pids, features.camids, features.names)))
    writers: dict[str, Callable[[Any], object]] = {
        _FEATURES: lambda file: np.save(file, matrix, allow_pickle=False),
        _IMAGES: lambda file: file.write(images),
    }
    with locked(directory):
        remove_leftovers(directory)
        manifest = {
            "images": len(features),
            "dimensions": matrix.shape[1],
            "dtype": matrix.dtype.name,
            **{name: getattr(feature_set, name) for name in (*_SAID, *_MAY_SAY)},
            "files": {name: write_described(os.path.join(directory, name), write) for name, write in writers.items()},
        }
        # Last: a folder without it, or with one that names other files, was not finished
        write_manifest(directory, manifest)


def remove_feature_set(directory: str | os.PathLike) -> None:
    """Remove a feature set and its folder, which is held; a kill on the way leaves none that seems finished."""
    remove_leftovers(directory, age=0)
    for name in (MANIFEST, _FEATURES, _IMAGES, LOCK):  # the lock last: until then nobody else is in it
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(directory, name))
    with contextlib.suppress(OSError):  # another process may begin to wait for the folder
        os.rmdir(directory)


def load_feature_set(directory: str | os.PathLike) -> FeatureSet:
    """Read what `save_feature_set` wrote, after a check of every file.

    Features in float32 are mapped into memory: of a million images only those that are looked at are read. Changing
    the array changes no file. Features in float16 are read and converted to float32.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder holds no feature set, or one that is unfinished, truncated, changed, or of another
            version; or features that are NaN or infinite.
    """
    return _KIND.load(directory, _read_files)


def _read_files(directory: str, manifest: dict[str, Any]) -> FeatureSet:
    for name in (_FEATURES, _IMAGES):
        check_file(os.path.join(directory, name), manifest["files"].get(name), _AGAIN)
    path = os.path.join(directory, _FEATURES)
    try:
        # Copy on write and not read-only: torch warns of tensors that share memory with a read-only array
        matrix = np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"'{path}' is no array of numbers: {error}") from error
    expected = (manifest["images"], manifest["dimensions"])
    if matrix.shape != expected or matrix.dtype.name != manifest["dtype"]:
        raise ValueError(
            f"'{path}' holds {matrix.dtype.name} of shape {matrix.shape} where its manifest says {manifest['dtype']} "
            f"of shape {expected}: {_AGAIN}"
        )
    if matrix.dtype == np.float16:
        matrix = matrix.astype(np.float32)
    elif matrix.dtype != np.float32:
        raise ValueError(f"'{path}' holds {matrix.dtype.name}; features are stored as float32 or float16")
    check_features(matrix, f"'{directory}':")
    images = read_images(os.path.join(directory, _IMAGES), IMAGE_COLUMNS, _AGAIN)
    if len(images["path"]) != len(matrix):
        raise ValueError(f"'{directory}' has {len(matrix)} features and {len(images['path'])} images: {_AGAIN}")
    pids, camids, names = columns_of(images["identity"], images["camera"])
    features = Features(matrix, pids, camids, images["path"], names)
    try:
        rest = {name: manifest.get(name, default) for name, default in _MAY_SAY.items()}
        return FeatureSet(features, **{name: manifest[name] for name in _SAID}, **rest)
    except ValueError as error:
        raise ValueError(f"'{directory}': {error}; {_AGAIN}") from error


def read_manifest(directory: str | os.PathLike) -> dict[str, Any]:
    """Read what a folder says of the feature set in it, without reading the features.

    Returns:
        `format`, `images`, `dimensions`, `dtype`, `num_query`, `fingerprint`, `dataset`, `config`, and `files` with the
        size and SHA-256 of each.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no finished feature set, or one of another version.
    """
    return _KIND.read(directory)


def too_large_for_half(features: np.ndarray) -> bool:
    """Tell whether a value is beyond the largest of float16, 65504."""
    largest = np.finfo(np.float16).max  # and no second matrix of absolute values
    return bool(features.max(initial=0) > largest or features.min(initial=0) < -largest)
