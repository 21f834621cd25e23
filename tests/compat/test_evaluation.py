"""Distances, query expansion, re-ranking and evaluation mode, alone and through the host's ReidEvaluator."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import fastreid.evaluation
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from fastreid.config import CfgNode, get_cfg
from fastreid.evaluation import ReidEvaluator, evaluator, inference_on_dataset, query_expansion, reid_evaluation
from fastreid.utils import compute_dist
from torch import nn

from fastreid_parts.compat import evaluation as patches
from fastreid_parts.evaluation.evaluator import check_test_metric

from .processes import enter_inference_context


def _features(count: int = 40, identities: int = 8, dim: int = 16, seed: int = 0) -> tuple:
    """Features of identities that differ, with their identities and cameras."""
    generator = torch.Generator().manual_seed(seed)
    pids = torch.arange(count) % identities
    centers = torch.randn(identities, dim, generator=generator)
    features = centers[pids] + 0.6 * torch.randn(count, dim, generator=generator)
    return features, pids, torch.arange(count) // identities % 3


def _cfg(*options: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(list(options))
    return cfg


def _evaluate(cfg: CfgNode, count: int = 40, num_query: int = 8) -> dict:
    features, pids, camids = _features(count)
    made = ReidEvaluator(cfg, num_query)
    for start in range(0, count, 7):
        part = slice(start, start + 7)
        made.process({"targets": pids[part], "camids": camids[part]}, features[part])
    return made.evaluate()


class TestReidEvaluator:
    def test_scores(self) -> None:
        results = _evaluate(_cfg())
        assert 50 < results["mAP"] < 100 and results["Rank-1"] >= results["mINP"]
        assert results["metric"] == pytest.approx((results["mAP"] + results["Rank-1"]) / 2)

    def test_nothing_is_compiled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def run(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("a compiler was started")

        monkeypatch.setattr(subprocess, "run", run)
        ReidEvaluator(_cfg(), 3)
        with pytest.raises(AssertionError, match="compiler"):
            ReidEvaluator._compile_dependencies.__wrapped__(object.__new__(ReidEvaluator))

    def test_a_gallery_of_three(self) -> None:
        features, pids, _ = _features(4, identities=2)
        made = ReidEvaluator(_cfg(), 1)
        made.process({"targets": pids, "camids": torch.arange(4)}, features)
        assert made.evaluate()["Rank-10"] == 100

    @pytest.mark.parametrize("metric", ["cosine", "euclidean"])
    def test_every_option_at_once(self, metric: str) -> None:
        options = ["TEST.METRIC", metric, "TEST.AQE.ENABLED", True, "TEST.RERANK.ENABLED", True]
        results = _evaluate(_cfg(*options, "TEST.ROC.ENABLED", True))
        assert 60 < results["mAP"] <= 100
        assert 0 <= results["TPR@FPR=1e-04"] <= results["TPR@FPR=1e-02"] <= 1

    def test_true_positive_rate_of_a_perfect_model(self) -> None:
        pids = torch.tensor([0, 1, 0, 1])
        made = ReidEvaluator(_cfg("TEST.ROC.ENABLED", True), 2)
        made.process({"targets": pids, "camids": torch.tensor([0, 0, 1, 1])}, torch.eye(2)[pids])
        assert made.evaluate()["TPR@FPR=1e-04"] == 1

    @pytest.mark.parametrize("metric", ["manhattan", "jaccard", ""])
    def test_an_unknown_metric(self, metric: str) -> None:
        cfg = _cfg("TEST.METRIC", metric)
        for refuse in (check_test_metric, lambda c: ReidEvaluator(c, 3)):
            with pytest.raises(ValueError, match=f"TEST.METRIC is '{metric}'; it is cosine or euclidean"):
                refuse(cfg)

    def test_no_query_can_be_scored(self) -> None:
        made = ReidEvaluator(_cfg(), 1)
        made.process({"targets": torch.tensor([1, 2]), "camids": torch.tensor([0, 1])}, torch.eye(2))
        with pytest.raises(ValueError, match="none of the 1 queries"):
            made.evaluate()


class TestEuclidean:
    def test_is_the_distance_and_not_its_square(self) -> None:
        x, y = torch.randn(5, 7), torch.randn(6, 7)
        want = (x[:, None] - y[None]).norm(dim=2).numpy()
        got = compute_dist.build_dist(x, y, "euclidean")
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=1e-5)
        try:
            host = compute_dist.compute_euclidean_distance.__wrapped__(x, y)
        except TypeError:  # its call of addmm_ is gone from torch
            return
        np.testing.assert_allclose(host, want**2, rtol=1e-3)

    def test_equal_features(self) -> None:
        x = 100 + torch.randn(300, 2048)  # where a difference of squares in float32 loses all digits
        distances = compute_dist.build_dist(x, x.clone(), "euclidean")
        assert not np.isnan(distances).any()
        assert np.diag(distances).max() < 1e-7 * x.norm(dim=1).max()
        assert distances[0, 1] == pytest.approx((x[0] - x[1]).norm().item(), rel=1e-5)

    def test_more_rows_than_a_chunk(self) -> None:
        x, y = torch.randn(600, 3), torch.randn(4, 3)
        want = torch.cdist(x.double(), y.double()).numpy()
        np.testing.assert_allclose(compute_dist.build_dist(x, y, "euclidean"), want, rtol=1e-5, atol=1e-6)

    def test_half_precision(self) -> None:
        x = torch.randn(3, 5).half()
        want = torch.cdist(x.float(), x.float()).numpy()
        np.testing.assert_allclose(compute_dist.build_dist(x, x, "euclidean"), want, rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="what happens without CUDA")
class TestReranking:
    def test_works_without_a_gpu(self) -> None:
        features, *_ = _features()
        distances = compute_dist.build_dist(features[:8], features[8:], "jaccard", k1=10, k2=4)
        assert distances.shape == (8, 32)
        assert distances.min() >= 0 and distances.max() <= 1
        with pytest.raises((RuntimeError, AssertionError)):
            compute_dist.compute_jaccard_distance.__wrapped__(features, 10, 4)

    def test_equals_the_hosts_cpu_search(self) -> None:
        features, *_ = _features()
        want = compute_dist.compute_jaccard_distance.__wrapped__(features, 10, 4, search_option=3)
        np.testing.assert_array_equal(compute_dist.compute_jaccard_distance(features, 10, 4), want)

    def test_fewer_images_than_k1(self) -> None:
        features, pids, _ = _features(9, identities=3)
        distances = compute_dist.compute_jaccard_distance(features, k1=20, k2=6)
        want = compute_dist.compute_jaccard_distance.__wrapped__(features, k1=9, k2=6, search_option=3)
        np.testing.assert_array_equal(distances, want)
        assert np.isfinite(distances).all()

    def test_faiss_without_gpu_code(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)
        assert not patches._gpu_search_works()


class TestQueryExpansion:
    @pytest.mark.parametrize("count", [2, 4, 10])
    def test_fewer_images_than_k(self, count: int) -> None:
        features, *_ = _features(count)
        with pytest.raises(ValueError):
            query_expansion.aqe.__wrapped__(features[:1], features[1:], 1, 10)
        query, gallery = reid_evaluation.aqe(features[:1], features[1:], 1, 10)
        assert query.shape == (1, 16) and gallery.shape == (count - 1, 16)
        assert torch.isfinite(gallery).all()

    def test_enough_images_are_the_hosts(self) -> None:
        features, *_ = _features()
        got = query_expansion.aqe(features[:8], features[8:], 2, 5, 2.0)
        want = query_expansion.aqe.__wrapped__(features[:8], features[8:], 2, 5, 2.0)
        assert all(torch.equal(a, b) for a, b in zip(got, want))


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.BatchNorm2d(4)
        self.frozen.eval()

    def forward(self, batch: dict) -> torch.Tensor:
        return self.head(self.frozen(batch["images"])).mean(dim=(2, 3))


def _modes(model: nn.Module) -> list:
    return [module.training for module in model.modules()]


class TestInferenceContext:
    def test_frozen_layers_stay_frozen(self) -> None:
        model = _Net().train()
        model.frozen.eval()
        before = _modes(model)
        assert True in before and False in before
        with evaluator.inference_context(model):
            assert not any(_modes(model))
        assert _modes(model) == before
        with evaluator.inference_context.__wrapped__(model):
            pass
        assert all(_modes(model))  # the host's thaws them

    def test_an_exception_restores_too(self) -> None:
        model = _Net().train()
        with pytest.raises(KeyError), evaluator.inference_context(model):
            raise KeyError
        assert model.training

    def test_a_module_that_overrides_train_is_told(self) -> None:
        class Told(nn.Module):
            calls: list = []

            def train(self, mode: bool = True) -> nn.Module:
                self.calls.append(mode)
                return super().train(mode)

        model = Told()
        with evaluator.inference_context(model):
            pass
        assert model.calls == [False, True]

    def test_through_the_hosts_inference(self) -> None:
        model = _Net().train()
        model.frozen.eval()
        before = _modes(model)
        features, pids, camids = _features(12, identities=4, dim=3)
        batches = [
            {"images": f.view(1, 3, 1, 1).expand(1, 3, 5, 5).contiguous(), "targets": p[None], "camids": c[None]}
            for f, p, c in zip(features, pids, camids)
        ]

        class Loader(list):
            dataset = batches

        results = inference_on_dataset(model, Loader(batches), ReidEvaluator(_cfg(), 4), flip_test=True)
        assert 0 < results["mAP"] <= 100
        assert _modes(model) == before

    def test_stands_where_the_host_looks_it_up(self) -> None:
        assert evaluator.inference_context is fastreid.evaluation.inference_context is patches.inference_context

    def test_all_processes_evaluate_the_first_ones_model(self, tmp_path: Path) -> None:
        mp.spawn(enter_inference_context, args=(2, str(tmp_path)), nprocs=2)
        first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
        assert torch.equal(first["before"], torch.tensor([0.0] * 4))
        assert torch.equal(second["before"], torch.tensor([1.0] * 4))
        assert torch.equal(first["within"], first["before"])
        assert torch.equal(second["within"], first["before"])
        assert second["count"] == 5  # an integer buffer is left alone


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(0)
    yield
