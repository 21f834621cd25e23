"""One iteration: an optimizer step for each name that the model declares."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fastreid.utils.events import EventStorage
from torch import nn

from fastreid_parts.engine.step import TrainStep, update_steps


class Toy(nn.Module):
    """Two weights; the step `second` does not reach the first."""

    update_steps = ("first", "second")

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
        self.seen: list[tuple[float, str]] = []

    def forward(self, data: dict[str, Any], step: str) -> dict[str, torch.Tensor]:
        self.seen.append((data["x"], step))
        return {"loss": data["x"] * (self.a + self.b if step == "first" else 2 * self.b)}


class Host(nn.Module):
    """A model that knows no steps."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1.0))

    def forward(self, data: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {"loss": data["x"] * self.a}


def start(model: nn.Module, *batches: float) -> TrainStep:
    step = TrainStep(model, [{"x": x} for x in batches], torch.optim.SGD(model.parameters(), 0.1), None)
    step.iter = 0
    return step


def test_two_optimizer_steps_on_one_batch() -> None:
    step = start(Toy(), 1.0, 3.0)
    with EventStorage() as storage:
        step.run_step()
        model = step.model
        assert model.seen == [(1.0, "first"), (1.0, "second")]
        assert model.a.item() == pytest.approx(1 - 0.1) and model.b.item() == pytest.approx(1 - 0.1 - 0.2)
        assert storage.latest()["total_loss"][0] == pytest.approx(2.0)
        assert storage.latest()["second_loss"][0] == pytest.approx(2 * 0.9)
        step.run_step()
        assert model.seen[2:] == [(3.0, "first"), (3.0, "second")]
        step.start_epoch()
        step.run_step()
        assert model.seen[4:] == [(1.0, "first"), (1.0, "second")]


def test_a_model_of_the_hosts_takes_no_name() -> None:
    assert update_steps(Host()) == (None,) and update_steps(Toy()) == ("first", "second")
    step = start(Host(), 2.0)
    with EventStorage():
        step.run_step()
    assert step.model.a.item() == pytest.approx(1 - 0.2)


def test_what_stops_a_run() -> None:
    step = start(Toy(), 1.0)
    step.model.eval()
    with EventStorage(), pytest.raises(RuntimeError, match="left in evaluation mode"):
        step.run_step()
    # 3e38 is finite in the first step, and twice as much is not
    for x, message in ((float("nan"), "infinite or NaN"), (3e38, "NaN at iteration=0, step 'second'")):
        step = start(Toy(), x)
        step.model.a.data.fill_(0.0)
        with EventStorage(), pytest.raises(FloatingPointError, match=message):
            step.run_step()
