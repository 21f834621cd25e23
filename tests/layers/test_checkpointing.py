"""Checkpointed stages: the same output, gradients and running statistics, with less kept for the backward pass."""

from __future__ import annotations

import copy

import pytest
import torch
from fastreid.layers import get_norm
from torch import nn

from fastreid_parts.layers import run_checkpointed


def stage(norm: str) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 8, 3, padding=1), get_norm(norm, 8), nn.ReLU(), nn.Conv2d(8, 8, 3), get_norm(norm, 8)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("norm", ["BN", "GhostBN", "FrozenBN"])
@pytest.mark.parametrize("training", [True, False])
def test_nothing_but_memory_differs(norm: str, training: bool) -> None:
    if norm == "GhostBN" and not training:
        pytest.skip("evaluation of GhostBN is that of BN")
    plain = stage(norm).train(training)
    saving = copy.deepcopy(plain)
    results = []
    for module, run in ((plain, lambda m, x: m(x)), (saving, run_checkpointed)):
        x = torch.randn(4, 4, 6, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
        # Two passes before one backward pass, as of two paths through the same weights
        loss = run(module, x).square().sum() + 2 * run(module, 3 * x).sin().sum()
        loss.backward()
        results.append([loss, x.grad, *(p.grad for p in module.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results))
    state = saving.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    moved = any(not torch.equal(value, state[name]) for name, value in stage(norm).state_dict().items())
    assert moved == (training and norm != "FrozenBN")


def test_only_the_input_is_kept() -> None:
    module = stage("BN")
    x = torch.randn(4, 4, 6, 5, requires_grad=True)
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    for run, fewer in ((lambda m, x: m(x), False), (run_checkpointed, True)):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run(module, x)
        assert (sum(kept) <= x.numel()) == fewer


def test_without_gradients_it_is_the_module_itself() -> None:
    module = stage("BN").eval()
    x = torch.randn(4, 4, 6, 5)
    with torch.no_grad():
        assert torch.equal(run_checkpointed(module, x), module(x))
        assert not run_checkpointed(module, x).requires_grad
