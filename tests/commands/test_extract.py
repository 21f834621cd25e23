"""extract: what it stores of a trained model, and what it refuses."""

from __future__ import annotations

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
