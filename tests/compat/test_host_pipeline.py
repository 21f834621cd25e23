"""The patched parts together: the host's own dataset, loaders, model and evaluator on the CPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode
from fastreid.data import build as host_build
from fastreid.data import build_reid_test_loader, build_reid_train_loader
from fastreid.data.datasets.market1501 import Market1501
from fastreid.evaluation import ReidEvaluator, inference_on_dataset
from fastreid.modeling import build_model
from fastreid.utils.events import EventStorage
from PIL import Image

from tests.conftest import write_market

Make = Callable[..., CfgNode]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Market-1501 naming, with one image of each awkward kind under a .jpg name, as downloads have them."""
    root = write_market(tmp_path_factory.mktemp("pipeline"))
    for mode, path in zip(("L", "RGBA", "P", "CMYK", "LA"), sorted((root / "bounding_box_train").glob("*.jpg"))):
        image = Image.open(path).convert(mode)
        image.save(path, format="JPEG" if mode in ("L", "CMYK") else "PNG")
    return root


@pytest.fixture
def stock(tiny_cfg: Make, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A config of the host's alone: Market1501, Baseline."""
    monkeypatch.setattr(host_build, "_root", str(folder))
    return lambda *more: tiny_cfg("DATASETS.NAMES", ("Market1501",), "DATASETS.TESTS", ("Market1501",), *more)


@pytest.mark.filterwarnings("ignore:The current data structure is deprecated")
class TestPipeline:
    def test_items_are_sorted(self, folder: Path) -> None:
        dataset = Market1501(root=str(folder))
        for items in (dataset.train, dataset.query, dataset.gallery):
            paths = [item[0] for item in items]
            assert paths == sorted(paths) and len(paths) > 3

    @pytest.mark.parametrize("sampler", ["NaiveIdentitySampler", "BalancedIdentitySampler", "SetReWeightSampler"])
    def test_a_training_step_with_each_identity_sampler(self, sampler: str, stock: Make) -> None:
        cfg = stock(
            "DATALOADER.SAMPLER_TRAIN", sampler,
            "DATALOADER.NUM_INSTANCE", 2,
            "DATALOADER.SET_WEIGHT", [1, 1, 1],
            "INPUT.RPT.ENABLED", True,
            "INPUT.AFFINE.ENABLED", True,
            "MODEL.HEADS.NUM_CLASSES", 6,
            "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"),
        )  # fmt: skip
        batch = next(itertools.islice(iter(build_reid_train_loader(cfg)), 1))
        assert batch["images"].shape == (12, 3, 48, 24)
        with EventStorage():
            losses = build_model(cfg).train()(batch)
        assert torch.isfinite(sum(losses.values()))

    @pytest.mark.parametrize(
        "options",
        [
            ("TEST.METRIC", "euclidean", "TEST.FLIP.ENABLED", True),
            ("TEST.AQE.ENABLED", True, "TEST.AQE.QE_K", 50, "TEST.RERANK.ENABLED", True, "TEST.ROC.ENABLED", True),
        ],
        ids=["flip", "everything"],
    )
    def test_evaluation(self, options: Any, stock: Make) -> None:
        cfg = stock("MODEL.DEVICE", "cuda", "MODEL.HEADS.NUM_CLASSES", 6, *options)
        loader, num_query = build_reid_test_loader(cfg, dataset_name="Market1501", num_workers=0)
        assert (num_query, len(loader.dataset)) == (4, 24)
        results = inference_on_dataset(
            build_model(cfg), loader, ReidEvaluator(cfg, num_query), flip_test=cfg.TEST.FLIP.ENABLED
        )
        assert results["mAP"] > 50  # identities are pairs of colors; random features give about 30
        assert results["Rank-10"] >= results["Rank-1"]
