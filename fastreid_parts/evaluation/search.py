"""Exact nearest-neighbor search, and the rank lists of person re-identification on top of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
import torch

from .exact import Matrix, Similarity, check_dimensions, check_features, check_metric, match_ranks
from .features import Features
from .ranks import JUNK_IDENTITY, Relevance
from .within import nearest_within


@dataclass(frozen=True)
class RankList:
    """What a query found.

    Attributes:
        query: row of the query.
        gallery: (k,) int64, rows of the gallery, the nearest first.
        distances: (k,) float32, in the metric of the search.
        correct: (k,) bool, whether the image shows the query's identity.
        ranks: (k,) int64, the place of each among the images that count, from 1; 0 for junk, which does not count.
            None where the list is whole and without junk.
    """

    query: int
    gallery: np.ndarray
    distances: np.ndarray
    correct: np.ndarray
    ranks: np.ndarray | None = None

    @property
    def places(self) -> np.ndarray:
        """(k,) int64, `ranks`; without them, 1 to k."""
        return np.arange(1, len(self.gallery) + 1) if self.ranks is None else self.ranks


def topk(
    query: Matrix, gallery: Matrix, k: int, metric: str = "euclidean", device: torch.device | str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest gallery rows of every query row, by exhaustive search: with faiss, on a GPU with torch.

    Given the same object twice, it finds the neighbors of a set within itself, in half the matrix product: every row
    comes first among its own neighbors, and of equally near ones the lower comes first.

    Args:
        query: (Q, D) features.
        gallery: (G, D) features.
        k: how many neighbors; with fewer gallery rows, all of them.
        metric: `euclidean` is the distance itself, not its square; `cosine` is 1 minus the cosine similarity.
        device: where to search.

    Returns:
        Distances (Q, min(k, G)) float32, ascending in each row, and the gallery's row numbers, int64.

    Raises:
        ValueError: unknown metric, k below 1, not matrices, different numbers of columns, an empty gallery,
            or a value that is not finite.
    """
    check_metric(metric)
    if k < 1:
        raise ValueError(f"k is the number of neighbors and must be at least 1, got {k}")
    if query is gallery:
        images = check_features(gallery, "gallery", metric)
        check_dimensions(images, images)
        return nearest_within(images, min(k, len(images)), metric, device)
    if torch.device(device).type == "cuda":
        return _topk_of_blocks(Similarity(query, gallery, metric, device), k)
    query, gallery = check_features(query, "query", metric), check_features(gallery, "gallery", metric)
    check_dimensions(query, gallery)
    k = min(k, len(gallery))
    if metric == "cosine":
        query, gallery = as_compared(query, metric), as_compared(gallery, metric)
        index = faiss.IndexFlatIP(gallery.shape[1])
    else:
        index = faiss.IndexFlatL2(gallery.shape[1])
    index.add(gallery)
    scores, rows = index.search(query, k)
    return distances_of(scores, metric), rows.astype(np.int64, copy=False)


def _topk_of_blocks(similarity: Similarity, k: int) -> tuple[np.ndarray, np.ndarray]:
    distances, rows = [], []
    for chunk, scores in similarity.blocks():
        values, nearest = scores.topk(min(k, scores.shape[1]), dim=1)
        distances.append(similarity.as_distances(chunk, values).cpu().numpy())
        rows.append(nearest.cpu().numpy())
    return np.concatenate(distances), np.concatenate(rows)


