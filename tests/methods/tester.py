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

from fastreid_parts.config import configs_root
from fastreid_parts.engine.solver import build_optimizer, parameter_settings
from fastreid_parts.engine.step import TrainStep
from fastreid_parts.layers import balanced_bounds, maxima_per_row
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


def stripes_of(image: torch.Tensor, stripes: int) -> list[torch.Tensor]:
    """The balanced stripes (1, C, h, W) of one image (C, H, W)."""
    bounds = balanced_bounds(maxima_per_row(image[None]), stripes)[0].tolist()
    return [image[None, :, first:end] for first, end in zip(bounds, bounds[1:])]


def losses_of(model: nn.Module, inputs: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
    with EventStorage():
        return model(inputs, **kwargs)


def set_losses(cfg: CfgNode, base: str) -> CfgNode:
    """Gives a config the losses of configs/<base>.yml, a paper's own."""
    paper = get_cfg()
    paper.merge_from_file(str(configs_root() / f"{base}.yml"))
    cfg.MODEL.LOSSES = paper.MODEL.LOSSES
    return cfg


class MethodTester:
    """Subclasses name the config; `variants` are overrides under which the method must hold as well."""

    overrides: tuple = ()
    variants: tuple = ((),)
    dimension: int = 0
    size: tuple[int, int] = (48, 24)

    @pytest.fixture
    def make(self, tiny_cfg: Callable[..., CfgNode]) -> Callable[..., nn.Module]:
        def make(*overrides: object, seed: int = 0) -> nn.Module:
            torch.manual_seed(seed)
            return build_model(self.config(tiny_cfg, *overrides))

        return make

    def config(self, tiny_cfg: Callable[..., CfgNode], *overrides: object) -> CfgNode:
        return tiny_cfg(*self.overrides, "MODEL.HEADS.NUM_CLASSES", IDENTITIES, *overrides)

    def test_shapes_one_feature_vector_an_image(self, make: Callable) -> None:
        model = make().eval()
        for size in (self.size, (self.size[0] * 2, 32)):
            assert model(batch(size=size)).shape == (6, self.dimension)
        assert model(batch(size=self.size)["images"]).shape == (6, self.dimension)

    def test_training_without_targets_raises(self, make: Callable) -> None:
        with pytest.raises(ValueError, match="targets"):
            make()(batch()["images"])

    def test_smoke_finite_losses_and_a_gradient_for_every_parameter_in_every_variant(self, make: Callable) -> None:
        for variant in self.variants:
            model = make(*variant)
            losses = losses_of(model, batch(size=self.size))
            assert all(torch.isfinite(value) and value.ndim == 0 for value in losses.values()), variant
            sum(losses.values()).backward()
            gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
            assert [name for name, gradient in gradients.items() if gradient is None] == [], variant
            assert [name for name, gradient in gradients.items() if not gradient.abs().sum() > 0] == [], variant

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
        images = batch(size=self.size)
        models = [make(seed=seed).eval() for seed in (1, 2)]
        for model in models:  # norms, biases and memories start alike: nothing is left as it starts
            for value in model.state_dict().values():
                value += torch.rand(value.shape) / 1000 if value.is_floating_point() else model is models[0]
        model, other = models
        state = {key: value.clone() for key, value in model.state_dict().items()}
        assert [key for key, value in other.state_dict().items() if torch.equal(value, state[key])] == []
        assert not torch.allclose(other(images), model(images))
        torch.save(state, tmp_path / "state.pth")
        other.load_state_dict(torch.load(tmp_path / "state.pth"))
        assert [key for key, value in other.state_dict().items() if not torch.equal(value, state[key])] == []
        assert torch.equal(other(images), model(images))

    def test_stopped_and_resumed_ends_where_an_unbroken_run_does(self, make: Callable, tiny_cfg: Callable) -> None:
        """What a method keeps besides its weights is in its state; tests/engine stops and resumes whole trainers."""
        cfg = self.config(tiny_cfg)

        def start(seed: int) -> TrainStep:
            return TrainStep(model := make(seed=seed), [], *build_optimizer(cfg, model))

        def train(step: TrainStep, epoch: int) -> None:
            step.data_loader, step.iter = [batch(size=self.size, seed=epoch)], epoch
            step.start_epoch()
            with EventStorage(epoch) as storage:
                storage.epoch = epoch
                step.run_step()

        unbroken, resumed = start(seed=1), start(seed=2)
        train(unbroken, epoch=0)
        stopped = copy.deepcopy((unbroken.model.state_dict(), unbroken.optimizer.state_dict()))
        train(unbroken, epoch=1)
        resumed.model.load_state_dict(stopped[0])
        resumed.optimizer.load_state_dict(stopped[1])
        train(resumed, epoch=1)
        ends = unbroken.model.state_dict(), resumed.model.state_dict()
        assert ends[0].keys() == ends[1].keys() == stopped[0].keys()
        assert [key for key, value in ends[0].items() if not torch.equal(value, ends[1][key])] == []
        trained = {name: p for name, p in unbroken.model.named_parameters() if p.requires_grad}
        assert [name for name, p in trained.items() if torch.equal(p, stopped[0][name])] == []

    def test_no_child_is_a_prefix_of_another(self, make: Callable) -> None:
        """The host finds modules by prefixes of their names, and gives a learning rate to a child named `heads`."""
        model = make()
        assert {"backbone", "heads"} <= {name for name, _ in model.named_children()}
        for module in (model, model.backbone, model.heads):
            names = [name for name, _ in module.named_children()]
            assert [(a, b) for a in names for b in names if a != b and b.startswith(a)] == []

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
            traced = torch.jit.trace(model, images[:2], check_trace=False)
            for n in (1, 2, 5):  # the batch is not that of the sample
                assert torch.allclose(traced(images[:n]), model(images[:n]), atol=1e-5)
