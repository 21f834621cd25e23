"""Exported files in BoxMOT and ultralytics, each in its environment: the features are those of `extract`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from torch import nn

from ..commands.test_extract import command_line
from ..deployment.models import MODELS
from .conftest import HERE, export

pytestmark = pytest.mark.trackers

#: Environment -> pixels that it feeds
PIXELS = {"boxmot": "imagenet", "ultralytics": "unit"}
WIDEN, MARGIN = 1.02, 10  # what ultralytics makes of a box before it cuts it out


def boxes_of(environment: str, number: int, height: int, width: int) -> np.ndarray:
    """Boxes of images one beside the other for which the environment cuts out exactly these."""
    left = np.arange(number) * float(width)
    boxes = np.stack([left, np.zeros(number), left + width, np.full(number, float(height))], 1)
    if environment == "boxmot":
        return boxes
    center, size = (boxes[:, :2] + boxes[:, 2:]) / 2 + 0.25, boxes[:, 2:] - boxes[:, :2]  # it rounds down
    half = (size - MARGIN) / WIDEN / 2
    return np.hstack([center - half, center + half])


@pytest.fixture
def features_of(in_environment: Callable, tmp_path: Path) -> Callable[..., np.ndarray]:
    """A function that gives the features that an environment takes of images of one size, all in one frame."""

    def take(environment: str, model: Path, images: list[np.ndarray]) -> np.ndarray:
        frame, boxes, output = tmp_path / "frame.png", tmp_path / "boxes.npy", tmp_path / f"{environment}.npy"
        cv2.imwrite(str(frame), np.concatenate(images, axis=1))
        np.save(boxes, boxes_of(environment, len(images), *images[0].shape[:2]))
        in_environment(environment, HERE / f"{environment}_features.py", model, frame, boxes, output)
        return unit(np.load(output))

    return take


@pytest.fixture
def extracted(tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., np.ndarray]:
    """A function that gives what `extract` stores of images."""

    def extract(cfg: CfgNode, model: nn.Module, images: list[np.ndarray]) -> np.ndarray:
        folder = tmp_path / "images"
        folder.mkdir()
        for number, image in enumerate(images):
            cv2.imwrite(str(folder / f"{number:02d}.png"), image)
        torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
        (tmp_path / "config.yml").write_text(cfg.dump())
        model_words = ("--config-file", tmp_path / "config.yml", "--weights", tmp_path / "model.pth")
        command_line.run(capsys, "extract", *model_words, "--output", tmp_path / "set", "--images", folder)
        return unit(np.load(tmp_path / "set" / "features.npy"))

    return extract


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def similarity(features: np.ndarray) -> float:
    """The mean cosine similarity of images of different people, of which each has three images."""
    person = np.arange(len(features)) // 3
    return float((features @ features.T)[person[:, None] != person].mean())


@pytest.mark.parametrize("environment", PIXELS)
@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_of_extract(
    environment: str, name: str, trained: Callable, people: Callable, features_of: Callable, extracted: Callable,
    tmp_path: Path,
) -> None:  # fmt: skip
    images = people(*MODELS[name][:2])
    cfg, model = trained(name, "TEST.FLIP.ENABLED", True)
    exported = export(cfg, model, tmp_path / "model.onnx", PIXELS[environment])
    features, expected = features_of(environment, exported, images), extracted(cfg, model, images)
    assert len(features) == len(expected) == 30
    assert (features * expected).sum(1).min() >= 0.999
    assert similarity(features) == pytest.approx(similarity(expected), abs=1e-3)


@pytest.mark.parametrize("environment", PIXELS)
def test_a_file_for_other_pixels_takes_all_people_for_one(
    environment: str, trained: Callable, people: Callable, features_of: Callable, extracted: Callable, tmp_path: Path
) -> None:
    """What the test above would see if `export --for` meant the wrong range."""
    images = people(*MODELS["CMBN"][:2])
    cfg, model = trained("CMBN")
    features = features_of(environment, export(cfg, model, tmp_path / "model.onnx", "raw"), images)
    expected = extracted(cfg, model, images)
    assert similarity(features) > 0.999 > similarity(expected) + 0.01
    assert (features * expected).sum(1).min() < 0.99