def rank_lists(
    query: Features,
    gallery: Features,
    k: int = 10,
    metric: str = "euclidean",
    queries: Sequence[int] | None = None,
    with_junk: bool = False,
) -> list[RankList]:
    """List the first k gallery images of queries, ranked as Market-1501's protocol does.

    Images of the query's identity from the query's own camera are removed before ranking: finding them is no
    re-identification.

    Args:
        query: the query images.
        gallery: the gallery images.
        k: length of a list; shorter where the gallery has fewer images that count.
        metric: as in `topk`.
        queries: rows of `query` to rank, default all.
        with_junk: keep the images that do not count where they stand, up to the last of the k that do.

    Raises:
        ValueError: as `topk`; or a row that `query` does not have.
    """
    rows = np.arange(len(query)) if queries is None else np.asarray(queries, dtype=np.int64)
    if len(rows) and not (rows.min() >= 0 and rows.max() < len(query)):
        raise ValueError(f"there are {len(query)} queries, numbered from 0; got {rows.tolist()}")
    relevance = Relevance(query.pids[rows], gallery.pids, query.camids[rows], gallery.camids)
    longest = int((len(gallery) - relevance.candidates).max()) if len(rows) else 0
    # So many more neighbors that k are left after the removal
    distances, neighbors = topk(query.features[rows], gallery.features, k + longest, metric)
    return [
        _beginning(query, gallery, row, near, dist, k, with_junk)
        for row, dist, near in zip(rows.tolist(), distances, neighbors)
    ]


def lists_from_distances(
    query: Features,
    gallery: Features,
    rows: Sequence[int],
    distances: np.ndarray,
    k: int = 10,
    with_junk: bool = False,
    first_match: bool = False,
) -> list[RankList]:
    """Make the `rank_lists` of queries whose distances to the whole gallery are known, such as re-ranked ones.

    Args:
        query: the query images.
        gallery: the gallery images.
        rows: of the queries.
        distances: (len(rows), G). Among equal ones non-matches come first, as in `match_ranks`.
        k: length of a list.
        with_junk: as in `rank_lists`.
        first_match: append the first match where it stands after the k.

    Raises:
        ValueError: the distances are not of these queries and this gallery.
    """
    if distances.shape != (len(rows), len(gallery)):
        raise ValueError(
            f"{len(rows)} queries and {len(gallery)} gallery images need as many rows and columns of distances, got "
            f"{distances.shape}"
        )
    lists = []
    for row, dist in zip(rows, distances):
        order = np.lexsort((gallery.pids == query.pids[row], dist))
        lists.append(_beginning(query, gallery, row, order, dist[order], k, with_junk, first_match))
    return lists


def _beginning(
    query: Features,
    gallery: Features,
    row: int,
    images: np.ndarray,
    distances: np.ndarray,
    k: int,
    with_junk: bool,
    first_match: bool = False,
) -> RankList:
    """A query's ordered gallery images up to the k-th that counts."""
    same = gallery.pids[images] == query.pids[row]
    junk = (same & (gallery.camids[images] == query.camids[row])) | (gallery.pids[images] == JUNK_IDENTITY)
    counted = np.cumsum(~junk)
    kept = (counted - ~junk < k) & (with_junk | ~junk)
    if first_match:
        kept[np.flatnonzero(same & ~junk)[:1]] = True
    own_ranks = np.where(junk, 0, counted)[kept] if with_junk or first_match else None
    return RankList(row, images[kept], distances[kept], same[kept], own_ranks)


def average_precisions(query: Features, gallery: Features, metric: str = "euclidean") -> np.ndarray:
    """Compute the average precision of every query over the whole gallery.

    Args:
        query: the query images.
        gallery: the gallery images.
        metric: `cosine` or `euclidean`.

    Returns:
        (Q,) float64 between 0 and 1; NaN for a query whose identity no other camera of the gallery saw, which
        the protocol does not count.

    Raises:
        ValueError: as `match_ranks`, or no query counts.
    """
    ranks = match_ranks(query, gallery, metric)
    ranks.check_any()
    return ranks.average_precision()


def as_compared(features: np.ndarray, metric: str) -> np.ndarray:
    """Copy features as a contiguous float32 matrix, for the cosine with rows of length 1.

    Args:
        features: (N, D).
        metric: `cosine` or `euclidean`.
    """
    features = np.array(features, dtype=np.float32, order="C")
    if metric == "cosine":
        faiss.normalize_L2(features)
    return features


def distances_of(scores: np.ndarray, metric: str) -> np.ndarray:
    """Turn faiss's scores, similarities or squared distances, into float32 distances in the metric.

    Args:
        scores: of the search.
        metric: `cosine` or `euclidean`.
    """
    distances = 1 - scores if metric == "cosine" else np.sqrt(np.maximum(scores, 0))  # rounding can go below zero
    return distances.astype(np.float32)
