"""Ranks of the right gallery images, counted without sorting a gallery, and the scores that follow from them.

A query's average precision, INP, CMC and precision-recall curve depend on the ranks of its right images alone. Such a
rank is one more than the number of images that score higher, so it is counted: a gallery is compared with a few values
rather than sorted.

The protocol is Market-1501's (Zheng et al., ICCV 2015): gallery images of the query's identity from the query's own
camera are removed from its list, and so are images with the identity -1, which show nobody.

Ties: among images with equal scores wrong ones come first. The result does not depend on the order of the gallery, and
features that have collapsed to one point are not rewarded by it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

#: Identity of images that show nobody; they are in no rank list.
JUNK_IDENTITY = -1

# A row of which fewer than one in so many images score above the lowest match is compressed before it is counted
_FEW = 8
# Rows that are compared at once on a GPU
_GPU_ROWS = 256


@dataclass(frozen=True)
class MatchRanks:
    """Where the right images of Q queries stand in their rank lists.

    Attributes:
        ranks: (P,) int64, from 1, ascending within a query.
        offsets: (Q + 1,) int64; those of query q are `ranks[offsets[q]:offsets[q + 1]]`.
        candidates: (Q,) int64, the length of each query's rank list.
    """

    ranks: np.ndarray
    offsets: np.ndarray
    candidates: np.ndarray

    def __len__(self) -> int:
        return len(self.candidates)

    @property
    def matches(self) -> np.ndarray:
        """(Q,) int64, the number of right images of each query."""
        return np.diff(self.offsets)

    @property
    def matched(self) -> np.ndarray:
        """(Q,) bool, whether a query has a right image; the others cannot be scored."""
        return self.matches > 0

    def average_precision(self) -> np.ndarray:
        """(Q,) float64 between 0 and 1, the mean over the right images of the precision at each; NaN without one."""
        lines = np.repeat(np.arange(len(self)), self.matches)
        sums = np.bincount(lines, weights=self._found() / self.ranks, minlength=len(self))
        return np.divide(sums, self.matches, out=np.full(len(self), np.nan), where=self.matched)

    def inverse_negative_penalty(self) -> np.ndarray:
        """(Q,) float64 between 0 and 1, the number of right images over the rank of the last (Ye et al., 2021)."""
        last = np.full(len(self), np.nan)
        last[self.matched] = self.ranks[self.offsets[1:][self.matched] - 1]
        return self.matches / last

    def first_match(self) -> np.ndarray:
        """(Q,) int64, the rank of the first right image; 0 without one."""
        first = np.zeros(len(self), dtype=np.int64)
        first[self.matched] = self.ranks[self.offsets[:-1][self.matched]]
        return first

    def cmc(self, max_rank: int = 50) -> np.ndarray:
        """(max_rank,) float64 between 0 and 1: the share of queries with a match whose first is among the first k.

        Raises:
            ValueError: no query has a match.
        """
        self.check_any()
        first = self.first_match()[self.matched]
        within = np.bincount(first[first <= max_rank], minlength=max_rank + 1)[1:]
        return np.cumsum(within) / len(first)

    def precision_recall(self, points: int = 101) -> tuple[np.ndarray, np.ndarray]:
        """Compute the mean precision-recall curve of the queries with a match.

        Precision is interpolated as in information retrieval: at a recall it is the highest that any longer list
        reaches (Manning et al., Introduction to Information Retrieval, Sec. 8.4).

        Args:
            points: number of equidistant recalls.

        Returns:
            Recall (points,) from 0 to 1, and precision (points,) between 0 and 1, float64.

        Raises:
            ValueError: no query has a match, or fewer than two points.
        """
        self.check_any()
        if points < 2:
            raise ValueError(f"a curve needs at least 2 points, got {points}")
        recall = np.linspace(0, 1, points)
        precision = self._found() / self.ranks
        total = np.zeros(points)
        for start, end in zip(self.offsets[:-1], self.offsets[1:]):
            if end > start:
                highest = np.maximum.accumulate(precision[start:end][::-1])[::-1]
                needed = np.ceil(recall * (end - start) - 1e-9).astype(np.int64)  # matches that give this recall
                total += highest[np.maximum(needed, 1) - 1]
        return recall, total / self.matched.sum()

    def results(self) -> OrderedDict[str, float]:
        """Rank-1, Rank-5, Rank-10, mAP, mINP and their `metric`, the mean of mAP and Rank-1, in percent.

        They are those of fast-reid's evaluator, under its names and in its order.

        Raises:
            ValueError: no query has a match.
        """
        cmc = 100 * self.cmc(10)
        results = OrderedDict((f"Rank-{rank}", float(cmc[rank - 1])) for rank in (1, 5, 10))
        results["mAP"] = 100 * float(np.nanmean(self.average_precision()))
        results["mINP"] = 100 * float(np.nanmean(self.inverse_negative_penalty()))
        results["metric"] = (results["mAP"] + results["Rank-1"]) / 2
        return results

    def _found(self) -> np.ndarray:
        """(P,) int64: how many right images there are up to each."""
        return concatenated_ranges(np.ones_like(self.matches), self.matches)

    def check_any(self) -> None:
        """Check that there is a query to score.

        Raises:
            ValueError: no query has a match.
        """
        if not self.matched.any():
            raise ValueError(
                f"none of the {len(self)} queries can be scored: the gallery holds none of their identities under "
                "another camera than the query's. Check the identities and camera numbers of query and gallery"
            )


class Relevance:
    """Which gallery images are right for each of Q queries, and which of G do not count.

    Args:
        query_pids: (Q,) identities of the queries.
        gallery_pids: (G,) identities of the gallery.
        query_camids: (Q,) cameras of the queries.
        gallery_camids: (G,) cameras of the gallery.

    Attributes:
        candidates: (Q,) int64, the number of gallery images that count for a query.

    Raises:
        ValueError: as many identities as cameras are needed, and at least one gallery image.
    """

    def __init__(
        self, query_pids: np.ndarray, gallery_pids: np.ndarray, query_camids: np.ndarray, gallery_camids: np.ndarray
    ) -> None:
        if len(query_pids) != len(query_camids) or len(gallery_pids) != len(gallery_camids):
            raise ValueError(
                f"{len(query_pids)} query and {len(gallery_pids)} gallery identities do not go with "
                f"{len(query_camids)} and {len(gallery_camids)} cameras"
            )
        if len(gallery_pids) == 0:
            raise ValueError("the gallery is empty: there is nothing to rank")
        nobody = gallery_pids == JUNK_IDENTITY
        self._nobody = np.flatnonzero(nobody)
        order = np.argsort(gallery_pids, kind="stable")
        by_identity = gallery_pids[order]
        start = np.searchsorted(by_identity, query_pids, side="left")
        length = np.searchsorted(by_identity, query_pids, side="right") - start
        length[query_pids == JUNK_IDENTITY] = 0
        self._offsets = np.concatenate(([0], np.cumsum(length)))
        self._columns = order[concatenated_ranges(start, length)]  # the query's identity in the gallery
        self._right = gallery_camids[self._columns] != np.repeat(query_camids, length)
        same_camera = np.bincount(
            np.repeat(np.arange(len(query_pids)), length)[~self._right], minlength=len(query_pids)
        )
        self.candidates = len(gallery_pids) - len(self._nobody) - same_camera

    def __len__(self) -> int:
        return len(self.candidates)

    @property
    def matches(self) -> np.ndarray:
        """(Q,) int64, the number of right images of each query."""
        return np.diff(np.concatenate(([0], np.cumsum(self._right)))[self._offsets])

    def take(self, rows: slice, scores: torch.Tensor) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """Take the right images, and those that do not count, out of a block of scores.

        Args:
            rows: the queries of the block.
            scores: (B, G), higher is more similar; what is taken becomes -inf in place.

        Returns:
            (B,) the number of right images of each query; (P,) row in the block and (P,) score of each right image,
            rows ascending, and in each the highest score first.

        Raises:
            ValueError: a right image's score is not finite.
        """
        first, last = self._offsets[rows.start], self._offsets[rows.stop]
        length = np.diff(self._offsets[rows.start : rows.stop + 1])
        lines = torch.from_numpy(np.repeat(np.arange(len(length)), length)).to(scores.device)
        columns = torch.from_numpy(self._columns[first:last]).to(scores.device)
        right = torch.from_numpy(self._right[first:last]).to(scores.device)
        values = scores[lines, columns]
        scores[lines, columns] = -torch.inf
        if len(self._nobody):
            scores[:, torch.from_numpy(self._nobody).to(scores.device)] = -torch.inf
        lines, values = lines[right], values[right]
        if not bool(torch.isfinite(values).all()):
            raise ValueError(
                "distances are NaN or infinite: the features are not finite or too large, so the model's weights "
                "probably are not right"
            )
        values, order = values.sort(descending=True)
        lines, order = lines[order].sort(stable=True)
        counts = np.bincount(lines.cpu().numpy(), minlength=len(length))
        return counts, lines, values[order]


def concatenated_ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate start, start + 1, ... for each start.

    Args:
        starts: (N,) whole numbers.
        lengths: (N,), how many numbers of each.
    """
    return np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)


