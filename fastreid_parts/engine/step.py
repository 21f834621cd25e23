"""One iteration of training: the inner trainer, with or without mixed precision, with one or several updates."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.engine.train_loop import SimpleTrainer
from fastreid.utils import comm
from fastreid.utils.events import get_event_storage
from fastreid.utils.params import ContiguousParams
from torch import nn

from ..mechanisms import Figures, averages, watching
from ..speed import SpeedSettings, float32_products
from .amp import AMPSettings, amp_dtype, build_grad_scaler
from .solver import SolverSettings

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

    With SOLVER.MICRO_BATCHES the mini-batch goes through the model in parts, whose gradients are summed before each
    optimizer step, each with its share of the images as weight: that is the gradient of the mean over all images.

    Args:
        model: the model, wrapped for several processes or not.
        data_loader: endless, or one epoch long if `start_epoch` is called at the start of each.
        optimizer: the optimizer.
        param_wrapper: what the optimizer's builder returned beside it.
        amp: whether to use mixed precision.
        cpu_dtype, dtype: see `amp_dtype`.
        micro_batches: parts that a mini-batch is split into.
        tf32: SPEED.TF32.
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
        *,
        dtype: str = "float16",
        micro_batches: int = 1,
        tf32: str = "convolutions",
    ) -> None:
        super(SimpleTrainer, self).__init__()  # SimpleTrainer's own starts the loader's workers right away
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.param_wrapper = param_wrapper
        self.device = next(model.parameters()).device
        self.dtype = amp_dtype(amp, self.device, cpu_dtype, dtype)
        self.grad_scaler = grad_scaler or build_grad_scaler(self.dtype, self.device.type)
        self.micro_batches, self.tf32 = micro_batches, tf32
        self.update_steps = update_steps(model)
        #: Whether the next iteration logs what mechanisms and augmentations do
        self.watched = False
        self._data_iterator: Iterator | None = None

    @classmethod
    def from_cfg(
        cls, cfg: CfgNode, model: nn.Module, data_loader: Any, optimizer: torch.optim.Optimizer, param_wrapper: Any
    ) -> TrainStep:
        """Make the step that a config describes.

        Args:
            cfg: its SOLVER.AMP, SOLVER.MICRO_BATCHES and SPEED.TF32 are read.
            model, data_loader, optimizer, param_wrapper: see the class.

        Raises:
            ValueError: a value is none of its choices, or the device does not compute it.
        """
        amp = AMPSettings.from_cfg(cfg)
        return cls(
            model, data_loader, optimizer, param_wrapper, cfg.SOLVER.AMP.ENABLED, amp.cpu_dtype, dtype=amp.dtype,
            micro_batches=SolverSettings.from_cfg(cfg).micro_batches, tf32=SpeedSettings.from_cfg(cfg).tf32,
        )  # fmt: skip

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
                    losses = self.update(data, step)
                # On a GPU the host reads them in a stream of its own, which does not wait until they are there
                values = torch.stack([value.detach().float().reshape(()) for value in losses.values()]).cpu()
                self._write_metrics(dict(zip(losses, values)), data_time)
                if watched:
                    _write_mechanisms({**averages(seen), **_augmentations(data)})
            else:
                self._write_extra_step(str(step), self.update(data, step))

    def update(self, data: dict[str, Any], step: str | None) -> dict[str, torch.Tensor]:
        """Take one forward, backward and optimizer step.

        Args:
            data: a mini-batch.
            step: one of `update_steps`.

        Returns:
            The losses.
        """
        self.optimizer.zero_grad()
        with float32_products(self.tf32):
            losses = self._accumulate(data, step)
        if self.grad_scaler is None:
            self.optimizer.step()
        else:
            # A fused optimizer would do it itself, after its gradients are clipped
            self.grad_scaler.unscale_(self.optimizer)
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        if isinstance(self.param_wrapper, ContiguousParams):
            self.param_wrapper.assert_buffer_is_valid()
        return losses

    def _accumulate(self, data: dict[str, Any], step: str | None) -> dict[str, torch.Tensor]:
        """Add up the gradients of the parts of a batch, and their losses."""
        if self.micro_batches == 1:
            return self._pass(data, step)
        parts = split_batch(data, self.micro_batches)
        images = len(data["targets"])
        sums: dict[str, torch.Tensor] = {}
        for number, part in enumerate(parts):
            several = isinstance(self.model, nn.parallel.DistributedDataParallel)
            # Processes exchange the sums, once
            alone = self.model.no_sync() if several and number + 1 < len(parts) else contextlib.nullcontext()
            with alone:
                losses = self._pass(part, step, len(part["targets"]) / images)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
        return sums

    def _pass(self, data: dict[str, Any], step: str | None, share: float | None = None) -> dict[str, torch.Tensor]:
        """Compute losses, times `share` where it is given, and add their gradients to what is there."""
        with torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            losses = self.model(data) if step is None else self.model(data, step=step)
            if share is not None:
                losses = {name: value * share for name, value in losses.items()}
            total = sum(losses.values())
        (total if self.grad_scaler is None else self.grad_scaler.scale(total)).backward()
        return {name: value.detach() for name, value in losses.items()} if share is not None else losses

    def _write_extra_step(self, step: str, losses: dict[str, torch.Tensor]) -> None:
        value = float(sum(v.detach() for v in losses.values()))
        if not math.isfinite(value):
            raise FloatingPointError(f"Loss became infinite or NaN at iteration={self.iter}, step '{step}': {losses}")
        if comm.is_main_process():
            get_event_storage().put_scalar(f"{step}_loss", value)


def split_batch(data: Mapping[str, Any], parts: int) -> list[dict[str, Any]]:
    """Split a batch into parts of equal size, or of one image more, in its order.

    Args:
        data: what a loader gives: tensors and lists with an entry for each of N images, `targets` among them, or
            dictionaries of such; all else is of the whole batch, and each part has it.
        parts: how many; at most N.

    Raises:
        ValueError: there are fewer images than parts.
    """
    images = len(data["targets"])
    if parts > images:
        raise ValueError(f"SOLVER.MICRO_BATCHES is {parts}, and a batch of this process has {images} images")
    bounds = [images * number // parts for number in range(parts + 1)]
    return [_rows(data, images, slice(first, end)) for first, end in zip(bounds, bounds[1:])]


def _rows(value: Any, images: int, rows: slice) -> Any:
    if isinstance(value, Mapping):
        return {name: _rows(one, images, rows) for name, one in value.items()}
    has_rows = isinstance(value, Sequence) or (isinstance(value, torch.Tensor) and value.dim() > 0)
    return value[rows] if has_rows and not isinstance(value, str) and len(value) == images else value


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
