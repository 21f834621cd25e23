"""Accuracy over strength: measured on images that are worse, kept step by step, drawn as it is."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from fastreid.config import CfgNode

from fastreid_parts.analysis import robustness, trained_models
from fastreid_parts.analysis.robustness import draw_robustness
from fastreid_parts.analysis.trained_models import load_test_images
from fastreid_parts.data.datasets.synthetic import NuisanceSettings
from fastreid_parts.pedestrians import Nuisances
from tests.analysis.models import numbers_of, refused
from tests.commands.run import problem, run


@pytest.fixture
def two(save: Callable[..., list[str]]) -> list[str]:
    """One that looks at colors, and one whose weights are all zero but for the last: it finds nothing."""

    def blind(state: dict) -> None:
        state["backbone.conv1.weight"] = torch.zeros_like(state["backbone.conv1.weight"])

    return [*save("sees"), *save("blind", change=blind)]


def test_a_curve_falls_and_says_what_of(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*two, "--corruptions", "exposure", "occlusion", "--of", "gallery"]
    numbers, printed = numbers_of(capsys, "robustness", tmp_path / "r.png", *words)
    curve = numbers["curves"]["exposure"]
    assert curve["unit"].startswith("stops") and list(curve["at"]) == ["0", "0.5", "1", "1.5", "2"]
    clean, worst = (curve["at"][strength]["sees"] for strength in ("0", "2"))
    assert clean["both"] == clean["query"] == clean["gallery"] and clean["both"]["mAP"] > 80
    assert worst["gallery"]["mAP"] < clean["both"]["mAP"]
    assert len({worst[of]["mAP"] for of in ("both", "query", "gallery")}) > 1, "three ways, three results"
    blind = {json.dumps(at["blind"]["both"]) for at in curve["at"].values()}
    assert len(blind) == 1, "what sees nothing is robust"
    assert "| exposure" in printed and "mAP [%] at each strength, gallery" in printed

    def never(*args: object) -> None:
        raise AssertionError("it was measured again")

    monkeypatch.setattr(robustness, "extract", never)
    again, printed = numbers_of(capsys, "robustness", tmp_path / "r.png", *words)
    assert again == numbers and "sees: done by an earlier call" in printed


def test_what_was_measured_is_kept_when_it_is_stopped(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the third step; the next call measures what is missing, to the same numbers as without a stop."""
    words = [*two[:4], "--corruptions", "misalignment", "--output", tmp_path / "r.png"]
    measured, results = robustness._corrupted, []

    def stopped(*args: object) -> object:
        if len(results) == 2:
            raise KeyboardInterrupt
        results.append(measured(*args))
        return results[-1]

    monkeypatch.setattr(robustness, "_corrupted", stopped)
    assert run(capsys, "robustness", *words, code=None).code == 130
    kept = json.loads((tmp_path / "r.json").read_text())["curves"]["misalignment"]["at"]
    assert [at["sees"] for at in kept.values() if at] == results and not (tmp_path / "r.png").exists()
    monkeypatch.setattr(robustness, "_corrupted", measured)
    numbers, _ = numbers_of(capsys, "robustness", *words[-1:], *words[:-2])
    straight, _ = numbers_of(capsys, "robustness", tmp_path / "s.png", *words[:-2])
    assert numbers == straight


