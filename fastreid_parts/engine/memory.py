"""Memory of a step that is not computed: what tensors it makes, and how long each of them lives."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from fastreid.utils.events import EventStorage
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from .solver import build_optimizer
from .step import TrainStep


class StepMemory(NamedTuple):
    """Parameters, their number, and MiB of tensors.

    `activations` are what a forward pass leaves for the backward pass, the most of them where a step has several
    passes; in inference what lives beside the weights at most. `peak` is of all together, in the course of a step.
    """

    parameters: int
    weights: float
    gradients: float
    optimizer: float
    activations: float
    peak: float


def dry_memory(cfg: CfgNode, mode: str, data: Mapping[str, torch.Tensor]) -> StepMemory:
    """Follow a step through tensors that have a shape, a type and no content, so that any batch fits any machine.

    What it counts is PyTorch's tensors. Not counted are the working memory of kernels (cuDNN, oneDNN), what an
    allocator keeps, and the device's own context. SPEED.COMPILE is left out: what a compiler fuses is not known before
    it has done so. Mixed precision is in SOLVER.AMP.DTYPE, whatever this machine has.

    Args:
        cfg: the model's.
        mode: `training` or `inference`.
        data: a batch, on the CPU; of `images` alone in inference.

    Raises:
        ValueError: the model, or a loss, reads what its tensors contain.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "SPEED.COMPILE", "off", "SOLVER.AMP.CPU_DTYPE", cfg.SOLVER.AMP.DTYPE])
    try:
        return _follow(cfg, build_model(cfg), mode, data)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise ValueError(
            f"{cfg.MODEL.META_ARCHITECTURE} with {', '.join(cfg.MODEL.LOSSES.NAME)} reads what tensors contain "
            f"({error.func}), so that its step has to be computed: measure it with --memory. The models and losses of "
            "this plugin do not"
        ) from error


def _follow(cfg: CfgNode, model: nn.Module, mode: str, data: Mapping[str, torch.Tensor]) -> StepMemory:
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, _LiveTensors() as live, _Silent():
        for part in model.modules():
            for name, value in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
                setattr(part, name, _without_content(fake, value))
        live.add(*model.parameters(), *model.buffers())
        weights = live.now
        batch = {name: fake.from_tensor(value) for name, value in data.items()}
        count = sum(value.numel() for value in model.parameters())
        if mode == "inference":
            with torch.no_grad():
                model.eval()(batch["images"])
            return StepMemory(count, *_mib(weights, 0, 0, live.peak - weights, live.peak))
        activations = live.growth_in(model)
        optimizer, wrapper = build_optimizer(cfg, model)
        step = TrainStep.from_cfg(cfg, model, itertools.repeat(batch), optimizer, wrapper)
        step.grad_scaler = None  # it would read whether gradients overflowed
        gradients = 0
        for name in 2 * step.update_steps:  # the first time makes the optimizer's state, the second finds it in memory
            step.update(batch, name)
            gradients = max(gradients, _bytes([value.grad for value in model.parameters()]))
        return StepMemory(count, *_mib(weights, gradients, _bytes(dict(optimizer.state)), max(activations), live.peak))


class _LiveTensors(TorchDispatchMode):
    """Adds up the bytes of the tensors that are alive: `now`, and at most so far, `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.add(*(one for one in tree_leaves(result) if isinstance(one, torch.Tensor)))
        return result

    def add(self, *tensors: torch.Tensor) -> None:
        """Count tensors, those of one storage once, for as long as that lives."""
        for storage in (one.untyped_storage() for one in tensors):
            if storage not in self._known:
                self._known[storage] = True
                self._grow(storage.nbytes())
                weakref.finalize(storage, self._grow, -storage.nbytes())

    def _grow(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)

    def growth_in(self, model: nn.Module) -> list[int]:
        """Give a list that gets what each forward pass of the model adds."""
        growths: list[int] = []
        before: list[int] = []
        model.register_forward_pre_hook(lambda *_: before.append(self.now))
        model.register_forward_hook(lambda *_: growths.append(self.now - before.pop()))
        return growths


class _Silent(EventStorage):
    """A log that does not read what it is given."""

    def put_scalar(self, *_: Any, **__: Any) -> None:
        pass


def _without_content(fake: FakeTensorMode, value: torch.Tensor) -> torch.Tensor:
    like = fake.from_tensor(value.detach())
    return nn.Parameter(like, value.requires_grad) if isinstance(value, nn.Parameter) else like


def _bytes(tree: Any) -> int:
    return sum(one.untyped_storage().nbytes() for one in tree_leaves(tree) if isinstance(one, torch.Tensor))


def _mib(*sizes: float) -> list[float]:
    return [size / 2**20 for size in sizes]
