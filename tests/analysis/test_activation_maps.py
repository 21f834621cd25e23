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

from fastreid_parts.analysis import activation_maps
from fastreid_parts.analysis.activation_maps import response_spread
from tests.commands.run import problem, run


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
    return [
        "activation-maps",
        "--config-file",
        config,
        "--weights",
        weights,
        "--images",
        str(folder),
        "--output",
        str(output),
        *more,
    ]


def test_one_model(saved: dict, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "maps.png"
    printed = run(capsys, *arguments(saved, folder, output, "--max-images", "2")).out
    assert cv2.imread(str(output)) is not None
    assert "3 images; the first 2 are drawn" in printed


def test_two_models_the_baseline_first(
    saved: dict, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {}

    def draw(images: list, maps: dict, path: str, **_: object) -> None:
        drawn.update(maps)
        assert len(images) == 3 and path == str(tmp_path / "maps.png")

    monkeypatch.setattr(activation_maps, "draw_activation_maps", draw)
    config, weights = saved["ide"]
    more = ("--compare-config-file", config, "--compare-weights", weights, "--compare-label", "IDE")
    run(capsys, *arguments(saved, folder, tmp_path / "maps.png", *more))
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
        printed = run(capsys, "activation-maps", *models, *common, "--reduce", reduce).out
        written[reduce] = json.loads((tmp_path / "saliency.json").read_text())
    assert cv2.imread(str(output)) is not None
    assert "3 images, BOT and IDE and CMBN" in printed
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
    call = ["activation-maps", "--images", folder, "--output", output]
    written = []
    for branch in ("all", "reversal"):
        run(capsys, *call, *models, "--branch", branch)
        written.append(json.loads((tmp_path / "branches.json").read_text())["models"])
    assert list(written[0]) == ["IDE", "CMBN backbone", "CMBN reversal"]
    assert list(written[1]) == ["IDE", "CMBN reversal"]
    assert written[0]["CMBN reversal"] == written[1]["CMBN reversal"] != written[0]["CMBN backbone"]
    run(capsys, *call, *models)
    plain = json.loads((tmp_path / "branches.json").read_text())["models"]
    assert plain["CMBN"] == written[0]["CMBN backbone"] and plain["IDE"] == written[0]["IDE"]

    missing = problem(capsys, *call, *models, "--branch", "part3")
    assert "CMBN has no branch part3: it has backbone, reversal" in missing
    exported = {key: value for key, value in trained.items() if "reversal" not in key}
    torch.save({"model": exported}, tmp_path / "exported.pth")
    words = ["--model", "CMBN", saved["cmbn"][0], str(tmp_path / "exported.pth")]
    run(capsys, *call, *words, "--branch", "backbone")
    assert "does not hold the branch reversal of CMBN" in problem(capsys, *call, *words, "--branch", "all")
    assert "--branch takes" in problem(capsys, *call, *models, "--branch", "all", "backbone")


def test_models_are_named_one_way_or_the_other(
    saved: dict, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    common = ["--images", str(folder), "--output", str(tmp_path / "m.png")]
    config, weights = saved["ide"]
    for wrong in (
        [],
        ["--config-file", config],
        ["--model", "A", config],
        ["--model", "A", config, weights, "KEY"],
        ["--model", "A", config, weights, "--compare-config-file", config, "--compare-weights", weights],
    ):
        said = problem(capsys, "activation-maps", *common, *wrong)
        assert "--" in said or "'KEY' has no value" in said


def test_bad_input_is_named(saved: dict, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "maps.png"

    def message(*changes: str) -> str:
        found = problem(capsys, *arguments(saved, folder, output, *changes))
        assert not output.exists()
        return found

    empty = tmp_path / "empty"
    empty.mkdir()
    assert "missing.jpg" in message("--images", str(tmp_path / "missing.jpg"))
    assert "holds no image" in message("--images", str(empty))
    assert "missing.pth" in message("--weights", str(tmp_path / "missing.pth"))
    assert "nowhere.yml" in message("--config-file", "nowhere.yml")
    assert "another model" in message("--weights", saved["ide"][1])
    assert "NO_SUCH_KEY" in message("--opts", "MODEL.NO_SUCH_KEY", "1")
    same = message("--compare-config-file", saved["cmbn"][0], "--compare-weights", saved["cmbn"][1])
    assert "both models are named 'cmbn'" in same
    assert "needs both" in message("--compare-weights", "x.pth")


def test_response_spread_is_the_loop() -> None:
    maps = np.random.default_rng(0).random((2, 9, 4)).astype(np.float32)
    result = response_spread(maps)
    cells = [(y, float(maps[n, y, x])) for n in range(2) for y in range(9) for x in range(4)]
    assert result["area"] == pytest.approx(sum(value >= 0.5 for _, value in cells) / len(cells))
    for third, name in enumerate(("upper", "middle", "lower")):
        values = [value for y, value in cells if y // 3 == third]
        assert result[name] == pytest.approx(sum(values) / len(values), abs=1e-6)
    for bad in (maps[:0], maps[:, :2]):
        with pytest.raises(ValueError, match="at least three rows"):
            response_spread(bad)


def test_occlusion_is_another_map_of_the_whole_feature(
    saved: dict, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "maps.png"
    run(capsys, *arguments(saved, folder, output, "--kind", "occlusion", "--max-images", "1"))
    numbers = json.loads(output.with_suffix(".json").read_text())
    assert numbers["kind"] == "occlusion" and 0 < numbers["models"]["cmbn"]["area"] < 1
    for more in (("--branch", "all"), ("--reduce", "max")):
        said = problem(capsys, *arguments(saved, folder, output, "--kind", "occlusion", *more))
        assert "neither --branch nor --reduce" in said
