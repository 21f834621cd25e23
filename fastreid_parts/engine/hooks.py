"""Hooks of PartsTrainer beside the host's."""

from __future__ import annotations

import contextlib
import datetime
import logging
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastreid.engine.hooks import HookBase, PreciseBN
from fastreid.utils.events import get_event_storage
from fastreid.utils.precision_bn import get_bn_modules
from torch import nn

from ..checkpoints import save_weights
from ..cpus import SPIN_VARIABLES, SPINS, usable_cpus, waited_for_cpu
from ..seeding import seed_epoch
from ..settings import Settings, key
from .step import MECHANISM


class CheckpointSettings(Settings, section="SOLVER", role="procedure"):
    """What is kept of a run on disk, beside model_best and the weights alone."""

    checkpoints_kept: int = key(
        -1, "how many checkpoints to keep, the newest; -1: all; 0: at the end of the run the weights alone", low=-1
    )


class EpochCheckpointer(HookBase):
    """Write `model_<epoch>` every so many epochs, `model_best` when the metric rises, and `model_final`.

    Beside `model_best` and `model_final` lie `weights_best` and `weights_final`: the model as evaluation needs it,
    without optimizer and classifiers.

    The host's own forgets the best metric when a run is resumed, and looks for a better one only in epochs that it
    saves anyway.

    Args:
        checkpointer: a checkpointer of the host's.
        period: epochs between checkpoints; 0 writes the last one only.
        metric: name of the scalar that `model_best` is chosen by.
        kept: SOLVER.CHECKPOINTS_KEPT.
    """

    def __init__(self, checkpointer: Any, period: int, metric: str, kept: int = -1) -> None:
        self.checkpointer, self.period, self.metric, self.kept = checkpointer, period, metric, kept
        self.best_metric = -math.inf

    def after_epoch(self) -> None:
        """Write a checkpoint where one is due, and the best one; then remove those that are not kept."""
        epoch = self.trainer.epoch
        value, written_at = get_event_storage().latest().get(self.metric, (-1.0, -1))
        last = epoch + 1 >= self.trainer.max_epoch
        evaluated_now = written_at >= self.trainer.iter
        state = {"epoch": epoch, "metric": value}
        if evaluated_now and value > self.best_metric:
            self.best_metric = value
            self._save("model_best", "weights_best", state)
        if last:
            self._save("model_final", "weights_final", state)
        elif self.period > 0 and (epoch + 1) % self.period == 0:
            self._save(f"model_{epoch:04d}", "", state)
        self._remove(last)

    def _save(self, name: str, weights: str, state: dict[str, Any]) -> None:
        state = {**state, "best_metric": self.best_metric}
        if weights:
            path = Path(self.checkpointer.save_dir, f"{weights}.pth")
            save_weights(self.checkpointer.model, path, **self.checkpointer.entries, **state)
        if name == "model_final" and self.kept == 0:
            self.checkpointer.tag_last_checkpoint(f"{weights}.pth")
        else:
            self.checkpointer.save(name, **state)

    def _remove(self, finished: bool) -> None:
        """Remove what SOLVER.CHECKPOINTS_KEPT does not keep; never the one to resume from."""
        if self.kept < 0:
            return
        folder = Path(self.checkpointer.save_dir)
        numbered = [path for path in folder.iterdir() if re.fullmatch(r"model_\d+\.pth", path.name)]
        numbered.sort(key=lambda path: path.stat().st_mtime_ns)  # a run may have gone on from an earlier epoch
        number = max(1, self.kept) - finished  # the final one counts
        if finished and not self.kept:
            numbered += [folder / f"model_{name}.pth" for name in ("best", "final", "stopped")]
        for path in numbered[: max(0, len(numbered) - number)]:
            path.unlink(missing_ok=True)


class SeededPreciseBN(PreciseBN):
    """The host's, of images whose order and augmentation follow from the run's seed, as those of an epoch do.

    A layer that a pass runs several times, as some heads run one over each part, gets the mean of the statistics of all
    its runs; the host takes those of the last.
    """

    def update_stats(self) -> None:
        """Take batch norm's statistics; a run that was stopped and resumed takes those of an unbroken one."""
        if self._disabled:  # no layer of batch norm is trained
            return
        sampler = self._data_loader.batch_sampler
        sampler.num_batches = self._num_iter
        numbers = self.trainer.seed, self.trainer.max_epoch  # the one after the last epoch's
        seed_epoch(*numbers)
        sampler.set_epoch(*numbers)
        with _mean_of_runs(self._model):
            super().update_stats()


