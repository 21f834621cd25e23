"""Ranks of right images, counted, against sorting in plain loops; and the scores that follow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from fastreid_parts.evaluation.ranks import JUNK_IDENTITY, MatchRanks, Relevance, count_ranks


def _by_hand(scores: np.ndarray, q_pids, g_pids, q_camids, g_camids) -> list[list[int]]:
    """Ranks of each query's right images, by sorting."""
    result = []
    for i, row in enumerate(scores):
        counting = [
            j
            for j in range(len(row))
            if g_pids[j] != JUNK_IDENTITY and not (g_pids[j] == q_pids[i] and g_camids[j] == q_camids[i])
        ]
        ranked = sorted(counting, key=lambda j: (-row[j], g_pids[j] == q_pids[i]))
        result.append([place for place, j in enumerate(ranked, start=1) if g_pids[j] == q_pids[i]])
    return result


def _random(seed: int, queries: int = 12, gallery: int = 90, identities: int = 6) -> tuple:
    random = np.random.default_rng(seed)
    return (
        random.standard_normal((queries, gallery)).astype(np.float32),
        random.integers(0, identities, queries),
        random.integers(JUNK_IDENTITY, identities, gallery),
        random.integers(0, 3, queries),
        random.integers(0, 3, gallery),
    )


def _count(scores: np.ndarray, *people: np.ndarray, rows: int = 5) -> MatchRanks:
    chunks = (slice(start, min(start + rows, len(scores))) for start in range(0, len(scores), rows))
    return count_ranks(((chunk, torch.from_numpy(scores[chunk].copy())) for chunk in chunks), Relevance(*people))


def _lists(ranks: MatchRanks) -> list[list[int]]:
    return [ranks.ranks[a:b].tolist() for a, b in zip(ranks.offsets[:-1], ranks.offsets[1:])]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("rows", [1, 5, 100])
def test_ranks_are_those_of_sorting(seed: int, rows: int) -> None:
    data = _random(seed)
    ranks = _count(*data, rows=rows)
    assert _lists(ranks) == _by_hand(*data)
    _, q_pids, g_pids, q_camids, g_camids = data
    counting = (g_pids != JUNK_IDENTITY) & ~((g_pids == q_pids[:, None]) & (g_camids == q_camids[:, None]))
    assert ranks.candidates.tolist() == counting.sum(axis=1).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_among_equal_scores_wrong_images_come_first(seed: int) -> None:
    scores, *people = _random(seed, gallery=200)
    scores = np.floor(2 * scores)
    ranks = _count(scores, *people)
    assert _lists(ranks) == _by_hand(scores, *people)
    reverse = [people[0], people[1][::-1], people[2], people[3][::-1]]
    assert _lists(_count(scores[:, ::-1], *reverse)) == _lists(ranks)  # whatever the order of the gallery


def test_collapsed_features_are_the_worst_of_all() -> None:
    g_pids = np.array([1, 1, 2, 3, 4])
    ranks = _count(np.zeros((1, 5), np.float32), np.array([1]), g_pids, np.array([0]), np.ones(5))
    assert ranks.ranks.tolist() == [4, 5]


def test_both_ways_to_count_on_the_cpu_agree_with_the_gpus() -> None:
    from fastreid_parts.evaluation import ranks as module

    # With few images above the lowest match a row is compressed first, with many it is not
    for shift in (0.0, 4.0):
        scores, q_pids, g_pids, q_camids, g_camids = _random(1, gallery=400)
        scores[q_pids[:, None] == g_pids[None]] += shift
        relevance = Relevance(q_pids, g_pids, q_camids, g_camids)
        block = torch.from_numpy(scores.copy())
        matches, lines, values = relevance.take(slice(0, len(scores)), block)
        np.testing.assert_array_equal(module._on_cpu(block, matches, values), module._on_device(block, lines, values))


def test_what_does_not_count() -> None:
    # The query's camera, another camera, nobody, another person
    g_pids, g_camids = np.array([7, 7, JUNK_IDENTITY, 8]), np.array([0, 1, 1, 0])
    ranks = _count(np.array([[4, 1, 3, 2]], np.float32), np.array([7]), g_pids, np.array([0]), g_camids)
    assert ranks.ranks.tolist() == [2] and ranks.candidates.tolist() == [2]


