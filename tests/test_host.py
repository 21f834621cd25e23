"""Private names of the host, each by what it is good for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fastreid.config import get_cfg
from fastreid.data import samplers
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.market1501 import Market1501
from fastreid.utils import comm
from fastreid.utils.events import EventStorage
from torch import nn

from fastreid_parts import host


def test_the_storage_is_that_of_the_innermost_trainer_or_none() -> None:
    assert host.current_storage() is None
    with EventStorage() as outer:
        assert host.current_storage() is outer
        with EventStorage() as inner:
            assert host.current_storage() is inner
    assert host.current_storage() is None


def test_names_of_a_registry() -> None:
    names = host.registered_names(DATASET_REGISTRY)
    assert names == sorted(names) and {"Market1501", "FolderReID"} < set(names)


def test_folder_of_the_datasets_and_numbers_of_nobody() -> None:
    assert Path(host.datasets_root()).name and host.junk_identities(Market1501) == [0, -1]


@pytest.mark.parametrize(("kind", "clipped"), [("norm", [0.3, 0.4]), ("value", [0.5, 0.5])])
def test_clipping(kind: str, clipped: list[float]) -> None:
    cfg = get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = kind, 0.5
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    host.gradient_clipper(cfg)(parameter)
    torch.testing.assert_close(parameter.grad, torch.tensor(clipped), atol=1e-5, rtol=0)


def test_a_sampler_starts_from_the_seed_that_is_set() -> None:
    def first(seed: int) -> list[int]:
        sampler = samplers.TrainingSampler(50, seed=99)
        host.seed_sampler(sampler, seed)
        numbers = iter(sampler)
        return [next(numbers) for _ in range(10)]

    assert first(1) == first(1) != first(2)


def test_the_local_group(monkeypatch: pytest.MonkeyPatch) -> None:
    group = object()
    monkeypatch.setattr(comm, "_LOCAL_PROCESS_GROUP", None)
    forgotten: list[bool] = []
    monkeypatch.setattr(comm._get_global_gloo_group, "cache_clear", lambda: forgotten.append(True), raising=False)
    host.set_local_group(group)
    assert comm._LOCAL_PROCESS_GROUP is group and forgotten == [True]
