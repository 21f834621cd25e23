"""tools/benchmark.py: all ways of a part compute the same, and the tables say what each took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastreid_parts.measuring import Run

from .load import load_tool

SMALL_HEAD = ["--channels", "6", "--reduced", "4", "--classes", "3", "--batch", "4", "--map", "6", "2"]


@pytest.fixture(scope="module")
def tool() -> Any:
    return load_tool("benchmark")


def rows(printed: str) -> list[list[str]]:
    table = [line for line in printed.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table if not line.startswith("|:")]


@pytest.mark.parametrize("part", ["evaluation", "reranking", "search"])
def test_ways_compute_the_same(tool: Any, part: str) -> None:
    data = tool._with_neighbors(tool._generate(tool.SIZES["tiny"][part], 0))
    ways = {
        way: {"values": function(data, "")}
        for way, function in tool.PARTS[part].items()
        if way != "fast-reid, compiled"  # needs a compiler
    }
    several = [row for row in ways.values() if row["values"]]
    assert len(several) >= 2
    assert tool._largest_difference(ways) < 1e-4
    several[0]["values"] = {name: value + 1 for name, value in several[0]["values"].items()}
    assert tool._largest_difference(ways) > 0.9


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


def test_kinds_of_index(tool: Any, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    output = tmp_path / "numbers.json"
    words = ["gallery", "--images", "300", "--queries", "9", "--dimensions", "8", "--k", "4", "--kinds", "hnsw"]
    assert tool.main([*words, "--output", str(output)]) == 0
    _, flat, hnsw = rows(capfd.readouterr().out)
    assert flat[0] == "flat" and float(flat[-1]) == 1 and hnsw[0] == "hnsw" and float(hnsw[-1]) > 0.8
    for one in json.loads(output.read_text())["gallery"]["results"]:
        assert one["queries_per_s"] > 0 and one["disk_mib"] > 300 * 8 * 4 / 2**20


def test_images_of_a_gallery_depend_on_the_seed_alone(tool: Any) -> None:
    one, other = (tool.Gallery(50, 5, 8, 5, seed=0) for _ in range(2))
    blocks = list(one.blocks())
    assert sum(len(block.features) for block in blocks) == 50
    np.testing.assert_array_equal(blocks[0].features.features, next(other.blocks()).features.features)
    assert not np.allclose(one.query().features.features, tool.Gallery(50, 5, 8, 5, 1).query().features.features)


def test_both_heads_are_timed_forward_and_with_backward(
    tool: Any, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []

    def run_once(step: Any, device: Any) -> Run:
        step()
        gradients = [parameter.grad is not None for parameter in step.args[0].parameters()]
        assert all(gradients) or not any(gradients)
        plain = type(step.args[0]).__name__ == "PlainRRIDHead"
        seen.append((plain, all(gradients)))
        return Run(0.01 if plain else 0.004)

    monkeypatch.setattr(tool, "run_once", run_once)
    assert tool.main(["rrid-head", *SMALL_HEAD, "--parts", "2", "3", "--rounds", "2"]) == 0
    forward = [(True, False), (False, False)]  # once before, and two rounds
    assert seen == 3 * forward + 3 * [(True, True), (False, True)]
    printed = capsys.readouterr().out
    assert "RRID's head, parts 2 3, 4 maps of 6 channels, 6x2; cpu" in printed
    for row in rows(printed)[1:]:
        assert row[1:] == ["10.0", "4.0", "0.400", "2.50"]


def test_a_model_beside_one_of_the_host(tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []
    monkeypatch.setattr(tool, "run_command", lambda name, words, prog: commands.append([name, *words]))
    assert tool.main(["training", "--models", "rmgl", "--batch", "2"]) == 0
    (words,) = commands
    assert words[:4] == ["cost", "training", "--config-file", "Market/rmgl.yml"]
    assert words[words.index("--versus") + 1] == "Synthetic/mgn.yml" and words[-5:] == [
        "--batch", "2", "--rounds", "3", "--memory",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluation", "--without", "nothing"], "invalid choice"),
        (["evaluation", "--rounds", "0"], "at least 1"),
        (["gallery", "--images", "0"], "at least 1"),
        (["rrid-head", *SMALL_HEAD, "--parts", "1"], "divide the 6 rows"),
        (["rrid-head", *SMALL_HEAD, "--parts", "4"], "divide the 6 rows"),
        (["cooking"], "invalid choice"),
    ],
)
def test_refusals(tool: Any, capsys: pytest.CaptureFixture, words: list[str], message: str) -> None:
    with pytest.raises(SystemExit):
        tool.main(words)
    assert message in capsys.readouterr().err


def test_rates_beside_other_work(tool: Any, tmp_path: Path, monkeypatch: Any, capfd: pytest.CaptureFixture) -> None:
    rates = {(False, True): 60.0, (False, False): 100.0, (True, True): 40.0, (True, False): 95.0}
    monkeypatch.setattr(tool, "_rate", lambda variables, busy, args: rates[not variables, busy])
    output = tmp_path / "numbers.json"
    words = ["busy", "--rounds", "2", "--ways", "libgomp's own", "fastreid_parts", "--output", str(output)]
    assert tool.main(words) == 0
    table = rows(capfd.readouterr().out)
    assert table[1] == ["libgomp's own", "100.0", "1.00", "60.0", "0.60"]
    assert table[2] == ["fastreid_parts", "95.0", "0.95", "40.0", "0.42"]
    assert json.loads(output.read_text())["busy"]["fastreid_parts"]["busy"] == [40.0, 40.0]


def test_other_work_ends_with_the_measurement(tool: Any, monkeypatch: Any) -> None:
    started: list[Any] = []
    popen = tool.subprocess.Popen
    monkeypatch.setattr(tool.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    monkeypatch.setattr(
        tool, "_STEPS", "import os, sys; print(os.environ.get('OMP_NUM_THREADS')); print(len(sys.argv))"
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    args = tool._parse(["busy", "--seconds", "1"])
    assert tool._rate({}, True, args) == 4 and len(started) == 3
    assert all(process.poll() is not None for process in started)


@pytest.mark.export
def test_exports_beside_torch(tool: Any, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    small = ["MODEL.BACKBONE.DEPTH", "18x", "MODEL.BACKBONE.FEAT_DIM", "512", "INPUT.SIZE_TEST", "[64, 32]"]
    words = ["--configs", "Synthetic/cmbn.yml", "--batches", "1", "2", "--rounds", "2"]
    tool.main(["export", *words, "--output", str(tmp_path / "speed.json"), "--opts", *small])
    table = rows(capsys.readouterr().out)
    assert [row[:3] for row in table[1:]] == [["Synthetic/cmbn.yml", n, way] for n in "12" for way in tool.EXPORTS]
    assert table[1][-1] == "1.00"
    report = json.loads((tmp_path / "speed.json").read_text())["export"]
    assert report["Synthetic/cmbn.yml, 2"]["OpenVINO, int8"]["seconds"] > 0
