"""Hooks of the trainer: which checkpoints are written, and what a line of progress says."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.events import EventStorage
from torch import nn

from fastreid_parts.engine.hooks import EpochCheckpointer, ProgressLine, RateWatch, SeededPreciseBN


class Recorder(Checkpointer):
    """A checkpointer that remembers what it is told to save."""

    def __init__(self, folder: Path) -> None:
        super().__init__(nn.Linear(1, 1), str(folder))
        self.saved: list[tuple[str, dict[str, Any]]] = []

    def save(self, name: str, **state: Any) -> None:
        self.saved.append((name, state))
        super().save(name, **state)


def checkpoints(
    folder: Path, period: int, metrics: dict[int, float], epochs: int = 4, kept: int = -1, ran: range | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """What is saved in a run with an evaluation after each epoch in `metrics`; an epoch has three iterations."""
    recorder = Recorder(folder)
    hook = EpochCheckpointer(recorder, period, "mAP", kept)
    with EventStorage() as storage:
        for epoch in ran or range(epochs):
            storage.iter = 3 * epoch + 2
            hook.trainer = SimpleNamespace(epoch=epoch, max_epoch=epochs, iter=storage.iter)
            if epoch in metrics:
                storage.put_scalar("mAP", metrics[epoch])
            hook.after_epoch()
    return recorder.saved


def test_best_periodic_and_final_checkpoints(tmp_path: Path) -> None:
    saved = checkpoints(tmp_path, 2, {0: 0.5, 2: 0.4, 3: 0.6})
    assert [(name, state["epoch"], state["metric"], state["best_metric"]) for name, state in saved] == [
        ("model_best", 0, 0.5, 0.5),
        ("model_0001", 1, 0.5, 0.5),  # not evaluated now: the metric of before, and no better one
        ("model_best", 3, 0.6, 0.6),
        ("model_final", 3, 0.6, 0.6),
    ]


def test_the_last_one_alone_and_a_run_that_is_never_evaluated(tmp_path: Path) -> None:
    assert [name for name, _ in checkpoints(tmp_path, 0, {})] == ["model_final"]
    ((_, state),) = checkpoints(tmp_path, 0, {}, epochs=1)
    assert state["metric"] == -1
    every = ["model_0000", "model_0001", "model_0002", "model_final"]
    assert [name for name, _ in checkpoints(tmp_path, 1, {})] == every


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        (-1, ["model_0000", "model_0001", "model_0002", "model_0003", "model_best", "model_final"]),
        (1, ["model_best", "model_final"]),
        (2, ["model_0003", "model_best", "model_final"]),
        (9, ["model_0000", "model_0001", "model_0002", "model_0003", "model_best", "model_final"]),
        (0, []),
    ],
)
def test_the_newest_are_kept_and_the_best(tmp_path: Path, kept: int, left: list[str]) -> None:
    """open-mmlab/mmdetection#4308: a checkpoint an epoch fills the disk."""
    checkpoints(tmp_path, 1, {1: 0.9, 3: 0.2}, epochs=5, kept=kept)
    weights = ["weights_best", "weights_final"]
    assert sorted(path.stem for path in tmp_path.glob("*.pth")) == [*left, *weights]
    last = (tmp_path / "last_checkpoint").read_text()
    assert last == ("weights_final.pth" if kept == 0 else "model_final.pth")
    assert torch.load(tmp_path / "weights_best.pth", weights_only=True)["epoch"] == 1


@pytest.mark.parametrize("kept", [1, 2, 3, 4])
def test_as_many_as_asked_for_are_kept_at_any_time(tmp_path: Path, kept: int) -> None:
    for epoch in range(6):
        checkpoints(tmp_path, 1, {}, epochs=9, kept=kept, ran=range(epoch, epoch + 1))
        newest = range(max(0, epoch + 1 - kept), epoch + 1)
        assert sorted(path.stem for path in tmp_path.glob("*.pth")) == [f"model_{number:04d}" for number in newest]


def test_where_the_weights_alone_are_kept_that_of_a_stopped_run_is_not(tmp_path: Path) -> None:
    (tmp_path / "model_stopped.pth").touch()
    checkpoints(tmp_path, 0, {}, kept=0, ran=range(3, 4))
    assert [path.stem for path in tmp_path.glob("*.pth")] == ["weights_final"]


