"""SPEED, SOLVER.AMP and SOLVER.MICRO_BATCHES: what each key does, that it changes nothing else, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.engine import DefaultTrainer
from fastreid.modeling import build_model
from fastreid.utils.events import EventStorage
from torch import nn
from torch._dynamo.utils import counters

from fastreid_parts import speed
from fastreid_parts.config import configs_root, flat_keys, load_config
from fastreid_parts.engine import PartsTrainer
from fastreid_parts.engine.solver import build_optimizer
from fastreid_parts.engine.step import TrainStep, split_batch, update_steps
from fastreid_parts.mechanisms import watching
from tests.methods.tester import IDENTITIES, batch
from tests.test_every_key import MODELS

from .test_trainer import same, train, weights

METHODS = {name: overrides for name, (_, _, overrides) in MODELS.items() if name != "RRID balanced"}
SIZE = (96, 24)
BOT = ("MODEL.META_ARCHITECTURE", "PartsBaseline", "MODEL.LOSSES.NAME", ("CrossEntropyLoss",))


def build(tiny_cfg: Callable[..., CfgNode], *overrides: Any) -> tuple[CfgNode, nn.Module]:
    cfg = tiny_cfg("INPUT.SIZE_TRAIN", SIZE, "MODEL.HEADS.NUM_CLASSES", IDENTITIES, *overrides)
    torch.manual_seed(0)
    return cfg, build_model(cfg)


def stepped(tiny_cfg: Callable, *overrides: Any, steps: int = 1, images: int = 8) -> tuple[dict, dict, EventStorage]:
    """State and gradients of a model after some steps of PartsTrainer's, and what they logged."""
    cfg, model = build(tiny_cfg, *overrides)
    optimizer, wrapper = build_optimizer(cfg, model)
    step = TrainStep.from_cfg(cfg, model, [batch(images, SIZE, seed) for seed in range(steps)], optimizer, wrapper)
    torch.manual_seed(1)
    with EventStorage() as storage:
        for step.iter in range(steps):
            step.run_step()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return model.state_dict(), gradients, storage


def near(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], share: float = 1e-3) -> bool:
    assert one.keys() == other.keys()
    return all((one[n].double() - other[n]).norm() <= share * one[n].double().norm() + 1e-5 for n in one)


# ---- checkpointing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_checkpointing_changes_no_bit_and_keeps_less(tiny_cfg: Callable, name: str) -> None:
    kept: dict[bool, int] = {}
    results = {}
    for on in (False, True):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            results[on] = stepped(tiny_cfg, *METHODS[name], "SPEED.CHECKPOINT", on)
        kept[on] = sum(sizes)
    (state, gradients, _), (other, own, _) = results.values()
    assert same(state, other)  # running statistics too, which a second pass must not move
    assert same(gradients, own)
    assert kept[True] < kept[False] / 2


def test_checkpointing_draws_the_same_random_numbers_and_follows_a_copy(tiny_cfg: Callable) -> None:
    cfg, model = build(tiny_cfg, *METHODS["CAN"], "SPEED.CHECKPOINT", True)
    stage = next(iter(model.backbone.branches.values()))["layer4"]
    stage.blocks.append(nn.Dropout(0.5))
    model(batch(8, SIZE))
    plain = copy.deepcopy(model)
    for module in plain.modules():
        vars(module).pop("forward", None)
    results = []
    for one in (model, copy.deepcopy(model), plain):
        torch.manual_seed(2)
        losses = one(batch(8, SIZE))
        sum(losses.values()).backward()
        results.append({name: p.grad for name, p in one.named_parameters() if p.grad is not None})
    assert all(same(results[-1], one) for one in results)


def test_a_backbone_without_stages_is_refused(tiny_cfg: Callable) -> None:
    with pytest.raises(ValueError, match="are not known"):
        speed.checkpoint_stages(nn.Conv2d(3, 4, 3))


