"""Checkpoints are read without running what they say; which of a model's tensors its features depend on."""

from __future__ import annotations

import argparse
import collections
import os
import pathlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.modeling import build_model
from fastreid.solver import build_lr_scheduler
from fastreid.utils.checkpoint import Checkpointer
from torch import nn

from fastreid_parts.checkpoints import CheckpointError, needed_in_evaluation, safe_load
from fastreid_parts.settings import Declares


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    def write(obj: Any, name: str = "weights.pth") -> Path:
        torch.save(obj, tmp_path / name, _use_new_zipfile_serialization=request.param)
        return tmp_path / name

    return write


class _RunsCode:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


class _SetsState:
    """Unpickling it needs no call, only a class and its state."""

    def __init__(self) -> None:
        self.x = 1


def _training_state() -> dict:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(model.parameters(), amsgrad=True)
    model(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    seen = collections.defaultdict(list)
    seen["a"].append(1)
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "epoch": 3,
        "metric": -0.5,
        "large": 2**70,
        "name": "Grüße",
        "nested": [(1, None, True), {2.5: {"x"}}, b"bytes"],
        "seen": seen,
        "counts": collections.defaultdict(int, b=2),
        "half": torch.rand(2).half(),
        "flags": torch.tensor([True, False]),
        "numbers": torch.arange(3),
        "parameter": nn.Parameter(torch.rand(2)),
        "dtype": torch.float32,
        "shape": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "args": argparse.Namespace(arch="vit_small", lr=0.1),
    }


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    return a == b


class TestWhatIsRead:
    def test_a_training_state_comes_back(self, save: Any) -> None:
        state = _training_state()
        loaded = safe_load(save(state))
        assert _same(state, loaded)
        assert isinstance(loaded["model"], collections.OrderedDict)
        assert isinstance(loaded["scheduler"]["milestones"], collections.Counter)
        assert loaded["model"]._metadata == state["model"]._metadata

    def test_the_hosts_schedulers(self, save: Any, tiny_cfg: Any) -> None:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        for name in ("MultiStepLR", "CosineAnnealingLR"):
            options = ("SOLVER.SCHED", name, "SOLVER.WARMUP_ITERS", 3, "SOLVER.MAX_EPOCH", 9)
            schedulers = build_lr_scheduler(tiny_cfg(*options), optimizer, 2)
            state = {key: scheduler.state_dict() for key, scheduler in schedulers.items()}
            assert _same(state, safe_load(save(state)))

    def test_views_and_shared_memory(self, save: Any) -> None:
        base = torch.arange(12.0).view(3, 4)
        loaded = safe_load(save({"a": base[1:], "b": base.t(), "empty": torch.zeros(0, 3)}))
        assert torch.equal(loaded["a"], base[1:]) and torch.equal(loaded["b"], base.t())
        assert loaded["empty"].shape == (0, 3)

    def test_map_location(self, save: Any) -> None:
        assert safe_load(save({"x": torch.ones(1)}), torch.device("cpu"))["x"].device.type == "cpu"


class TestWhatIsRefused:
    def test_code_does_not_run(self, save: Any, tmp_path: Path) -> None:
        path = save({"model": {}, "extra": _RunsCode(tmp_path / "made")})
        with pytest.raises(CheckpointError, match=r"weights.pth is refused: it asks for \w+.mkdir.*state_dict"):
            safe_load(path)
        assert not (tmp_path / "made").exists()
        torch.load(path, weights_only=False)
        assert (tmp_path / "made").exists()  # the file does what the test says

    @pytest.mark.parametrize(
        ("extra", "name"),
        [
            (pathlib.PurePosixPath("a"), "pathlib.*PurePosixPath"),
            (np.float64(3), r"numpy.\w+.multiarray.scalar"),
            (_SetsState(), "test_checkpoints._SetsState"),
            (nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
            (print, "print"),
        ],
        ids=["path", "numpy", "state", "module", "function"],
    )
    def test_the_class_is_named(self, extra: Any, name: str, save: Any) -> None:
        with pytest.raises(CheckpointError, match=f"it asks for .*{name}"):
            safe_load(save({"x": torch.ones(1), "extra": extra}))

    @pytest.mark.filterwarnings("error::UserWarning")
    def test_torchscript(self, tmp_path: Path) -> None:
        torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "script.pth"))
        with pytest.raises(CheckpointError, match="script.pth is a TorchScript archive"):
            safe_load(tmp_path / "script.pth")

    def test_torch_load_itself_is_untouched(self, save: Any) -> None:
        allowed = set(torch.serialization.get_safe_globals())
        path = save({"extra": _SetsState()})
        with pytest.raises(CheckpointError):
            safe_load(path)
        assert isinstance(torch.load(path, weights_only=False)["extra"], _SetsState)
        assert set(torch.serialization.get_safe_globals()) == allowed


