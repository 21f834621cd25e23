"""extract: what it stores of a trained model, and what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model

from fastreid_parts.commands import extract as command
from fastreid_parts.data.build import build_reid_test_loader
from fastreid_parts.evaluation import extract
from fastreid_parts.retrieval import extraction, load_feature_set

from . import run as command_line


def write_model(cfg: CfgNode, folder: Path, name: str, seed: int = 0) -> list[str]:
    """Write an untrained model as config file and weights, and give the words that name it."""
    torch.manual_seed(seed)
    cfg = cfg.clone()
    cfg.MODEL.HEADS.NUM_CLASSES = 6
    torch.save({"model": build_model(cfg).state_dict()}, folder / f"{name}.pth")
    cfg.MODEL.HEADS.NUM_CLASSES = 0  # as in a config that takes the number from its dataset
    (folder / f"{name}.yml").write_text(cfg.dump())
    return ["--config-file", str(folder / f"{name}.yml"), "--weights", str(folder / f"{name}.pth")]


@pytest.fixture
def save(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> Callable[..., list[str]]:
    return lambda name, seed=0: write_model(tiny_cfg(), tmp_path, name, seed)


@pytest.fixture
def run(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """A function that runs the command and gives what it prints."""
    return lambda *words: command_line.run(capsys, "extract", *words).out


def test_the_test_set_of_a_config(
    save: Callable, run: Callable, tmp_path: Path, tiny_cfg: Callable[..., CfgNode]
) -> None:
    model, out = save("ide"), tmp_path / "new" / "set"
    printed = run(*model, "--output", out, "--opts", "TEST.FLIP.ENABLED", "True")
    stored = load_feature_set(out)
    assert (
        f"FolderReID: 4 queries, 20 images of the gallery, 512 dimensions, model {stored.fingerprint[:12]}" in printed
    )
    cfg = tiny_cfg("MODEL.HEADS.NUM_CLASSES", 6)
    net = build_model(cfg)
    net.load_state_dict(torch.load(model[-1])["model"])
    loader, num_query = build_reid_test_loader(cfg, dataset_name="FolderReID")
    expected = extract(net, loader, flip=True)
    np.testing.assert_allclose(stored.features.features, expected.features, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(stored.features.pids, expected.pids)
    assert list(stored.features.paths) == list(expected.paths) and stored.num_query == num_query == 4
    assert stored.dataset == "FolderReID" and stored.to_cfg().TEST.FLIP.ENABLED
    assert model[-1] == stored.to_cfg().MODEL.WEIGHTS  # an index that is built over them knows its model


def test_images_of_folders_and_files(save: Callable, run: Callable, tmp_path: Path, market_folder: Path) -> None:
    gallery, file = market_folder / "bounding_box_test", next((market_folder / "query").iterdir())
    printed = run(*save("ide"), "--output", tmp_path / "set", "--half", "--images", gallery, file, file)
    assert "21 images, 512 dimensions" in printed and "queries" not in printed
    stored = load_feature_set(tmp_path / "set")
    assert stored.num_query == 0 and stored.dataset == "" and set(stored.features.pids) == {-1}
    assert stored.features.paths[-1] == str(file) and len(stored.features) == 21
    assert np.load(tmp_path / "set" / "features.npy").dtype == np.float16


def test_a_command_that_was_stopped_goes_on(
    save: Callable, run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = (*save("ide"), "--output", tmp_path / "set", "--opts", "TEST.IMS_PER_BATCH", "6")
    passes: list[int] = []

    def stopping(model: Any, loader: Any, flip: bool) -> Any:
        passes.append(len(loader.dataset))
        if len(passes) == 3:
            raise KeyboardInterrupt
        return extract(model, loader, flip=flip)

    monkeypatch.setattr(extraction, "extract", stopping)
    monkeypatch.setattr(
        command, "extract_to_store", lambda *args, **names: extraction.extract_to_store(*args, part_size=6, **names)
    )
    assert command_line.run(capsys, "extract", *words, code=130).err == "fastreid-parts extract: interrupted\n"
    run(*words)
    assert passes == [6, 6, 6, 6, 6]  # the third was stopped and is computed again
    assert len(load_feature_set(tmp_path / "set").features) == 24
    before = (tmp_path / "set" / "features.npy").read_bytes()
    run(*words)
    assert len(passes) == 5 and (tmp_path / "set" / "features.npy").read_bytes() == before
    words = (*save("other", seed=1), "--output", tmp_path / "set")
    assert "another model or of other settings" in command_line.problem(capsys, "extract", *words)
    assert (tmp_path / "set" / "features.npy").read_bytes() == before


def test_refuses(
    save: Callable, run: Callable, tmp_path: Path, market_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    model, out = save("ide"), tmp_path / "set"

    def problem(*words: object, model: list[str] = model) -> str:
        printed = command_line.problem(capsys, "extract", *model, "--output", out, *words)
        assert not out.exists()
        return printed

    assert "neither an image nor a folder 'x'" in problem("--images", "x")
    (tmp_path / "empty").mkdir()
    assert "holds no image" in problem("--images", tmp_path / "empty")
    assert "no dataset is named 'Market1502'" in problem("--dataset", "Market1502")
    assert "names no test set" in problem("--opts", "DATASETS.TESTS", "()")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(next((market_folder / "query").iterdir()).read_bytes()[:300])
    assert "cut.jpg" in problem("--images", market_folder / "query", cut)
    run(*model, "--output", tmp_path / "skipped", "--images", market_folder / "query", cut,
        "--opts", "DATALOADER.BAD_IMAGES", "skip")  # fmt: skip
    assert len(load_feature_set(tmp_path / "skipped").features) == 4
    assert "no weights file" in problem(model=[*model[:3], "x.pth"])
    assert "no config file" in problem(model=["--config-file", "x.yml", *model[2:]])
    assert "not allowed with argument" in problem("--dataset", "A", "--images", "b")
    assert "pairs KEY VALUE" in problem("--opts", "TEST.METRIC")


def test_processes_of_torchrun_share_the_work(save: Callable, run: Callable, tmp_path: Path) -> None:
    words = [*save("ide"), "--opts", "TEST.IMS_PER_BATCH", "5"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as torchrun says of its processes
    try:
        run(*words[:4], "--output", tmp_path / "one", *words[4:])
    finally:
        torch.set_num_threads(threads)

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    call = [*torchrun, "-m", "fastreid_parts", "extract", *words[:4], "--output", str(tmp_path / "two"), *words[4:]]
    done = subprocess.run(call, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("512 dimensions") >= 1
    for name in ("features.npy", "images.csv", "manifest.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name


def test_a_process_that_was_killed_keeps_nobody_waiting(
    save: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = (*save("ide"), "--output", tmp_path / "set", "--opts", "TEST.IMS_PER_BATCH", "6")
    kill = (
        "import os, signal, sys\nfrom fastreid_parts.retrieval import extraction\n"
        "from fastreid_parts import command_line\nsave = extraction.save_feature_set\n"
        "def killed(folder, *args, **names):\n    save(folder, *args, **names)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "extraction.save_feature_set, extraction._PART_SIZE = killed, 6\nsys.exit(command_line.main())\n"
    )
    env = {**os.environ, "RANK": "0", "WORLD_SIZE": "2"}
    done = subprocess.run([sys.executable, "-c", kill, "extract", *map(str, words)], env=env, capture_output=True)
    assert done.returncode == -signal.SIGKILL and (tmp_path / "set" / "parts" / "000000000").is_dir(), done.stderr

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert "Share 2 of 2 is done" in command_line.run(capsys, "extract", *words).out
    assert not (tmp_path / "set" / "manifest.json").exists()
    passes: list[int] = []

    def counting(model: Any, loader: Any, flip: bool) -> Any:
        passes.append(len(loader.dataset))
        return extract(model, loader, flip=flip)

    monkeypatch.setattr(extraction, "extract", counting)
    monkeypatch.setenv("WORLD_SIZE", "3")  # resumed by another number of processes
    monkeypatch.setenv("RANK", "0")
    assert "Share 1 of 3 is done" in command_line.run(capsys, "extract", *words).out  # 0 to 6 are there
    monkeypatch.setenv("RANK", "1")
    assert "4 queries, 20 images" in command_line.run(capsys, "extract", *words).out
    assert passes == [6]
    assert load_feature_set(tmp_path / "set").features.features.shape == (24, 512)


def test_processes_that_cannot_be(
    save: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "2")
    words = (*save("ide"), "--output", tmp_path / "set")
    assert "numbered from 0 to 1" in command_line.problem(capsys, "extract", *words)
    monkeypatch.setenv("RANK", "1")
    for name in ("build", "add"):
        words = (name, "--index", tmp_path / "index", "--features", tmp_path / "set")
        problem = command_line.problem(capsys, "index", *words)
        assert "index is done by one: call it without torchrun" in problem
    assert not (tmp_path / "index").exists()