def test_a_query_that_shows_nobody_has_no_match() -> None:
    nobody = np.array([JUNK_IDENTITY])
    ranks = _count(np.ones((1, 2), np.float32), nobody, np.array([JUNK_IDENTITY, 3]), np.array([0]), np.array([1, 1]))
    assert ranks.matched.tolist() == [False] and ranks.candidates.tolist() == [1]


class TestScores:
    # Right images at ranks 2 and 4 of 5; none; at 1 of 4
    ranks = MatchRanks(np.array([2, 4, 1]), np.array([0, 2, 2, 3]), np.array([5, 5, 4]))

    def test_average_precision(self) -> None:
        assert self.ranks.average_precision() == pytest.approx([(1 / 2 + 2 / 4) / 2, np.nan, 1], nan_ok=True)

    def test_inverse_negative_penalty(self) -> None:
        assert self.ranks.inverse_negative_penalty() == pytest.approx([2 / 4, np.nan, 1], nan_ok=True)

    def test_first_match_and_cmc(self) -> None:
        assert self.ranks.first_match().tolist() == [2, 0, 1]
        assert self.ranks.cmc(3).tolist() == [0.5, 1, 1]
        assert self.ranks.cmc(1).tolist() == [0.5]

    def test_precision_recall(self) -> None:
        # Query 0: 1/2 at recall 1/2 and at 1; query 2: 1 everywhere
        recall, precision = self.ranks.precision_recall(5)
        assert recall.tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert precision.tolist() == [0.75] * 5
        falling = MatchRanks(np.array([1, 4, 5]), np.array([0, 3]), np.array([9]))
        # 1, 2/4 and 3/5 at the matches: interpolated, the second is 3/5 too
        assert falling.precision_recall(4)[1] == pytest.approx([1, 1, 3 / 5, 3 / 5])
        assert falling.precision_recall(2)[1] == pytest.approx([1, 3 / 5])
        with pytest.raises(ValueError, match="at least 2 points"):
            falling.precision_recall(1)

    def test_results(self) -> None:
        results = self.ranks.results()
        assert list(results) == ["Rank-1", "Rank-5", "Rank-10", "mAP", "mINP", "metric"]
        assert results == pytest.approx(
            {"Rank-1": 50, "Rank-5": 100, "Rank-10": 100, "mAP": 75, "mINP": 75, "metric": 62.5}
        )

    @pytest.mark.parametrize("seed", range(5))
    def test_average_precision_is_scikit_learns(self, seed: int) -> None:
        scores, q_pids, g_pids, q_camids, g_camids = _random(seed)
        precisions = _count(scores, q_pids, g_pids, q_camids, g_camids).average_precision()
        for row, query in enumerate(scores):
            same = g_pids == q_pids[row]
            kept = ~(same & (g_camids == q_camids[row])) & (g_pids != JUNK_IDENTITY)
            assert precisions[row] == pytest.approx(average_precision_score(same[kept], query[kept]), abs=1e-6)

    def test_nothing_to_score(self) -> None:
        nothing = MatchRanks(np.zeros(0, np.int64), np.array([0, 0]), np.array([3]))
        for call in (nothing.results, nothing.cmc, nothing.precision_recall):
            with pytest.raises(ValueError, match="none of the 1 queries can be scored"):
                call()


class TestRefusals:
    def test_an_empty_gallery(self) -> None:
        with pytest.raises(ValueError, match="gallery is empty"):
            Relevance(np.array([1]), np.array([]), np.array([1]), np.array([]))

    def test_lengths(self) -> None:
        with pytest.raises(ValueError, match="1 query and 2 gallery identities do not go with 1 and 3 cameras"):
            Relevance(np.array([1]), np.array([1, 2]), np.array([1]), np.array([1, 2, 3]))

    def test_missing_blocks(self) -> None:
        scores, *people = _random(0)
        relevance = Relevance(*people)
        with pytest.raises(ValueError, match="12 queries are to be ranked, but the scores are of 5"):
            count_ranks([(slice(0, 5), torch.from_numpy(scores[:5]))], relevance)

    def test_a_score_that_is_not_finite(self) -> None:
        scores, *people = _random(0)
        scores[:] = np.nan
        with pytest.raises(ValueError, match="NaN or infinite"):
            _count(scores, *people)