class TestWhatCannotBeRead:
    @pytest.mark.parametrize("content", [b"", b"hello world", b"PK\x03\x04junk", b"\x80\x02junk", b"<html></html>"])
    def test_no_checkpoint(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "a.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match="a.pth is cut short or no checkpoint"):
            safe_load(tmp_path / "a.pth")

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
    def test_cut_short(self, share: float, save: Any) -> None:
        path = save(_training_state())
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(CheckpointError, match="weights.pth is cut short"):
            safe_load(path)

    def test_flipped_bits(self, tmp_path: Path) -> None:
        """Refused, or without effect; torch itself reads other weights."""
        path = tmp_path / "a.pth"
        torch.save({"model": {"weight": torch.arange(400.0)}, "epoch": 3}, path)
        whole, random, refused = path.read_bytes(), np.random.default_rng(0), 0
        for bit in random.integers(8 * len(whole), size=200).tolist():
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            try:
                found = safe_load(path)
            except CheckpointError as error:
                assert "a.pth is cut short" in str(error)
                refused += 1
            else:
                assert found["epoch"] == 3 and torch.equal(found["model"]["weight"], torch.arange(400.0))
        assert refused > 100

    @pytest.mark.parametrize("path", ["", "nowhere.pth", "."])
    def test_no_file(self, path: str) -> None:
        with pytest.raises(FileNotFoundError, match=f"no weights file '{path}': check MODEL.WEIGHTS"):
            safe_load(path)


class TestCheckpointer:
    def test_the_hosts_checkpointer_refuses(self, save: Any, tmp_path: Path) -> None:
        path = save({"model": nn.Linear(1, 1).state_dict(), "extra": _RunsCode(tmp_path / "made")})
        with pytest.raises(CheckpointError, match="mkdir"):
            Checkpointer(nn.Linear(1, 1)).load(str(path))
        assert not (tmp_path / "made").exists()

    def test_and_reads_its_own(self, tmp_path: Path) -> None:
        model, other = nn.Linear(2, 2), nn.Linear(2, 2)
        Checkpointer(model, str(tmp_path)).save("a", epoch=4, metric=0.25)
        extra = Checkpointer(other).load(str(tmp_path / "a.pth"))
        assert torch.equal(model.weight, other.weight)
        assert extra["epoch"] == 4 and extra["metric"] == 0.25


class TestNeededInEvaluation:
    def test_what_modules_declare_at_any_depth(self) -> None:
        class Head(Declares, nn.Module):
            training_only = ("classifier", "a.b")

            def __init__(self) -> None:
                super().__init__()
                self.classifier, self.classifiers = nn.Linear(1, 1), nn.Linear(1, 1)

        model = nn.ModuleDict({"heads": Head(), "deep": nn.ModuleDict({"er": Head()}), "bn": nn.BatchNorm1d(1)})
        needed = needed_in_evaluation(model, [*model.state_dict(), "heads.a.b", "heads.aab", "heads.weight"])
        modules = {name.rpartition(".")[0] for name in needed}
        assert modules == {"bn", "deep.er.classifiers", "heads", "heads.classifiers"}
        assert "heads.aab" in needed and "bn.running_mean" in needed and "bn.num_batches_tracked" not in needed

    def test_the_model_itself(self) -> None:
        class Model(Declares, nn.Linear):
            training_only = ("bias",)

        model = Model(1, 1)
        assert needed_in_evaluation(model, model.state_dict()) == ["weight"]

    @pytest.mark.parametrize("name", ["heads.weight", "b21_head.weight", "memory.queue", "memory.queue_label"])
    def test_classifiers_and_queues_of_the_host(self, name: str) -> None:
        assert needed_in_evaluation(nn.Linear(1, 1), [name, f"{name}s", f"x.{name}"]) == [f"{name}s", f"x.{name}"]

    @pytest.mark.parametrize(("head", "neck"), [("EmbeddingHead", True), ("ClassMapHead", False)])
    def test_under_the_hosts_own_architecture(self, head: str, neck: bool, tiny_cfg: Any) -> None:
        overrides = ("MODEL.META_ARCHITECTURE", "Baseline", "MODEL.HEADS.NAME", "CGEHead", "MODEL.CGE.HEAD", head)
        model = build_model(tiny_cfg(*overrides, "MODEL.HEADS.NUM_CLASSES", 4, "MODEL.HEADS.WITH_BNNECK", neck))
        heads = [name for name in needed_in_evaluation(model, model.state_dict()) if name.startswith("heads.")]
        assert any(name.startswith("heads.revise") for name in model.state_dict())
        assert all(name.startswith("heads.bottleneck") for name in heads), heads
