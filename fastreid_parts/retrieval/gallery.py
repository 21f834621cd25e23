"""What a gallery can do, wherever it is kept: build, add, remove, search, describe.

`GalleryIndex` keeps it in a folder, for one machine; `MilvusGallery` in Milvus, for many.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from fastreid.config import CfgNode

from ..config import config_of
from ..data.names import Label, names_of
from ..data.tables import read_table
from ..evaluation import Features
from ..evaluation.exact import check_features
from ..evaluation.search import as_compared
from .calibration import Calibration
from .columns import read_columns, texts_of
from .image_table import ImageTable
from .store import FeatureSet

logger = logging.getLogger(__name__)

Query: TypeAlias = np.ndarray | FeatureSet

#: What a table says of images: N real paths, and (N,) values by name of the column; see `read_columns`.
Columns: TypeAlias = tuple[Sequence[str], Mapping[str, np.ndarray]]


class Gallery(ABC):
    """Features of a gallery that are searched, with the images and the model that they are of.

    Attributes:
        dimensions: D of a feature.
        kind: how it is searched, `flat` and others.
        metric: `euclidean` or `cosine`.
        parameters: of the kind.
        fingerprint: of the model, see `model_fingerprint`.
        config: the model's config as `cfg.dump()` writes it.
        calibration: threshold on the distance for "the same person", or None.
        last_change: digest of what was built, added or removed last, so that who was killed after it finds it done.
    """

    dimensions: int
    kind: str
    metric: str
    parameters: dict[str, int]
    fingerprint: str
    config: str
    calibration: Calibration | None
    last_change: str | None

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are."""

    @abstractmethod
    def add(self, images: FeatureSet, columns: Columns | None = None) -> np.ndarray:
        """Add the gallery images of a feature set; all of its images where it has no queries.

        Args:
            images: their features.
            columns: what else is known of them.

        Returns:
            Their rows, int64.

        Raises:
            ValueError: the features are another model's, of other dimensions or not finite; a path is in the gallery
                already; a column does not fit. The gallery is left as it was.
        """

    @abstractmethod
    def label(self, table: str | os.PathLike) -> int:
        """Take what a table says of images into columns, for `where` and `group_by` of `search`.

        Args:
            table: with the column path, which starts at its folder, and any others, see `read_columns`; identity and
                camera stay as they are. Where the cell of a column is empty, its value is unknown then.

        Returns:
            How many images it names.

        Raises:
            FileNotFoundError: there is no such table.
            ValueError: it is no such table, names none of the images, has no column, or one of another kind than that
                in the gallery, which is left as it was.
        """

    @abstractmethod
    def remove(
        self,
        rows: Iterable[int] | None = None,
        paths: Iterable[str] | None = None,
        identities: Iterable[Label] | None = None,
    ) -> int:
        """Remove images by row, by path or by identity; those of all three together.

        Args:
            rows: numbers of images.
            paths: image files.
            identities: of images, by name.

        Returns:
            How many images were removed.

        Raises:
            ValueError: nothing is named, or a row, path or identity that is not in the gallery, which is left as it
                was.
        """

    @abstractmethod
    def search(self, query: Query, k: int = 10, where: str = "", group_by: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Find the k nearest images of every query.

        Args:
            query: (Q, D) features, or a feature set: its queries, or all of its images where it has no queries. Of a
                feature set it is checked that the model is the gallery's.
            k: length of a list; with fewer images in the gallery, all of them.
            where: only among the images of which this is true, see `fastreid_parts.retrieval.expression`; k of them are
                found where there are k, whatever the kind.
            group_by: a column, of which the nearest image of each value is listed, and of those k; images of which it
                is unknown stand for themselves.

        Returns:
            Distances (Q, min(k, images)) float32, ascending in each row, and the images' rows, int64. `euclidean`
            is the distance itself, `cosine` 1 minus the cosine similarity; without `rescore`, those of IVF-PQ are
            approximate. Where an approximate search finds fewer images, or there are fewer groups, infinity and -1
            stand at the end.

        Raises:
            ValueError: the gallery is empty, k is below 1 or too long for a GPU, the features are another model's, of
                other dimensions, or not finite; there is no such expression or column.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Say what is there: numbers of images, identities and cameras, kind, metric, parameters, columns."""

    @abstractmethod
    def images_of(self, rows: np.ndarray) -> ImageTable:
        """Give what is known of some images, by their place in `rows`.

        Args:
            rows: (N,) of images that are there.
        """

    @abstractmethod
    def check_question(self, where: str = "", group_by: str = "") -> None:
        """Refuse what `search` would refuse, before features are taken.

        Args:
            where: as `search` takes it.
            group_by: as `search` takes it.

        Raises:
            ValueError: there is no such expression or column.
        """

    @abstractmethod
    def compact(self) -> None:
        """Take out what removed images left behind."""

    @abstractmethod
    def tune(self, **parameters: int) -> None:
        """Change parameters that trade time for recall: `nprobe`, `rescore`; `efSearch`.

        Raises:
            ValueError: a parameter that the kind does not have or that is fixed when a gallery is built, or a value out
                of its range.
        """

    def to_cfg(self) -> CfgNode:
        """Make the model's config a node; fast-reid's defaults where there is none.

        Raises:
            KeyError: the config has a key that this version does not know.
        """
        return config_of(self.config)

    def check_model(self, fingerprint: str, dimensions: int = 0) -> None:
        """Refuse features of another model.

        Args:
            fingerprint: of the model, see `model_fingerprint`.
            dimensions: of its features; 0 where they are not known yet.

        Raises:
            ValueError: one of the two is not the index's.
        """
        if fingerprint != self.fingerprint:
            raise ValueError(
                "the features are of another model than the index's, or of other settings of it (fingerprint "
                f"{fingerprint[:12] or 'unknown'}, the index has {self.fingerprint[:12] or 'none'}): take them with "
                "the index's model and config, or build the index anew"
            )
        if dimensions and dimensions != self.dimensions:
            raise ValueError(
                f"the features have {dimensions} dimensions and those of the index {self.dimensions}: take both with "
                "the same model"
            )

    def _compared(self, query: Query, k: int) -> np.ndarray:
        """(Q, D) float32 of what is searched with, as it is compared, after the checks that `search` names."""
        if k < 1:
            raise ValueError(f"k is the number of neighbors and must be at least 1, got {k}")
        if len(self) == 0:
            raise ValueError("the index is empty: there is nothing to search")
        if isinstance(query, FeatureSet):
            fingerprint, matrix = query.fingerprint, query.features.features[: query.num_query or None]
        else:
            fingerprint, matrix = self.fingerprint, np.asarray(query)
        matrix = check_features(matrix, "query", self.metric)
        self.check_model(fingerprint, matrix.shape[1])
        return as_compared(matrix, self.metric)

    def _checked_new(self, images: FeatureSet) -> Features:
        """The images that are to be added, after a check of their features."""
        features = gallery_of(images)
        self.check_model(images.fingerprint, features.features.shape[1])
        check_features(features.features, "new", self.metric)
        return features


def gallery_of(feature_set: FeatureSet) -> Features:
    """Give the images of a feature set that go into a gallery: all where it has no queries.

    Args:
        feature_set: with or without queries.
    """
    return feature_set.split()[1] if feature_set.num_query else feature_set.features


def first_of_groups(
    distances: np.ndarray, rows: np.ndarray, groups: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Keep the first image of each group in every list, and of those k.

    Args:
        distances: (Q, n) ascending.
        rows: (Q, n) int64 of the images, -1 where a list is shorter.
        groups: by row, the number of the group.
        k: how many.

    Returns:
        (Q, k) distances and rows; infinity and -1 where there are fewer.
    """
    near, kept = np.full((len(rows), k), np.inf, np.float32), np.full((len(rows), k), -1, np.int64)
    for line, found in enumerate(rows):
        there = np.flatnonzero(found >= 0)
        first = there[np.sort(np.unique(groups[found[there]], return_index=True)[1])[:k]]
        near[line, : len(first)], kept[line, : len(first)] = distances[line, first], found[first]
    return near, kept


def labels_of(table: str | os.PathLike) -> Columns:
    """Read a table of `Gallery.label`.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: it is no such table, or has no column.
    """
    places, columns = read_columns(table)
    if not columns:
        raise ValueError(f"'{table}' has no column beside path, identity and camera: there is nothing to add")
    _, first = next(iter(read_table(table, ("path",), None)))
    if unread := [name for name in ("identity", "camera") if name in first]:
        names = ", ".join(unread)
        logger.warning("not read from '%s': %s; whom images show is said when they are added (--labels)", table, names)
    return places, columns


def named_lists(
    rows: Iterable[int] | None, paths: Iterable[str] | None, identities: Iterable[Label] | None
) -> tuple[list[int], list[str], list[Label]]:
    """Make lists of what names images, as `Gallery.remove` takes it.

    Args:
        rows: numbers of images.
        paths: image files.
        identities: of images.

    Raises:
        ValueError: nothing does.
    """
    if rows is None and paths is None and identities is None:
        raise ValueError("name what to remove: rows, paths or identities")
    return list(rows or ()), list(paths or ()), list(identities or ())


def change_digest(
    added: FeatureSet | None,
    rows: Iterable[int] | None = None,
    paths: Iterable[str] | None = None,
    identities: Iterable[Label] | None = None,
    columns: Columns | None = None,
) -> str:
    """Digest a change of an index, so that a command that was killed after it tells that it is done.

    Args:
        added: what was added, or None.
        rows: that were removed, as in `Gallery.remove`.
        paths: that were removed.
        identities: that were removed.
        columns: that were added with the images, as in `Gallery.add`.

    Returns:
        64 hexadecimal digits, SHA-256.
    """
    said: list[Any] = [[str(name) for name in names or ()] for names in (rows, paths, identities)]
    if added is None:
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()
    features = gallery_of(added)
    said += [list(features.paths), *names_of(features.pids, features.camids, features.names)]
    digest = hashlib.sha256(json.dumps(said).encode())
    digest.update(np.ascontiguousarray(features.features))
    if columns:
        places, named = columns
        digest.update(json.dumps([places, {name: texts_of(column) for name, column in named.items()}]).encode())
    return digest.hexdigest()
