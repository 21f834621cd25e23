"""Mechanisms: figures that change nothing, and models without what a method adds."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastreid.modeling import build_model
from torch import nn

from fastreid_parts.layers import ABPSettings, BalancedStripes
from fastreid_parts.layers.balanced_pooling import moved_bounds
from fastreid_parts.layers.channel_mask import mask_figures
from fastreid_parts.mechanisms import Mechanism, averages, mechanisms_of, neutral_form, relative_change, watching
from fastreid_parts.methods.can import CANHead, neighbor_angle
from fastreid_parts.methods.cge import revise_figures
from fastreid_parts.methods.cmbn import reversal_figures
from fastreid_parts.methods.rmgl import path_distance, receptive_share
from tests.conftest import CMBN
from tests.methods import test_can, test_cge, test_combined, test_mgn, test_rmgl, test_rrid
from tests.methods.tester import IDENTITIES, batch, build_head, losses_of

SIZE = (96, 24)
ABP = ("MODEL.ABP.MODE", "test")
PATHS = {"partition": {"change", "distance"}, "paths": {"receptive"}, "balanced_stripes": {"change", "moved"}}
# What a method is built from, and the figures of each of its mechanisms in training
METHODS = {
    "CMBN": (CMBN, {"mask": {"change", "std", "range"}, "reversal_mask": {"change", "std", "overlap"}}),
    "CGE": (test_cge.BOT, {"weights": {"change", "spread", "reordered"}}),
    "host": ((*test_cge.BOT, "MODEL.META_ARCHITECTURE", "Baseline"), {"weights": {"change", "spread", "reordered"}}),
    "RRID": (test_rrid.OVERRIDES, {"relation": {"change"}, "contrast": {"change"}}),
    "CAN": (test_can.OVERRIDES, {"attention": {"change", "angle"}}),
    "RMGL": ((*test_rmgl.OVERRIDES, *ABP), PATHS),
    "all": (
        (*test_rmgl.OVERRIDES, *test_combined.ALL),
        {
            "weights": {"change", "spread", "reordered"},
            "mask": {"change", "std", "range"},
            "contrast": {"change"},
            **PATHS,
        },
    ),
}  # fmt: skip
# Without the mechanism
WITHOUT = {
    "CMBN": ("MODEL.CMBN.MASK_GENERATOR", False, "MODEL.CMBN.REVERSAL_BRANCH", False),
    "CGE": ("MODEL.CGE.REVISE", False),
    "RRID": ("MODEL.RRID.RELATION", "none", "MODEL.RRID.GLOBAL_POOL", "gmp"),
    "CAN": ("MODEL.CAN.COLLABORATIVE_ATTENTION", False),
    "RMGL": ("MODEL.RMGL.PATHS", ["original"], "MODEL.ABP.MODE", "off"),
}


@pytest.fixture
def make(tiny_cfg: Callable[..., Any]) -> Callable[..., nn.Module]:
    def make(name: str, *overrides: object) -> nn.Module:
        torch.manual_seed(0)
        return build_model(tiny_cfg(*METHODS[name][0], "MODEL.HEADS.NUM_CLASSES", IDENTITIES, *overrides))

    return make


def top_alone(size: tuple[int, int]) -> dict[str, Any]:
    """Images of noise above plain gray: balanced stripes are not uniform."""
    inputs = batch(size=size)
    inputs["images"][:, :, size[0] // 4 :] = 120
    return inputs


def state_of(model: nn.Module) -> list[set[str]]:
    return [set(vars(module)) for module in model.modules()]


@pytest.mark.parametrize("name", METHODS)
def test_figures_in_training_change_nothing(make: Callable, name: str) -> None:
    model = make(name)
    plain, attributes = copy.deepcopy(model), state_of(model)
    for one in (model, plain):
        losses_of(one, batch(size=SIZE))  # memories are empty before
    with watching(model) as seen:
        losses = losses_of(model, batch(size=SIZE, seed=1))
        sum(losses.values()).backward()
    expected = losses_of(plain, batch(size=SIZE, seed=1))
    sum(expected.values()).backward()
    assert {mechanism: set(figures) for mechanism, figures in seen.items()} == METHODS[name][1]
    assert all(not v.requires_grad and v.ndim == 0 for figures in seen.values() for vs in figures.values() for v in vs)
    assert all(math.isfinite(value) for figures in averages(seen).values() for value in figures.values())
    assert {key: value.item() for key, value in losses.items()} == {key: v.item() for key, v in expected.items()}
    for (key, ours), theirs in zip(model.state_dict().items(), plain.state_dict().values()):
        assert torch.equal(ours, theirs), key
    for (key, ours), theirs in zip(model.named_parameters(), plain.parameters()):
        assert (ours.grad is None and theirs.grad is None) or torch.equal(ours.grad, theirs.grad), key
    assert state_of(model) == attributes


@pytest.mark.parametrize("name", METHODS)
def test_interventions_change_features_where_the_mechanism_acts(make: Callable, name: str) -> None:
    model, images = make(name), top_alone(SIZE)
    losses_of(model, images)
    if name in ("CMBN", "all"):  # masks start out flat
        model.eval().heads.mask += torch.rand(model.heads.mask.shape) / 10
    model.eval()
    with torch.no_grad():
        features = model(images)
        with watching(model) as seen:
            assert torch.equal(model(images), features)
        for mechanism, placed in mechanisms_of(model).items():
            for form in placed.mechanism.neutral:
                with neutral_form(model, mechanism, form):
                    without = model(images)
                assert without.shape == features.shape
                in_training_alone = mechanism not in seen
                assert torch.equal(without, features) == in_training_alone, (mechanism, form)
        assert torch.equal(model(images), features)
    assert METHODS[name][1].keys() - seen.keys() == METHODS[name][1].keys() & {"reversal_mask", "weights"}


@pytest.mark.parametrize("name", WITHOUT)
def test_a_model_without_the_mechanism_has_none(make: Callable, name: str) -> None:
    model = make(name, *WITHOUT[name])
    assert mechanisms_of(model) == {}
    with watching(model) as seen:
        losses_of(model, batch(size=SIZE))
    assert seen == {}


def test_the_hosts_mgn_with_balanced_stripes(tiny_cfg: Callable) -> None:
    torch.manual_seed(0)
    overrides = ("MODEL.META_ARCHITECTURE", "BalancedMGN", *ABP, "MODEL.ABP.POOL", "layer")
    model = build_model(tiny_cfg(*test_mgn.MGN, *overrides)).eval()
    images = top_alone(test_mgn.SIZE)["images"]
    with torch.no_grad():
        features = model(images)
        with neutral_form(model, "balanced_stripes", "uniform"):
            uniform = model(images)
    assert not torch.equal(uniform, features)
    model.stripes.mode = "off"
    assert torch.allclose(uniform, model(images), atol=1e-5)


# ---- where a mechanism is neutral -----------------------------------------------------------------------------------


def unchanged(model: nn.Module, mechanism: str, inputs: Any) -> bool:
    with torch.no_grad():
        features = model(inputs)
        for form in mechanisms_of(model)[mechanism].mechanism.neutral:
            with neutral_form(model, mechanism, form), watching(model) as seen:
                if not torch.allclose(model(inputs), features, atol=1e-6):
                    return False
            assert averages(seen)[mechanism]["change"] == pytest.approx(0, abs=1e-6)
    return True


def test_a_flat_mask_is_neutral(make: Callable) -> None:
    model = make("CMBN")
    losses_of(model, batch())
    model.eval().heads.mask.fill_(0.55)
    assert unchanged(model, "mask", batch())
    model.heads.mask[0] = 0.9
    assert not unchanged(model, "mask", batch())


@pytest.mark.parametrize(("mechanism", "relation"), [("relation", "local_relation"), ("contrast", "global_relation")])
def test_a_relation_that_gives_nothing_is_neutral(make: Callable, mechanism: str, relation: str) -> None:
    model = make("RRID").eval()
    assert not unchanged(model, mechanism, batch(size=SIZE))
    norm = getattr(model.heads, relation).norm
    norm.weight.data.zero_(), norm.bias.data.zero_()
    assert unchanged(model, mechanism, batch(size=SIZE))


def test_attention_to_neighbors_that_are_alike_is_neutral() -> None:
    head = build_head(CANHead, 4, parts=[1, 3], embedding_dim=8).eval()
    rows = torch.rand(2, 4, 1, 3).expand(-1, -1, 6, -1)
    assert unchanged(head, "attention", {"a": rows, "b": rows})
    assert not unchanged(head, "attention", {"a": rows, "b": rows * torch.rand(6, 1)})


def test_a_partition_that_changes_nothing_is_neutral(make: Callable) -> None:
    head = make("RMGL").eval().heads
    maps = {name: torch.rand(2, head.pooled_dim, 6, 3) for name in ("original/parts_of_2", "receptive/parts_of_2")}
    head.stripes["original"].mode = "off"
    maps.update({name.replace("2", "3"): x for name, x in maps.items()})
    assert not unchanged(head, "partition", maps)
    alike = {name: maps[name.replace("receptive", "original")] for name in maps}
    assert unchanged(head, "partition", alike)


def even_map() -> torch.Tensor:
    """Six rows, each with the maxima of two of the twelve channels."""
    x = torch.rand(1, 12, 6, 3) / 2
    for channel in range(12):
        x[0, channel, channel // 2, 0] = 1.0
    return x


def test_stripes_that_are_balanced_already() -> None:
    class Pooling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stripes = BalancedStripes(ABPSettings(mode="always", pool="max"))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.stripes(x, 3, nn.AdaptiveMaxPool2d(1))

    even = even_map()
    assert unchanged(Pooling(), "balanced_stripes", even) and moved_bounds(even, 3) == 0
    uneven = even.flip(1)[:, :, [0, 0, 0, 1, 2, 3]] + torch.arange(6)[:, None] / 10
    assert not unchanged(Pooling(), "balanced_stripes", uneven) and moved_bounds(uneven, [2, 3]) > 0


# ---- figures of known values ----------------------------------------------------------------------------------------


def test_relative_change() -> None:
    assert relative_change(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0])) == pytest.approx(0.2)
    assert relative_change(torch.zeros(2), torch.zeros(2)) == 0


def test_figures_of_a_mask() -> None:
    figures = mask_figures(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.2, 0.4, 0.4, 0.6]]))
    assert figures["std"] == pytest.approx(0.02**0.5) and figures["range"] == pytest.approx(0.4)


def test_a_reversal_mask_on_the_background_overlaps_less() -> None:
    features = torch.tensor([[3.0, 1.0]]).view(1, 1, 1, 2).expand(1, 4, 1, 2)
    flat, background = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0.2, 0.6]).view(1, 1, 1, 2)
    assert reversal_figures(flat, features)["overlap"] == pytest.approx(1)
    figures = reversal_figures(background, features)
    assert figures["overlap"] == pytest.approx((0.2 * 3 + 0.6) / 4 / 0.4) and figures["std"] == pytest.approx(0.2)


def test_revised_logits() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    alike = revise_figures(logits, torch.full((2, 3), 0.7))
    assert alike["spread"] == pytest.approx(0, abs=1e-6) and alike["reordered"] == pytest.approx(0)
    # The first image's order is turned around, correlation -1; the other's stays
    figures = revise_figures(logits, torch.tensor([[0.1, 0.3, 0.9], [0.5, 0.5, 0.5]]))
    assert figures["reordered"] == pytest.approx(1)
    assert figures["spread"] == pytest.approx(torch.tensor([0.1, 0.3, 0.9]).std(correction=0).item() / 2)


def test_neighbors_at_right_angles() -> None:
    assert neighbor_angle(torch.tensor([[[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]]])) == pytest.approx(45)


def test_paths_that_agree_and_paths_that_do_not() -> None:
    names = ["original/global_of_2", "receptive/global_of_2", "original/global_of_1"]
    features = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [5.0, 5.0]], [[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]])
    assert path_distance(features, names) == pytest.approx(0.5)
    assert receptive_share(features, names) == pytest.approx(5 / (2 + 5 + 100))


# ---- the contract ---------------------------------------------------------------------------------------------------


class Doubling(nn.Module):
    mechanisms = {
        "doubling": Mechanism("double", {"plain": lambda module, result, x: x}, lambda *_: {"one": torch.ones(())})
    }

    def double(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.double(x)


class Adding(Doubling):
    mechanisms = {"adding": Mechanism("add", {"plain": lambda module, result, x: x})}

    def add(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.add(super().forward(x))


def test_mechanisms_of_a_base_class_and_of_several_modules() -> None:
    model, x = nn.Sequential(Adding(), Doubling()), torch.tensor([1.0, 1.0])
    found = mechanisms_of(model)
    assert [*found] == ["adding", "doubling"] and found["doubling"].modules == [*model]
    with watching(model) as seen:
        assert model(x).tolist() == [6, 6]
        with neutral_form(model, "doubling", "plain"):
            assert model(x).tolist() == [2, 2]
    assert averages(seen)["adding"] == {"change": pytest.approx((1 / 3 + 1 / 2) / 2)}
    assert averages(seen)["doubling"]["one"] == 1 and len(seen["doubling"]["one"]) == 4


def test_an_error_leaves_the_model_as_it_was() -> None:
    model = Doubling()
    for context in (watching(model), neutral_form(model, "doubling", "plain")):
        with pytest.raises(RuntimeError), context:
            raise RuntimeError
    assert "double" not in vars(model) and model(torch.ones(1)) == 2
