"""A gallery to search in: features in a faiss index, with the images and the model that they are of.

gallery = load_feature_set("features")
index = GalleryIndex.build(gallery, "ivfpq", metric="cosine")
index.save("index")
index = GalleryIndex.load("index")
distances, rows = index.search(load_feature_set("others"), k=10)
print(index.images.paths[rows[0, 0]], distances[0, 0])
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any, TypeAlias

import faiss
import numpy as np
from fastreid.config import CfgNode
from tqdm import tqdm

from ..evaluation import Features
from ..evaluation.search import distances_of, normalised
from . import ann
from .image_table import ImageTable
from .index_files import StoredIndex, read_index, write_index
from .store import FeatureSet, check_finite, config_of

logger = logging.getLogger(__name__)

Query: TypeAlias = np.ndarray | FeatureSet


class GalleryIndex:
    """Features of a gallery, searched by the index of a kind.

    Use `build` or `load`. What belongs to an image is looked up by its row: `index.images.paths[row]`.

    Attributes:
        kind: one of `fastreid_parts.retrieval.ann.KINDS`.
        metric: `euclidean` or `cosine`.
        dimensions: D of a feature.
        parameters: of the kind; see `fastreid_parts.retrieval.ann.default_parameters`.
        fingerprint: of the model, see `model_fingerprint`.
        config: the model's config as `cfg.dump()` writes it.
        calibration: threshold on the distance for "the same person", or None.
        images: paths, identities and cameras, by row.
    """

    def __init__(self, stored: StoredIndex) -> None:
        self.kind, self.metric, self.dimensions = stored.kind, stored.metric, stored.vectors.d
        self.parameters = dict(stored.parameters)
        self.fingerprint, self.config, self.calibration = stored.fingerprint, stored.config, stored.calibration
        here = ~stored.removed
        self.images = ImageTable(
            stored.rows[here],
            [path for path, kept in zip(stored.paths, here.tolist()) if kept],
            stored.pids[here],
            stored.camids[here],
            stored.next_row,
        )
        self._vectors = stored.vectors
        # Row of each vector by its position: in a flat or HNSW index, and in the float16 features of IVF-PQ, whose
        # lists know the rows themselves
        self._rows = stored.rows
        self._exact = [stored.exact] if stored.exact is not None else []
        self._use_gpus = False
        self._gpu_copy: faiss.Index | None = None

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def build(
        cls,
        gallery: FeatureSet,
        kind: str = "flat",
        metric: str = "cosine",
        expected_images: int = 0,
        fall_back: bool = False,
        **parameters: int,
    ) -> GalleryIndex:
        """Build an index over the gallery images of a feature set; over all of its images where it has no queries.

        Args:
            gallery: what to search in.
            kind: `flat` is exact; `ivfpq` is small and quick for millions; `hnsw` is the quickest, and large.
            metric: `euclidean`, or `cosine`, for which features are brought to length 1.
            expected_images: how many images the index will hold after later calls of `add`; default parameters follow
                from it. 0: those of `gallery`.
            fall_back: build a flat index where there are too few images to train an `ivfpq` index.
            **parameters: of the kind, in place of those that `default_parameters` gives.

        Raises:
            ValueError: an unknown kind, metric or parameter; features that are not finite; too few images to train on.
        """
        features = _gallery_of(gallery)
        images, dimensions = features.features.shape
        chosen = {**ann.default_parameters(kind, max(images, expected_images), dimensions), **parameters}
        ann.check_parameters(kind, chosen, dimensions)
        vectors = ann.make_index(kind, dimensions, metric, chosen)
        needed = ann.needed_images(kind, chosen)
        if images < needed:
            problem = (
                f"an {kind} index with nlist {chosen['nlist']} and nbits {chosen['nbits']} is trained on at least "
                f"{needed} images, and there are {images}"
            )
            if not fall_back:
                raise ValueError(
                    f"{problem}: build a flat index, which is exact, choose smaller parameters, or set fall_back"
                )
            logger.warning("%s: building a flat index", problem)
            return cls.build(gallery, "flat", metric)
        check_finite(features.features, "gallery features")
        if not vectors.is_trained:
            sample = features.features[ann.training_rows(chosen, images)]
            logger.info("Training on %d images", len(sample))
            vectors.train(normalised(sample, metric))
        empty = StoredIndex.empty(kind, metric, chosen, vectors, gallery.fingerprint, gallery.config)
        index = cls(empty)
        index._append(features)
        return index

    # ---- search ---------------------------------------------------------------------------------------------

    def search(self, query: Query, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """Find the k nearest images of every query.

        Args:
            query: (Q, D) features, or a feature set: its queries, or all of its images where it has no queries. Of a
                feature set it is checked that the model is the index's.
            k: length of a list; with fewer images in the index, all of them.

        Returns:
            Distances (Q, min(k, len(index))) float32, ascending in each row, and the images' rows, int64. `euclidean`
            is the distance itself, `cosine` 1 minus the cosine similarity; without `rescore`, those of IVF-PQ are
            approximate. Where an approximate search finds fewer images, infinity and -1 stand at the end.

        Raises:
            ValueError: the index is empty, k is below 1 or too long for a GPU, the features are another model's, of
                other dimensions, or not finite.
        """
        if k < 1:
            raise ValueError(f"k is the number of neighbours and must be at least 1, got {k}")
        if len(self) == 0:
            raise ValueError("the index is empty: there is nothing to search")
        matrix = normalised(self._checked(query), self.metric)
        k = min(k, len(self))
        wanted = min(k * self.parameters["rescore"], len(self)) if self._exact else k
        if self._use_gpus:
            wanted = min(wanted, ann.GPU_LONGEST)
            if k > ann.GPU_LONGEST:
                raise ValueError(f"on a GPU k is at most {ann.GPU_LONGEST}, got {k}: search on the CPU")
        hidden = self.kind == "hnsw" and len(self) < len(self._rows)
        mask = self.images.present[self._rows] if hidden else None
        scores, found = ann.search(self._searched(), matrix, wanted, self.parameters, mask)
        if self._exact:
            positions = np.where(found >= 0, np.searchsorted(self._rows, found), -1)
            distances = ann.exact_distances(matrix, self._stored(), positions, self.metric)
            order = np.argsort(distances, axis=1, kind="stable")[:, :k]
            return np.take_along_axis(distances, order, 1), np.take_along_axis(found, order, 1)
        distances = distances_of(scores, self.metric)
        distances[found < 0] = np.inf
        if self.kind != "ivfpq":  # whose labels are positions
            found = np.where(found >= 0, self._rows[found], -1)
        return distances, found

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
        if "rescore" in parameters and bool(parameters["rescore"]) != bool(self._exact):
            kept = "keeps" if self._exact else "does not keep"
            raise ValueError(f"this index {kept} the features that rescoring compares: build it anew to change that")
        self.parameters.update(parameters)

    def use_gpus(self, on: bool = True) -> None:
        """Search on all GPUs, each with a share of the images, from now on; adding and removing stay on the CPU.

        Raises:
            ValueError: there is no GPU or no GPU code in faiss, or the kind is `hnsw`.
        """
        self._use_gpus, self._gpu_copy = False, None
        if on:
            self._gpu_copy = ann.on_gpus(self._vectors)
        self._use_gpus = on

    def _searched(self) -> faiss.Index:
        if not self._use_gpus:
            return self._vectors
        if self._gpu_copy is None:  # images were added or removed since
            self._gpu_copy = ann.on_gpus(self._vectors)
        return self._gpu_copy

    # ---- change ---------------------------------------------------------------------------------------------

    def add(self, images: FeatureSet) -> np.ndarray:
        """Add the gallery images of a feature set; all of its images where it has no queries.

        Returns:
            Their rows, int64.

        Raises:
            ValueError: the features are another model's, of other dimensions or not finite; a path is in the index
                already. The index is left as it was.
        """
        features = _gallery_of(images)
        self.check_model(images.fingerprint, features.features.shape[1])
        check_finite(features.features, "features to add")
        self.images.check_new(features.paths)
        return self._append(features)

    def remove(
        self,
        rows: Iterable[int] | None = None,
        paths: Iterable[str] | None = None,
        identities: Iterable[int] | None = None,
    ) -> int:
        """Remove images by row, by path or by identity; those of all three together.

        faiss cannot remove from an HNSW graph: there the images are hidden from every search, and `rebuild` takes them
        out.

        Args:
            rows: numbers of images.
            paths: image files.
            identities: of images.

        Returns:
            How many images were removed.

        Raises:
            ValueError: nothing is named, or a row, path or identity that is not in the index, which is left as it was.
        """
        if rows is None and paths is None and identities is None:
            raise ValueError("name what to remove: rows, paths or identities")
        gone = self.images.find(rows, paths, identities)
        self.images.remove(gone)
        self._gpu_copy = None
        if self.kind == "hnsw":
            hidden, every = len(self._rows) - len(self), len(self._rows)
            logger.info("%d of %d images in the graph are hidden; a rebuild takes them out", hidden, every)
            return len(gone)
        out = np.isin(self._rows, gone)
        self._vectors.remove_ids(gone if self.kind == "ivfpq" else np.flatnonzero(out))
        if self._exact:
            self._exact = [self._stored()[~out]]
        self._rows = self._rows[~out]
        return len(gone)

    def rebuild(self) -> None:
        """Make an HNSW graph anew from the images that are not removed; other kinds need none. Rows stay."""
        if self.kind != "hnsw" or len(self) == len(self._rows):
            return
        kept = np.flatnonzero(self.images.present[self._rows])
        vectors = ann.make_index(self.kind, self.dimensions, self.metric, self.parameters)
        for block in tqdm(list(ann.blocks_of(len(kept), self.dimensions)), desc="graph", leave=False, disable=None):
            vectors.add(self._vectors.reconstruct_batch(kept[block]))
        self._vectors, self._rows = vectors, self._rows[kept]

    def _append(self, features: Features) -> np.ndarray:
        keep_exact = bool(self.parameters.get("rescore"))
        if (
            keep_exact
            and np.abs(features.features).max(initial=0) > np.finfo(np.float16).max
            and self.metric != "cosine"
        ):
            raise ValueError("features above 65504 cannot be kept in float16: build the index with rescore 0")
        rows = self.images.append(features)
        for block in tqdm(list(ann.blocks_of(len(rows), self.dimensions)), desc="images", leave=False, disable=None):
            vectors = normalised(features.features[block], self.metric)
            if self.kind == "ivfpq":
                self._vectors.add_with_ids(vectors, rows[block])
            else:
                self._vectors.add(vectors)
            if keep_exact:
                self._exact.append(vectors.astype(np.float16))
        self._rows = np.concatenate([self._rows, rows])
        self._gpu_copy = None
        return rows

    def _stored(self) -> np.ndarray:
        """(positions, D) float16: joined when they are needed, so that adding in many steps copies them once."""
        if len(self._exact) > 1:
            self._exact = [np.concatenate(self._exact)]
        return self._exact[0]

    # ---- files ----------------------------------------------------------------------------------------------

    def save(self, directory: str | os.PathLike) -> None:
        """Write the index into a folder; one that is there is replaced when the new one is whole."""
        write_index(
            directory,
            StoredIndex(
                kind=self.kind,
                metric=self.metric,
                parameters=self.parameters,
                vectors=self._vectors,
                exact=self._stored() if self._exact else None,
                rows=self._rows,
                removed=~self.images.present[self._rows],
                pids=self.images.pids[self._rows],
                camids=self.images.camids[self._rows],
                paths=[self.images.paths[row] for row in self._rows.tolist()],
                next_row=len(self.images.present),
                fingerprint=self.fingerprint,
                config=self.config,
                calibration=self.calibration,
            ),
        )

    @classmethod
    def load(cls, directory: str | os.PathLike) -> GalleryIndex:
        """Read what `save` wrote, after a check of every file.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: it holds no index, or one of which a file is missing, truncated or changed.
        """
        return cls(read_index(directory))

    # ---- checks ---------------------------------------------------------------------------------------------

    def to_cfg(self) -> CfgNode:
        """Make the model's config a node; fast-reid's defaults where there is none.

        Raises:
            KeyError: the config has a key that this version does not know.
        """
        return config_of(self.config)

    def describe(self) -> dict[str, Any]:
        """Say what is in the index: numbers of images, identities and cameras, kind, metric, parameters, threshold."""
        pids, camids = (column[self.images.present] for column in (self.images.pids, self.images.camids))
        return {
            "images": len(self),
            "identities": len(np.unique(pids[pids >= 0])),
            "cameras": len(np.unique(camids[camids >= 0])),
            "dimensions": self.dimensions,
            "kind": self.kind,
            "metric": self.metric,
            "parameters": dict(self.parameters),
            "hidden images": len(self._rows) - len(self),
            "fingerprint": self.fingerprint,
        }

    def _checked(self, query: Query) -> np.ndarray:
        if isinstance(query, FeatureSet):
            self.check_model(query.fingerprint, query.features.features.shape[1])
            matrix = query.features.features[: query.num_query or None]
        else:
            matrix = np.asarray(query)
            if matrix.ndim != 2:
                raise ValueError(f"query features must be a matrix (Q, D), not of shape {matrix.shape}")
            self.check_model(self.fingerprint, matrix.shape[1])
        check_finite(matrix, "query features")
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


def _gallery_of(feature_set: FeatureSet) -> Features:
    return feature_set.split()[1] if feature_set.num_query else feature_set.features
