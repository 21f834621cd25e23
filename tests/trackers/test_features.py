"""Exported files in BoxMOT and ultralytics, each in its environment: the features are those of `extract`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from fastreid.config import CfgNode
from torch import nn

from ..commands import run as command_line
from ..deployment.models import MODELS
from .conftest import HERE

pytestmark = pytest.mark.trackers

in_each = pytest.mark.parametrize("environment", ["boxmot", "ultralytics"], indirect=True)
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
def extracted(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., np.ndarray]:
    """A function that gives what `extract` stores of images."""

    def extract(cfg: CfgNode, model: nn.Module, images: list[np.ndarray]) -> np.ndarray:
        folder, features = tmp_path / "images", tmp_path / f"features_{cfg.INPUT.RESIZE}"
        folder.mkdir(exist_ok=True)
        for number, image in enumerate(images):
            cv2.imwrite(str(folder / f"{number:02d}.png"), image)
        command_line.run(capsys, "extract", "--model", save(cfg, model), "--output", features, "--images", folder)
        return unit(np.load(features / "features.npy"))

    return extract


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def similarity(features: np.ndarray) -> float:
    """The mean cosine similarity of images of different people, of which each has three images."""
    person = np.arange(len(features)) // 3
    return float((features @ features.T)[person[:, None] != person].mean())


@in_each
@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_of_extract(
    environment: str, name: str, trained: Callable, people: Callable, features_of: Callable, extracted: Callable,
    export: Callable,
) -> None:  # fmt: skip
    images = people(*MODELS[name][:2])
    cfg, model = trained(name, "TEST.FLIP.ENABLED", True)
    features = features_of(environment, export(cfg, model, "--for", environment), images)
    expected = extracted(cfg, model, images)
    assert len(features) == len(expected) == 30
    assert (features * expected).sum(1).min() >= 0.999
    assert similarity(features) == pytest.approx(similarity(expected), abs=1e-3)


@in_each
def test_a_file_for_other_pixels_takes_all_people_for_one(
    environment: str, trained: Callable, people: Callable, features_of: Callable, extracted: Callable, export: Callable
) -> None:
    """What the test above would see if `export --for` meant the wrong range."""
    images = people(*MODELS["CMBN"][:2])
    cfg, model = trained("CMBN")
    features = features_of(environment, export(cfg, model, "--input", "raw"), images)
    expected = extracted(cfg, model, images)
    # The numbers of docs/guides/trackers/index.md
    assert similarity(features) > 0.999
    assert similarity(expected) == pytest.approx(0.914, abs=5e-3)
    assert (features * expected).sum(1).min() < 0.99


#: Size of the images, of which the model takes 96 x 24 -> INPUT.RESIZE -> smallest cosine
RESIZED = {(64, 16): {"bicubic": 0.983, "bilinear": 0.999}, (192, 48): {"bicubic": 0.992, "bilinear": 0.969}}


@in_each
@pytest.mark.parametrize("size", RESIZED)
def test_what_their_resizing_costs(
    environment: str, size: tuple[int, int], trained: Callable, people: Callable, features_of: Callable,
    extracted: Callable, export: Callable,
) -> None:  # fmt: skip
    """The table of docs/guides/trackers/index.md: they interpolate bilinearly, and smooth nothing before."""
    images = people(*size)
    cfg, model = trained("CMBN")
    features = features_of(environment, export(cfg, model, "--for", environment), images)
    least = {}
    for resize in RESIZED[size]:
        cfg.INPUT.RESIZE = resize
        least[resize] = float((features * extracted(cfg, model, images)).sum(1).min())
    assert least == pytest.approx(RESIZED[size], abs=3e-3)
