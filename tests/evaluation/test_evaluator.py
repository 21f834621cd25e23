"""The evaluator in blocks against fast-reid's, with all that TEST can ask for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.engine import DefaultTrainer
from fastreid.evaluation import ReidEvaluator

from fastreid_parts import PartsTrainer
from fastreid_parts.engine.checks import check_config
from fastreid_parts.evaluation import (
    Features,
    PartsEvaluator,
    Ranking,
    describe_settings,
    evaluate_features,
    expand_queries,
    rank_features,
)
from fastreid_parts.evaluation.ranks import Relevance, count_ranks
from fastreid_parts.evaluation.roc import tpr_at_fpr

from .random_features import random_features


def _cfg(*overrides: object) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *overrides])
    return cfg


def _run(evaluator: ReidEvaluator | PartsEvaluator, features: Features, batch: int = 50) -> dict:
    evaluator.reset()
    for start in range(0, len(features), batch):
        rows = slice(start, start + batch)
        inputs = {"targets": torch.from_numpy(features.pids[rows]), "camids": torch.from_numpy(features.camids[rows])}
        evaluator.process(inputs, torch.from_numpy(features.features[rows]))
    return evaluator.evaluate()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("key", ["", "TEST.RERANK.ENABLED", "TEST.AQE.ENABLED"])
def test_equals_the_host(seed: int, metric: str, key: str) -> None:
    features, queries = random_features(seed)
    cfg = _cfg("TEST.METRIC", metric, "TEST.ROC.ENABLED", True, *([key, True] if key else []))
    got, want = _run(PartsEvaluator(cfg, queries), features), _run(ReidEvaluator(cfg, queries), features)
    assert list(got) == list(want) and "TPR@FPR=1e-03" in got
    for name in want:
        assert got[name] == pytest.approx(want[name], abs=1e-4), name  # percent: 1e-6 of a share


def test_reranking_with_query_expansion_and_without() -> None:
    features, queries = random_features(0)
    plain = evaluate_features(features, queries, _cfg())
    both = evaluate_features(features, queries, _cfg("TEST.RERANK.ENABLED", True, "TEST.AQE.ENABLED", True))
    host = _run(ReidEvaluator(_cfg("TEST.RERANK.ENABLED", True, "TEST.AQE.ENABLED", True), queries), features)
    assert both["mAP"] == pytest.approx(host["mAP"], abs=0.01) and abs(both["mAP"] - plain["mAP"]) > 0.1


def test_the_roc_of_distances_that_tie() -> None:
    # Two pairs of one person and four of two, at whole distances
    query, gallery = np.array([1]), np.array([1, 2, 2, 1, 2, 2])
    relevance = Relevance(query, gallery, np.array([0]), np.ones(6))
    scores = torch.tensor([[-1.0, -1.0, -2.0, -3.0, -4.0, -5.0]])
    rates = tpr_at_fpr(lambda: [(slice(0, 1), scores.clone())], relevance, (0.0, 0.25, 0.5, 1.0))
    # No threshold separates the first two images; at 0.5 both people's pairs are found
    assert rates == {0.0: 0.0, 0.25: 0.5, 0.5: 1.0, 1.0: 1.0}
    with pytest.raises(ValueError, match="have 0 and 6"):
        tpr_at_fpr(lambda: [(slice(0, 1), scores.clone())], Relevance(query + 5, gallery, query, gallery))


def test_queries_without_a_match_are_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    features, queries = random_features(0)
    ranks = rank_features(features, queries, _cfg())
    alone = int((~ranks.matched).sum())
    assert alone > 0
    with caplog.at_level(logging.WARNING, "fastreid"):
        evaluate_features(features, queries, _cfg())
    assert f"{alone} of {queries} queries have no match" in caplog.text


def test_float16_storage_changes_little() -> None:
    features, queries = random_features(1)
    want = evaluate_features(features, queries, _cfg())
    half = _cfg("TEST.HALF", True)
    assert evaluate_features(features, queries, half)["mAP"] == pytest.approx(want["mAP"], abs=0.5)
    assert _run(PartsEvaluator(half, queries), features)["mAP"] == pytest.approx(want["mAP"], abs=0.5)


def test_query_expansion_by_hand() -> None:
    features = random_features(2)[0].features
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = unit @ unit.T
    want = []
    for row in cosines:
        near = np.argsort(-row)[:4]
        want.append(sum(features[i] * row[i] ** 2 for i in near) / 4)
    np.testing.assert_allclose(expand_queries(features, 1, 4, 2.0), want, atol=1e-5)
    assert np.isfinite(expand_queries(-np.eye(3) + 0.1, 2, 10, 0.5)).all()  # negative cosines, a broken power


def test_the_stock_trainer_and_ours_take_it_and_the_key_chooses(tiny_cfg: Callable[..., CfgNode]) -> None:
    for trainer in (DefaultTrainer, PartsTrainer):
        assert isinstance(trainer.build_evaluator(tiny_cfg(), "FolderReID")[1], PartsEvaluator)
        host = trainer.build_evaluator(tiny_cfg("TEST.EVALUATOR", "host"), "FolderReID")[1]
        assert isinstance(host, ReidEvaluator)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("TEST.EVALUATOR", "fast", "'fast'; it is one of blocked, host"),
        ("TEST.BLOCK_ROWS", -1, "TEST.BLOCK_ROWS is -1; it is at least 0"),
        ("TEST.METRIC", "jaccard", "TEST.RERANK.ENABLED True"),
        ("TEST.RERANK.K2", 30, "1 <= k2 <= k1"),
        ("TEST.AQE.QE_K", 0, "TEST.AQE.QE_K"),
        ("TEST.RERANK.METHOD", "gcn", "it is one of k-reciprocal, gnn. Did you mean gnn"),
        ("TEST.RERANK.GNN.K2", 30, "k2 <= k1, got k1 26 and k2 30.*TEST.RERANK.GNN.K2"),
        ("TEST.RERANK.GNN.LAYERS", 0, "at least 1"),
        ("TEST.NFC.K1", 1, "k2 <= k1, got k1 1 and k2 2.*TEST.NFC.K2"),
        ("TEST.QUERIES", "none", "it is one of together, alone"),
    ],
)
def test_bad_keys(tiny_cfg: Callable[..., CfgNode], key: str, value: object, message: str) -> None:
    cfg = tiny_cfg("TEST.RERANK.ENABLED", True, "TEST.AQE.ENABLED", True, key, value)
    with pytest.raises(ValueError, match=message):
        PartsEvaluator(cfg, 3)
    with pytest.raises(ValueError, match=message):  # before a training starts
        check_config(cfg)


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        ("TEST.RERANK.METHOD", ("TEST.RERANK.ENABLED", True, "TEST.RERANK.METHOD", "gnn")),
        ("TEST.NFC.ENABLED", ("TEST.NFC.ENABLED", True)),
        ("TEST.QUERIES", ("TEST.RERANK.ENABLED", True, "TEST.QUERIES", "alone")),
    ],
)
def test_what_the_hosts_evaluator_passes_over_is_refused(
    tiny_cfg: Callable[..., CfgNode], key: str, keys: tuple
) -> None:
    cfg = tiny_cfg("TEST.EVALUATOR", "host", *keys)
    for refuses in (check_config, lambda cfg: DefaultTrainer.build_evaluator(cfg, "FolderReID")):
        with pytest.raises(ValueError, match=f"{key} is for the plugin's evaluator, and TEST.EVALUATOR is host"):
            refuses(cfg)
    check_config(tiny_cfg(*keys))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (("TEST.RERANK.METHOD", "gnn"), "GNN re-ranking (k1 26, k2 7, 2 layers, alpha 2, lambda 0.3)"),
        (("TEST.NFC.ENABLED", True), "neighbor feature centralization (k1 2, k2 2), re-ranking"),
        (("TEST.QUERIES", "alone"), "each query with the gallery alone"),
    ],
)
def test_the_evaluator_takes_every_method(keys: tuple, words: str) -> None:
    features, queries = random_features(0)
    cfg = _cfg("TEST.RERANK.ENABLED", True, *keys)
    got = _run(PartsEvaluator(cfg, queries), features)
    ranking = Ranking(features, queries, cfg)
    distances = ranking.distances(range(queries))
    expected = count_ranks([(slice(0, queries), torch.from_numpy(-distances))], ranking.relevance).results()
    assert got["mAP"] == pytest.approx(expected["mAP"])
    assert got["mAP"] != evaluate_features(features, queries, _cfg("TEST.RERANK.ENABLED", True))["mAP"]
    assert words in describe_settings(cfg)


def test_bad_data() -> None:
    features, queries = random_features(0)
    with pytest.raises(ValueError, match="leave the query set or the gallery empty"):
        evaluate_features(features, len(features), _cfg())
    broken = features.features.copy()
    broken[queries + 2] = np.nan
    with pytest.raises(ValueError, match="gallery features hold NaN or infinite values, first in row 2"):
        evaluate_features(replace(features, features=broken), queries, _cfg())
    with pytest.raises(ValueError, match="nothing was processed"):
        PartsEvaluator(_cfg(), 3).evaluate()
    strangers = replace(features, pids=np.arange(len(features)))
    with pytest.raises(ValueError, match="none of the 30 queries can be scored"):
        evaluate_features(strangers, queries, _cfg())
