from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from fastreid.evaluation import inference_on_dataset
from fastreid.evaluation.reid_evaluation import ReidEvaluator
from fastreid.modeling import build_model
from torch import nn

from fastreid_parts.data.build import build_reid_test_loader
from fastreid_parts.data.datasets.folder import FolderReID
from fastreid_parts.data.names import Names, names_of
from fastreid_parts.evaluation import Features, evaluate_features, extract, identity_and_camera, who_and_where

NUM_QUERY = 4
IMAGES = 24


class MeanColor(nn.Module):
    """A model that normalizes its input in place and asks for the left half, so that a flip changes its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, batch: dict) -> torch.Tensor:
        assert not self.training
        images = batch["images"]
        images.sub_(images.new_full((1,), 100.0))
        return images[..., : images.shape[-1] // 2].mean(dim=(2, 3)) * self.scale


@pytest.fixture
def loader(tiny_cfg: Callable[..., CfgNode]) -> object:
    return build_reid_test_loader(tiny_cfg(), dataset_name="FolderReID")[0]


def naive(loader: object, flip: bool) -> np.ndarray:
    rows = []
    for batch in loader:
        for image in batch["images"].double().numpy():
            half = image[:, :, -12:] if flip else image[:, :, :12]
            rows.append([channel.mean() - 100 for channel in half])
    return np.array(rows)


def test_extract_is_the_loop(loader: object) -> None:
    model = MeanColor().train()
    result = extract(model, loader)
    assert model.training
    assert result.features.shape == (IMAGES, 3) and result.features.dtype == np.float32
    assert result.features == pytest.approx(naive(loader, flip=False), abs=1e-2)
    assert result.pids[:NUM_QUERY].tolist() == [101, 102, 103, 104]
    assert len(set(result.paths)) == IMAGES
    for pid, camera, path in zip(result.pids, result.camids, result.paths):
        assert f"{pid:04d}_c{camera + 1}s1" in path


def test_extract_averages_with_the_mirror_image(loader: object) -> None:
    expected = (naive(loader, flip=False) + naive(loader, flip=True)) / 2
    assert extract(MeanColor(), loader, flip=True).features == pytest.approx(expected, abs=1e-2)


def test_extract_leaves_the_batches_as_they_were() -> None:
    batch = {
        "images": torch.full((2, 3, 4, 4), 7.0),
        "targets": torch.tensor([1, 2]),
        "camids": torch.tensor([0, 1]),
        "img_paths": ["a.jpg", "b.jpg"],
    }
    extract(MeanColor(), [batch], flip=True)
    assert (batch["images"] == 7).all()


def test_extract_refuses() -> None:
    images = torch.zeros(2, 3, 4, 4)
    batch = {"images": images, "targets": torch.tensor([1, 2]), "camids": torch.tensor([0, 1]), "img_paths": ["a", "b"]}
    with pytest.raises(ValueError, match="empty"):
        extract(MeanColor(), [])
    with pytest.raises(ValueError, match="identities that are not numbers"):
        extract(MeanColor(), [{**batch, "targets": ["market_1", "market_2"]}])

    class TwoOutputs(MeanColor):
        def forward(self, batch: dict) -> tuple:
            return (super().forward(batch),) * 2

    with pytest.raises(ValueError, match=r"one tensor \(2, D\), got tuple"):
        extract(TwoOutputs(), [batch])


@pytest.mark.parametrize("flip", [False, True])
def test_same_numbers_as_the_host(tiny_cfg: Callable[..., CfgNode], flip: bool) -> None:
    cfg = tiny_cfg("MODEL.HEADS.NUM_CLASSES", 6, "TEST.FLIP.ENABLED", flip)
    torch.manual_seed(0)
    model = build_model(cfg)
    loader, num_query = build_reid_test_loader(cfg, dataset_name="FolderReID")
    expected = inference_on_dataset(model, loader, ReidEvaluator(cfg, num_query), flip_test=flip)
    result = evaluate_features(extract(model, loader, flip=flip), num_query, cfg)
    assert set(result) >= {"mAP", "mINP", "Rank-1", "Rank-5", "Rank-10"}
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, abs=1e-4), name


def test_evaluate_features_known_value(tiny_cfg: Callable[..., CfgNode]) -> None:
    """One query; its match in another camera comes second: AP and Rank-1 are 50 % and 0 %."""
    features = Features(
        np.array([[0.0, 1], [0, 1.1], [0, 1.2], [0, 1.3]], np.float32),
        np.array([1, 1, 2, 1]),
        np.array([1, 1, 1, 2]),
        ["q.jpg", "same_camera.jpg", "other.jpg", "match.jpg"],
    )
    result = evaluate_features(features, 1, tiny_cfg("TEST.METRIC", "euclidean"))
    assert result["mAP"] == pytest.approx(50)
    assert result["Rank-1"] == 0 and result["Rank-5"] == 100


def test_split() -> None:
    features = Features(np.zeros((3, 2), np.float32), np.arange(3), np.arange(3), ["a", "b", "c"])
    query, gallery = features.split(1)
    assert (len(query), len(gallery)) == (1, 2)
    assert gallery.paths == ["b", "c"] and gallery.pids.tolist() == [1, 2]
    for wrong in (0, 3, -1):
        with pytest.raises(ValueError, match="query set or the gallery empty"):
            features.split(wrong)


def test_features_must_agree_in_length() -> None:
    with pytest.raises(ValueError, match="'paths': 1"):
        Features(np.zeros((2, 2), np.float32), np.arange(2), np.arange(2), ["a"])
    with pytest.raises(ValueError, match="must be a matrix"):
        Features(np.zeros(2, np.float32), np.arange(2), np.arange(2), ["a", "b"])


def test_a_camera_has_the_number_of_its_files_name(market_folder: Path) -> None:
    """Search, rank lists and report show this one."""
    items = FolderReID(root=str(market_folder)).query
    assert len(items) == 4
    paths, pids, camids = zip(*items, ("none", -1, -1), ("no camera", 7, -1), ("nobody", -1, 2))
    images = Features(np.zeros((7, 2)), np.array(pids), np.array(camids), paths)
    for row, path in enumerate(paths[:4]):
        name = Path(path).name  # 0101_c1s1_000000_00.jpg
        assert who_and_where(images, row) == {"identity": int(name[:4]), "camera": int(name[6])}
        assert identity_and_camera(images, row) == [f"id {int(name[:4])}", f"cam {name[6]}"]
    assert who_and_where(images, 4) == {"identity": None, "camera": None} and identity_and_camera(images, 4) == []
    assert identity_and_camera(images, 5, long=True) == ["identity 7"] and identity_and_camera(images, 6) == ["cam 3"]


def test_names_survive_splitting_and_joining() -> None:
    """Two sets that number different people alike, and one that knows no one."""
    matrix = np.zeros((2, 3), np.float32)
    shop = Features(
        matrix, np.array([1, 2]), np.array([0, 1]), ["a", "b"], Names({1: "gus", 2: "hana"}, {0: "door", 1: "till"})
    )
    street = Features(
        matrix, np.array([1, 2]), np.array([1, 0]), ["c", "d"], Names({1: "eva", 2: "gus"}, {0: "1", 1: "till"})
    )
    nobody = Features(matrix, np.array([-1, -1]), np.array([-1, 4]), ["e", "f"])
    together = Features.concatenate([shop, street, nobody])
    assert names_of(together.pids, together.camids, together.names) == (
        ["gus", "hana", "eva", "gus", "", ""], ["door", "till", "till", "1", "", "5"],
    )  # fmt: skip
    assert together.pids[0] == together.pids[3] and together.camids[1] == together.camids[2]
    assert identity_and_camera(together.take(np.array([3, 0])), 0, long=True) == ["identity gus", "camera 1"]
    assert Features.concatenate([shop, shop]).names == shop.names
