"""Memory of a step that is not computed, against what PyTorch allocates in the step itself."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model

from fastreid_parts.commands.cost import same_batch, training_step
from fastreid_parts.engine.memory import StepMemory, dry_memory
from tests.test_every_key import MODELS

BATCH = 16


def dry(cfg: CfgNode, batch: int = BATCH) -> StepMemory:
    return dry_memory(cfg, "training", next(same_batch(cfg, batch, torch.device("cpu"))))


def allocated(function: Callable[[], object]) -> float:
    """MiB that it has at most beside what there was before, by the log of PyTorch's allocator."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = [one for one in profile.profiler.kineto_results.events() if one.name() == "[memory]"]
    return max(accumulate(one.nbytes() for one in sorted(events, key=lambda one: one.start_ns()))) / 2**20


@pytest.fixture
def cfg_of(tiny_cfg: Callable[..., CfgNode]) -> Callable[..., CfgNode]:
    def make(name: str, *overrides: object) -> CfgNode:
        height, width, own = MODELS[name]
        return tiny_cfg(*own, "INPUT.SIZE_TRAIN", [height, width], "MODEL.HEADS.NUM_CLASSES", 4, *overrides)

    return make


@pytest.mark.parametrize("name", ["CMBN", "CGE", "RRID", "CAN", "RMGL"])
def test_every_method_takes_what_is_said(cfg_of: Callable[..., CfgNode], name: str) -> None:
    cfg = cfg_of(name)
    found = dry(cfg)
    model, step = training_step(cfg, BATCH)
    step()
    model.zero_grad()
    weights = sum(value.nbytes for value in (*model.parameters(), *model.buffers())) / 2**20
    assert found.weights == pytest.approx(weights) and found.parameters == sum(p.numel() for p in model.parameters())
    assert found.peak == pytest.approx(found.weights + found.optimizer + allocated(step), rel=0.01)


def test_inference_takes_what_is_said(cfg_of: Callable[..., CfgNode]) -> None:
    cfg = cfg_of("CAN")
    images = torch.rand(BATCH, 3, *cfg.INPUT.SIZE_TEST)
    found = dry_memory(cfg, "inference", {"images": images})
    model = build_model(cfg).eval()
    copies = max(value.nbytes for value in model.parameters()) / 2**20  # a convolution reorders them, on a CPU
    with torch.no_grad():
        assert found.activations <= allocated(lambda: model(images)) <= found.activations + copies
    assert found.peak == found.weights + found.activations and found.gradients == found.optimizer == 0


def test_what_keys_save_and_what_a_batch_costs(cfg_of: Callable[..., CfgNode]) -> None:
    plain = dry(cfg_of("CMBN"))
    twice = dry(cfg_of("CMBN"), 2 * BATCH)
    assert twice.activations == pytest.approx(2 * plain.activations, rel=0.05)
    assert twice._replace(activations=0, peak=0) == plain._replace(activations=0, peak=0)
    saving = {
        "checkpoint": dry(cfg_of("CMBN", "SPEED.CHECKPOINT", True)),
        "half precision": dry(cfg_of("CMBN", "SOLVER.AMP.ENABLED", True)),
        "compiled": dry(cfg_of("CMBN", "SPEED.COMPILE", "inductor")),
    }
    assert saving["checkpoint"].activations < 0.5 * plain.activations
    copies = plain.gradients / 2  # of the weights, which autocast keeps for the backward pass
    assert 0.4 * plain.activations < saving["half precision"].activations - copies < 0.7 * plain.activations
    assert saving["compiled"] == plain


def test_micro_batches_are_followed_one_by_one(cfg_of: Callable[..., CfgNode]) -> None:
    keys = ("MODEL.LOSSES.NAME", ("CrossEntropyLoss",), "SOLVER.MICRO_BATCHES")
    one, four = (dry(cfg_of("RMGL", *keys, parts)) for parts in (1, 4))
    assert four.activations == pytest.approx(one.activations / 4, rel=0.05) and four.gradients == one.gradients


def test_what_reads_its_tensors_is_refused(tiny_cfg: Callable[..., CfgNode]) -> None:
    with pytest.raises(ValueError, match="Baseline with CrossEntropyLoss.* measure it with --memory"):
        dry(tiny_cfg("MODEL.HEADS.NUM_CLASSES", 4))