@pytest.mark.parametrize("kept", [0, 1])
def test_the_one_to_resume_from_is_kept(tmp_path: Path, kept: int) -> None:
    """facebookresearch/fvcore#25: after a restart the newest checkpoint is removed, and higher numbers stay."""
    for number in (7, 8):
        (tmp_path / f"model_{number:04d}.pth").touch()  # the run was longer, and goes on from an earlier epoch
    checkpoints(tmp_path, 1, {}, epochs=9, kept=kept, ran=range(3, 5))
    assert [path.stem for path in tmp_path.glob("*.pth")] == ["model_0004"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0004.pth"


def test_the_line_of_an_epochs_end_says_what_mechanisms_do() -> None:
    hook = ProgressLine(batch_size=12)
    with EventStorage() as storage:
        for name, value in (("mask/change", 0.00421), ("mask/std", 0.004), ("erasing/pixels", 0.1)):
            storage.put_scalar(f"mechanism/{name}", value)
        lines: list[str] = []
        hook.logger = SimpleNamespace(info=lines.append)  # type: ignore[assignment]
        for iteration in range(2):
            hook.trainer = SimpleNamespace(
                iter=iteration, iters_per_epoch=2, epoch=0, max_epoch=1, max_iter=2, storage=storage
            )
            hook.after_step()
    assert lines == [
        "epoch   1/1  iteration    1/2",
        "epoch   1/1  iteration    2/2  mask change 0.0042  erasing pixels 0.1",
    ]


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


class Watched:
    """A trainer whose iterations take as long as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        self.waited, self.caplog = 0.0, caplog
        monkeypatch.setattr("fastreid_parts.engine.hooks.waited_for_cpu", lambda: self.waited)
        self.hook = RateWatch(seconds=10)
        monkeypatch.setattr(self.hook.logger, "propagate", True)
        monkeypatch.setattr(self.hook.logger, "parent", logging.getLogger())
        self.storage = EventStorage()
        self.hook.trainer = self

    def train(self, iterations: int, seconds: float, loading: float = 0.0, waiting: float = 0.0) -> list[str]:
        """So many iterations, and what is said about them."""
        self.caplog.clear()
        for _ in range(iterations):
            self.storage.put_scalars(time=seconds, data_time=loading)
            self.waited += waiting
            self.hook.after_step()
        return [record.getMessage() for record in self.caplog.records]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Watched:
    return Watched(monkeypatch, caplog)


class TestRateWatch:
    def test_a_rate_that_collapses_is_said_once_and_again_after_it_recovered(self, watched: Watched) -> None:
        assert watched.train(40, 0.5) == watched.train(21, 1.5) == []  # a third as fast is no collapse
        for _ in range(2):
            (said,) = watched.train(6, 5.0)
            assert said.startswith("the rate fell to 10% of what it was (5.00 s an iteration): neither processors nor")
            assert watched.train(40, 0.5) == []

    def test_the_cause_is_named(self, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
        """pytorch/pytorch#57715: a process waits in libgomp, and nothing says that its threads have no processors."""
        monkeypatch.setenv("GOMP_SPINCOUNT", "7")
        watched.train(40, 0.5)
        (said,) = watched.train(2, 5.0, loading=4.0, waiting=2.0)
        assert "its threads waited 4 s for a processor" in said and "GOMP_SPINCOUNT=7 set)" in said
        watched.train(40, 0.5)
        (said,) = watched.train(2, 5.0, loading=4.0)
        assert "80% of the time goes into waiting for images" in said and "DATALOADER.NUM_WORKERS" in said

    def test_a_system_that_tells_nothing_is_no_hindrance(self, watched: Watched) -> None:
        watched.waited = float("nan")
        watched.train(40, 0.5)
        assert len(watched.train(2, 5.0)) == 1


class NormedTwice(nn.Module):
    """One batch norm over each of two parts, as heads that share one over their parts."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, momentum=0.3)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.norm(batch["images"][:, 0]) + self.norm(batch["images"][:, 1])


def precise(model: nn.Module, batches: list[torch.Tensor]) -> None:
    sampler = SimpleNamespace(set_epoch=lambda seed, epoch: None)

    class Loader(list):
        batch_sampler = sampler

    loader = Loader({"images": images, "targets": torch.zeros(len(images))} for images in batches)
    hook = SeededPreciseBN(model, loader, len(batches))
    hook.trainer = SimpleNamespace(seed=0, max_epoch=2, epoch=1)
    hook.after_epoch()


def test_precise_statistics_are_of_all_runs_of_a_layer() -> None:
    batches = list(torch.randn(3, 5, 2, 3, generator=torch.Generator().manual_seed(0)))
    model = NormedTwice()
    precise(model, batches)
    runs = [part for images in batches for part in images.unbind(1)]
    torch.testing.assert_close(model.norm.running_mean, torch.stack([run.mean(0) for run in runs]).mean(0))
    torch.testing.assert_close(model.norm.running_var, torch.stack([run.var(0) for run in runs]).mean(0))
    assert model.norm.momentum == 0.3 and not model.norm._forward_pre_hooks and not model._forward_pre_hooks


def test_precise_statistics_of_a_model_without_batch_norm() -> None:
    precise(nn.Linear(1, 1), [torch.zeros(1)])
