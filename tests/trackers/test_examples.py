"""The examples of docs/guides/trackers, each in its environment, on a sequence of three drawn people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from .conftest import EXAMPLES, export

pytestmark = pytest.mark.trackers

#: Example -> environment and pixels that its exported file takes; None: it takes what an Embedder loads
CASES = {
    "boxmot": ("boxmot", "imagenet"),
    "ultralytics": ("ultralytics", "unit"),
    "deep_sort_realtime": ("trackers", None),
    "norfair": ("trackers", None),
}


@pytest.fixture
def track(in_environment: Callable, trained: Callable, sequence: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that runs an example on the sequence and gives the file that it wrote."""

    def run(example: str) -> Path:
        environment, pixels = CASES[example]
        cfg, model = trained("CMBN")
        if pixels is None:
            file = tmp_path / "model.pth"
            torch.save({"model": model.state_dict(), "config": cfg.dump()}, file)
        else:
            file = export(cfg, model, tmp_path / "model.onnx", pixels)
        output = tmp_path / f"{example}.txt"
        in_environment(environment, EXAMPLES / f"track_{example}.py", file, sequence, output)
        return output

    return run


def tracks_of(output: Path, sequence: Path) -> dict[int, dict[int, int]]:
    """Person -> frame -> the track whose box lies on the person's."""
    found: dict[int, dict[int, int]] = {1: {}, 2: {}, 3: {}}
    truth = np.loadtxt(sequence / "gt.txt", delimiter=",")
    for frame, track, *box in np.loadtxt(output, delimiter=",")[:, :6]:
        rows = truth[truth[:, 0] == frame]
        distances = np.abs(rows[:, 2:6] - box).max(1)
        assert distances.min() < 16, f"frame {frame}: track {track} is on nobody"
        found[int(rows[distances.argmin(), 1])][int(frame)] = int(track)
    return found


@pytest.mark.parametrize("example", CASES)
def test_who_walks_by_keeps_one_track(example: str, track: Callable, sequence: Path) -> None:
    found = tracks_of(track(example), sequence)
    for person in (1, 2):
        assert len(found[person]) >= 25 and len(set(found[person].values())) == 1, found
    assert set(found[1].values()).isdisjoint(found[2].values())


def test_norfair_knows_who_comes_back_elsewhere(track: Callable, sequence: Path) -> None:
    third = tracks_of(track("norfair"), sequence)[3]
    assert min(third) < 13 and max(third) > 20 and len(set(third.values())) == 1, third
