"""A tiny set of drawn people, which the tests generate in a second."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from fastreid_parts.pedestrians import SCALES, Scale, generate

TINY = Scale(train_ids=4, train_images=14, test_ids=3, queries=7, gallery=12, distractors=3, junk=2, cameras=3)
SIZE = (64, 32)


@pytest.fixture(autouse=True)
def tiny_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCALES, "demo", TINY)


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file below `folder` by its relative path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def make(root: Path, **kwargs: Any) -> Path:
    return generate(root, "demo", size=SIZE, progress=False, **kwargs)
