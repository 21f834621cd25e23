"""tools/benchmark.py: all ways of a part compute the same, and the table says what each took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .load import load_tool


@pytest.fixture(scope="module")
def tool() -> Any:
    return load_tool("benchmark")


@pytest.mark.parametrize("part", ["evaluation", "reranking", "search"])
def test_ways_compute_the_same(tool: Any, part: str) -> None:
    data = tool._with_neighbours(tool._generate(tool.SIZES["tiny"][part], 0))
    rows = {
        way: {"values": function(data, "")}
        for way, function in tool.PARTS[part].items()
        if way != "fast-reid, compiled"  # needs a compiler
    }
    several = [row for row in rows.values() if row["values"]]
    assert len(several) >= 2
    assert tool._largest_difference(rows) < 1e-4
    several[0]["values"] = {name: value + 1 for name, value in several[0]["values"].items()}
    assert tool._largest_difference(rows) > 0.9


def test_generated_features_are_of_length_one_and_people_are_under_several_cameras(tool: Any) -> None:
    size = tool.SIZES["tiny"]["evaluation"]
    data = tool._generate(size, 0)
    assert data["features"].shape == (size.queries + size.gallery, size.dimensions)
    np.testing.assert_allclose(np.linalg.norm(data["features"], axis=1), 1, rtol=1e-5)
    assert len(np.unique(data["camids"])) == size.cameras


def test_a_part_from_the_command_line(tool: Any, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    output = tmp_path / "numbers.json"
    words = ["search", "--size", "tiny", "--rounds", "1", "--without", "matrix product alone", "--output", str(output)]
    assert tool.main(words) == 0
    printed = capfd.readouterr().out
    assert "| fastreid_parts " in printed and "| fast-reid's demo " in printed and "largest difference" in printed
    ways = json.loads(output.read_text())["search"]["ways"]
    assert ways["fastreid_parts"]["ratio"] == 1 and all(way["mib"] > 50 for way in ways.values())


def test_refusals(tool: Any, capsys: pytest.CaptureFixture) -> None:
    for words, message in (
        (["evaluation", "--without", "nothing"], "--without takes: "),
        (["evaluation", "--rounds", "0"], "at least 1"),
        (["cooking"], "invalid choice"),
    ):
        with pytest.raises(SystemExit):
            tool.main(words)
        assert message in capsys.readouterr().err
