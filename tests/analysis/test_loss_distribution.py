"""Losses of single images: each model's own classification loss, what the pass must not change, curve and command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from torch import nn

from fastreid_parts.analysis.loss_distribution import (
    cumulative_loss,
    draw_loss_distribution,
    image_losses,
    share_of_hardest,
)
from fastreid_parts.visualization.style import Sheet
from tests.analysis.models import numbers_of, refused
from tests.conftest import CMBN
from tests.methods.tester import batch

PARTS = ("MODEL.META_ARCHITECTURE", "PartsBaseline")
REA = ("INPUT.REA.ENABLED", True)
FOCAL = (*PARTS, "MODEL.LOSSES.NAME", ("FocalLoss", "TripletLoss"))
STOCK = ("MODEL.META_ARCHITECTURE", "Baseline")
CGE = ("MODEL.HEADS.NAME", "CGEHead")
SMOOTHED = ("MODEL.LOSSES.CE.EPSILON", 0.1)


def make(tiny_cfg: Callable[..., CfgNode], *overrides: object) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(tiny_cfg("MODEL.HEADS.NUM_CLASSES", 3, *overrides))
    for module in model.modules():  # statistics that a batch would not have
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
    memory = model.state_dict().get("heads.revise.local_classifiers.memory")
    if memory is not None:
        memory.copy_(F.normalize(torch.randn_like(memory).abs(), dim=-1))
    return model


def batches(*sizes: int) -> list[dict[str, Any]]:
    whole = {**batch(), "img_paths": [f"{number}.jpg" for number in range(6)]}
    edges = np.cumsum([0, *sizes])
    return [{key: value[a:b] for key, value in whole.items()} for a, b in zip(edges, edges[1:])]


def plain_logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits of the host's head behind a BNNeck, in evaluation mode, from its layers."""
    model.eval()
    with torch.no_grad():
        feature_map = model.backbone((images - model.pixel_mean) / model.pixel_std)
        feature = model.heads.bottleneck(model.heads.pool_layer(feature_map))[..., 0, 0]
        return feature @ model.heads.weight.t()


@pytest.mark.parametrize("architecture", [PARTS, STOCK], ids=["parts", "stock"])
def test_cross_entropy_is_the_loop(tiny_cfg: Callable[..., CfgNode], architecture: tuple) -> None:
    model = make(tiny_cfg, *architecture, *SMOOTHED)
    result = image_losses(model, batches(4, 2))
    inputs = batch()
    logits = plain_logits(model, inputs["images"])
    for row, target in enumerate(inputs["targets"]):
        log_p = torch.log_softmax(logits[row], dim=0)
        # Eq. (5): epsilon / K; the host's own loss spreads epsilon over the K - 1 others
        spread = 0.1 / 3 if architecture is PARTS else 0.1 / 2
        smoothed = [spread] * 3
        smoothed[int(target)] = 1 - 0.1 + (spread if architecture is PARTS else 0)
        expected = -sum(y * float(p) for y, p in zip(smoothed, log_p))
        assert result.losses[row] == pytest.approx(expected, rel=1e-4)
    assert list(result.paths) == [f"{number}.jpg" for number in range(6)]
    assert result.losses.std() > 0.01


def test_focal_loss(tiny_cfg: Callable[..., CfgNode]) -> None:
    model = make(tiny_cfg, *PARTS, "MODEL.LOSSES.NAME", ("FocalLoss", "TripletLoss"), "MODEL.LOSSES.FL.GAMMA", 2)
    alpha = tiny_cfg().MODEL.LOSSES.FL.ALPHA
    result = image_losses(model, batches(6))
    inputs = batch()
    probability = plain_logits(model, inputs["images"]).softmax(dim=1)[range(6), inputs["targets"]].double()
    expected = -alpha * (1 - probability) ** 2 * probability.log()
    assert result.losses == pytest.approx(expected.numpy(), rel=1e-4)


@pytest.mark.parametrize("architecture", [PARTS, STOCK], ids=["parts", "stock"])
def test_cge_is_measured_on_revised_logits(tiny_cfg: Callable[..., CfgNode], architecture: tuple) -> None:
    model = make(tiny_cfg, *architecture, *CGE)
    result = image_losses(model, batches(6))
    inputs = batch()
    logits = plain_logits(model, inputs["images"])
    with torch.no_grad():
        feature_map = model.backbone((inputs["images"] - model.pixel_mean) / model.pixel_std)
    weights = torch.ones(6, 3)
    for stripe in range(3):  # the map has three rows
        local = F.normalize(feature_map[:, :, stripe].mean(dim=2), dim=1)
        weights *= torch.sigmoid(local @ model.heads.revise.local_classifiers.memory[stripe].t()) ** (1 / 3)
    expected = F.cross_entropy(logits * weights, inputs["targets"], reduction="none").numpy()
    assert result.losses == pytest.approx(expected, rel=1e-4)
    assert np.abs(result.losses - F.cross_entropy(logits, inputs["targets"], reduction="none").numpy()).max() > 0.01


def test_all_branches_count_with_their_weights(tiny_cfg: Callable[..., CfgNode]) -> None:
    model = make(tiny_cfg, *CMBN)
    result = image_losses(model, batches(6))
    inputs = batch()
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        losses = model(inputs, step="joint")  # no loss over features here: the mean over the batch is the same thing
    assert len(losses) == 3
    assert result.losses.mean() == pytest.approx(float(sum(losses.values())), rel=1e-4)


