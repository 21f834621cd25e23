"""The configs on SyntheticReID under which mechanisms act: what each has, and why CMBN's mask does not stay flat."""

from __future__ import annotations

import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from fastreid.utils.events import EventStorage

from fastreid_parts.config import configs_root
from fastreid_parts.engine.solver import build_optimizer, parameter_settings
from fastreid_parts.mechanisms import mechanisms_of
from tests.paper_results.test_variants_build import read_config, shrink

MECHANISMS = {
    "cmbn_acting": {"mask", "reversal_mask"},
    "cge_acting": {"weights"},
    "rrid_acting": {"relation", "contrast"},
    "can_acting": {"attention"},
    "rmgl_acting": {"partition", "paths", "balanced_stripes"},
}


def small(name: str) -> CfgNode:
    """The config of that name with its backbone's smallest form, not pre-trained, and five identities."""
    return shrink(read_config(f"Synthetic/{name}.yml"))


def test_no_config_is_left_out() -> None:
    assert {path.stem for path in configs_root().glob("Synthetic/*_acting.yml")} == set(MECHANISMS)


@pytest.mark.parametrize("name", MECHANISMS)
def test_each_has_all_mechanisms_of_its_method(name: str) -> None:
    assert set(mechanisms_of(build_model(small(name)))) == MECHANISMS[name]


def test_the_rates_of_cmbns_generator() -> None:
    """Its weights alone move faster: its bias moves all channels alike."""
    cfg = small("cmbn_acting")
    model = build_model(cfg)
    names = {parameter: name for name, parameter in model.named_parameters()}
    settings = {names[one["params"][0]]: one for one in parameter_settings(cfg, model)}
    assert settings["heads.generator.weight"]["lr"] == pytest.approx(100 * cfg.SOLVER.BASE_LR)
    assert {one["lr"] for name, one in settings.items() if name != "heads.generator.weight"} == {cfg.SOLVER.BASE_LR}
    assert not any(one["weight_decay"] for one in settings.values())


def deviation_of_the_mask(*overrides: object) -> float:
    """Of CMBN's mask after 60 steps on one batch, which is learned in a few."""
    torch.manual_seed(0)
    cfg = small("cmbn_acting")
    cfg.merge_from_list(["MODEL.CMBN.REVERSAL_BRANCH", False, *overrides])
    model = build_model(cfg).train()
    optimizer, _ = build_optimizer(cfg, model)
    batch = {"images": torch.rand(10, 3, 32, 16) * 255, "targets": torch.arange(10) % 5}
    with EventStorage():
        for _ in range(60):
            optimizer.zero_grad()
            sum(model({**batch, "images": batch["images"].clone()}).values()).backward()
            optimizer.step()
    return model.eval().heads.mask.std().item()


def test_what_keeps_cmbns_mask_flat() -> None:
    """Adam divides by the size of the gradient: decay alone takes W_G to zero once L_ID2 is learned."""
    acting = deviation_of_the_mask()
    decay = ("SOLVER.WEIGHT_DECAY", 0.0005, "SOLVER.WEIGHT_DECAY_NORM", 0.0005)
    assert deviation_of_the_mask("SOLVER.LR_FACTORS", []) < 0.5 * acting
    assert deviation_of_the_mask(*decay) < 0.1 * acting