# ---- memory format --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_channels_last_changes_the_layout_alone(tiny_cfg: Callable, name: str) -> None:
    _, model = build(tiny_cfg, *METHODS[name], "SPEED.CHANNELS_LAST", True)
    layouts: list[bool] = []
    convolutions = [m for m in model.backbone.modules() if isinstance(m, nn.Conv2d)]
    for one in convolutions:
        one.register_forward_hook(lambda m, x, y: layouts.append(y.is_contiguous(memory_format=torch.channels_last)))
    model(batch(8, SIZE))
    assert len(layouts) >= 20 and all(layouts)
    assert all(one.weight.is_contiguous(memory_format=torch.channels_last) for one in convolutions)
    plain, pixelwise = stepped(tiny_cfg, *METHODS[name]), stepped(tiny_cfg, *METHODS[name], "SPEED.CHANNELS_LAST", True)
    assert near(plain[1], pixelwise[1], 0.02)


def test_rmgls_old_names_still_work(tiny_cfg: Callable) -> None:
    for old in ("CHECKPOINT", "CHANNELS_LAST"):
        _, model = build(tiny_cfg, *METHODS["RMGL"], f"MODEL.RMGL.{old}", True)
        assert getattr(model.speed, old.lower())


# ---- compilation ----------------------------------------------------------------------------------------------------


def compiled_passes(tiny_cfg: Callable, *overrides: Any) -> None:
    """Three epochs of a step each: no break of the graph, no compilation after the second, and the log is whole."""
    overrides = (*overrides, "MODEL.LOSSES.TRI.FORM", "hinge")  # fast-reid's own looks at a loss
    _, plain = build(tiny_cfg, *overrides)
    _, model = build(tiny_cfg, *overrides, "SPEED.COMPILE", "eager")
    torch._dynamo.reset()
    counters.clear()
    graphs = []
    logs = []
    for one in (plain, model):
        with EventStorage() as storage:
            for epoch in range(3):
                storage.epoch = epoch  # CGE's memories have another momentum
                for step in update_steps(one):
                    losses = one(batch(8, SIZE, epoch), step=step)
                    sum(losses.values()).backward()
                graphs.append(counters["stats"]["unique_graphs"])
        logs.append({name: value for name, (value, _) in storage.latest().items()})
    assert not counters["graph_break"]
    assert graphs[:3] == [0, 0, 0] and graphs[3] > 0 and graphs[4] == graphs[5]
    assert logs[0] == pytest.approx(logs[1]) and "cls_accuracy" in logs[1]
    assert near(plain.state_dict(), model.state_dict(), 1e-4)
    gradients = [{name: p.grad for name, p in one.named_parameters() if p.grad is not None} for one in (plain, model)]
    assert near(*gradients)
    before = counters["stats"]["unique_graphs"]
    with watching(model) as seen:
        model(batch(8, SIZE))
    assert counters["stats"]["unique_graphs"] == before  # watched passes are not compiled
    assert bool(seen) == bool(METHODS_WITH_MECHANISMS & {overrides[1]})


METHODS_WITH_MECHANISMS = {"CMBN", "RRID", "CAN", "RMGL", "PartsBaseline"}


def test_a_compiled_pass_has_one_graph(tiny_cfg: Callable) -> None:
    compiled_passes(tiny_cfg, *METHODS["CGE"])


