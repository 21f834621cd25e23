"""What an index consists of in memory, what is added to it and taken out, and what of that no file knows yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import faiss
import numpy as np
from tqdm import tqdm

from . import ann
from .body import Body, LazyBody
from .calibration import Calibration
from .half_rows import HalfRows
from .image_table import ImageTable

# A folder is written anew as a whole when what its segments added and removed is more than one in so many images
_SHARE = 8


@dataclass(eq=False)
class Changes:
    """What became of an index since its folder was read or written, while that is little.

    Attributes:
        images: what the folder says of images; None where there is none.
        earlier: how many images the segments of the folder added and removed.
        added: rows and (N, D) float32 vectors, as they are compared.
        removed: rows.
        whole: it is more, or something else: all of the index is to be written.
    """

    images: ImageTable | None = field(default=None, repr=False)
    earlier: int = 0
    added: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    removed: list[np.ndarray] = field(default_factory=list)
    whole: bool = False

    def note(
        self, images: int, added: tuple[np.ndarray, np.ndarray] | None = None, gone: np.ndarray | None = None
    ) -> None:
        """Note what was added or removed.

        Args:
            images: how many the index has.
            added: rows and vectors.
            gone: rows.
        """
        if added is not None:
            self.added.append(added)
        if gone is not None:
            self.removed.append(gone)
        if self.whole or _SHARE * (self.earlier + self.count) > images:
            self.whole, self.added, self.removed = True, [], []

    @property
    def count(self) -> int:
        """How many images were added and removed."""
        return sum(len(rows) for rows, _ in self.added) + sum(map(len, self.removed))


@dataclass(eq=False)
class StoredIndex:
    """What an index consists of; P vectors, in the order in which they were added.

    Attributes:
        kind: one of `fastreid_parts.retrieval.ann.KINDS`.
        metric: `euclidean` or `cosine`.
        parameters: of the kind; see `fastreid_parts.retrieval.ann.default_parameters`.
        fingerprint: of the model, see `model_fingerprint`.
        config: the model's config as `cfg.dump()` writes it.
        dimensions: D of a feature.
        body: the vectors, which may lie in files still: what is added and removed need not read them.
        rows: (P,) int64, ascending: the image of each vector. The lists of IVF-PQ know the rows themselves; there they
            are those of the features in `exact`.
        images: paths, identities and cameras, by row; an image that is not there any more may have a vector still.
        calibration: threshold on the distance for "the same person", or None.
        last_change: digest of what was built, added or removed last, so that who was killed after it finds it done.
        states: folder -> checksum of its manifest, when this index was read from there or written there.
        base: folder and state where it was read or written last; empty where it never was.
        changes: since then.
    """

    kind: str
    metric: str
    parameters: dict[str, int]
    fingerprint: str
    config: str
    dimensions: int
    body: LazyBody
    rows: np.ndarray
    images: ImageTable
    calibration: Calibration | None = None
    last_change: str | None = None
    states: dict[str, str] = field(default_factory=dict)
    changes: Changes = field(default_factory=lambda: Changes(whole=True))
    base: tuple[str, str] = ("", "")

    @property
    def vectors(self) -> faiss.Index:
        """The faiss index; read from its file if need be, see `LazyBody.get`."""
        return self.body.get().vectors

    @property
    def exact(self) -> HalfRows | None:
        """(P, D) float16 features that IVF-PQ compares again, where the index keeps them."""
        return self.body.get().exact

    def put_in(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Add vectors of images that are in the table.

        Args:
            rows: (N,) of the images, above all that are there.
            vectors: (N, D) float32, as they are compared.
        """
        self.body.change(partial(Body.put_in, rows=rows, vectors=vectors))
        self.rows = np.concatenate([self.rows, rows])
        self.changes.note(len(self.rows), added=(rows, vectors))

    def take_out(self, gone: np.ndarray) -> None:
        """Remove images and, but for a graph, their vectors.

        Args:
            gone: rows of images that are there.
        """
        self.images.remove(gone)
        self.changes.note(len(self.rows), gone=gone)
        if self.kind == "hnsw":
            return
        out = np.isin(self.rows, gone)
        labels = gone if self.kind == "ivfpq" else np.flatnonzero(out)
        self.body.change(partial(Body.take_out, labels=labels, out=out))
        self.rows = self.rows[~out]

    def compact(self) -> None:
        """Have the next save write the index anew as a whole, a graph without the images that are hidden in it."""
        self.changes.whole = True
        if self.kind != "hnsw" or len(self.images) == len(self.rows):
            return
        kept = np.flatnonzero(self.images.present[self.rows])
        vectors = ann.make_index(self.kind, self.dimensions, self.metric, self.parameters)
        for block in tqdm(list(ann.blocks_of(len(kept), self.dimensions)), desc="graph", leave=False, disable=None):
            vectors.add(self.vectors.reconstruct_batch(kept[block]))
        self.body, self.rows = LazyBody(Body(self.kind, vectors)), self.rows[kept]