@contextlib.contextmanager
def _mean_of_runs(model: nn.Module) -> Iterator[None]:
    """Let batch norm's statistics be the mean of those of its runs within a pass, where momentum is 1."""
    runs: Counter[nn.Module] = Counter()

    def count_run(layer: Any, _: object) -> None:
        runs[layer] += 1
        layer.momentum = 1 / runs[layer]

    hooks = [layer.register_forward_pre_hook(count_run) for layer in get_bn_modules(model)]
    hooks.append(model.register_forward_pre_hook(lambda *_: runs.clear()))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class RateWatch(HookBase):
    """Warn when the rate of a run collapses, with the cause as far as the system tells it.

    Args:
        seconds: of training between two looks.
        collapse: a rate below this share of the best one so far is a collapse.
    """

    def __init__(self, seconds: float = 20.0, collapse: float = 0.25) -> None:
        self.seconds, self.collapse = seconds, collapse
        self.logger = logging.getLogger(__name__)
        self._best = 0.0
        self._collapsed = False
        self._start_over()

    def after_step(self) -> None:
        """Look at the rate where it is time to."""
        histories = self.trainer.storage.histories()
        if "time" not in histories:  # the host times no iteration before the third
            return self._start_over()
        self._steps += 1
        self._spent += histories["time"].latest()
        self._loading += histories["data_time"].latest() if "data_time" in histories else 0.0
        if self._spent < self.seconds:
            return None
        rate = self._steps / self._spent
        self._best = max(self._best, rate)
        collapsed = rate < self.collapse * self._best
        if collapsed and not self._collapsed:
            speed = f"{rate / self._best:.0%} of what it was ({1 / rate:.2f} s an iteration)"
            self.logger.warning(f"the rate fell to {speed}: {self._cause()}")
        self._collapsed = collapsed
        return self._start_over()

    def _start_over(self) -> None:
        self._steps, self._spent, self._loading, self._waited = 0, 0.0, 0.0, waited_for_cpu()

    def _cause(self) -> str:
        """What took the time: processors that others have, images that are late, or neither of the two."""
        waited = waited_for_cpu()
        if waited is not None and self._waited is not None and waited - self._waited > self._spent / 5:
            spins = [f"{name}={os.environ[name]}" for name in SPIN_VARIABLES if name in os.environ]
            return (
                f"within {self._spent:.0f} s its threads waited {waited - self._waited:.0f} s for a processor. Other "
                f"work has them, or a container's quota ({usable_cpus()} may be used) is spent. It loses least with "
                f"GOMP_SPINCOUNT={SPINS} set before torch is loaded (now {' '.join(spins) or 'nothing is'} set), and "
                "with fewer threads, OMP_NUM_THREADS"
            )
        if self._loading > self._spent / 2:
            return (
                f"{self._loading / self._spent:.0%} of the time goes into waiting for images. The disk is slow, or "
                "DATALOADER.NUM_WORKERS processes are too few"
            )
        return "neither processors nor images are missing; is the GPU shared, or hot?"


class ProgressLine(HookBase):
    """One line about the training every few seconds and at the end of each epoch, on the main process.

    The line of an epoch's end sums up what the method's mechanisms do.

    Args:
        batch_size: images an iteration, over all processes.
        every: seconds between lines within an epoch.
    """

    def __init__(self, batch_size: int, every: float = 10.0) -> None:
        self.batch_size, self.every = batch_size, every
        self.logger = logging.getLogger(__name__)
        self._last: float | None = None

    def after_step(self) -> None:
        """Print the line every few seconds, and where an epoch ends."""
        now = time.monotonic()
        ends_epoch = (self.trainer.iter + 1) % self.trainer.iters_per_epoch == 0
        if ends_epoch or self._last is None or now - self._last >= self.every:
            self._last = now
            self.logger.info("  ".join([*self._parts(), *(self._mechanisms() if ends_epoch else [])]))

    def _mechanisms(self) -> list[str]:
        """The first figure of each mechanism: how much it changes what it acts on."""
        first: dict[str, str] = {}
        for name, history in self.trainer.storage.histories().items():
            if name.startswith(MECHANISM):
                mechanism, figure = name.removeprefix(MECHANISM).split("/")
                first.setdefault(mechanism, f"{mechanism} {figure} {history.latest():.2g}")
        return list(first.values())

    def _parts(self) -> list[str]:
        trainer, done = self.trainer, self.trainer.iter + 1
        within = (done - 1) % trainer.iters_per_epoch + 1
        parts = [
            f"epoch {trainer.epoch + 1:>3}/{trainer.max_epoch}",
            f"iteration {within:>4}/{trainer.iters_per_epoch}",
        ]
        histories = trainer.storage.histories()
        for name, label in (("total_loss", "loss"), ("cls_accuracy", "accuracy")):
            if name in histories:
                parts.append(f"{label} {histories[name].avg(20):.3f}")
        if "lr" in histories:
            parts.append(f"lr {histories['lr'].latest():.1e}")
        if "time" in histories:
            seconds = histories["time"].avg(20)
            left = datetime.timedelta(seconds=int(seconds * (trainer.max_iter - done)))
            parts += [f"{self.batch_size / max(seconds, 1e-9):.0f} images/s", f"{left} left"]
        return parts
