"""Searching an index: the nearest images, of all or of those that are asked for, and of each group the best."""

from __future__ import annotations

import faiss
import numpy as np

from ..evaluation.search import distances_of
from . import ann
from .gallery import Gallery, Query, first_of_groups
from .image_table import ImageTable
from .stored_index import StoredIndex

# Images that a filter leaves are all compared where they are few, and few of those that there are
_FEW, _FEW_OF = 1 << 16, 8


class SearchedIndex(StoredIndex, Gallery):
    """An index that answers; see `GalleryIndex`."""

    _use_gpus = False
    _gpu_copy: faiss.Index | None = None

    def __len__(self) -> int:
        return len(self.images)

    def search(self, query: Query, k: int = 10, where: str = "", group_by: str = "") -> tuple[np.ndarray, np.ndarray]:
        """See `Gallery`."""
        matrix = self._compared(query, k)
        among = self.images.where(where)[self.rows] if where else None
        if among is None and len(self) < len(self.rows):  # hidden in a graph
            among = self.images.present[self.rows]
        images = len(self) if among is None else int(among.sum())
        if not images:
            return np.empty((len(matrix), 0), np.float32), np.empty((len(matrix), 0), np.int64)
        if not group_by:
            return self._nearest(matrix, min(k, images), among, images)
        groups, wanted = self.images.groups(group_by), k
        there = min(k, len(np.unique(groups[self.rows if among is None else self.rows[among]])))
        while True:
            wanted = min(4 * wanted, images)
            distances, rows = first_of_groups(*self._nearest(matrix, wanted, among, images), groups, k)
            if wanted == images or (rows[:, :there] >= 0).all():
                return distances, rows

    def check_question(self, where: str = "", group_by: str = "") -> None:
        """See `Gallery`."""
        if where:
            self.images.where(where)
        if group_by:
            self.images.column(group_by)

    def images_of(self, rows: np.ndarray) -> ImageTable:
        """See `Gallery`."""
        return self.images.take(rows)

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
        """See `Gallery`.

        Raises:
            ValueError: as there; or `rescore` for an index that was built with 0, or the other way round.
        """
        ann.check_parameters(self.kind, parameters, self.dimensions)
        ann.check_tunable(self.kind, parameters)
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
