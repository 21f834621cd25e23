"""What re-ranking methods have in common: distances that neighbors decide, mixed with the distance itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from tqdm import tqdm

from .exact import Similarity

# Queries whose distances are formed at once
QUERIES = 64


class Reranker(ABC):
    """Distances between queries and gallery images from the neighborhoods that they are in."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of queries."""

    @abstractmethod
    def distances(self, rows: slice) -> np.ndarray:
        """(B, G) float32 between 0 and 1, of some queries to the gallery."""

    def blocks(self, similarity: Similarity, weight: float, rows: int = 0) -> Iterator[tuple[slice, torch.Tensor]]:
        """Scores of the re-ranked distances, as `ranks.count_ranks` takes them.

        Args:
            similarity: between the same queries and gallery.
            weight: lambda, the share of the distance itself; 1 leaves the rank lists as they are.
            rows: queries of a block; 0 chooses.

        Yields:
            Rows of the queries, and (B, G) float32, the negated sum of lambda times the distance and 1 - lambda times
            that of `distances`.
        """
        rows = rows or 4 * QUERIES
        starts = range(0, len(self), rows)
        for start in tqdm(starts, desc="re-ranking", unit="block", leave=False, disable=None, delay=2):
            chunk = slice(start, min(start + rows, len(self)))
            own = similarity.distances(chunk)
            near = torch.from_numpy(self.distances(chunk)).to(own.device)
            yield chunk, own.mul_(-weight).sub_(near, alpha=1 - weight)


def check_division(images: int, num_query: int) -> None:
    """Check that images are queries and a gallery.

    Args:
        images: how many there are.
        num_query: how many of them are queries.

    Raises:
        ValueError: there is no query or no gallery.
    """
    if not 0 < num_query < images:
        raise ValueError(f"{num_query} of {images} images as queries leave the query set or the gallery empty")
