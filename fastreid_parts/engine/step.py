"""One iteration of training: the inner trainer, with or without mixed precision, with one or several updates."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from fastreid.engine.train_loop import SimpleTrainer
from fastreid.utils import comm
from fastreid.utils.events import get_event_storage
from fastreid.utils.params import ContiguousParams
from torch import nn

from ..mechanisms import Figures, averages, watching
from .amp import amp_dtype, build_grad_scaler

#: What the names of logged figures begin with, before `<mechanism>/<figure>`
MECHANISM = "mechanism/"


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model without the wrapper of distributed training."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def update_steps(model: nn.Module) -> tuple[str | None, ...]:
    """Name the optimizer steps that a model declares for one iteration; one of the host's takes no name."""
    return getattr(unwrap(model), "update_steps", (None,))


class TrainStep(SimpleTrainer):
    """Runs the optimizer steps of an iteration on one mini-batch.

    A model that declares `update_steps` with more than one name (CMBN's contextual-detachment strategy) gets a forward
    pass, a backward pass and an optimizer step for each. Parameters that a pass does not reach have no gradient then,
    and an optimizer leaves a parameter without gradient as it is, bit for bit.

    Args:
        model: the model, wrapped for several processes or not.
        data_loader: endless, or one epoch long if `start_epoch` is called at the start of each.
        optimizer: the optimizer.
        param_wrapper: what the optimizer's builder returned beside it.
        amp: whether to use mixed precision.
        cpu_dtype: see `amp_dtype`.
        grad_scaler: a scaler to use in place of the default one.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        param_wrapper: Any,
        amp: bool = False,
        cpu_dtype: str = "auto",
        grad_scaler: Any | None = None,
    ) -> None:
        super(SimpleTrainer, self).__init__()  # SimpleTrainer's own starts the loader's workers right away
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.param_wrapper = param_wrapper
        self.device = next(model.parameters()).device
        self.dtype = amp_dtype(amp, self.device, cpu_dtype)
        self.grad_scaler = grad_scaler or build_grad_scaler(self.dtype)
        self.update_steps = update_steps(model)
        #: Whether the next iteration logs what mechanisms and augmentations do
        self.watched = False
        self._data_iterator: Iterator | None = None

    def start_epoch(self) -> None:
        """Start the loader over: its order and its workers' seeds are drawn now."""
        self._data_iterator = iter(self.data_loader)

    def run_step(self) -> None:
        """Take one mini-batch, one forward, backward and optimizer step for each name of `update_steps`.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        if not self.model.training:
            raise RuntimeError("the model was left in evaluation mode; call model.train() after evaluating")
        start = time.perf_counter()
        if self._data_iterator is None:
            self._data_iterator = iter(self.data_loader)
        data = next(self._data_iterator)
        data_time = time.perf_counter() - start

        for number, step in enumerate(self.update_steps):
            if number == 0:
                watched = self.watched and comm.is_main_process()
                watch = watching(unwrap(self.model)) if watched else contextlib.nullcontext(Figures())
                with watch as seen:
                    losses = self._update(data, step)
                self._write_metrics(losses, data_time)
                if watched:
                    _write_mechanisms({**averages(seen), **_augmentations(data)})
            else:
                self._write_extra_step(str(step), self._update(data, step))

    def _update(self, data: dict[str, Any], step: str | None) -> dict[str, torch.Tensor]:
        with torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            losses = self.model(data) if step is None else self.model(data, step=step)
            total = sum(losses.values())
        self.optimizer.zero_grad()
        if self.grad_scaler is None:
            total.backward()
            self.optimizer.step()
        else:
            self.grad_scaler.scale(total).backward()
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        if isinstance(self.param_wrapper, ContiguousParams):
            self.param_wrapper.assert_buffer_is_valid()
        return losses

    def _write_extra_step(self, step: str, losses: dict[str, torch.Tensor]) -> None:
        value = float(sum(v.detach() for v in losses.values()))
        if not math.isfinite(value):
            raise FloatingPointError(f"Loss became infinite or NaN at iteration={self.iter}, step '{step}': {losses}")
        if comm.is_main_process():
            get_event_storage().put_scalar(f"{step}_loss", value)


def _augmentations(data: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What augmentations did to a batch: the share of its pixels, and of its images."""
    return {
        name: {"pixels": float(shares.mean()), "images": float((shares > 0).cpu().double().mean())}
        for name, shares in data.get("augmented", {}).items()
    }


def _write_mechanisms(figures: Mapping[str, Mapping[str, float]]) -> None:
    for name, values in figures.items():
        for figure, value in values.items():
            # No median over the last twenty: they are hundreds of iterations apart
            get_event_storage().put_scalar(f"{MECHANISM}{name}/{figure}", value, smoothing_hint=False)