def count_ranks(blocks: Iterable[tuple[slice, torch.Tensor]], relevance: Relevance) -> MatchRanks:
    """Ranks of the right images of all queries.

    Args:
        blocks: pairs of rows of the queries and their scores (B, G), higher is more similar, in the order of the
            queries. The scores are overwritten.
        relevance: which images are right.

    Raises:
        ValueError: a right image's score is not finite, or blocks are missing.
    """
    ranks: list[np.ndarray] = []
    counts: list[np.ndarray] = []
    for rows, scores in blocks:
        matches, lines, values = relevance.take(rows, scores)
        higher = _on_device(scores, lines, values) if scores.is_cuda else _on_cpu(scores, matches, values)
        ranks.append(higher + concatenated_ranges(np.ones_like(matches), matches))
        counts.append(matches)
    matches = np.concatenate(counts) if counts else np.zeros(0, dtype=np.int64)
    if len(matches) != len(relevance):
        raise ValueError(f"{len(relevance)} queries are to be ranked, but the scores are of {len(matches)}")
    offsets = np.concatenate(([0], np.cumsum(matches)))
    return MatchRanks(np.concatenate(ranks) if ranks else matches, offsets, relevance.candidates)


def _on_cpu(scores: torch.Tensor, matches: np.ndarray, values: torch.Tensor) -> np.ndarray:
    """(P,) int64: for each value, how many of its row's scores are as high or higher.

    NumPy's comparisons of one row, which stays in the cache, take a fifth of the time of torch's of the block.
    """
    block, thresholds = scores.numpy(), values.numpy()
    higher = np.zeros(len(thresholds), dtype=np.int64)
    above = np.empty(block.shape[1], dtype=bool)
    end = 0
    for row, number in zip(block, matches.tolist()):
        start, end = end, end + number
        if not number:
            continue
        own = thresholds[start:end]
        np.greater_equal(row, own[-1], out=above)
        lowest = np.count_nonzero(above)
        if lowest * _FEW < len(row):
            candidates = np.sort(row[above])
            higher[start:end] = lowest - np.searchsorted(candidates, own)
            continue
        higher[end - 1] = lowest
        for place in range(number - 1):
            np.greater_equal(row, own[place], out=above)
            higher[start + place] = np.count_nonzero(above)
    return higher


def _on_device(scores: torch.Tensor, lines: torch.Tensor, values: torch.Tensor) -> np.ndarray:
    """`_on_cpu` with few large operations, for a GPU."""
    higher = torch.empty(len(values), dtype=torch.int64, device=scores.device)
    for start in range(0, len(values), _GPU_ROWS):
        chunk = slice(start, start + _GPU_ROWS)
        higher[chunk] = (scores[lines[chunk]] >= values[chunk, None]).sum(dim=1)
    return higher.cpu().numpy()
