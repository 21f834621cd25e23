"""k-reciprocal re-ranking (Zhong et al., CVPR 2017), exact to fast-reid's definition, in memory of O(N k).

fast-reid's own function fills two N x N matrices. Both are sparse: an image's row has its k-reciprocal neighbors, some
tens of N columns. Here they are sparse matrices, and distances are formed for query against gallery alone, some
queries at a time.
"""

from __future__ import annotations

import faiss
import numpy as np
import torch
from scipy import sparse

from .exact import Matrix, check_features
from .neighborhoods import Neighborhoods, find_neighborhoods
from .ranks import concatenated_ranges
from .reranker import QUERIES, Reranker, check_division


class KReciprocal(Reranker):
    """Jaccard distances of k-reciprocal neighbors between queries and gallery.

    Neighbors are those of the Euclidean distance among all N images, an image being its own first. The set of an image
    holds those of its k1 nearest that have it among their k1 nearest; it grows by the set of a member at half of k1,
    where more than two thirds of that are in it already. Its vector is the softmax over the set of the negated squared
    distance, as in fast-reid, averaged over the k2 nearest images' (local query expansion).

    As in fast-reid, half of k1 is rounded to even, that set is taken from half of k1 and one more neighbors, and the
    set at k1 from k1; with fewer images, k1 and k2 are their number.

    Args:
        features: (N, D), queries first; normalized where the metric is the cosine.
        num_query: how many of them are queries.
        k1: size of the neighborhoods.
        k2: how many neighbors a vector is averaged over; 1 leaves it as it is.
        device: where neighbors are searched.
        neighbors: what `find_neighborhoods(features, k, "euclidean")`, or `topk` of the features with themselves, gave
            for a k of at least k1, to search once for several settings.
        alone: a query sees the gallery alone, and the gallery no query; the sets and vectors of gallery images are then
            of the gallery alone, and a query is among the k nearest of one that is nearer to it than to its k-th.

    Raises:
        ValueError: k1 or k2 below 1, k2 above k1, no query or no gallery, features that are not finite, or neighbors
            of another number of images or fewer than k1.
    """

    def __init__(
        self,
        features: Matrix,
        num_query: int,
        k1: int = 20,
        k2: int = 6,
        device: torch.device | str = "cpu",
        neighbors: Neighborhoods | tuple[np.ndarray, np.ndarray] | None = None,
        alone: bool = False,
    ) -> None:
        check_neighbor_counts(k1, k2)
        features = check_features(features, "query and gallery")
        images, newcomers = len(features), num_query if alone else 0
        check_division(images, num_query)
        k1, k2 = min(k1, images - newcomers), min(k2, images - newcomers)
        found = Neighborhoods(*(neighbors or find_neighborhoods(features, k1, "euclidean", device, newcomers)))
        if len(found.nearest) != images or found.nearest.shape[1] < k1 or found.newcomers != newcomers:
            raise ValueError(
                f"neighbors {found.nearest.shape} with {found.newcomers} newcomers are not the {k1} nearest of "
                f"{images} images with {newcomers}"
            )
        found = found.first(k1)
        vectors = _vectors(features, found)
        if k2 > 1:
            vectors = _mean_of_neighbors(found.nearest, k2) @ vectors
        self._query = vectors[:num_query]
        # By column: for a member of a query's set, the gallery images that have it in theirs
        self._gallery = vectors[num_query:].tocsc()

    def __len__(self) -> int:
        """Number of queries."""
        return self._query.shape[0]

    def jaccard(self, rows: slice) -> np.ndarray:
        """(B, G) float32 between 0 and 1, the Jaccard distances of some queries to the gallery."""
        start, stop, _ = rows.indices(len(self))
        result = np.ones((max(0, stop - start), self._gallery.shape[0]), dtype=np.float32)
        for first in range(start, stop, QUERIES):
            chunk = slice(first, min(first + QUERIES, stop))
            shared = self._shared(self._query[chunk])
            pairs = np.flatnonzero(shared > 0)  # few: most images share no neighbor
            weights = shared[pairs]
            # Both vectors sum to 1, so the sum of their maxima is 2 minus that of their minima
            near = np.maximum(1 - weights / (2 - weights), 0)
            result[chunk.start - start : chunk.stop - start].reshape(-1)[pairs] = near
        return result

    def distances(self, rows: slice) -> np.ndarray:
        """Give `jaccard`, under the name that all re-ranking methods share."""
        return self.jaccard(rows)

    def _shared(self, query: sparse.csr_matrix) -> np.ndarray:
        """(B * G,) float64: sum over all members of the smaller of the two weights."""
        images = self._gallery.shape[0]
        starts, stops = self._gallery.indptr[query.indices], self._gallery.indptr[query.indices + 1]
        lengths = stops - starts
        entries = concatenated_ranges(starts, lengths)
        smaller = np.minimum(self._gallery.data[entries], np.repeat(query.data, lengths))
        line = np.repeat(np.repeat(np.arange(query.shape[0]), np.diff(query.indptr)), lengths)
        places = line * images + self._gallery.indices[entries]
        return np.bincount(places, weights=smaller, minlength=query.shape[0] * images)


