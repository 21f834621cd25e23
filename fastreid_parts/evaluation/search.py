"""Exact nearest-neighbour search with faiss, and the rank lists of person re-identification on top of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

import faiss
import numpy as np
import torch
from fastreid.evaluation.rank import evaluate_rank
from fastreid.utils.compute_dist import build_dist

from .features import Features

__all__ = ["METRICS", "RankList", "average_precisions", "rank_lists", "topk"]

METRICS = ("euclidean", "cosine")

Matrix = Union[np.ndarray, torch.Tensor]


@dataclass(frozen=True)
class RankList:
    """What a query found.

    Attributes:
        query: row of the query.
        gallery: (k,) int64, rows of the gallery, the nearest first, without the images that do not count.
        distances: (k,) float32, in the metric of the search.
        correct: (k,) bool, whether the image shows the query's identity.
    """

    query: int
    gallery: np.ndarray
    distances: np.ndarray
    correct: np.ndarray


def topk(query: Matrix, gallery: Matrix, k: int, metric: str = "euclidean") -> tuple[np.ndarray, np.ndarray]:
    """The k nearest gallery rows of every query row, by exhaustive search.

    Args:
        query: (Q, D) features.
        gallery: (G, D) features.
        k: how many neighbours; with fewer gallery rows, all of them.
        metric: `euclidean` is the distance itself, not its square; `cosine` is 1 minus the cosine similarity.

    Returns:
        Distances (Q, min(k, G)) float32, ascending in each row, and the gallery's row numbers, int64.

    Raises:
        ValueError: unknown metric, k below 1, not matrices, different numbers of columns, an empty gallery,
            or a value that is not finite.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric '{metric}', choose one of: {', '.join(METRICS)}")
    if k < 1:
        raise ValueError(f"k is the number of neighbours and must be at least 1, got {k}")
    query, gallery = _checked(query, "query"), _checked(gallery, "gallery")
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"query features have {query.shape[1]} dimensions and gallery features {gallery.shape[1]}: "
            "take both with the same model"
        )
    if len(gallery) == 0:
        raise ValueError("the gallery is empty: there is nothing to search")
    k = min(k, len(gallery))
    if metric == "cosine":
        query, gallery = _unit_rows(query), _unit_rows(gallery)
        index = faiss.IndexFlatIP(gallery.shape[1])
    else:
        index = faiss.IndexFlatL2(gallery.shape[1])
    index.add(gallery)
    scores, rows = index.search(query, k)
    # faiss scores are squared distances, which rounding can push below zero, or similarities
    distances = 1 - scores if metric == "cosine" else np.sqrt(np.maximum(scores, 0))
    return distances.astype(np.float32), rows.astype(np.int64)


def rank_lists(
    query: Features,
    gallery: Features,
    k: int = 10,
    metric: str = "euclidean",
    queries: Sequence[int] | None = None,
) -> list[RankList]:
    """The first k gallery images of queries, ranked as Market-1501's protocol does.

    Images of the query's identity from the query's own camera are removed before ranking: finding them is no
    re-identification.

    Args:
        query: the query images.
        gallery: the gallery images.
        k: length of a list; shorter where the gallery has fewer images that count.
        metric: as in `topk`.
        queries: rows of `query` to rank, default all.

    Raises:
        ValueError: as `topk`; or a row that `query` does not have.
    """
    rows = np.arange(len(query)) if queries is None else np.asarray(queries, dtype=np.int64)
    if len(rows) and not (rows.min() >= 0 and rows.max() < len(query)):
        raise ValueError(f"there are {len(query)} queries, numbered from 0; got {rows.tolist()}")
    removed = _same_camera_matches(query, gallery, rows)
    longest = int(removed.sum(axis=1).max()) if len(rows) else 0
    # So many more neighbours that k are left after the removal
    distances, neighbours = topk(query.features[rows], gallery.features, k + longest, metric)
    lists = []
    for row, dist, near, out in zip(rows.tolist(), distances, neighbours, removed):
        kept = ~out[near]
        near, dist = near[kept][:k], dist[kept][:k]
        lists.append(RankList(row, near, dist, gallery.pids[near] == query.pids[row]))
    return lists


def average_precisions(query: Features, gallery: Features, metric: str = "euclidean") -> np.ndarray:
    """Average precision of every query over the whole gallery, by fast-reid's own ranking code.

    Returns:
        (Q,) float64 between 0 and 1; NaN for a query whose identity no other camera of the gallery saw, which
        the protocol does not count.

    Raises:
        ValueError: unknown metric, or no query counts.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric '{metric}', choose one of: {', '.join(METRICS)}")
    same = query.pids[:, None] == gallery.pids[None, :]
    counts = (same & (query.camids[:, None] != gallery.camids[None, :])).any(axis=1)
    if not counts.any():
        raise ValueError("no query's identity was seen by another camera of the gallery: no precision is defined")
    distances = build_dist(torch.from_numpy(query.features[counts]), torch.from_numpy(gallery.features), metric=metric)
    _, precisions, _ = evaluate_rank(
        distances, query.pids[counts], gallery.pids, query.camids[counts], gallery.camids, max_rank=1
    )
    result = np.full(len(query), np.nan)
    result[counts] = precisions
    return result


def _same_camera_matches(query: Features, gallery: Features, rows: np.ndarray) -> np.ndarray:
    """(len(rows), G) bool: images of the query's identity from the query's camera."""
    same_identity = query.pids[rows, None] == gallery.pids[None, :]
    return same_identity & (query.camids[rows, None] == gallery.camids[None, :])


def _checked(features: Matrix, name: str) -> np.ndarray:
    if isinstance(features, torch.Tensor):
        features = features.detach().cpu().numpy()
    if features.ndim != 2:
        raise ValueError(f"{name} features must be a matrix (N, D), not of shape {tuple(features.shape)}")
    features = np.ascontiguousarray(features, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(features)} {name} features hold NaN or infinite values, first in row "
            f"{bad[0]}: check the model's weights"
        )
    return features


def _unit_rows(features: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, 1e-12)
