"""A gallery to search in: features in a faiss index, with the images and the model that they are of.

gallery = load_feature_set("features")
index = GalleryIndex.build(gallery, "ivfpq", metric="cosine")
index.save("index")
index = GalleryIndex.load("index")
distances, rows = index.search(load_feature_set("others"), k=10)
print(index.images.paths[rows[0, 0]], distances[0, 0])
with GalleryIndex.held("index") as index:  # others that would change it wait
    index.remove(paths=["shop/0001.jpg"])
    index.save("index")
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.names import Label
from ..evaluation import Features
from ..evaluation.exact import check_features
from ..evaluation.search import as_compared
from ..files import locked
from . import ann
from .body import Body, LazyBody
from .columns import check_kinds, kind_of
from .gallery import Columns, change_digest, gallery_of, labels_of, named_lists
from .half_rows import HalfRows
from .image_table import ImageTable
from .index_files import INDEX_FOLDER, read_index, write_index
from .searching import SearchedIndex
from .store import FeatureSet, too_large_for_half

logger = logging.getLogger(__name__)


class GalleryIndex(SearchedIndex):
    """Features of a gallery, searched by the index of a kind.

    Use `build` or `load`; `StoredIndex` names the attributes. What belongs to an image is looked up by its row:
    `index.images.paths[row]`.
    """

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
        features = gallery_of(gallery)
        number, dimensions = features.features.shape
        ann.check_parameters(kind, parameters, dimensions)
        lists = parameters.get("nlist")
        chosen = ann.default_parameters(kind, max(number, expected_images), dimensions, lists) | parameters
        vectors = ann.make_index(kind, dimensions, metric, chosen)
        needed = ann.needed_images(kind, chosen)
        if number < needed:
            problem = (
                f"an {kind} index with nlist {chosen['nlist']} and nbits {chosen['nbits']} is trained on at least "
                f"{needed} images, and there are {number}"
            )
            if not fall_back:
                raise ValueError(
                    f"{problem}: build a flat index, which is exact, choose smaller parameters, or set fall_back"
                )
            logger.warning("%s: building a flat index", problem)
            return cls.build(gallery, "flat", metric)
        check_features(features.features, "gallery", metric)
        if not vectors.is_trained:
            sample = features.features[ann.training_rows(chosen, number)]
            logger.info("Training on %d images", len(sample))
            vectors.train(as_compared(sample, metric))
        none = np.empty(0, np.int64)
        images = ImageTable(none, [], none, none, next_row=0)
        body = LazyBody(Body(kind, vectors, HalfRows([], dimensions) if chosen.get("rescore") else None))
        index = cls(kind, metric, chosen, gallery.fingerprint, gallery.config, dimensions, body, none, images)
        index._append(features)
        return index

    def features(self) -> Features:
        """Give the images in the index with their vectors as they are compared; of IVF-PQ in float16's digits.

        Raises:
            ValueError: an IVF-PQ index without `rescore`, which keeps codes and no features.
        """
        if self.kind == "ivfpq" and self.exact is None:
            raise ValueError("this index keeps codes and no features: build it with rescore, or flat")
        places = np.flatnonzero(self.images.present[self.rows])
        kept = self.vectors.reconstruct_batch(places) if self.exact is None else self.exact[places]
        rows, images = self.rows[places], self.images
        paths = [images.paths[row] for row in rows.tolist()]
        return Features(kept.astype(np.float32), images.pids[rows], images.camids[rows], paths, images.names)

    # ---- change ---------------------------------------------------------------------------------------------

    def add(self, images: FeatureSet, columns: Columns | None = None) -> np.ndarray:
        """See `Gallery`."""
        features = self._checked_new(images)
        self.images.check_new(features.paths)
        if columns:
            check_kinds({name: kind_of(values) for name, values in columns[1].items()}, self.images.kinds)
        rows = self._append(features)
        if columns:
            self.images.fill(*columns, among=rows)
        self.last_change = change_digest(images, columns=columns)
        return rows

    def label(self, table: str | os.PathLike) -> int:
        """See `Gallery`."""
        named = self.images.fill(*labels_of(table))
        self.last_change = None
        return named

    def remove(
        self,
        rows: Iterable[int] | None = None,
        paths: Iterable[str] | None = None,
        identities: Iterable[Label] | None = None,
    ) -> int:
        """See `Gallery`.

        faiss cannot remove from an HNSW graph: there the images are hidden from every search, and `compact` takes them
        out.
        """
        rows, paths, identities = named_lists(rows, paths, identities)
        gone = self.images.find(rows, paths, identities)
        self.take_out(gone)
        self.last_change = change_digest(None, rows, paths, identities)
        self._gpu_copy = None
        if self.kind == "hnsw":
            hidden, every = len(self.rows) - len(self), len(self.rows)
            logger.info("%d of %d images in the graph are hidden; `index compact` takes them out", hidden, every)
        return len(gone)

    def _append(self, features: Features) -> np.ndarray:
        keep_exact = bool(self.parameters.get("rescore"))
        if keep_exact and self.metric != "cosine" and too_large_for_half(features.features):
            raise ValueError("features above 65504 cannot be kept in float16: build the index with rescore 0")
        rows = self.images.append(features)
        for block in tqdm(list(ann.blocks_of(len(rows), self.dimensions)), desc="images", leave=False, disable=None):
            self.put_in(rows[block], as_compared(features.features[block], self.metric))
        self._gpu_copy = None
        return rows

    # ---- files ----------------------------------------------------------------------------------------------

    def save(self, directory: str | os.PathLike, over: str | None = None) -> None:
        """Write the index into a folder; one that is there is replaced when the new one is whole.

        Args:
            directory: made where it is not there.
            over: the state of the folder that may be replaced, see `write_index`; by default that of `load`.

        Raises:
            ValueError: the folder holds something else, or what another process wrote there since.
        """
        write_index(directory, self, over)

    @classmethod
    def load(cls, directory: str | os.PathLike) -> GalleryIndex:
        """Read what `save` wrote, after a check of every file.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: it holds no index, or one of which a file is missing, truncated or changed.
        """
        return cls(**vars(read_index(directory)))

    @classmethod
    @contextlib.contextmanager
    def held(cls, directory: str | os.PathLike) -> Iterator[GalleryIndex]:
        """Load an index that is to be changed and saved; other processes wait until the block has ended.

        Its vectors are read and their files checked when they are needed, by a search or a save of the whole, say, and
        not by what is added or removed and saved by itself.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: as `load`.
        """
        INDEX_FOLDER.read(directory)
        with locked(directory):
            yield cls(**vars(read_index(directory, lazy=True)))

    # ---- checks ---------------------------------------------------------------------------------------------

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
            "hidden images": len(self.rows) - len(self),
            "columns": self.images.kinds,
            "fingerprint": self.fingerprint,
        }
