"""rerank --methods: every method and variant beside none, with time and memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastreid.config import get_cfg

from fastreid_parts.commands import _rerank_methods
from fastreid_parts.evaluation import evaluate_features
from fastreid_parts.retrieval import save_feature_set

from . import run as command_line
from .test_evaluate import MEASURES, random_set

KEYS: dict[str, tuple[Any, ...]] = {
    "none": (),
    "aqe": ("TEST.AQE.ENABLED", True),
    "k-reciprocal": ("TEST.RERANK.ENABLED", True),
    "gnn": ("TEST.RERANK.ENABLED", True, "TEST.RERANK.METHOD", "gnn"),
    "nfc": ("TEST.NFC.ENABLED", True),
    "nfc+gnn": ("TEST.NFC.ENABLED", True, "TEST.RERANK.ENABLED", True, "TEST.RERANK.METHOD", "gnn"),
}
OPTS = ("TEST.RERANK.K1", 8, "TEST.RERANK.K2", 3, "TEST.AQE.QE_K", 3, "TEST.RERANK.GNN.K1", 9, "TEST.RERANK.GNN.K2", 4)


@pytest.fixture
def run(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """A function that runs the command and gives what it prints."""
    return lambda *words: command_line.run(capsys, "rerank", *words).out


def test_every_method_is_in_the_test() -> None:
    assert set(_rerank_methods.METHODS) == {name for name in KEYS if "+" not in name}


def test_side_by_side(run: Callable, tmp_path: Path) -> None:
    there = random_set(config="TEST:\n  RERANK:\n    ENABLED: true\n")  # what is enabled there does not matter
    save_feature_set(tmp_path / "set", there)
    output = tmp_path / "methods_0.3"  # the file that is named, whatever its ending
    printed = run("--features", tmp_path / "set", "--methods", *KEYS, "--output", output, "--opts", *OPTS)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line[:1] == "|"][2:]
    numbers = json.loads(output.read_text())
    plan = [(name, queries) for name in KEYS for queries in ((None,) if name == "none" else ("together", "alone"))]
    assert [(one["method"], one["queries"]) for one in numbers["results"]] == plan
    assert [row[:2] for row in rows] == [[name, queries or "-"] for name, queries in plan]
    first = numbers["results"][0]["results"]["mAP"]
    for row, one in zip(rows, numbers["results"]):
        cfg = get_cfg()
        cfg.merge_from_list([*OPTS, *KEYS[one["method"]], "TEST.QUERIES", one["queries"] or "together"])
        expected = evaluate_features(there.features, there.num_query, cfg)
        assert one["results"] == pytest.approx(dict(expected))
        shown = [f"{expected[measure]:.1f}" for measure in MEASURES]
        assert row[2:7] == shown
        assert row[7] == ("-" if one["method"] == "none" else f"{expected['mAP'] - first:+.1f}")
        assert one["seconds"] > 0 and float(row[8]) == pytest.approx(one["seconds"], abs=0.01)
        assert one["mib"] is None or one["mib"] >= 0
        assert one["settings"] in printed
    assert len({one["results"]["mAP"] for one in numbers["results"]}) > 6
    assert (numbers["query"], numbers["without_match"], numbers["settings"]) == (12, 2, "TEST.METRIC cosine")


def test_one_variant(run: Callable, tmp_path: Path) -> None:
    save_feature_set(tmp_path / "set", random_set())
    printed = run("--features", tmp_path / "set", "--methods", "nfc", "nfc", "--queries", "alone")
    rows = [line for line in printed.splitlines() if line.startswith("| nfc")]
    assert len(rows) == 1 and "| alone " in rows[0] and "mAP over nfc" in printed


def test_refuses(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_feature_set(tmp_path / "set", random_set())

    def problem(*words: object) -> str:
        return command_line.problem(capsys, "rerank", "--features", tmp_path / "set", *words)

    assert "'gcn' is none of none, nfc, aqe, k-reciprocal, gnn; did you mean gnn?" in problem(
        "--methods", "none", "gcn"
    )
    for joined in ("none+nfc", "nfc+nfc", "gnn+k-reciprocal", "nfc+"):
        assert f"'{joined}'" in problem("--methods", joined) or "'' is none of" in problem("--methods", joined)
    assert "without --methods" in problem("--methods", "gnn", "--k1", 20)
    assert "without --methods" in problem("--methods", "gnn", "--lists", "a.csv")
    assert "--queries is of --methods" in problem("--queries", "alone")
    assert "invalid choice: 'apart'" in problem("--methods", "gnn", "--queries", "apart")
    message = problem("--methods", "none", "gnn", "--opts", "TEST.RERANK.GNN.K2", 30)
    assert "GNN re-ranking needs k2 <= k1" in message