def check_neighbor_counts(k1: int, k2: int) -> None:
    """Check the two numbers of neighbors of k-reciprocal re-ranking.

    Args:
        k1: TEST.RERANK.K1.
        k2: TEST.RERANK.K2.

    Raises:
        ValueError: one is below 1, or k2 is above k1.
    """
    if k1 < 1 or k2 < 1 or k2 > k1:
        raise ValueError(
            f"re-ranking needs 1 <= k2 <= k1, got k1 {k1} and k2 {k2} (TEST.RERANK.K1, TEST.RERANK.K2): vectors are "
            "averaged over the first k2 of the k1 neighbors"
        )


def check_distance_share(share: float) -> None:
    """Check how much of the distance itself stays in the re-ranked one.

    Args:
        share: TEST.RERANK.LAMBDA.

    Raises:
        ValueError: it is not within 0 and 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(
            f"lambda (TEST.RERANK.LAMBDA) is the share of the distance itself, between 0 and 1; got {share:g}"
        )


def _vectors(features: np.ndarray, found: Neighborhoods) -> sparse.csr_matrix:
    """(N, N) float32: each image's weights over its expanded set."""
    nearest, squared = found.nearest, np.square(found.distances)
    images, k1 = nearest.shape
    mutual = found.mutual()
    half = found.first(int(np.around(k1 / 2)) + 1)
    near_half, mutual_half = half.nearest, half.mutual()

    lines, places = np.nonzero(mutual)
    members = nearest[lines, places]
    own = np.where(mutual, nearest, -1)  # the set of an image, and numbers that no image has
    candidates = near_half[members]  # what each member offers to the set that it is in
    offered = mutual_half[members]
    known = np.zeros(candidates.shape, dtype=bool)
    for place in range(k1):
        known |= candidates == own[lines, place][:, None]
    agreed = (known & offered).sum(axis=1) > 2 / 3 * mutual_half.sum(axis=1)[members]
    # A member that several others offer, or one, is new once
    new = offered & ~known & agreed[:, None]
    keys = np.unique(np.repeat(lines, new.sum(axis=1)) * images + candidates[new])
    new_lines, new_members = keys // images, keys % images

    rows = np.concatenate((lines, new_lines))
    columns = np.concatenate((members, new_members))
    distances = np.concatenate((squared[lines, places], _squared_distances(features, new_lines, new_members)))
    smallest = np.full(images, np.inf, dtype=np.float32)
    np.minimum.at(smallest, rows, distances)
    weights = np.exp(smallest[rows] - distances)
    weights /= np.bincount(rows, weights=weights, minlength=images)[rows]
    return sparse.csr_matrix((weights.astype(np.float32), (rows, columns)), shape=(images, images))


def _squared_distances(features: np.ndarray, lines: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(P,) float32 squared Euclidean distances of pairs of rows."""
    first, second = (np.ascontiguousarray(rows, dtype=np.int64) for rows in (lines, others))
    result = np.empty(len(lines), dtype=np.float32)
    table, out = faiss.swig_ptr(features), faiss.swig_ptr(result)
    pairs = faiss.swig_ptr(first), faiss.swig_ptr(second)
    # In place of taking rows out of the table twice, which costs more than the distances
    faiss.pairwise_indexed_L2sqr(features.shape[1], len(result), table, pairs[0], table, pairs[1], out)
    return result


def _mean_of_neighbors(nearest: np.ndarray, k: int) -> sparse.csr_matrix:
    """(N, N) with 1 / k for each of the k nearest: what it multiplies is averaged over them."""
    images = len(nearest)
    weights = np.full(images * k, 1 / k, dtype=np.float32)
    offsets = np.arange(0, images * k + 1, k)
    return sparse.csr_matrix((weights, nearest[:, :k].ravel(), offsets), shape=(images, images))