@pytest.mark.smallest
def test_every_model_of_a_process_is_compiled(tiny_cfg: Callable) -> None:
    """torch counts what it compiles by code, and beyond a limit computes uncompiled, with a warning alone."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True), EventStorage():
        for _ in range(2):
            counters.clear()
            build(tiny_cfg, *BOT, "SPEED.COMPILE", "eager")[1](batch(8, SIZE))
            assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_compiled_method_has_one_graph(tiny_cfg: Callable, name: str) -> None:
    compiled_passes(tiny_cfg, *METHODS[name])


def test_what_waits_for_a_value_breaks_the_graph(tiny_cfg: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastreid_parts.parts_baseline.log_scalar", lambda name, value: float(value))
    with pytest.raises(AssertionError):
        compiled_passes(tiny_cfg, *BOT)


def test_a_copy_of_a_compiled_model_runs_itself_and_can_leave(tiny_cfg: Callable, tmp_path: Path) -> None:
    """What was compiled stays with its model: a copy with other weights gives its own losses; both can be traced."""
    _, model = build(tiny_cfg, *BOT, "SPEED.COMPILE", "eager")
    images = batch(8, SIZE)
    with EventStorage():
        before = sum(model(dict(images)).values()).item()
        for number, other in enumerate((copy.deepcopy(model), pickle.loads(pickle.dumps(model)))):
            with torch.no_grad():
                for parameter in other.parameters():
                    parameter.mul_(2 + number)
            own = sum(other(dict(images)).values()).item()
            other.speed = dataclasses.replace(other.speed, compile="off")
            assert own == pytest.approx(sum(other(dict(images)).values()).item(), rel=1e-3) and own != before
        assert sum(model(dict(images)).values()).item() == pytest.approx(before, rel=1e-3)
    torch.jit.trace(model.eval(), images["images"], check_trace=False).save(str(tmp_path / "traced.pt"))


@pytest.mark.slow
def test_inductor_computes_the_same(tiny_cfg: Callable) -> None:
    """With SGD: Adam's first steps are of one size, whichever sign rounding gives a small gradient."""
    settings = (*BOT, "SOLVER.OPT", "SGD", "SOLVER.AMSGRAD", False)
    plain, fast = (stepped(tiny_cfg, *settings, "SPEED.COMPILE", which, steps=2) for which in ("off", "inductor"))
    assert near(plain[0], fast[0]) and near(plain[1], fast[1])


def test_compilation_is_refused_where_it_cannot_work(tiny_cfg: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="SPEED.CHECKPOINT does not work with SPEED.COMPILE"):
        build(tiny_cfg, *BOT, "SPEED.CHECKPOINT", True, "SPEED.COMPILE", "eager")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler"):
        PartsTrainer(tiny_cfg(*BOT, "SPEED.COMPILE", "inductor"))


