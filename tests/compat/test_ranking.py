"""CMC, AP, INP and ROC scores: against plain loops, the host's own functions, and known values."""

from __future__ import annotations

import logging
from pathlib import Path

import fastreid.evaluation
import numpy as np
import pytest
from fastreid.evaluation import rank, roc
from sklearn import metrics

from fastreid_parts.compat import ranking

HOST_MARKET = ranking.eval_market1501.__wrapped__
HOST_CUHK03 = ranking.eval_cuhk03.__wrapped__
HOST_ROC = ranking.evaluate_roc.__wrapped__


def _random(queries: int = 12, gallery: int = 90, identities: int = 6, seed: int = 0) -> tuple:
    rng = np.random.default_rng(seed)
    return (
        rng.random((queries, gallery)).astype(np.float32),
        rng.integers(0, identities, queries),
        rng.integers(0, identities, gallery),
        rng.integers(0, 3, queries),
        rng.integers(0, 3, gallery),
    )


def _by_hand(distmat, q_pids, g_pids, q_camids, g_camids, max_rank) -> tuple:
    """The protocol in plain loops."""
    curves, precisions, inps = [], [], []
    for i, row in enumerate(distmat.tolist()):
        ranked = sorted(range(len(row)), key=lambda j: (row[j], g_pids[j] == q_pids[i]))
        ranked = [j for j in ranked if g_pids[j] != q_pids[i] or g_camids[j] != q_camids[i]]
        hits = [k for k, j in enumerate(ranked, start=1) if g_pids[j] == q_pids[i]]
        if not hits:
            continue
        curves.append([1.0 if hits[0] <= k else 0.0 for k in range(1, max_rank + 1)])
        precisions.append(sum(n / k for n, k in enumerate(hits, start=1)) / len(hits))
        inps.append(len(hits) / hits[-1])
    return np.mean(curves, axis=0), precisions, inps


