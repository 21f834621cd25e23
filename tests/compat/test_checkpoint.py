"""Checkpoints: whole or not at all, read without running code, refused where they do not fit."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.modeling import build_model
from fastreid.utils.checkpoint import Checkpointer
from torch import nn


@pytest.fixture
def model(tiny_cfg: Callable) -> nn.Module:
    return build_model(tiny_cfg("MODEL.HEADS.NUM_CLASSES", 4))


def test_old_leftovers_are_removed_and_others_are_not(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "model_0003.pth.999999999.tmp").write_bytes(b"half")
    (tmp_path / f"model_0004.pth.{os.getpid()}.tmp").write_bytes(b"in use")
    os.utime(tmp_path / "model_0003.pth.999999999.tmp", (0, 0))
    Checkpointer(model, str(tmp_path)).save("model_0005", epoch=5)
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", f"model_0004.pth.{os.getpid()}.tmp", "model_0005.pth"]


def test_round_trip_with_extra_entries(model: nn.Module, tmp_path: Path) -> None:
    optimizer = torch.optim.Adam(model.parameters(), amsgrad=True)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])
    checkpointer = Checkpointer(model, str(tmp_path), optimizer=optimizer, lr_sched=scheduler)

    def step() -> None:
        sum(parameter.sum() for parameter in model.parameters()).backward()
        optimizer.step()
        scheduler.step()

    def state() -> list[Any]:
        return copy.deepcopy([model.state_dict(), optimizer.state_dict(), scheduler.state_dict()])

    step()
    saved = state()
    checkpointer.save("model_0001", epoch=1, metric=0.5, config="SEED: 1")
    step()
    with pytest.raises(AssertionError):
        torch.testing.assert_close(state(), saved, rtol=0, atol=0)
    extra = checkpointer.resume_or_load("", resume=True)
    torch.testing.assert_close(state(), saved, rtol=0, atol=0)
    assert extra["epoch"] == 1 and extra["config"] == "SEED: 1"


def test_a_full_disk_leaves_the_last_checkpoint(model: nn.Module, tmp_path: Path, monkeypatch: Any) -> None:
    """pytorch/pytorch#10577: the disk was full, and the error of saving a model did not say so."""
    checkpointer = Checkpointer(model, str(tmp_path))
    checkpointer.save("model_0001", epoch=1)
    save = torch.save

    def save_on_a_full_disk(data: Any, file: Any) -> None:
        with open("/dev/full", "wb") as full:
            save(data, full)

    monkeypatch.setattr(torch, "save", save_on_a_full_disk)
    with pytest.raises(OSError, match="the disk is full: no room for .*model_0002.pth"):
        checkpointer.save("model_0002", epoch=2)
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0001.pth"]
    assert Checkpointer(model, str(tmp_path)).resume_or_load("", resume=True)["epoch"] == 1


def test_entries_of_a_run_and_the_end_of_a_stop(model: nn.Module, tmp_path: Path) -> None:
    checkpointer = Checkpointer(model, str(tmp_path))
    checkpointer.entries = {"config": "SEED: 1", "epoch": 0}
    checkpointer.save("model_stopped", epoch=1)
    saved = torch.load(tmp_path / "model_stopped.pth", weights_only=True)
    assert saved["config"] == "SEED: 1" and saved["epoch"] == 1
    checkpointer.save("model_0002", epoch=2)
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0002.pth"]


def test_last_checkpoint_that_names_a_missing_file(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "last_checkpoint").write_text("model_0009.pth")
    with pytest.raises(FileNotFoundError, match="model_0009.pth.*begin anew"):
        Checkpointer(model, str(tmp_path)).resume_or_load("", resume=True)


class TestFit:
    def save(self, tmp_path: Path, state: dict) -> str:
        path = str(tmp_path / "weights.pth")
        torch.save(state, path)
        return path

    def test_other_number_of_identities_is_fine_for_evaluation(
        self, tiny_cfg: Callable, model: nn.Module, tmp_path
    ) -> None:
        path = self.save(tmp_path, {"model": model.state_dict()})
        other = build_model(tiny_cfg("MODEL.HEADS.NUM_CLASSES", 0))
        Checkpointer(other).load(path)
        x = torch.rand(1, 3, 48, 24) * 255
        assert torch.equal(other.eval()(x.clone()), model.eval()(x.clone()))

    def test_a_plain_state_dict(self, model: nn.Module, tmp_path: Path) -> None:
        path = self.save(tmp_path, model.state_dict())
        before = model.backbone.conv1.weight.detach().clone()
        model.backbone.conv1.weight.data.zero_()
        Checkpointer(model).load(path)
        assert torch.equal(model.backbone.conv1.weight, before)

    def test_another_model_is_refused(self, model: nn.Module, tmp_path: Path) -> None:
        path = self.save(tmp_path, {"model": nn.Linear(2, 2).state_dict()})
        with pytest.raises(ValueError, match="weights of another model.*backbone"):
            Checkpointer(model).load(path)

    def test_a_part_starts_a_training_but_is_no_evaluation(self, model: nn.Module, tmp_path: Path) -> None:
        state = {k: v for k, v in model.state_dict().items() if k.startswith("backbone")}
        path = self.save(tmp_path, {"model": state})
        Checkpointer(model).resume_or_load(path, resume=False)
        with pytest.raises(ValueError, match="another model"):
            Checkpointer(model).load(path)

    def test_something_else_is_refused(self, model: nn.Module, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no weights"):
            Checkpointer(model).load(self.save(tmp_path, {"epoch": 3}))
        with pytest.raises(ValueError, match="not a dictionary"):
            Checkpointer(model).load(self.save(tmp_path, [1, 2]))