@pytest.mark.parametrize("overrides", [(*PARTS, *CGE), (*STOCK, *CGE), CMBN], ids=["parts", "stock", "cmbn"])
def test_nothing_is_changed_and_the_batch_does_not_matter(tiny_cfg: Callable[..., CfgNode], overrides: tuple) -> None:
    model = make(tiny_cfg, *overrides, "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"))
    model.eval()
    model.backbone.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    attributes = set(model.__dict__)
    data = batches(6)
    whole = image_losses(model, data)
    assert torch.equal(data[0]["images"], batch()["images"])
    assert image_losses(model, batches(1, 3, 2)).losses == pytest.approx(whole.losses, rel=1e-4)
    assert np.array_equal(image_losses(model, batches(6)).losses, whole.losses)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert set(model.__dict__) == attributes


def test_cumulative_loss() -> None:
    losses = np.array([3.0, 0.0, 1.0, 4.0])
    assert cumulative_loss(losses) == pytest.approx([0, 0, 1 / 8, 4 / 8, 1])
    assert share_of_hardest(losses, 0.25) == pytest.approx(4 / 8)
    assert share_of_hardest(losses, 0.5) == pytest.approx(7 / 8)
    assert share_of_hardest(losses, 0.125) == pytest.approx(2 / 8)  # half of the hardest image
    assert share_of_hardest(losses, 1) == pytest.approx(1) and share_of_hardest(losses, 0) == 0
    assert share_of_hardest(np.full(50, 0.3), 0.1) == pytest.approx(0.1)


def test_bad_losses_are_named() -> None:
    with pytest.raises(ValueError, match="1 of 3 images is not finite"):
        cumulative_loss(np.array([1, np.nan, 2]))
    for losses in ([0.0, 0.0], [-1.0, 2.0]):
        with pytest.raises(ValueError, match="none is negative and not all are zero"):
            cumulative_loss(np.array(losses))
    with pytest.raises(ValueError, match="no losses"):
        cumulative_loss(np.array([]))


def test_models_that_do_not_classify(tiny_cfg: Callable[..., CfgNode]) -> None:
    for architecture in (PARTS, STOCK):
        model = make(tiny_cfg, *architecture, "MODEL.LOSSES.NAME", ("TripletLoss",))
        with pytest.raises(ValueError, match="not trained to classify"):
            image_losses(model, batches(6))
    with pytest.raises(ValueError, match="not of Linear"):
        image_losses(nn.Linear(1, 1), batches(6))
    with pytest.raises(ValueError, match="no batch"):
        image_losses(make(tiny_cfg), [])


# ---- the figure


def test_the_curve_is_the_cumulative_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheets = []
    monkeypatch.setattr(Sheet, "save", lambda sheet, path: sheets.append((sheet, path)))
    draw_loss_distribution({"BOT": np.array([3.0, 0.0, 1.0, 4.0])}, tmp_path / "losses.png")
    ((sheet, path),) = sheets
    assert path == tmp_path / "losses.png"
    diagonal, curve = sheet.figure.axes[1].get_lines()
    assert curve.get_label() == "BOT"
    assert curve.get_xdata() == pytest.approx([0, 25, 50, 75, 100])
    assert curve.get_ydata() == pytest.approx([0, 0, 12.5, 50, 100])
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 100]


def test_several_models(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path = tmp_path / "new" / "losses.png"
    draw_loss_distribution({"BOT": random.random(30), "$CGE$": random.random(40) ** 4}, path, title="Title")
    assert cv2.imread(str(path)) is not None
    with pytest.raises(ValueError, match="at least one model"):
        draw_loss_distribution({}, path)
    with pytest.raises(ValueError, match="not finite"):
        draw_loss_distribution({"BOT": np.array([np.inf, 1])}, path)


# ---- the command


def test_table_figure_and_numbers(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "new" / "losses.png"
    words = [*save("BOT", *REA, *PARTS), *save("FL", *REA, *FOCAL), *save("stock", *REA)]
    texts = []
    for _ in range(2):  # the same numbers again: no augmentation, nothing at random
        numbers, printed = numbers_of(capsys, "loss-distribution", output, *words)
        texts.append(output.with_suffix(".json").read_text())
    assert texts[0] == texts[1]
    assert list(numbers) == ["BOT", "FL", "stock"]
    for model in numbers.values():
        losses = np.array([loss for _, loss in model["losses"]])
        assert len(losses) == model["images"] == 36 and (np.diff(losses) <= 0).all()
        assert len({path for path, _ in model["losses"]}) == 36
        assert model["mean_loss"] == pytest.approx(losses.mean(), rel=1e-4)
        for part, share in model["share_of_hardest"].items():
            assert share == pytest.approx(share_of_hardest(losses, float(part[:-1]) / 100), rel=1e-3)
            assert f" {100 * share:.1f} |" in printed
    assert numbers["BOT"]["mean_loss"] == pytest.approx(numbers["stock"]["mean_loss"], rel=1e-3)
    # Cross-entropy of six identities that the untrained model tells apart by chance, and alpha = 0.5 times less
    assert numbers["BOT"]["mean_loss"] == pytest.approx(np.log(6), rel=0.3)
    assert numbers["FL"]["mean_loss"] < 0.5 * numbers["BOT"]["mean_loss"]


def test_bad_input_is_named(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "losses.png"

    def problem(*words: str) -> str:
        return refused(capsys, "loss-distribution", output, *words)

    bot = save("BOT", *PARTS)
    assert "lacks heads.weight, which the loss of exported needs" in problem(
        *save("exported", *PARTS, change=lambda state: state.pop("heads.weight"))
    )
    assert "trained on 5 identities (heads.weight)" in problem(*save("five", identities=5))
    assert "not trained to classify" in problem(*save("metric", *PARTS, "MODEL.LOSSES.NAME", ("TripletLoss",)))
    assert "missing.pth" in problem(*bot[:3], "missing.pth")
    assert "both models are named 'BOT'" in problem(*bot, *bot)
    assert "--model takes NAME CONFIG WEIGHTS" in problem(*bot[:3])
