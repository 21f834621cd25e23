"""Mechanisms of trained models: figures, results without them, and which are called idle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from torch import nn
from torch.utils.data import DataLoader

from fastreid_parts.analysis import mechanisms
from fastreid_parts.analysis.mechanisms import Examination, Examined, _alike, draw_mechanisms, examine
from fastreid_parts.data.build import build_reid_test_loader
from fastreid_parts.pedestrians import generate
from tests.analysis.models import CAN, RRID, numbers_of, refused
from tests.commands.run import run as run_command
from tests.conftest import CMBN
from tests.methods.test_cge import BOT as CGE

COSINE = ("TEST.METRIC", "cosine")


@pytest.fixture
def prepare(tiny_cfg: Callable[..., CfgNode]) -> Callable[..., tuple[nn.Module, DataLoader, int, CfgNode]]:
    def prepare(*overrides: object) -> tuple[nn.Module, DataLoader, int, CfgNode]:
        torch.manual_seed(0)
        cfg = tiny_cfg(*overrides, *COSINE, "MODEL.HEADS.NUM_CLASSES", 6)
        return build_model(cfg).eval(), *build_reid_test_loader(cfg, dataset_name="FolderReID"), cfg

    return prepare


def test_a_flat_mask_is_idle_and_another_is_not(prepare: Callable) -> None:
    model, loader, num_query, cfg = prepare(*CMBN)
    model.heads.mask.fill_(0.55)
    flat = examine(model, loader, num_query, cfg)
    mask = flat.mechanisms["mask"]
    assert flat.idle == ["mask"] and mask.verdict == "idle" and not mask.training_only
    assert mask.figures["std"] == pytest.approx(0, abs=1e-6) and mask.figures["change"] == pytest.approx(0, abs=1e-6)
    assert mask.without["its mean"] == pytest.approx(flat.results)
    model.heads.mask.copy_(torch.eye(32)[0])  # a single channel is left: cosines are 1 or -1
    single = examine(model, loader, num_query, cfg)
    assert single.idle == [] and single.mechanisms["mask"].verdict == "acts"
    assert single.mechanisms["mask"].without["its mean"] == pytest.approx(flat.results)
    assert single.results["mAP"] < flat.results["mAP"] - 1


def test_mechanisms_of_training_alone_are_measured_there(prepare: Callable) -> None:
    model, loader, num_query, cfg = prepare(*CMBN)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    examined = examine(model, loader, num_query, cfg)
    reversal = examined.mechanisms["reversal_mask"]
    assert reversal.training_only and reversal.verdict == "acts in training"
    assert set(reversal.figures) == {"change", "std", "overlap"} and reversal.without["its mean"] == examined.results
    model.backbone.reversal_block.norm.weight.data.zero_()  # one half everywhere
    assert "reversal_mask" in examine(model, loader, num_query, cfg).idle
    unknown = examine(model, loader, num_query, cfg, trainable=False).mechanisms["reversal_mask"]
    assert unknown.idle is None and unknown.verdict == "not measured in training" and not unknown.figures
    assert not any(module.training for module in model.modules())
    state["backbone.reversal_block.norm.weight"].zero_()
    state["heads.mask"] = model.heads.mask  # of these weights now
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_weights_of_an_empty_memory_are_idle(prepare: Callable) -> None:
    model, loader, num_query, cfg = prepare(*CGE)
    assert examine(model, loader, num_query, cfg).idle == ["weights"]
    memory = model.heads.revise.local_classifiers.memory
    memory.normal_().abs_().div_(memory.norm(dim=2, keepdim=True))
    memory[:, ::2] *= -1
    examined = examine(model, loader, num_query, cfg)
    assert examined.idle == [] and examined.mechanisms["weights"].figures["spread"] > 0.05


def test_a_query_at_most_is_of_those_that_have_a_match(prepare: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    model, loader, num_query, cfg = prepare(*CMBN)
    items = loader.dataset.img_items
    items[0] = (items[0][0], 9999, items[0][2])
    numbers = []
    monkeypatch.setattr(mechanisms, "_alike", lambda whole, without, scored: bool(numbers.append(scored)))
    examine(model, loader, num_query, cfg)
    assert set(numbers) == {num_query - 1}


@pytest.mark.parametrize(
    ("mAP", "rank1", "queries", "alike"),
    [
        (50.09, 60.0, 1000, True),
        (50.11, 60.0, 1000, False),
        (50.0, 60.05, 10000, True),
        (50.0, 60.2, 10000, False),
        (50.0, 70.0, 10, True),  # one query
        (50.0, 40.0, 10, False),
    ],
)
def test_what_counts_as_no_effect(mAP: float, rank1: float, queries: int, alike: bool) -> None:
    assert _alike({"mAP": 50.0, "Rank-1": 60.0}, {"mAP": mAP, "Rank-1": rank1}, queries) == alike


def test_the_figure(tmp_path: Path) -> None:
    whole, less = {"mAP": 80.0, "Rank-1": 90.0}, {"mAP": 60.0, "Rank-1": 95.0}
    acting = Examination(whole, {"paths": Examined({}, {"one": whole, "other": less}, False, False)})
    height = {}
    for name, models in {"one": {"a": acting}, "two": {"a": acting, "b$": acting}}.items():
        draw_mechanisms(models, tmp_path / f"{name}.png", "Without it")
        height[name] = cv2.imread(str(tmp_path / f"{name}.png")).shape[0]
    assert height["two"] > height["one"]
    with pytest.raises(ValueError, match="needs a model that has one"):
        draw_mechanisms({}, tmp_path / "none.png")


class TestCommand:
    def test_two_models(self, capsys: Any, save: Callable, tmp_path: Path) -> None:
        words = [*save("relation", *RRID, *COSINE), *save("attention", *CAN, *COSINE)]
        numbers, printed = numbers_of(capsys, "mechanisms", tmp_path / "x.png", *words)
        assert {name: list(model["mechanisms"]) for name, model in numbers.items()} == {
            "relation": ["relation", "contrast"],
            "attention": ["attention"],
        }
        for model in numbers.values():
            assert model["dataset"] == "FolderReID" and set(model["results"]) == {"mAP", "Rank-1"}
            for one in model["mechanisms"].values():
                assert 0 < one["figures"]["change"] < 1
                assert all(set(results) == {"mAP", "Rank-1"} for results in one["without"].values())
            assert model["idle"] == [name for name, one in model["mechanisms"].items() if one["idle"]]
        assert "no neighbor" in printed and "| change 0." in printed

    def test_identities_are_those_of_the_checkpoint(self, capsys: Any, save: Callable, tmp_path: Path) -> None:
        words = save("mask", *CMBN, *COSINE)
        numbers, _ = numbers_of(capsys, "mechanisms", tmp_path / "x.png", *words)
        assert numbers["mask"]["mechanisms"]["reversal_mask"]["figures"] == {}  # how many is not known
        checkpoint = torch.load(words[-1])
        checkpoint["config"] = "MODEL: {HEADS: {NUM_CLASSES: 6}}"
        torch.save(checkpoint, words[-1])
        numbers, printed = numbers_of(capsys, "mechanisms", tmp_path / "x.png", *words)
        assert set(numbers["mask"]["mechanisms"]["reversal_mask"]["figures"]) == {"change", "std", "overlap"}
        assert numbers["mask"]["idle"] == ["mask"] and "mask: mask had no effect" in printed

    def test_a_model_that_has_none(self, capsys: Any, save: Callable, tmp_path: Path) -> None:
        message = refused(capsys, "mechanisms", tmp_path / "x.png", *save("plain"))
        assert "plain has no mechanism: nothing in this Baseline declares one" in message


@pytest.fixture(scope="session")
def drawn_people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    generate(root, "demo", 0)
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "acting"),
    [
        ("cmbn", set()),
        ("cge_bot", set()),
        ("rrid_f", {"relation", "contrast"}),
        ("can", {"attention"}),
        ("rmgl", {"partition", "paths"}),
    ],
)
def test_of_models_that_were_trained(
    config: str, acting: set[str], drawn_people: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    """Two epochs from scratch: those whose removal must show do; masks and weights may be idle, and say it rightly."""
    monkeypatch.setattr("fastreid.data.build._root", str(drawn_people))
    changes = ("MODEL.DEVICE", "cpu", "SOLVER.MAX_EPOCH", 2, "SOLVER.STEPS", "[]", "TEST.EVAL_PERIOD", 0)
    run_command(capsys, "train", "--config-file", f"Synthetic/{config}.yml", *changes, "OUTPUT_DIR", tmp_path / "run")
    words = ("--model", "trained", tmp_path / "run" / "config.yaml", tmp_path / "run" / "model_final.pth")
    numbers, _ = numbers_of(capsys, "mechanisms", tmp_path / "x.png", *words)
    whole, mechanisms = numbers["trained"]["results"], numbers["trained"]["mechanisms"]
    assert acting <= mechanisms.keys() and not acting & set(numbers["trained"]["idle"])
    for name, one in mechanisms.items():
        assert one["figures"] and one["idle"] is not None, name
        if one["training_only"]:
            assert one["idle"] == (one["figures"]["change"] < 0.01)
        moved = max(abs(results["mAP"] - whole["mAP"]) for results in one["without"].values())
        assert moved < 0.1 or not one["idle"] or one["training_only"], name
