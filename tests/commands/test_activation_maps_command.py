from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model

from fastreid_parts.commands import activation_maps


@pytest.fixture
def saved(tiny_cfg: Callable[..., CfgNode], cmbn_cfg: Callable[..., CfgNode], tmp_path: Path) -> dict:
    """Config file and weights of a stock baseline and of CMBN, trained on six identities."""
    result = {}
    for name, make in (("ide", tiny_cfg), ("cmbn", cmbn_cfg)):
        cfg = make("MODEL.HEADS.NUM_CLASSES", 6)
        torch.save({"model": build_model(cfg).state_dict()}, tmp_path / f"{name}.pth")
        cfg.MODEL.HEADS.NUM_CLASSES = 0  # as in a config that takes the number from its dataset
        (tmp_path / f"{name}.yml").write_text(cfg.dump())
        result[name] = (str(tmp_path / f"{name}.yml"), str(tmp_path / f"{name}.pth"))
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "people"
    folder.mkdir()
    for name in ("b.jpg", "a.PNG", "c.jpg"):
        cv2.imwrite(str(folder / name), np.random.default_rng(0).integers(0, 255, (48, 24, 3), dtype=np.uint8))
    (folder / "notes.txt").write_text("no image")
    return folder


def arguments(saved: dict, folder: Path, output: Path, *more: str) -> list:
    config, weights = saved["cmbn"]
    return ["--config-file", config, "--weights", weights, "--images", str(folder), "--output", str(output), *more]


def test_one_model(saved: dict, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "maps.png"
    assert activation_maps.main(arguments(saved, folder, output, "--max-images", "2")) == 0
    assert cv2.imread(str(output)) is not None
    assert "3 images; the first 2 are drawn" in capsys.readouterr().out


def test_two_models_the_baseline_first(
    saved: dict, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {}

    def draw(images: list, maps: dict, path: str, **_: object) -> None:
        drawn.update(maps)
        assert len(images) == 3 and path == str(tmp_path / "maps.png")

    monkeypatch.setattr(activation_maps, "draw_activation_maps", draw)
    config, weights = saved["ide"]
    more = ("--compare-config-file", config, "--compare-weights", weights, "--compare-label", "IDE")
    assert activation_maps.main(arguments(saved, folder, tmp_path / "maps.png", *more)) == 0
    assert list(drawn) == ["IDE", "cmbn"]
    assert all(maps.shape == (3, 48, 24) for maps in drawn.values())
    assert np.abs(drawn["IDE"] - drawn["cmbn"]).max() > 0.01


def test_several_models_with_saliency(saved: dict, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "saliency.png"
    models = ["--model", "BOT", *saved["ide"], "MODEL.PIXEL_MEAN", "[0.0, 0.0, 0.0]"]
    models += ["--model", "IDE", *saved["ide"], "--model", "CMBN", *saved["cmbn"]]
    common = ["--images", str(folder), "--output", str(output), "--show", "overlay", "--per-row", "1"]
    written = {}
    for reduce in ("max", "mean"):
        assert activation_maps.main([*models, *common, "--reduce", reduce]) == 0
        written[reduce] = json.loads((tmp_path / "saliency.json").read_text())
    assert cv2.imread(str(output)) is not None
    assert "3 images, BOT and IDE and CMBN" in capsys.readouterr().out
    numbers = written["max"]["models"]
    assert list(numbers) == ["BOT", "IDE", "CMBN"] and len(written["max"]["images"]) == 3
    assert numbers["BOT"] != numbers["IDE"] != written["mean"]["models"]["IDE"]
    assert all(0 < value < 1 for model in numbers.values() for value in model.values())


def test_branches(saved: dict, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "branches.png"
    trained = torch.load(saved["cmbn"][1])["model"]
    for key, value in trained.items():  # the branches start alike
        if key.startswith("backbone.branches.reversal") and key.endswith("conv1.weight"):
            torch.nn.init.normal_(value)
    torch.save({"model": trained}, saved["cmbn"][1])
    models = ["--model", "IDE", *saved["ide"], "--model", "CMBN", *saved["cmbn"]]
    common = ["--images", str(folder), "--output", str(output)]
    written = []
    for branch in ("all", "reversal"):
        assert activation_maps.main([*models, *common, "--branch", branch]) == 0
        written.append(json.loads((tmp_path / "branches.json").read_text())["models"])
    assert list(written[0]) == ["IDE", "CMBN backbone", "CMBN reversal"]
    assert list(written[1]) == ["IDE", "CMBN reversal"]
    assert written[0]["CMBN reversal"] == written[1]["CMBN reversal"] != written[0]["CMBN backbone"]
    assert activation_maps.main([*models, *common]) == 0
    plain = json.loads((tmp_path / "branches.json").read_text())["models"]
    assert plain["CMBN"] == written[0]["CMBN backbone"] and plain["IDE"] == written[0]["IDE"]

    capsys.readouterr()
    assert activation_maps.main([*models, *common, "--branch", "part3"]) == 1
    assert "CMBN has no branch part3: it has backbone, reversal" in capsys.readouterr().out
    exported = {key: value for key, value in trained.items() if "reversal" not in key}
    torch.save({"model": exported}, tmp_path / "exported.pth")
    words = ["--model", "CMBN", saved["cmbn"][0], str(tmp_path / "exported.pth")]
    assert activation_maps.main([*words, *common, "--branch", "backbone"]) == 0
    assert activation_maps.main([*words, *common, "--branch", "all"]) == 1
    assert "does not hold the branch reversal of CMBN" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        activation_maps.main([*models, *common, "--branch", "all", "backbone"])


def test_models_are_named_one_way_or_the_other(saved: dict, folder: Path, tmp_path: Path) -> None:
    common = ["--images", str(folder), "--output", str(tmp_path / "m.png")]
    config, weights = saved["ide"]
    for wrong in (
        [],
        ["--config-file", config],
        ["--model", "A", config],
        ["--model", "A", config, weights, "KEY"],
        ["--model", "A", config, weights, "--compare-config-file", config, "--compare-weights", weights],
    ):
        with pytest.raises(SystemExit):
            activation_maps.main([*common, *wrong])


def test_find_images(folder: Path) -> None:
    names = [Path(path).name for path in activation_maps.find_images([str(folder), str(folder / "c.jpg")])]
    assert names == ["a.PNG", "b.jpg", "c.jpg", "c.jpg"]


def test_bad_input_is_named(saved: dict, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "maps.png"

    def problem(*changes: str) -> str:
        assert activation_maps.main(arguments(saved, folder, output, *changes)) == 1
        assert not output.exists()
        return capsys.readouterr().out

    empty = tmp_path / "empty"
    empty.mkdir()
    assert "missing.jpg" in problem("--images", str(tmp_path / "missing.jpg"))
    assert "holds no image" in problem("--images", str(empty))
    assert "missing.pth" in problem("--weights", str(tmp_path / "missing.pth"))
    assert "nowhere.yml" in problem("--config-file", "nowhere.yml")
    assert "another model" in problem("--weights", saved["ide"][1])
    assert "NO_SUCH_KEY" in problem("--opts", "MODEL.NO_SUCH_KEY", "1")
    same = problem("--compare-config-file", saved["cmbn"][0], "--compare-weights", saved["cmbn"][1])
    assert "both models are named 'cmbn'" in same
    with pytest.raises(SystemExit):
        activation_maps.main(arguments(saved, folder, output, "--compare-weights", "x.pth"))