# ---- TF32, and who honors what --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "inside"), [("all", (True, True)), ("convolutions", (False, True)), ("none", (False, False))]
)
def test_tf32_lasts_as_long_as_a_step(tiny_cfg: Callable, monkeypatch: Any, value: str, inside: tuple) -> None:
    seen = []

    def now() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = now()
    original = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: seen.append(now()) or original(self, x))
    stepped(tiny_cfg, *BOT, "SPEED.TF32", value)
    assert seen[-1] == inside and now() == before == (False, True)  # the first are of building the model


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("SPEED.CHANNELS_LAST", True), "SPEED.CHANNELS_LAST is for the plugin's models"),
        (("SPEED.COMPILE", "eager"), "SPEED.COMPILE is for the plugin's models.*PartsBaseline"),
        (("SPEED.OPTIMIZER", "fused", "SOLVER.OPT", "Lamb"), "SOLVER.OPT Lamb has no such form; .*Adam"),
        (("SPEED.TF32", "some"), "SPEED.TF32 is 'some'; it is one of convolutions, all, none"),
    ],
)
def test_what_a_model_or_an_optimizer_lacks_is_refused(tiny_cfg: Callable, overrides: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PartsTrainer(tiny_cfg(*overrides))


@pytest.mark.parametrize(
    "key",
    [
        "SOLVER.MICRO_BATCHES 2",
        "SOLVER.FIND_UNUSED_PARAMETERS True",
        "SOLVER.AMP.DTYPE bfloat16",
        "SOLVER.AMP.CPU_DTYPE bfloat16",
        "SPEED.TF32 all",
    ],
)
def test_the_hosts_trainer_refuses_what_it_does_not_know(tiny_cfg: Callable, key: str) -> None:
    name, value = key.split()
    with pytest.raises(ValueError, match=f"{name} is .*DefaultTrainer"):
        DefaultTrainer(tiny_cfg(name, value))


# ---- the optimizer's form -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["foreach", "fused"])
@pytest.mark.parametrize("optimizer", [("SGD",), ("Adam", "SOLVER.AMSGRAD", True)], ids=lambda one: one[0])
def test_an_optimizer_of_another_form_takes_the_same_steps(tiny_cfg: Callable, form: str, optimizer: tuple) -> None:
    clip = ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm")
    settings = (*BOT, "SOLVER.OPT", *optimizer, "MODEL.FREEZE_LAYERS", ["heads"], "SOLVER.FREEZE_ITERS", 1, *clip)
    plain, other = (stepped(tiny_cfg, *settings, "SPEED.OPTIMIZER", which, steps=2)[0] for which in ("loop", form))
    start = build(tiny_cfg, *settings)[1].state_dict()
    moved = {name: other[name] - value for name, value in start.items() if value.is_floating_point()}
    assert near({name: plain[name] - start[name] for name in moved}, moved, 1e-3)
    assert all(moved[name].norm() > 0 for name in moved if "weight" in name)


def test_a_state_keeps_the_form_and_layout_of_the_optimizer_that_reads_it(tiny_cfg: Callable) -> None:
    def make(*overrides: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        cfg, model = build(tiny_cfg, *BOT, *overrides)
        return model, build_optimizer(cfg, model)[0]

    model, optimizer = make("SPEED.OPTIMIZER", "loop")
    sum(model(batch(8, SIZE)).values()).backward()
    optimizer.step()
    pixelwise, other = make("SPEED.OPTIMIZER", "fused", "SPEED.CHANNELS_LAST", True)
    other.load_state_dict(optimizer.state_dict())
    assert all(group["fused"] for group in other.param_groups)
    moved = [parameter for parameter in pixelwise.parameters() if other.state[parameter]]
    assert len(moved) > 50
    for parameter in moved:
        assert other.state[parameter]["exp_avg"].stride() == parameter.stride()


# ---- types ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_half_precision_without_a_gpu(tiny_cfg: Callable, name: str) -> None:
    amp = ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.CPU_DTYPE", name)
    plain, half = stepped(tiny_cfg, *BOT), stepped(tiny_cfg, *BOT, *amp, "SPEED.OPTIMIZER", "fused")
    assert plain[2].latest()["total_loss"][0] == pytest.approx(half[2].latest()["total_loss"][0], rel=0.05)
    assert all(torch.isfinite(gradient).all() for gradient in half[1].values())
    assert near(plain[1], half[1], 0.9) and not near(plain[1], half[1], 1e-4)  # scaled back, and really in half


# ---- micro-batches --------------------------------------------------------------------------------------------------

#: Norms see a part at a time: without them in training the gradient is that of the whole batch
_STILL = ("MODEL.BACKBONE.NORM", "FrozenBN", "MODEL.HEADS.WITH_BNNECK", False)


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("name", ["BOT", "CMBN"])
def test_micro_batches_have_the_gradient_of_the_whole(tiny_cfg: Callable, name: str, parts: int) -> None:
    settings = (*(METHODS["CMBN"] if name == "CMBN" else BOT), *_STILL, "SOLVER.OPT", "SGD", "SOLVER.AMSGRAD", False)
    settings = (*settings, "MODEL.CMBN.REVERSAL_BRANCH", False) if name == "CMBN" else settings
    whole, split = (stepped(tiny_cfg, *settings, "SOLVER.MICRO_BATCHES", n, steps=2) for n in (1, parts))
    assert near(whole[1], split[1]) and near(whole[0], split[0])
    assert whole[2].latest()["total_loss"][0] == pytest.approx(split[2].latest()["total_loss"][0], rel=1e-4)


def test_a_batch_is_split_in_its_order() -> None:
    data = {"targets": torch.arange(5), "img_paths": list("abcde"), "augmented": {"erasing": torch.arange(5)}, "x": 1.0}
    parts = split_batch(data, 2)
    assert [part["img_paths"] for part in parts] == [["a", "b"], ["c", "d", "e"]]
    assert [part["augmented"]["erasing"].tolist() for part in parts] == [[0, 1], [2, 3, 4]]
    assert all(part["x"] == 1.0 for part in parts)
    with pytest.raises(ValueError, match="SOLVER.MICRO_BATCHES is 6"):
        split_batch(data, 6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss")), "TripletLoss: no mean over images.*CHECKPOINT"),
        (("MODEL.LOSSES.NAME", ("CenterLoss",)), "CenterLoss: no mean"),
        ((*METHODS["CGE"], "MODEL.LOSSES.NAME", ("CrossEntropyLoss",)), "the memories of CGE"),
        (("SOLVER.MICRO_BATCHES", 7), "leave each part two or more"),
        (
            (
                "MODEL.LOSSES.NAME",
                ("TripletLoss",),
                "SOLVER.MICRO_BATCH_LOSSES",
                "approximate",
                "SOLVER.MICRO_BATCHES",
                6,
            ),
            "a divisor of 3",
        ),
    ],
)
def test_what_is_no_mean_over_images_is_refused(tiny_cfg: Callable, overrides: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PartsTrainer(tiny_cfg(*BOT, "SOLVER.MICRO_BATCHES", 3, *overrides))


def test_approximate_takes_each_part_as_a_batch(tiny_cfg: Callable) -> None:
    losses = ("MODEL.LOSSES.NAME", ("TripletLoss",), "SOLVER.MICRO_BATCH_LOSSES", "approximate")
    trainer = PartsTrainer(tiny_cfg(*BOT, *losses, "SOLVER.MICRO_BATCHES", 3, "SOLVER.MAX_EPOCH", 1))
    assert trainer._trainer.micro_batches == 3


# ---- resuming -------------------------------------------------------------------------------------------------------

KEYS: dict[str, tuple] = {
    "channels_last": ("SPEED.CHANNELS_LAST", True),
    "checkpointing": ("SPEED.CHECKPOINT", True),
    "foreach": ("SPEED.OPTIMIZER", "foreach"),
    "fused": ("SPEED.OPTIMIZER", "fused"),
    "TF32": ("SPEED.TF32", "all"),
    "bfloat16": ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.CPU_DTYPE", "bfloat16"),
    "float16": ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.CPU_DTYPE", "float16"),
    "micro-batches": ("SOLVER.MICRO_BATCHES", 2),
    "compiled": ("SPEED.COMPILE", "aot_eager"),
    "inductor": ("SPEED.COMPILE", "inductor"),
}
TOGETHER = (*KEYS["channels_last"], *KEYS["checkpointing"], *KEYS["fused"], *KEYS["bfloat16"], *KEYS["micro-batches"])


def check_resuming(cmbn_cfg: Callable, tmp_path: Path, *overrides: Any) -> None:
    ends = []
    for name, epochs in (("broken", (1, 3)), ("unbroken", (3,))):
        for epoch in epochs:
            cfg = cmbn_cfg("OUTPUT_DIR", str(tmp_path / name), *overrides, "SOLVER.MAX_EPOCH", epoch)
            trainer = train(cfg, resume=True)
        ends.append(weights(tmp_path / name / "model_final.pth"))
        assert trainer.start_epoch == len(epochs) - 1
    assert same(*ends)


@pytest.mark.smallest
@pytest.mark.slow
def test_a_resumed_run_is_one_run_with_the_keys_together(cmbn_cfg: Callable, tmp_path: Path) -> None:
    check_resuming(cmbn_cfg, tmp_path, *TOGETHER)


@pytest.mark.smallest
@pytest.mark.slow
@pytest.mark.parametrize("name", KEYS)
def test_a_resumed_run_is_one_run_with_each_key(cmbn_cfg: Callable, tmp_path: Path, name: str) -> None:
    check_resuming(cmbn_cfg, tmp_path, *KEYS[name])


# ---- configs --------------------------------------------------------------------------------------------------------

FAST = sorted(path for folder in ("Market", "Synthetic") for path in (configs_root() / folder).glob("*_fast.yml"))


@pytest.mark.parametrize("path", FAST, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_fast_config_is_its_base_but_for_speed(path: Path) -> None:
    fast = flat_keys(load_config(str(path), []))
    plain = flat_keys(load_config(str(path).replace("_fast", ""), []))
    changed = {name for name in fast if fast[name] != plain[name]}
    assert changed > {"OUTPUT_DIR"}
    assert all(name.startswith(("SPEED.", "SOLVER.AMP.", "OUTPUT_DIR")) for name in changed)
    assert flat_keys(get_cfg()).keys() == fast.keys()


def test_every_method_has_a_fast_config() -> None:
    for folder in ("Market", "Synthetic"):
        names = {path.stem for path in FAST if path.parent.name == folder}
        methods = {"cmbn", "cge_bot", "cge_agw", "rrid_f", "rrid_s", "can", "rmgl", "parts_combined"}
        assert names == {f"{name}_fast" for name in methods}
