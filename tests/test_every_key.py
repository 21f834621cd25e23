"""Every key of the plugin's: its declaration, the reference, and whether fingerprints tell features apart by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling import build_model
from torch import nn

from fastreid_parts import settings
from fastreid_parts.checkpoints import needed_in_evaluation
from fastreid_parts.config import configs_root
from fastreid_parts.retrieval import model_fingerprint
from fastreid_parts.settings import DECLARED, Key

from .conftest import CMBN
from .methods import test_can, test_cge, test_combined, test_rmgl, test_rrid


class TestEveryKey:
    """Of the plugin's own declarations."""

    def test_none_is_declared_twice(self) -> None:
        names = [one.name for one in settings.all_keys()]
        assert len(names) == len(set(names)) >= 97

    def test_all_are_in_the_config_with_their_default_and_pass_their_own_check(self) -> None:
        cfg = get_cfg()
        for declared in DECLARED:
            values = declared.from_cfg(cfg)
            for one in declared.declared_keys():
                assert one.help and one.role in settings.ROLES, one
                assert one.of_host or getattr(values, one.attribute) == one.default, one

    def test_the_reference_names_each_once_with_default_and_explanation(self) -> None:
        text = settings.reference()
        for one in settings.all_keys():
            assert sum(line.split(" ")[0] == one.name for line in text.splitlines()) == 1, one.name
            assert one.help in text
        assert settings.reference("rrid.parts").count("MODEL.RRID.PARTS") == 1
        assert "MODEL.RRID.GLOBAL_POOL" not in settings.reference("rrid.parts")


# ---- fingerprints ---------------------------------------------------------------------------------------------------

MODELS = {
    "CMBN": (96, 24, CMBN),
    "CGE": (96, 24, test_cge.BOT),
    "RRID": (96, 24, test_rrid.OVERRIDES),
    "RRID balanced": (96, 24, (*test_rrid.OVERRIDES, "MODEL.ABP.MODE", "test", "MODEL.ABP.POOL", "avg")),
    "CAN": (96, 24, (*test_can.OVERRIDES, "MODEL.CAN.PARTS", [1, 4])),
    "RMGL": (96, 24, test_rmgl.OVERRIDES),
    "combined": (96, 24, (*test_rmgl.OVERRIDES, *test_combined.HEAD, *test_combined.GCP, *test_combined.MASK)),
}


def other_values(one: Key) -> list[Any]:
    """Values of a key that differ from its default, as a config holds them."""
    if one.known:
        values = [value for value in one.known if value != one.default]
        return [[value] for value in one.known] if isinstance(one.default, tuple) else values
    if isinstance(one.default, bool):
        return [not one.default]
    if isinstance(one.default, (int, float)):
        return [type(one.default)(one.default / 2 if one.high is not None else one.default + 1)]
    if isinstance(one.default, tuple) and one.default and isinstance(one.default[0], int):
        return [[2], [3, 2]]
    return []


OWN = {
    "CMBN": ("MODEL.CMBN.", "MODEL.BACKBONE.STEM."), "CGE": ("MODEL.CGE.",),
    "RRID": ("MODEL.RRID.",), "RRID balanced": ("MODEL.ABP.",),
    "CAN": ("MODEL.CAN.",), "RMGL": ("MODEL.RMGL.", "MODEL.ABP."),
    "combined": ("MODEL.RMGL.", "MODEL.RRID.CONTRAST", "MODEL.CMBN.DETACH_MASK"),
}  # fmt: skip


def cases() -> list[tuple[str, tuple]]:
    """Overrides of each model: every value of each key of its own, and all keys of the others at once."""
    found: list[tuple[str, tuple]] = []
    for model, own in OWN.items():
        others: list[Any] = []
        for one in settings.all_keys():
            values = other_values(one)
            if one.name.startswith(("MODEL.HEADS.TEST_FEAT", *own)):
                found += [(model, (one.name, value)) for value in values]
            elif one.name.startswith("MODEL.") and values and one.name != "MODEL.LOSSES.TRI.SQUARED":
                others += [one.name, values[0]]
        read = {name.rpartition(".")[0] for name in own} | {"MODEL.ABP", "MODEL.BACKBONE.STEM"}
        pairs = zip(others[::2], others[1::2], strict=True)
        found.append((model, tuple(x for key, v in pairs if key.rpartition(".")[0] not in read for x in (key, v))))
    found += [("CGE", ("MODEL.CGE.HEAD", head)) for head in ("EmbeddingHead", "ClassMapHead")]
    found += [("CGE", ("MODEL.HEADS.NAME", head)) for head in ("GlobalHead", "EmbeddingHead")]
    return found


class Fixed:
    """A model's features and fingerprint with the weights of the state that is given, as far as they fit."""

    def __init__(self, cfg: CfgNode, state: dict[str, torch.Tensor], images: torch.Tensor) -> None:
        torch.manual_seed(0)
        model = build_model(cfg).eval()
        own = model.state_dict()
        self.needed = {name: own[name].shape for name in needed_in_evaluation(model, own)}
        fitting = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
        model.load_state_dict(fitting, strict=False)
        self.fingerprint = model_fingerprint(cfg, model)
        with torch.no_grad():
            self.features = model(images)


def drawn(model: nn.Module) -> dict[str, torch.Tensor]:
    """A state in which nothing is as it was initialized, so that every layer tells."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, value in model.state_dict().items():
        noise = torch.rand(value.shape, generator=generator)
        state[name] = value + 0.05 * noise if value.is_floating_point() else value
    return state


@pytest.fixture(scope="module")
def plain_models() -> dict[str, tuple[Fixed, dict[str, torch.Tensor], torch.Tensor]]:
    return {}


@pytest.mark.parametrize(("name", "changes"), cases(), ids=lambda v: v if isinstance(v, str) else str(v)[:60])
def test_features_are_equal_if_and_only_if_fingerprints_are(
    name: str, changes: tuple, tiny_cfg: Callable[..., CfgNode], plain_models: dict
) -> None:
    height, width, overrides = MODELS[name]
    base = (*overrides, "INPUT.SIZE_TEST", [height, width], "MODEL.HEADS.NUM_CLASSES", 5)
    if name not in plain_models:
        torch.manual_seed(0)
        state = drawn(build_model(tiny_cfg(*base)))
        images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(2)) * 255
        plain_models[name] = Fixed(tiny_cfg(*base), state, images), state, images
    plain, state, images = plain_models[name]
    cfg = tiny_cfg(*base)
    try:
        cfg.merge_from_list(list(changes))
        other = Fixed(cfg, state, images)
    except ValueError as error:
        assert "does not read it" in str(error)  # there are no features to compare
        return
    assert torch.isfinite(plain.features).all()
    alike = plain.needed == other.needed and plain.features.shape == other.features.shape
    equal = alike and torch.allclose(plain.features, other.features, rtol=1e-4)
    assert (plain.fingerprint == other.fingerprint) == equal


def test_every_base_config_sets_no_key_that_its_model_does_not_read(tiny_cfg: Callable) -> None:
    for path in sorted(Path(configs_root()).glob("Base-*.yml")):
        cfg = get_cfg()
        cfg.merge_from_file(str(path))
        cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.PRETRAIN", False, "MODEL.BACKBONE.DEPTH", "18x"])
        cfg.merge_from_list(["MODEL.BACKBONE.FEAT_DIM", 512, "MODEL.HEADS.NUM_CLASSES", 3])
        build_model(cfg)