class TestMarket1501:
    @pytest.mark.parametrize("seed", range(5))
    def test_equals_plain_loops(self, seed: int) -> None:
        data = _random(seed=seed)
        for got, want in zip(rank.evaluate_rank(*data), _by_hand(*data, 50)):
            np.testing.assert_allclose(got, want, rtol=1e-6)

    def test_equals_the_host_where_the_host_works(self) -> None:
        data = _random()
        for got, want in zip(rank.evaluate_rank(*data, max_rank=20), HOST_MARKET(*data, 20)):
            np.testing.assert_allclose(got, want, rtol=1e-6)

    def test_known_value(self) -> None:
        distmat = np.array([[0.1, 0.2, 0.3, 0.4, 0.5]])
        q, g, qc, gc = map(np.array, ([7], [7, 1, 7, 2, 7], [0], [0, 1, 1, 1, 2]))
        cmc, ap, inp = rank.evaluate_rank(distmat, q, g, qc, gc, max_rank=3)
        # The first image is the query's own camera; matches are then second and fourth
        assert cmc.tolist() == [0, 1, 1]
        assert ap == [pytest.approx((1 / 2 + 2 / 4) / 2)]
        assert inp == [pytest.approx(2 / 4)]

    @pytest.mark.parametrize("gallery", [1, 3, 9, 10, 49])
    def test_small_galleries(self, gallery: int) -> None:
        data = _random(gallery=gallery, identities=1)
        data[4][:] = 5  # no image is removed
        cmc, precisions, _ = rank.evaluate_rank(*data)
        assert cmc.shape == (50,) and cmc[gallery - 1 :].min() == 1
        assert len(precisions) == 12

    def test_the_hosts_curves_end_early(self) -> None:
        data = _random(gallery=9)
        data[4][:] = 5
        assert len(HOST_MARKET(*data, 50)[0]) < 10  # where ReidEvaluator reads entry 9

    def test_a_list_that_removal_makes_short(self) -> None:
        # 52 images, and 5 of them from the query's camera: 47 are left of 50 ranks
        distmat = np.linspace(0, 1, 104).reshape(2, 52)
        q_pids, g_pids = np.array([1, 2]), np.full(52, 1)
        g_pids[26:] = 2
        g_camids = np.ones(52)
        g_camids[:5] = 0
        data = (distmat, q_pids, g_pids, np.zeros(2), g_camids)
        with pytest.raises(ValueError):
            HOST_MARKET(*data, 50)
        assert rank.evaluate_rank(*data)[0].shape == (50,)

    def test_among_ties_wrong_images_come_first(self) -> None:
        distmat, *people = _random(gallery=2000, identities=40)
        data = (np.floor(distmat * 3), *people)
        for got, want in zip(rank.evaluate_rank(*data), _by_hand(*data, 50)):
            np.testing.assert_allclose(got, want, rtol=1e-6)

    def test_the_note_goes_to_the_log(self, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            rank.evaluate_rank(*_random(gallery=12))
        assert "gallery has 12 images" in caplog.text
        assert capsys.readouterr().out == ""

    def test_no_query_has_a_match(self) -> None:
        distmat = np.zeros((2, 3))
        with pytest.raises(ValueError, match="none of the 2 queries can be scored"):
            rank.evaluate_rank(distmat, np.array([1, 2]), np.array([3, 4, 5]), np.zeros(2), np.ones(3))
        with pytest.raises(ValueError, match="another camera"):  # under the query's camera only
            rank.evaluate_rank(distmat, np.array([1, 2]), np.array([1, 4, 5]), np.zeros(2), np.zeros(3))

    def test_bad_input(self) -> None:
        distmat, q, g, qc, gc = _random()
        with pytest.raises(ValueError, match="does not belong"):
            rank.evaluate_rank(distmat[:, 1:], q, g, qc, gc)
        with pytest.raises(ValueError, match="gallery is empty"):
            rank.evaluate_rank(distmat[:, :0], q, g[:0], qc, gc[:0])
        distmat[0, 0] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            rank.evaluate_rank(distmat, q, g, qc, gc)


class TestCUHK03:
    def test_the_hosts_own_fails_or_returns_two_values(self) -> None:
        try:
            assert len(HOST_CUHK03(*_random(), 10)) == 2
        except AttributeError as error:  # numpy 1.24 and newer
            assert "bool" in str(error)

    def test_returns_three_values(self) -> None:
        data = _random()
        cmc, precisions, inps = rank.evaluate_rank(*data, max_rank=6, use_metric_cuhk03=True)
        assert cmc.shape == (6,) and cmc[5] == 1  # six identities, one image of each
        _, want_precisions, want_inps = _by_hand(*data, 6)
        np.testing.assert_allclose(precisions, want_precisions, rtol=1e-6)
        np.testing.assert_allclose(inps, want_inps, rtol=1e-6)

    def test_one_image_an_identity_is_drawn(self) -> None:
        # Identity 0 has one image, at rank 2; of identity 1's nine images the one at rank 1 is drawn one time in nine
        gallery = np.array([1, 0] + [1] * 8)
        data = (np.arange(10.0)[None], np.array([0]), gallery, np.array([0]), np.ones(10))
        curves = []
        for seed in range(60):
            ranking.CUHK03_SEED, before = seed, ranking.CUHK03_SEED
            curves.append(ranking.eval_cuhk03(*data, 2)[0])
            ranking.CUHK03_SEED = before
        assert np.mean(curves, axis=0) == pytest.approx([8 / 9, 1], abs=0.04)

    def test_the_same_features_give_the_same_curve(self) -> None:
        data = _random()
        state = np.random.get_state()[1].copy()
        first, second = (rank.evaluate_rank(*data, use_metric_cuhk03=True)[0] for _ in range(2))
        assert first.tolist() == second.tolist()
        assert (np.random.get_state()[1] == state).all()  # nobody else's random numbers are used up


class TestROC:
    def test_known_value(self) -> None:
        distmat = np.array([[0.1, 0.2, 0.7, 0.9]])
        q, g, qc, gc = map(np.array, ([1], [1, 1, 2, 3], [0], [0, 1, 0, 1]))
        scores, labels = roc.evaluate_roc(distmat, q, g, qc, gc)
        np.testing.assert_allclose(scores, [-0.2, -0.7, -0.9])  # the first is of the query's own camera
        assert labels.tolist() == [1, 0, 0]

    def test_has_the_hosts_pairs(self) -> None:
        data = _random()
        scores, labels = roc.evaluate_roc(*data)
        host_scores, host_labels = HOST_ROC(*data)
        for label in (0, 1):
            np.testing.assert_allclose(
                np.sort(-scores[labels == label]), np.sort(host_scores[host_labels == 1 - label])
            )

    def test_true_positives_are_pairs_of_one_person(self) -> None:
        """Ten pairs of one person, five of them far closer than all others: at no false alarm, half are found."""
        distmat = np.concatenate([np.full(5, 0.1), np.full(5, 0.8), np.full(90, 0.5)])[None]
        g_pids = np.array([1] * 10 + [2] * 90)
        data = (distmat, np.array([1]), g_pids, np.array([0]), np.ones(100))
        scores, labels = roc.evaluate_roc(*data)
        fpr, tpr, _ = metrics.roc_curve(labels, scores)
        assert tpr[fpr == 0].max() == 0.5
        host_scores, host_labels = HOST_ROC(*data)
        fpr, tpr, _ = metrics.roc_curve(host_labels, host_scores)
        assert tpr[fpr == 0].max() == 0  # the host asks how well different people are told apart

    def test_the_visualizer_draws_the_same_curve(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib").use("Agg")
        from fastreid.utils.visualizer import Visualizer

        distmat, q, g, qc, gc = _random()
        drawn = Visualizer(dataset=None)
        drawn.get_model_output([0.5] * len(q), distmat, q, g, qc, gc)
        fpr, tpr, positive, negative = drawn.vis_roc_curve(str(tmp_path / "new"))
        scores, labels = roc.evaluate_roc(distmat, q, g, qc, gc)
        want = metrics.roc_curve(labels, scores)
        np.testing.assert_allclose(fpr, want[0])
        np.testing.assert_allclose(tpr, want[1])
        assert len(positive) == labels.sum() and len(negative) == (1 - labels).sum()
        assert (tmp_path / "new" / "roc.jpg").stat().st_size > 0


class TestWiring:
    def test_the_demo_finds_evaluate_rank(self) -> None:
        assert fastreid.evaluation.evaluate_rank is rank.evaluate_rank is ranking.evaluate_rank
