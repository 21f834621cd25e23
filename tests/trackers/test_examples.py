"""The examples of docs/guides/trackers, each in its environment, on a sequence of three drawn people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastreid_parts.deployment.runtimes import read_description

from .conftest import EXAMPLES, HERE, python_of

pytestmark = pytest.mark.trackers

#: Example -> environment and options of its exported file; None: it gets a checkpoint
CASES = {
    "boxmot": ("boxmot", ("--for", "boxmot")),
    "ultralytics": ("ultralytics", ("--for", "ultralytics")),
    "deep_sort_realtime": ("trackers", ("--for", "deep-sort")),
    "norfair": ("trackers", None),
}


@pytest.fixture
def track(
    in_environment: Callable, trained: Callable, save: Callable, export: Callable, sequence: Path, tmp_path: Path
) -> Callable[..., Path]:
    """A function that runs an example on the sequence and gives the file that it wrote."""

    def run(example: str) -> Path:
        environment, options = CASES[example]
        python_of(environment)
        output, model = tmp_path / f"{example}.txt", trained("CMBN")
        file = save(*model) if options is None else export(*model, *options)
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


@pytest.mark.parametrize("environment", ["ultralytics"], indirect=True)
def test_its_detector_takes_the_file_by_its_settings(
    environment: str, in_environment: Callable, trained: Callable, export: Callable, sequence: Path, tmp_path: Path
) -> None:
    file = export(*trained("CMBN"), "--for", "ultralytics")
    dimension = read_description(file).dimension
    frame = sequence / "img1" / "000001.jpg"
    in_environment(environment, HERE / "ultralytics_yolo.py", file, frame, tmp_path, dimension)
