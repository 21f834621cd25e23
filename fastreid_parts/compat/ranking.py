"""The protocols' scores: CMC, AP and INP of rank lists, and the scores behind a ROC curve.

They take the places of the host's functions of the same names and give the same numbers where the host's give right
ones. Ranks are counted one query at a time (`evaluation.ranks`), so beside the matrix that the host's callers bring
memory stays at one row, and no compiled extension is needed.

Shapes: Q queries, G gallery images; `distmat` is (Q, G), smaller is more similar.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import torch

from ..evaluation.ranks import MatchRanks, Relevance, count_ranks

logger = logging.getLogger(__name__)

Scores = tuple[np.ndarray, list[float], list[float]]

CUHK03_REPEATS = 10
CUHK03_SEED = 0


def evaluate_rank(
    distmat: np.ndarray,
    q_pids: np.ndarray,
    g_pids: np.ndarray,
    q_camids: np.ndarray,
    g_camids: np.ndarray,
    max_rank: int = 50,
    use_metric_cuhk03: bool = False,
    use_cython: bool = True,
) -> Scores:
    """Compute CMC, AP and INP of every query that has a match.

    A query's gallery images of the same identity from the same camera are removed before ranking; among images at equal
    distances non-matches come first.

    Args:
        distmat: (Q, G) distances.
        q_pids: (Q,) identities of the queries.
        g_pids: (G,) identities of the gallery.
        q_camids: (Q,) cameras of the queries.
        g_camids: (G,) cameras of the gallery.
        max_rank: length of the CMC curve. Beyond the end of a rank list the curve keeps its last value.
        use_metric_cuhk03: `eval_cuhk03` instead of `eval_market1501`.
        use_cython: accepted for the host's callers; there is one implementation.

    Returns:
        CMC (max_rank,) float32 between 0 and 1, AP of each valid query, INP of each valid query.

    Raises:
        ValueError: shapes that do not fit together, an empty gallery, NaN distances, or no query has a match.
    """
    distmat, q_pids, g_pids, q_camids, g_camids = map(np.asarray, (distmat, q_pids, g_pids, q_camids, g_camids))
    _check_shapes(distmat, q_pids, g_pids, q_camids, g_camids)
    if len(g_pids) < max_rank:
        logger.info("The gallery has %d images; the CMC keeps its last value beyond that rank", len(g_pids))
    protocol = eval_cuhk03 if use_metric_cuhk03 else eval_market1501
    return protocol(distmat, q_pids, g_pids, q_camids, g_camids, max_rank)


def eval_market1501(
    distmat: np.ndarray,
    q_pids: np.ndarray,
    g_pids: np.ndarray,
    q_camids: np.ndarray,
    g_camids: np.ndarray,
    max_rank: int,
) -> Scores:
    """Score by the protocol of Market-1501: every gallery image counts.

    Args:
        distmat, q_pids, g_pids, q_camids, g_camids, max_rank: as for `evaluate_rank`.
    """
    ranks = _match_ranks(distmat, q_pids, g_pids, q_camids, g_camids)
    return ranks.cmc(max_rank).astype(np.float32), *_precisions_and_inps(ranks)


def eval_cuhk03(
    distmat: np.ndarray,
    q_pids: np.ndarray,
    g_pids: np.ndarray,
    q_camids: np.ndarray,
    g_camids: np.ndarray,
    max_rank: int,
) -> Scores:
    """Score by the single-gallery-shot protocol of CUHK03's classic 20 splits.

    The CMC is the mean of ten draws of one gallery image for each identity, from a generator of its own that is seeded
    anew in each call, so the same features give the same curve. AP and INP are those of the whole gallery. CUHK03-NP,
    the split that is common today, is evaluated with the protocol of Market-1501 and not with this one.

    Args:
        distmat, q_pids, g_pids, q_camids, g_camids, max_rank: as for `evaluate_rank`.
    """
    random = np.random.default_rng(CUHK03_SEED)

    def mean_curve(order: np.ndarray, matches: np.ndarray) -> np.ndarray:
        _, identity = np.unique(g_pids[order], return_inverse=True)
        draws = []
        for _ in range(CUHK03_REPEATS):
            # A random order of the rank list; the first image of each identity in it is drawn
            shuffled = random.permutation(len(order))
            _, first = np.unique(identity[shuffled], return_index=True)
            drawn = np.sort(shuffled[first])
            # The query's identity has a match in the list, and each of its images is one: so is the drawn one
            draws.append((np.arange(max_rank) >= np.argmax(matches[drawn])).astype(np.float32))
        return np.mean(draws, axis=0)

    ranks = _match_ranks(distmat, q_pids, g_pids, q_camids, g_camids)
    curves = []
    for row, pid, camid in zip(distmat, q_pids, q_camids):
        order = np.lexsort((g_pids == pid, row))
        matches = g_pids[order] == pid
        keep = ~(matches & (g_camids[order] == camid))
        if matches[keep].any():
            curves.append(mean_curve(order[keep], matches[keep]))
    return np.mean(curves, axis=0, dtype=np.float64).astype(np.float32), *_precisions_and_inps(ranks)


def evaluate_roc(
    distmat: np.ndarray,
    q_pids: np.ndarray,
    g_pids: np.ndarray,
    q_camids: np.ndarray,
    g_camids: np.ndarray,
    use_cython: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """List scores and labels of all pairs that count, for `sklearn.metrics.roc_curve(labels, scores)`.

    The positive class is "the same person". Pairs of one identity under one camera are left out.

    Args:
        distmat: (Q, G) distances.
        q_pids: (Q,) identities of the queries.
        g_pids: (G,) identities of the gallery.
        q_camids: (Q,) cameras of the queries.
        g_camids: (G,) cameras of the gallery.
        use_cython: accepted for the host's callers.

    Returns:
        Scores, the negated distances, higher for more similar; labels, 1 for the same person and 0 for another. Pairs
        of the same person come first.

    Raises:
        ValueError: shapes that do not fit together, an empty gallery, or NaN distances.
    """
    distmat, q_pids, g_pids, q_camids, g_camids = map(np.asarray, (distmat, q_pids, g_pids, q_camids, g_camids))
    _check_shapes(distmat, q_pids, g_pids, q_camids, g_camids)
    positive, negative = [], []
    for row, pid, camid in zip(distmat, q_pids, q_camids):
        same = g_pids == pid
        positive.append(row[same & (g_camids != camid)])
        negative.append(row[~same])
    positive, negative = np.concatenate(positive), np.concatenate(negative)
    scores = -np.concatenate((positive, negative))
    return scores, np.concatenate((np.ones(len(positive)), np.zeros(len(negative))))


def _match_ranks(
    distmat: np.ndarray, q_pids: np.ndarray, g_pids: np.ndarray, q_camids: np.ndarray, g_camids: np.ndarray
) -> MatchRanks:
    def blocks() -> Iterator[tuple[slice, torch.Tensor]]:
        floats = np.promote_types(distmat.dtype, np.float32)
        for row in range(len(distmat)):
            yield slice(row, row + 1), torch.from_numpy(-distmat[row : row + 1].astype(floats))

    ranks = count_ranks(blocks(), Relevance(q_pids, g_pids, q_camids, g_camids))
    ranks.check_any()
    return ranks


def _precisions_and_inps(ranks: MatchRanks) -> tuple[list[float], list[float]]:
    """AP and INP of the queries with a match."""
    return (
        ranks.average_precision()[ranks.matched].tolist(),
        ranks.inverse_negative_penalty()[ranks.matched].tolist(),
    )


def _check_shapes(
    distmat: np.ndarray, q_pids: np.ndarray, g_pids: np.ndarray, q_camids: np.ndarray, g_camids: np.ndarray
) -> None:
    want = (len(q_pids), len(g_pids))
    if distmat.shape != want or len(q_camids) != want[0] or len(g_camids) != want[1]:
        raise ValueError(
            f"a distance matrix {distmat.shape} does not belong to {want[0]} query and {want[1]} gallery identities "
            f"with {len(q_camids)} and {len(g_camids)} cameras"
        )
    if want[1] == 0:
        raise ValueError("the gallery is empty: there is nothing to rank")
    if np.isnan(distmat).any():
        raise ValueError("distances are NaN: the features are not finite, so the model's weights probably are not")
