"""Commands that change a folder: two at a time lose nothing, and one that was killed is run again."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastreid.config import CfgNode

from fastreid_parts import command_line
from fastreid_parts.files import LOCK
from fastreid_parts.pedestrians import generate
from fastreid_parts.retrieval import GalleryIndex, load_feature_set, save_feature_set

from .. import forks
from ..pedestrians.tiny import contents, tiny_demo  # noqa: F401  a fixture
from ..retrieval.galleries import DIMENSIONS, feature_set, given_by
from .test_extract import write_model

ROUNDS = pytest.mark.parametrize("rounds", [1, pytest.param(40, marks=pytest.mark.slow)])
PIDS = pytest.mark.parametrize("own_pids", [False, True])
KILLS = pytest.mark.parametrize("kills", [0, pytest.param(5, marks=pytest.mark.slow)])


def command(*words: object) -> Callable[[], None]:
    """A command for a child, which ends with the command's exit code."""
    return lambda: os._exit(command_line.main([str(word) for word in words]))


@pytest.fixture
def model(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> list[str]:
    return write_model(tiny_cfg(), tmp_path, "ide")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index over 200 images, and beside it features to add and to calibrate with."""
    save_feature_set(tmp_path / "gallery", feature_set(images=200))
    assert (
        command_line.main(["index", "build", "--index", str(tmp_path / "i"), "--features", str(tmp_path / "gallery")])
        == 0
    )
    for number in range(2):
        save_feature_set(tmp_path / f"more{number}", feature_set(images=200, queries=0, seed=number + 1))
    return tmp_path / "i"


@ROUNDS
@PIDS
def test_two_that_change_one_index(index: Path, tmp_path: Path, rounds: int, own_pids: bool) -> None:
    """ryaker/SparrowDB#441, codecoradev/uteke#543: what one of two writers wrote was lost without an error."""
    whole = tmp_path / "whole"
    shutil.copytree(index, whole)
    add = [command("index", "add", "--index", index, "--features", tmp_path / f"more{number}") for number in range(2)]
    remove = [command("index", "remove", "--index", index, "--rows", 2 * row, 2 * row + 1) for row in range(2)]
    calibrate = command("index", "calibrate", "--index", index, "--features", tmp_path / "gallery", "--fpr", "0.1")
    for _ in range(rounds):
        for works, images, calibrated in (
            (add, 600, False),
            (remove, 196, False),
            ([add[0], remove[0]], 398, False),
            ([add[0], calibrate], 400, True),
            ([remove[0], calibrate], 198, True),
            ([calibrate, calibrate], 200, True),
        ):
            shutil.rmtree(index)
            shutil.copytree(whole, index)
            assert forks.together(*works, own_pids=own_pids) == [0, 0]
            there = GalleryIndex.load(index)
            assert len(there) == images and (there.calibration is not None) == calibrated


@ROUNDS
@PIDS
def test_two_that_extract_to_one_folder(
    model: list[str], market_folder: Path, tmp_path: Path, rounds: int, own_pids: bool
) -> None:
    """hearbenchmark/hear-eval-kit#360: of two jobs, the second deleted what the first had computed."""
    same = command("extract", *model, "--output", tmp_path / "f")
    other = command("extract", *model, "--output", tmp_path / "f", "--images", market_folder / "query")
    assert forks.together(same) == [0]
    whole = given_by(tmp_path / "f")
    for _ in range(rounds):
        shutil.rmtree(tmp_path / "f")
        assert forks.together(same, same, own_pids=own_pids) == [0, 0] and given_by(tmp_path / "f") == whole
        shutil.rmtree(tmp_path / "f")
        assert sorted(forks.together(same, other, own_pids=own_pids)) == [0, forks.REFUSED]
        assert given_by(tmp_path / "f") == whole or len(load_feature_set(tmp_path / "f").features) == 4


@ROUNDS
def test_two_that_add_images_of_one_model(model: list[str], market_folder: Path, tmp_path: Path, rounds: int) -> None:
    """Their features are kept meanwhile in folders that neither takes from the other."""
    place = tmp_path / "i"
    build = command("index", "build", "--index", place, *model, "--images", market_folder / "bounding_box_test")
    images = sorted((market_folder / "query").iterdir())
    add = [command("index", "add", "--index", place, "--images", *part) for part in (images[:2], images[2:])]
    for _ in range(rounds):
        assert sorted(forks.together(build, build)) == [0, forks.REFUSED]
        shutil.rmtree(tmp_path / "i.features")  # of the one that was refused
        assert forks.together(*add) == [0, 0]
        assert len(GalleryIndex.load(place)) == 24 and not (tmp_path / "i.features").exists()
        shutil.rmtree(place)


def test_a_reader_beside_a_writer(index: Path, tmp_path: Path) -> None:
    """facebookresearch/faiss#861: workers that read while another one adds met half an index."""
    queries = np.random.default_rng(0).normal(size=(3, DIMENSIONS)).astype(np.float32)

    def write() -> None:
        for number in range(30):
            with GalleryIndex.held(index) as there:
                there.add(feature_set(images=5, queries=0, seed=10 + number))
                there.save(index)

    def read() -> None:
        sizes = [0]
        while sizes[-1] < 200 + 30 * 5:
            there = GalleryIndex.load(index)
            assert (there.search(queries, 5)[1] >= 0).all()
            sizes.append(len(there))
        assert sizes == sorted(sizes)

    assert forks.together(write, read, read) == [0, 0, 0]


@KILLS
@pytest.mark.parametrize(
    "what",
    [
        *("build", "add", "remove", "calibrate"),
        *(pytest.param(f"{what} images", marks=pytest.mark.slow) for what in ("build", "add", "extract", "synthesize")),
    ],
)
def test_a_killed_command_is_run_again(
    index: Path, model: list[str], market_folder: Path, tmp_path: Path, what: str, kills: int
) -> None:
    """Before every step that it takes on the disk, or at any time: it ends as one that was not killed."""
    target = index if what in ("add", "remove", "calibrate") else tmp_path / "target"
    if what == "add images":
        first = sorted((market_folder / "bounding_box_test").iterdir())[:5]
        assert forks.together(command("index", "build", "--index", target, *model, "--images", *first)) == [0]
    work = {
        "add": command("index", "add", "--index", index, "--features", tmp_path / "more0"),
        "add images": command("index", "add", "--index", target, "--images", market_folder / "query"),
        "remove": command("index", "remove", "--index", index, "--rows", 5, 6, "--identities", 3),
        "calibrate": command("index", "calibrate", "--index", index, "--features", tmp_path / "gallery", "--fpr", 0.1),
        "build": command("index", "build", "--index", target, "--features", tmp_path / "more0"),
        "build images": command("index", "build", "--index", target, *model, "--images", market_folder / "query"),
        "extract images": command("extract", *model, "--output", target),
        "synthesize images": lambda: generate(target, progress=False, size=(32, 32)),
    }[what]

    def result() -> object:
        if what == "synthesize images":
            return {name: digest for name, digest in contents(target).items() if not name.endswith(LOCK)}
        return given_by(target)

    before = tmp_path / "before"
    if target.exists():
        shutil.copytree(target, before)

    def start_over() -> None:
        shutil.rmtree(target)
        if before.exists():
            shutil.copytree(before, target)

    begin = time.monotonic()
    assert forks.together(work) == [0]
    lasted, whole = time.monotonic() - begin, result()
    random = np.random.default_rng(0)
    killed = 0
    for number in range(kills) if kills else itertools.count(step=7 if what == "synthesize images" else 1):
        start_over()
        if kills:
            child = forks.fork(work)
            time.sleep(random.uniform(0, lasted))
            os.kill(child, signal.SIGKILL)
            code = forks.code_of(child)
        else:
            code = forks.killed_at(number, work)
        if code == 0 and not kills:
            break
        killed += code == -signal.SIGKILL
        assert forks.together(work) == [0], (what, number)
        assert result() == whole and not (tmp_path / f"{target.name}.features").exists(), (what, number)
    print(f"{what}: killed {killed} times")
    assert killed > (0 if kills else 5)
