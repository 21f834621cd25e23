"""What is compared again: parts in files and in memory that read as one array."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from fastreid_parts.retrieval import half_rows
from fastreid_parts.retrieval.half_rows import HalfRows


def test_reads_as_one_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of mapped parts in both widths, appended and dropped in any order, with files from 200 bytes on."""
    monkeypatch.setattr(half_rows, "_WAITING", 200)
    monkeypatch.setattr(half_rows, "_BLOCK", 64)
    random = np.random.default_rng(0)
    expected = random.standard_normal((9, 8)).astype(np.float16)
    later = random.standard_normal((4, 8), dtype=np.float32)
    np.save(tmp_path / "later.npy", later)
    rows = HalfRows([expected, np.load(tmp_path / "later.npy", mmap_mode="c")], 8)
    expected = np.concatenate([expected, later.astype(np.float16)])
    for _ in range(60):
        if random.integers(3):
            more = random.standard_normal((random.integers(1, 9), 8), dtype=np.float32)
            rows.append(more)
            expected = np.concatenate([expected, more.astype(np.float16)])
        else:
            out = random.random(len(expected)) < 0.3
            rows.drop(out)
            expected = expected[~out]
        positions = random.integers(0, len(expected), (3, 5))
        np.testing.assert_array_equal(rows[positions], expected[positions])
    assert rows.count == len(expected) and len(rows._everything()) > 3
    saved, as_numpy = io.BytesIO(), io.BytesIO()
    rows.save(saved)
    np.save(as_numpy, expected)
    assert saved.getvalue() == as_numpy.getvalue()


def test_what_is_appended_leaves_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_rows, "_WAITING", 1000)
    rows = HalfRows([], 16)
    for _ in range(500):
        rows.append(np.ones((1, 16), np.float32))
        assert sum(part.nbytes for part in rows._everything() if not isinstance(part, np.memmap)) < 1000
    assert rows.count == 500 and (rows[np.arange(500)] == 1).all()


def test_of_none_there_is_an_empty_array() -> None:
    file = io.BytesIO()
    HalfRows([], 4).save(file)
    file.seek(0)
    assert np.load(file).shape == (0, 4)
