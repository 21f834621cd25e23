"""The vocabulary of tests that every method inherits."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling import build_model
from fastreid.utils.events import EventStorage
from torch import nn

from fastreid_parts.engine import PartsTrainer
from fastreid_parts.engine.solver import parameter_settings
from fastreid_parts.parts_head import HeadSettings, PartsHead

IDENTITIES = 6


def build_head(kind: type[PartsHead], feat_dim: int, **values: Any) -> PartsHead:
    """A head of fast-reid's and the plugin's defaults, but for the fields of its settings that are named."""
    torch.manual_seed(0)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    arguments = {}
    for name, declared in {"heads": HeadSettings, **kind.reads}.items():
        fields = {one.attribute for one in declared.declared_keys()} & values.keys()
        arguments[name] = dataclasses.replace(declared.from_cfg(get_cfg()), **{f: values.pop(f) for f in fields})
    assert not values, values
    return kind(feat_dim=feat_dim, **arguments)


def batch(n: int = 6, size: tuple[int, int] = (48, 24), seed: int = 0) -> dict[str, Any]:
    """Random images in 0 to 255; two of each identity."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "images": torch.rand(n, 3, *size, generator=generator) * 255,
        "targets": torch.arange(n) // 2,
        "camids": torch.zeros(n, dtype=torch.long),
    }


def losses_of(model: nn.Module, inputs: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
    with EventStorage():
        return model(inputs, **kwargs)


class MethodTester:
    """Subclasses name the config; `variants` are overrides under which the method must hold as well."""

    overrides: tuple = ()
    variants: tuple = ((),)
    dimension: int = 0
    size: tuple[int, int] = (48, 24)
    unused_in_training: tuple = ()

    @pytest.fixture
    def make(self, tiny_cfg: Callable[..., CfgNode]) -> Callable[..., nn.Module]:
        def make(*overrides: object) -> nn.Module:
            torch.manual_seed(0)
            return build_model(self.config(tiny_cfg, *overrides))

        return make

    def config(self, tiny_cfg: Callable[..., CfgNode], *overrides: object) -> CfgNode:
        return tiny_cfg(*self.overrides, "MODEL.HEADS.NUM_CLASSES", IDENTITIES, *overrides)

    def test_smoke_losses_are_finite_in_every_variant(self, make: Callable) -> None:
        for variant in self.variants:
            for value in losses_of(make(*variant), batch(size=self.size)).values():
                assert torch.isfinite(value) and value.ndim == 0

    def test_shapes_one_feature_vector_an_image(self, make: Callable) -> None:
        model = make().eval()
        for size in (self.size, (self.size[0] * 2, 32)):
            assert model(batch(size=size)).shape == (6, self.dimension)
        assert model(batch(size=self.size)["images"]).shape == (6, self.dimension)

    def test_training_without_targets_raises(self, make: Callable) -> None:
        with pytest.raises(ValueError, match="targets"):
            make()(batch()["images"])

    def test_every_parameter_gets_a_gradient(self, make: Callable) -> None:
        for variant in self.variants:
            model = make(*variant)
            sum(losses_of(model, batch(size=self.size)).values()).backward()
            without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
            assert without == [], variant
            zero = [n for n, p in model.named_parameters() if p.requires_grad and not p.grad.abs().sum() > 0]
            assert [n for n in zero if n not in self.unused_in_training] == [], variant

    def test_evaluation_is_deterministic_and_leaves_the_state_alone(self, make: Callable) -> None:
        model = make().eval()
        state = copy.deepcopy(model.state_dict())
        first, second = model(batch(size=self.size)), model(batch(size=self.size))
        assert torch.equal(first, second)
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())

    def test_the_batch_is_not_written_to(self, make: Callable) -> None:
        inputs = batch(size=self.size)
        before = copy.deepcopy(inputs)
        model = make()
        losses_of(model, inputs)
        model.eval()(inputs)
        assert inputs.keys() == before.keys()
        assert all(torch.equal(inputs[key], before[key]) for key in inputs)

    def test_learning_rate_factor_reaches_all_of_the_heads(self, make: Callable, tiny_cfg: Callable) -> None:
        cfg = self.config(tiny_cfg, "SOLVER.HEADS_LR_FACTOR", 10.0)
        model = make()
        names = {p: n for n, p in model.named_parameters()}
        for settings in parameter_settings(cfg, model):
            factor = 10 if names[settings["params"][0]].startswith("heads.") else 1
            assert settings["lr"] == pytest.approx(cfg.SOLVER.BASE_LR * factor)

    def test_state_dict_round_trip(self, make: Callable, tmp_path: Any) -> None:
        model = make()
        losses_of(model, batch(size=self.size, seed=1))  # moves batch-norm statistics
        torch.save(model.state_dict(), tmp_path / "state.pth")
        torch.manual_seed(99)
        other = make("MODEL.PIXEL_STD", [1.0, 1.0, 1.0])
        other = make()
        other.load_state_dict(torch.load(tmp_path / "state.pth"))
        assert torch.equal(*(m.eval()(batch(size=self.size)) for m in (model, other)))

    def test_stopped_and_resumed_ends_where_an_unbroken_run_does(self, tiny_cfg: Callable, tmp_path: Any) -> None:
        """What a method keeps besides its weights is in the checkpoint."""

        def train(folder: str, epochs: int, resume: bool) -> dict[str, torch.Tensor]:
            overrides = ("OUTPUT_DIR", str(tmp_path / folder), "SOLVER.MAX_EPOCH", epochs, "SOLVER.STEPS", [9])
            trainer = PartsTrainer(self.config(tiny_cfg, *overrides))
            trainer.resume_or_load(resume=resume)
            trainer.train()
            return trainer.model.state_dict()

        unbroken = train("unbroken", 2, resume=False)
        train("broken", 1, resume=False)
        resumed = train("broken", 2, resume=True)
        assert unbroken.keys() == resumed.keys()
        assert [key for key in unbroken if not torch.equal(unbroken[key], resumed[key])] == []

    def test_no_child_is_a_prefix_of_another(self, make: Callable) -> None:
        names = [name for name, _ in make().named_children()]
        assert set(names) - {"loss_modules"} == {"backbone", "heads"}

    @pytest.mark.parametrize("norm", ["WITH_IBN", "WITH_SE", "WITH_NL"])
    def test_any_resnet(self, make: Callable, norm: str) -> None:
        depth, width = ("50x", 2048) if norm == "WITH_NL" else ("34x", 512)
        model = make("MODEL.BACKBONE.DEPTH", depth, f"MODEL.BACKBONE.{norm}", True)
        assert all(torch.isfinite(v) for v in losses_of(model, batch(size=self.size)).values())
        assert model.feature_map(batch(size=self.size)["images"]).shape[1] == width

    def test_export_parity(self, make: Callable) -> None:
        model = make().eval()
        images = batch(size=self.size)["images"]
        with torch.no_grad():
            traced = torch.jit.trace(model, images, check_trace=False)
            assert torch.allclose(traced(images), model(images), atol=1e-5)
