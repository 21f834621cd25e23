"""SyntheticReID: drawn people as a dataset of fast-reid's."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from fastreid.config import get_cfg
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.utils import comm

from fastreid_parts.data.datasets import SyntheticReID
from fastreid_parts.pedestrians import Nuisances, generate
from fastreid_parts.pedestrians.folder import MANIFEST

from ..pedestrians.tiny import make, tiny_demo  # noqa: F401  a fixture

STRENGTHS = [field.name for field in fields(Nuisances)]


def test_dataset_reads_as_market_does(tmp_path):
    dataset = SyntheticReID(str(tmp_path))
    assert DATASET_REGISTRY.get("SyntheticReID") is SyntheticReID
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (14, 7, 15)  # without the junk
    assert {item[1] for item in dataset.train} == {f"synthetic_{pid}" for pid in range(1, 5)}
    assert {item[2] for item in dataset.train} <= {f"synthetic_{camera}" for camera in range(3)}
    assert {item[1] for item in dataset.query} == {5, 6, 7}
    assert {item[1] for item in dataset.gallery} == {0, 5, 6, 7}
    assert {item[2] for item in dataset.gallery} <= {0, 1, 2}
    combined = SyntheticReID(str(tmp_path), combineall=True)
    assert len(combined.train) == 14 + 7 + 12  # junk and distractors are nobody


def test_dataset_follows_its_config(tmp_path):
    cfg = get_cfg()
    cfg.DATASETS.SYNTHETIC.SEED = 2
    cfg.DATASETS.SYNTHETIC.NUISANCES.CAMERA = 0.5
    dataset = SyntheticReID.from_config(cfg, str(tmp_path))
    manifest = json.loads((Path(dataset.data_dir) / MANIFEST).read_text())
    assert (manifest["scale"], manifest["seed"]) == ("demo", 2)
    assert manifest["nuisances"] == {name: 0.5 if name == "camera" else 1.0 for name in STRENGTHS}


def test_only_the_first_process_of_a_machine_generates(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(comm, "get_local_rank", lambda: 1)
    monkeypatch.setattr(comm, "synchronize", lambda: waited.append(True))
    with pytest.raises(RuntimeError, match="local rank 0 says why"):
        SyntheticReID(str(tmp_path))
    assert waited and not list(tmp_path.iterdir())
    generate(tmp_path, "demo", progress=False)
    assert len(SyntheticReID(str(tmp_path)).train) == 14


def test_the_others_are_released_when_the_first_process_fails(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(comm, "synchronize", lambda: waited.append(True))
    make(tmp_path)  # of another image size
    with pytest.raises(ValueError, match="other parameters"):
        SyntheticReID(str(tmp_path))
    assert waited
