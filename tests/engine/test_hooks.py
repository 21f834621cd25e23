"""Hooks of the trainer: which checkpoints are written, and what a line of progress says."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from fastreid.utils.events import EventStorage

from fastreid_parts.engine.hooks import EpochCheckpointer, ProgressLine


class Recorder:
    """A checkpointer that remembers what it is told to save."""

    def __init__(self) -> None:
        self.saved: list[tuple[str, dict[str, Any]]] = []

    def save(self, name: str, **state: Any) -> None:
        self.saved.append((name, state))


def checkpoints(period: int, metrics: dict[int, float], epochs: int = 4) -> list[tuple[str, dict[str, Any]]]:
    """What is saved in a run with an evaluation after each epoch in `metrics`; an epoch has three iterations."""
    recorder = Recorder()
    hook = EpochCheckpointer(recorder, period, "mAP", {"seed": 3})
    with EventStorage() as storage:
        for epoch in range(epochs):
            storage.iter = 3 * epoch + 2
            hook.trainer = SimpleNamespace(epoch=epoch, max_epoch=epochs, iter=storage.iter)
            if epoch in metrics:
                storage.put_scalar("mAP", metrics[epoch])
            hook.after_epoch()
    return recorder.saved


def test_best_periodic_and_final_checkpoints() -> None:
    saved = checkpoints(2, {0: 0.5, 2: 0.4, 3: 0.6})
    assert [(name, state["epoch"], state["metric"], state["best_metric"]) for name, state in saved] == [
        ("model_best", 0, 0.5, 0.5),
        ("model_0001", 1, 0.5, 0.5),  # not evaluated now: the metric of before, and no better one
        ("model_best", 3, 0.6, 0.6),
        ("model_final", 3, 0.6, 0.6),
    ]
    assert all(state["seed"] == 3 for _, state in saved)


def test_the_last_one_alone_and_a_run_that_is_never_evaluated() -> None:
    assert [name for name, _ in checkpoints(0, {})] == ["model_final"]
    ((_, state),) = checkpoints(0, {}, epochs=1)
    assert state["metric"] == -1
    assert [name for name, _ in checkpoints(1, {})] == ["model_0000", "model_0001", "model_0002", "model_final"]


def test_progress(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    hook = ProgressLine(batch_size=12, every=10.0)
    with EventStorage() as storage, caplog.at_level(logging.INFO, hook.logger.name):
        hook.logger.addHandler(caplog.handler)
        for iteration in range(8):
            storage.put_scalars(total_loss=2.0 + iteration, cls_accuracy=0.25, lr=3e-4, time=0.5)
            epoch = iteration // 4
            hook.trainer = SimpleNamespace(
                iter=iteration, iters_per_epoch=4, epoch=epoch, max_epoch=2, max_iter=8, storage=storage
            )
            hook.after_step()
            now[0] += 6.0  # a line every other iteration, and one at the end of an epoch
        hook.logger.removeHandler(caplog.handler)
    lines = list(dict.fromkeys(record.getMessage() for record in caplog.records))
    assert [line.split("  loss")[0] for line in lines] == [
        f"epoch   {epoch}/2  iteration    {k}/4" for epoch, k in ((1, 1), (1, 3), (1, 4), (2, 2), (2, 4))
    ]
    assert lines[0].endswith("loss 2.000  accuracy 0.250  lr 3.0e-04  24 images/s  0:00:03 left")
    assert lines[1].endswith("loss 3.000  accuracy 0.250  lr 3.0e-04  24 images/s  0:00:02 left")
