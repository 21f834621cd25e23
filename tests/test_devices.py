"""MODEL.DEVICE: what is not there is the CPU, an unknown one is refused, and what MPS lacks is gone around."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from fastreid.config import CfgNode
from fastreid.engine import DefaultTrainer
from fastreid.modeling import build_model
from fastreid.utils import comm
from torch import nn

from fastreid_parts import devices, measuring
from fastreid_parts.data.build import build_reid_test_loader, build_reid_train_loader
from fastreid_parts.engine import PartsTrainer, amp, distributed
from fastreid_parts.evaluation import Features
from fastreid_parts.evaluation.evaluator import Ranking

MPS = torch.device("mps")


@pytest.fixture(params=[False, True], ids=["without", "with"])
def has_mps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: request.param)
    devices._the_cpu.cache_clear()
    return request.param


def test_mps_is_taken_where_torch_has_it(has_mps: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = [devices.available("mps") for _ in range(2)]
    assert found == [MPS if has_mps else torch.device("cpu")] * 2
    said = [record.getMessage() for record in caplog.records]
    assert said == ([] if has_mps else ["MODEL.DEVICE is mps, but MPS is not available here: using the CPU"])


def test_features_are_compared_on_the_cpu(has_mps: bool, tiny_cfg: Callable[..., CfgNode]) -> None:
    assert devices.for_comparison("mps") == devices.for_comparison("cpu") == "cpu"
    ids = torch.arange(4).numpy() % 2
    features = Features(torch.eye(4).numpy(), ids, torch.arange(4).numpy(), ["a", "b", "c", "d"])
    assert torch.device(Ranking(features, 2, tiny_cfg("MODEL.DEVICE", "mps"))._device).type == "cpu"


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="has MPS")
def test_a_model_is_built_on_the_cpu_instead(tiny_cfg: Callable[..., CfgNode]) -> None:
    model = build_model(tiny_cfg("MODEL.DEVICE", "mps", "MODEL.HEADS.NUM_CLASSES", 3))
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


@pytest.mark.parametrize("name", ["gpu", "warp", "cuda:x", ""])
def test_a_device_that_torch_does_not_know(name: str, tiny_cfg: Callable[..., CfgNode]) -> None:
    with pytest.raises(ValueError, match=f"MODEL.DEVICE is '{name}'; it is cpu, cuda, cuda:NUMBER or mps"):
        build_model(tiny_cfg("MODEL.DEVICE", name))


def test_amp_trains_in_float32(caplog: pytest.LogCaptureFixture) -> None:
    amp._log_once.cache_clear()
    with caplog.at_level(logging.INFO):
        assert amp.amp_dtype(True, MPS, "bfloat16") is None
    assert "SOLVER.AMP on MPS: training goes on in float32" in caplog.text


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    model = nn.Linear(2, 2)
    monkeypatch.setattr(model, "parameters", lambda: iter([SimpleNamespace(device=MPS)]))
    with pytest.raises(ValueError, match="MODEL.DEVICE mps trains in one process only"):
        distributed.wrap_distributed(model)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    with pytest.raises(ValueError, match="hide these \\(CUDA_VISIBLE_DEVICES=\\)"):
        distributed.wrap_distributed(nn.Linear(2, 2))


class TestANumberedGPU:
    """MODEL.DEVICE cuda:1 in one process: nothing is left to GPU 0."""

    @pytest.fixture(autouse=True)
    def two_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    @pytest.mark.parametrize("trainer", [PartsTrainer, DefaultTrainer])
    def test_a_trainer_takes_it_first(
        self, tiny_cfg: Callable[..., CfgNode], monkeypatch: pytest.MonkeyPatch, trainer: type
    ) -> None:
        def set_device(device: torch.device) -> None:
            raise RuntimeError(f"took {device}")

        monkeypatch.setattr(torch.cuda, "set_device", set_device)
        with pytest.raises(RuntimeError, match="took cuda:1"):
            trainer(tiny_cfg("MODEL.DEVICE", "cuda:1"))
        distributed.take_gpu("cuda")
        monkeypatch.setattr(comm, "get_world_size", lambda: 2)
        distributed.take_gpu("cuda:1")  # of several processes each has its own

    @pytest.mark.parametrize(("name", "number"), [("cuda:1", 1), ("cuda", 0), ("cpu", 0)])
    def test_batches_go_there(self, tiny_cfg: Callable[..., CfgNode], name: str, number: int) -> None:
        cfg = tiny_cfg("MODEL.DEVICE", name)
        assert build_reid_train_loader(cfg).local_rank == number
        assert build_reid_test_loader(cfg, dataset_name="FolderReID")[0].local_rank == number

    def test_batches_for_the_cpu_stay_there(self, tiny_cfg: Callable[..., CfgNode]) -> None:
        cfg = tiny_cfg("MODEL.DEVICE", "cpu")
        for loader in (build_reid_train_loader(cfg), build_reid_test_loader(cfg, dataset_name="FolderReID")[0]):
            assert next(iter(loader))["images"].device.type == "cpu" and not loader.pin_memory

    def test_times_wait_for_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        waits: list[torch.device] = []
        monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
        measuring.synchronize(torch.device("cuda:1"))
        assert waits == [torch.device("cuda:1")]


def test_times_wait_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waits.append(1))
    run = measuring.run_once(lambda: 3, MPS)
    assert len(waits) == 2 and run.result == 3 and run.mib is None
    assert "MPS" in measuring.where(MPS)