def test_two_calls_at_once_keep_what_both_find(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call begins and ends while the first measures."""
    words, figure = [*two[:4], "--corruptions"], tmp_path / "r.png"
    measured, calls = robustness._corrupted, iter(range(1))

    def beside(*args: object) -> object:
        if next(calls, None) is not None:
            run(capsys, "robustness", *words, "blur", "--values", 0, "--output", figure)
        return measured(*args)

    monkeypatch.setattr(robustness, "_corrupted", beside)
    numbers, printed = numbers_of(capsys, "robustness", figure, *words, "exposure", "--values", 0)
    assert set(numbers["curves"]) == {"blur", "exposure"} and all(one["at"] for one in numbers["curves"].values())
    assert "| blur" in printed and "| exposure" in printed
    # Anew is anew
    numbers, _ = numbers_of(capsys, "robustness", figure, *words, "exposure", "--values", 0, "--overwrite")
    assert set(numbers["curves"]) == {"exposure"}


def test_numbers_of_others_stay(save: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    figure, words = tmp_path / "r.png", ["--corruptions", "blur", "--values", "0"]
    numbers_of(capsys, "robustness", figure, *save("one"), *words)
    before = figure.with_suffix(".json").read_bytes()
    other = [*save("other", change=lambda state: state.update(x=torch.zeros(1))), *words, "--output", figure]
    answer = run(capsys, "robustness", *other, code=2)
    assert "is of other models, settings or images, or another seed: --overwrite replaces it" in answer.err
    assert figure.with_suffix(".json").read_bytes() == before
    run(capsys, "robustness", *other, "--overwrite")
    assert list(json.loads(figure.with_suffix(".json").read_text())["models"]) == ["other"]


def test_a_curve_is_of_one_config_and_a_picture_stays(
    save: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The config file has the same name and other settings; a picture without numbers is somebody's."""
    figure, model, words = tmp_path / "r.png", save("one"), ["--corruptions", "blur", "--values", "0"]
    numbers_of(capsys, "robustness", figure, *model, *words)
    config, before = Path(model[2]), figure.with_suffix(".json").read_bytes()
    keys = yaml.safe_load(config.read_text())
    neutral = {**keys, "TEST": {**keys.get("TEST", {}), "IMS_PER_BATCH": 3}}
    config.write_text(yaml.safe_dump(neutral))
    numbers_of(capsys, "robustness", figure, *model, *words)
    config.write_text(yaml.safe_dump({**keys, "INPUT": {**keys.get("INPUT", {}), "SIZE_TEST": [40, 20]}}))
    assert "is of other models, settings or images" in problem(capsys, "robustness", *model, *words, "--output", figure)
    assert figure.with_suffix(".json").read_bytes() == before
    other = tmp_path / "mine.png"
    other.write_bytes(b"mine")
    assert "is there without its numbers" in problem(capsys, "robustness", *model, *words, "--output", other)
    assert other.read_bytes() == b"mine"


def test_a_curve_is_of_images_that_stayed(
    save: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image was replaced under its name; the one that lay there is put back for other tests."""
    figure, model, loaders = tmp_path / "r.png", save("one"), []
    digest = robustness._images_digest
    monkeypatch.setattr(robustness, "_images_digest", lambda loader: (loaders.append(loader), digest(loader))[1])
    words = [*model, "--corruptions", "blur", "--values", "0", "--output", figure]
    run(capsys, "robustness", *words)
    image = Path(loaders[0].dataset.img_items[-1][0])
    content, state = image.read_bytes(), image.stat()
    try:
        image.write_bytes(content + b"\0")
        assert "is of other models, settings or images" in problem(capsys, "robustness", *words)
    finally:
        image.write_bytes(content)
        os.utime(image, ns=(state.st_atime_ns, state.st_mtime_ns))
    run(capsys, "robustness", *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nuisances", "pose"], "--nuisances are of SyntheticReID, and one is tested on FolderReID"),
        (["--corruptions", "blur", "noise", "--values", "1"], "name one"),
        (["--corruptions", "blur", "--values", "51"], "from 0 to 50"),
        (["--nuisances", "pose", "--values", "3"], "give a number from 0 \\(off\\) to 2"),
        (["--nuisances", "pose", "--of", "query"], "--of is for --corruptions"),
        (["--corruptions", "fog"], "invalid choice: 'fog'"),
    ],
)
def test_what_is_refused(
    words: list[str], message: str, save: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert re.search(message, refused(capsys, "robustness", tmp_path / "r.png", *save("one"), *words))


def test_a_drawn_nuisance_draws_the_test_set_anew(
    save: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model sees sets of the strengths that are asked for, and of no other nuisance changed."""
    asked = []

    def load(cfg: CfgNode, *args: object) -> object:
        asked.append(NuisanceSettings.from_cfg(cfg).as_dict())
        there = cfg.clone()
        there.defrost()
        there.DATASETS.TESTS = ("FolderReID",)  # drawing takes a minute
        return load_test_images(there, *args)

    for module in (robustness, trained_models):
        monkeypatch.setattr(module, "load_test_images", load)
    words = [*save("one", "DATASETS.TESTS", ("SyntheticReID",)), "--nuisances", "occlusion", "--values", "0", "2"]
    numbers, _ = numbers_of(capsys, "robustness", tmp_path / "r.png", *words)
    usual = Nuisances().as_dict()
    assert asked == [usual, {**usual, "occlusion": 0.0}, {**usual, "occlusion": 2.0}]
    assert list(numbers["curves"]["occlusion, drawn"]["at"]) == ["0", "2"]


def test_there_must_be_something_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no curve of query to draw"):
        draw_robustness({"x": {"unit": "u", "at": {"0": {"m": {"both": {"mAP": 1.0}}}}}}, tmp_path / "x.png", "query")
