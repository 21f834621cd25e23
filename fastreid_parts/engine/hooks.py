"""Hooks of PartsTrainer beside the host's."""

from __future__ import annotations

import datetime
import logging
import math
import time
from typing import Any

from fastreid.engine.hooks import HookBase
from fastreid.utils.events import get_event_storage


class EpochCheckpointer(HookBase):
    """Write `model_<epoch>` every so many epochs, `model_best` when the metric rises, and `model_final`.

    The host's own forgets the best metric when a run is resumed, and looks for a better one only in epochs that it
    saves anyway.

    Args:
        checkpointer: a checkpointer of the host's.
        period: epochs between checkpoints; 0 writes the last one only.
        metric: name of the scalar that `model_best` is chosen by.
        extra: entries that every checkpoint carries, for example the config.
    """

    def __init__(self, checkpointer: Any, period: int, metric: str, extra: dict[str, Any]) -> None:
        self.checkpointer, self.period, self.metric, self.extra = checkpointer, period, metric, extra
        self.best_metric = -math.inf

    def after_epoch(self) -> None:
        """Write a checkpoint where one is due, and the best one."""
        epoch = self.trainer.epoch
        value, written_at = get_event_storage().latest().get(self.metric, (-1.0, -1))
        last = epoch + 1 >= self.trainer.max_epoch
        evaluated_now = written_at >= self.trainer.iter
        state = {"epoch": epoch, "metric": value, **self.extra}
        if evaluated_now and value > self.best_metric:
            self.best_metric = value
            self.checkpointer.save("model_best", best_metric=self.best_metric, **state)
        if last:
            self.checkpointer.save("model_final", best_metric=self.best_metric, **state)
        elif self.period > 0 and (epoch + 1) % self.period == 0:
            self.checkpointer.save(f"model_{epoch:04d}", best_metric=self.best_metric, **state)


class ProgressLine(HookBase):
    """One line about the training every few seconds and at the end of each epoch, on the main process.

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
            self.logger.info(self._line())

    def _line(self) -> str:
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
        return "  ".join(parts)
