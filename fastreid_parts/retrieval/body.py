"""The vectors of an index, which are read from its files when they are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np

from .half_rows import HalfRows


@dataclass(eq=False)
class Body:
    """What an index compares.

    Attributes:
        kind: one of `fastreid_parts.retrieval.ann.KINDS`.
        vectors: the faiss index.
        exact: what IVF-PQ compares again, where the index keeps it; one for each vector, in the order of the rows.
    """

    kind: str
    vectors: faiss.Index
    exact: HalfRows | None = None

    def put_in(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Add vectors.

        Args:
            rows: (N,) of their images.
            vectors: (N, D) float32, as they are compared.
        """
        if self.kind == "ivfpq":
            self.vectors.add_with_ids(vectors, rows)
        else:
            self.vectors.add(vectors)
        if self.exact is not None:
            self.exact.append(vectors)

    def take_out(self, labels: np.ndarray, out: np.ndarray) -> None:
        """Remove vectors, but from a graph.

        Args:
            labels: faiss's numbers of them.
            out: (P,) bool, which they are.
        """
        self.vectors.remove_ids(labels)
        if self.exact is not None:
            self.exact.drop(out)


class LazyBody:
    """A body that may lie in files still. What is done to it before it is read is done when it is.

    Args:
        body: one in memory, or what reads it.
    """

    def __init__(self, body: Body | Callable[[], Body]) -> None:
        self._body = body
        self._waiting: list[Callable[[Body], object]] = []

    @property
    def is_read(self) -> bool:
        """It is in memory."""
        return isinstance(self._body, Body)

    def get(self) -> Body:
        """Read it, once.

        Raises:
            ValueError: a file is missing, or is not what was written.
        """
        if not isinstance(self._body, Body):
            body = self._body()
            for change in self._waiting:
                change(body)
            self._body, self._waiting = body, []
        return self._body

    def change(self, change: Callable[[Body], object]) -> None:
        """Change it, now or when it is read."""
        if isinstance(self._body, Body):
            change(self._body)
        else:
            self._waiting.append(change)
