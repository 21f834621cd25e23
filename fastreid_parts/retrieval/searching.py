"""Searching an index: the nearest images, of all or of those that are asked for, and of each group the best."""

from __future__ import annotations

from typing import TypeAlias

import faiss
import numpy as np

from ..evaluation.exact import check_features
from ..evaluation.search import as_compared, distances_of
from . import ann
from .store import FeatureSet
from .stored_index import StoredIndex

Query: TypeAlias = np.ndarray | FeatureSet

# Images that a filter leaves are all compared where they are few, and few of those that there are
_FEW, _FEW_OF = 1 << 16, 8


class SearchedIndex(StoredIndex):
    """An index that answers; see `GalleryIndex`."""

    _use_gpus = False
    _gpu_copy: faiss.Index | None = None

    def __len__(self) -> int:
        return len(self.images)

    def search(self, query: Query, k: int = 10, where: str = "", group_by: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Find the k nearest images of every query.

        Args:
            query: (Q, D) features, or a feature set: its queries, or all of its images where it has no queries. Of a
                feature set it is checked that the model is the index's.
            k: length of a list; with fewer images in the index, all of them.
            where: only among the images of which this is true, see `fastreid_parts.retrieval.expression`; k of them are
                found where there are k, whatever the kind of the index.
            group_by: a column, of which the nearest image of each value is listed, and of those k; images of which it
                is unknown stand for themselves.

        Returns:
            Distances (Q, min(k, images)) float32, ascending in each row, and the images' rows, int64. `euclidean`
            is the distance itself, `cosine` 1 minus the cosine similarity; without `rescore`, those of IVF-PQ are
            approximate. Where an approximate search finds fewer images, or there are fewer groups, infinity and -1
            stand at the end.

        Raises:
            ValueError: the index is empty, k is below 1 or too long for a GPU, the features are another model's, of
                other dimensions, or not finite; there is no such expression or column.
        """
        if k < 1:
            raise ValueError(f"k is the number of neighbors and must be at least 1, got {k}")
        if len(self) == 0:
            raise ValueError("the index is empty: there is nothing to search")
        matrix = as_compared(self._checked(query), self.metric)
        among = self.images.where(where)[self.rows] if where else None
        if among is None and len(self) < len(self.rows):  # hidden in a graph
            among = self.images.present[self.rows]
        images = len(self) if among is None else int(among.sum())
        if not images:
            return np.empty((len(matrix), 0), np.float32), np.empty((len(matrix), 0), np.int64)
        if not group_by:
            return self._nearest(matrix, min(k, images), among, images)
        groups, wanted = self.images.groups(group_by), k
        while True:
            wanted = min(4 * wanted, images)
            distances, rows = _first_of_groups(*self._nearest(matrix, wanted, among, images), groups, k)
            if wanted == images or (rows >= 0).all():
                return distances, rows

    def _nearest(
        self, matrix: np.ndarray, k: int, among: np.ndarray | None, images: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Distances and rows of the k nearest; `among` is (P,) bool, of which so many `images` are true."""
        has_vectors = self.exact is not None or self.kind == "hnsw"
        if among is not None and has_vectors and images <= min(_FEW, len(self.rows) // _FEW_OF):
            return self._nearest_of_some(matrix, k, np.flatnonzero(among))
        wanted = min(k * self.parameters["rescore"], images) if self.exact is not None else k
        if self._use_gpus:
            wanted = min(wanted, ann.GPU_LONGEST)
            if k > ann.GPU_LONGEST:
                raise ValueError(f"on a GPU k is at most {ann.GPU_LONGEST}, got {k}: search on the CPU")
            if among is not None:
                raise ValueError("faiss has no filters on GPUs: search on the CPU")
        allowed = among
        if among is not None and self.kind == "ivfpq":  # whose labels are rows
            allowed = np.zeros(len(self.images.present), bool)
            allowed[self.rows[among]] = True
        scores, found = ann.search(self._searched(), matrix, wanted, self.parameters, allowed)
        if among is not None and self.kind == "hnsw" and (found < 0).any():  # a graph may have parts without a way in
            return self._nearest_of_some(matrix, k, np.flatnonzero(among))
        if self.exact is not None:
            positions = np.where(found >= 0, np.searchsorted(self.rows, found), -1)
            distances = ann.exact_distances(matrix, self.exact, positions, self.metric)
            order = np.argsort(distances, axis=1, kind="stable")[:, :k]
            return np.take_along_axis(distances, order, 1), np.take_along_axis(found, order, 1)
        distances = distances_of(scores, self.metric)
        distances[found < 0] = np.inf
        if self.kind != "ivfpq":
            found = np.where(found >= 0, self.rows[found], -1)
        return distances, found

    def _nearest_of_some(self, matrix: np.ndarray, k: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances and rows of the k nearest of some vectors, by comparing all of these."""
        kept = self.vectors.reconstruct_batch(positions) if self.exact is None else self.exact[positions]
        few = ann.make_index("flat", self.dimensions, self.metric, {})
        few.add(kept.astype(np.float32))
        scores, found = few.search(matrix, k)
        return distances_of(scores, self.metric), self.rows[positions[found]]

    def tune(self, **parameters: int) -> None:
        """Change parameters that trade time for recall: `nprobe`, `rescore`; `efSearch`.

        Raises:
            ValueError: a parameter that the kind does not have or that is fixed when an index is built, or a value out
                of its range; `rescore` for an index that was built with 0.
        """
        ann.check_parameters(self.kind, parameters, self.dimensions)
        fixed = [name for name in parameters if name not in ann.SEARCH_PARAMETERS[self.kind]]
        if fixed:
            raise ValueError(f"{', '.join(fixed)} cannot change in an index that is built: build it anew")
        if "rescore" in parameters and bool(parameters["rescore"]) != bool(self.exact):
            kept = "keeps" if self.exact else "does not keep"
            raise ValueError(f"this index {kept} the features that rescoring compares: build it anew to change that")
        self.parameters.update(parameters)

    def use_gpus(self, on: bool = True) -> None:
        """Search on all GPUs, each with a share of the images, from now on; adding and removing stay on the CPU.

        Raises:
            ValueError: there is no GPU or no GPU code in faiss, or the kind is `hnsw`.
        """
        self._gpu_copy = ann.on_gpus(self.vectors) if on else None
        self._use_gpus = on

    def _searched(self) -> faiss.Index:
        if self._use_gpus and self._gpu_copy is None:  # images were added or removed since
            self._gpu_copy = ann.on_gpus(self.vectors)
        return self._gpu_copy if self._use_gpus else self.vectors

    def _checked(self, query: Query) -> np.ndarray:
        if isinstance(query, FeatureSet):
            fingerprint, matrix = query.fingerprint, query.features.features[: query.num_query or None]
        else:
            fingerprint, matrix = self.fingerprint, np.asarray(query)
        matrix = check_features(matrix, "query", self.metric)
        self.check_model(fingerprint, matrix.shape[1])
        return matrix

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


def _first_of_groups(
    distances: np.ndarray, rows: np.ndarray, groups: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Keep the first image of each group in every list, and of those k; infinity and -1 where there are fewer."""
    near, kept = np.full((len(rows), k), np.inf, np.float32), np.full((len(rows), k), -1, np.int64)
    for line, found in enumerate(rows):
        there = np.flatnonzero(found >= 0)
        first = there[np.sort(np.unique(groups[found[there]], return_index=True)[1])[:k]]
        near[line, : len(first)], kept[line, : len(first)] = distances[line, first], found[first]
    return near, kept
