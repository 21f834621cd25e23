"""rerank: stored features without and with re-ranking, over a grid of settings, and the lists that come out."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastreid.config import CfgNode, get_cfg
from fastreid.utils import compute_dist

from fastreid_parts.evaluation import topk
from fastreid_parts.retrieval import FeatureSet, save_feature_set

from . import run as command_line
from .test_evaluate import MEASURES, host_results, random_set


@pytest.fixture
def run(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """A function that runs the command and gives what it prints."""
    return lambda *words: command_line.run(capsys, "rerank", *words).out


def config(*overrides: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(list(overrides))
    return cfg


@pytest.mark.parametrize("opts", [(), ("TEST.METRIC", "euclidean"), ("TEST.AQE.ENABLED", True, "TEST.AQE.QE_K", 3)])
def test_a_grid_has_the_results_of_the_host(
    run: Callable, tmp_path: Path, opts: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = []
    counted = lambda *args: searches.append(args[2]) or topk(*args)  # noqa: E731
    monkeypatch.setattr("fastreid_parts.evaluation.neighborhoods.topk", counted)
    there = random_set()
    save_feature_set(tmp_path / "set", there)
    words = ("--opts", *opts) if opts else ()
    output = tmp_path / "new" / "n.json"
    printed = run("--features", tmp_path / "set", "--k1", 6, 10, "--k2", 1, 3, "--lambda", 0.2, 0.5,
                  "--output", output, *words)  # fmt: skip
    assert searches == [*([3] if "TEST.AQE.ENABLED" in opts else []), 10]  # once for the whole grid
    numbers = json.loads(output.read_text())
    assert (numbers["query"], numbers["gallery"], numbers["without_match"]) == (12, 48, 2)
    first, *others = numbers["results"]
    grid = [(k1, k2, weight) for k1 in (6, 10) for k2 in (1, 3) for weight in (0.2, 0.5)]
    assert first["rerank"] is None and [tuple(one["rerank"].values()) for one in others] == grid
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line[:1] == "|"][2:]
    for row, setting, one in zip(rows, [None, *grid], numbers["results"]):
        cfg = config(*opts)
        if setting:
            cfg.TEST.RERANK.ENABLED, cfg.TEST.RERANK.K1, cfg.TEST.RERANK.K2 = True, *setting[:2]
            cfg.TEST.RERANK.LAMBDA = setting[2]
        expected = host_results(there, cfg)
        for measure in MEASURES:
            assert one["results"][measure] == pytest.approx(float(expected[measure]), abs=1e-3)
        gain = "-" if setting is None else f"{one['results']['mAP'] - first['results']['mAP']:+.1f}"
        assert row == [
            *(f"{value:g}" for value in setting or ()), *(() if setting else "---"),
            *(f"{one['results'][measure]:.1f}" for measure in MEASURES), gain,
        ]  # fmt: skip
    assert len(rows) == 9 and len({row[3] for row in rows}) > 3
    assert f"TEST.METRIC {cfg.TEST.METRIC}" in printed and "2 of 12 query images do not count" in printed


def test_settings_are_those_of_the_config(run: Callable, tmp_path: Path) -> None:
    settings = "TEST:\n  METRIC: euclidean\n  RERANK:\n    ENABLED: true\n    K1: 8\n    K2: 2\n    LAMBDA: 0.1\n"
    save_feature_set(tmp_path / "set", random_set(config=settings))
    output = tmp_path / "rerank_0.1"  # the file that is named, whatever its ending
    assert f"Numbers: {output}\n" in run("--features", tmp_path / "set", "--output", output)
    numbers = json.loads(output.read_text())
    assert [one["rerank"] for one in numbers["results"]] == [None, {"k1": 8, "k2": 2, "lambda": 0.1}]
    assert numbers["settings"] == "TEST.METRIC euclidean"
    run("--features", tmp_path / "set", "--k1", 5, "--output", output, "--opts", "TEST.RERANK.K2", 3)
    assert json.loads(output.read_text())["results"][1]["rerank"] == {"k1": 5, "k2": 3, "lambda": 0.1}


def expected_lists(there: FeatureSet, top: int) -> list[list[tuple[str, float, bool]]]:
    """By the host's distances, sorted."""
    query, gallery = there.split()
    features = F.normalize(torch.from_numpy(there.features.features))
    jaccard = compute_dist.compute_jaccard_distance(features, k1=8, k2=3, search_option=3)[:12, 12:]
    distances = 0.7 * jaccard + 0.3 * (1 - features[:12] @ features[12:].T).numpy()
    lists = []
    for row in range(12):
        same = gallery.pids == query.pids[row]
        counts = ~(same & (gallery.camids == query.camids[row])) & (gallery.pids != -1)
        order = [image for image in np.argsort(distances[row], kind="stable") if counts[image]][:top]
        lists.append([(gallery.paths[i], float(distances[row, i]), bool(same[i])) for i in order])
    return lists


@pytest.mark.parametrize("top", [4, 100])
def test_rank_lists(run: Callable, tmp_path: Path, top: int) -> None:
    there = random_set()
    there.features.pids[[20, 30]] = -1  # images that show nobody
    save_feature_set(tmp_path / "set", there)
    words = ("--features", tmp_path / "set", "--k1", 8, "--k2", 3, "--lambda", 0.3, "--top", top, "--lists")
    run(*words, tmp_path / "new" / "lists.json")
    printed = run(*words, tmp_path / "lists.csv")
    assert f"Rank lists: {tmp_path / 'lists.csv'}" in printed
    described = json.loads((tmp_path / "new" / "lists.json").read_text())["queries"]
    with open(tmp_path / "lists.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [one["image"] for one in described] == there.features.paths[:12]
    for one, expected in zip(described, expected_lists(there, top)):
        assert [found["distance"] for found in one["found"]] == pytest.approx([d for _, d, _ in expected], abs=1e-5)
        assert [(found["image"], found["correct"]) for found in one["found"]] == [
            (p, right) for p, _, right in expected
        ]
        own = [row for row in rows if row["query"] == one["image"]]
        assert [int(row["rank"]) for row in own] == list(range(1, len(expected) + 1))
        for row, found in zip(own, one["found"]):
            assert row["image"] == found["image"] and float(row["distance"]) == found["distance"]
            assert row["correct"] == str(int(found["correct"]))


def test_refuses(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_feature_set(tmp_path / "set", random_set())
    save_feature_set(tmp_path / "images", random_set(num_query=0))

    def problem(*words: object, name: str = "set") -> str:
        output = tmp_path / "n.json"
        printed = command_line.problem(capsys, "rerank", "--features", tmp_path / name, "--output", output, *words)
        assert not output.exists()
        return printed

    assert "there is no folder" in problem(name="x")
    assert "not divided into query and gallery" in problem(name="images")
    assert "1 <= k2 <= k1, got k1 4 and k2 6" in problem("--k1", 20, 4)
    assert "k1 0" in problem("--k1", 0)
    for weight in (-0.1, 1.1, "nan"):
        assert "between 0 and 1" in problem("--lambda", 0.3, weight)
    rerank = ("--opts", "TEST.RERANK.ENABLED", "True", "TEST.RERANK.LAMBDA", "3.0")
    assert "lambda (TEST.RERANK.LAMBDA)" in problem(*rerank)
    assert "or --methods gnn in place of" in problem("--opts", "TEST.RERANK.METHOD", "gnn")
    assert "TEST.FLIP.ENABLED cannot be changed" in problem("--opts", "TEST.FLIP.ENABLED", "True")
    assert "--lists: writes .csv or .json" in problem("--lists", "a.txt")
    assert "--lists are of one setting" in problem("--lists", "a.csv", "--k1", "8", "10")
    assert "--top: must be at least 1" in problem("--lists", "a.csv", "--top", "0")
    assert "pairs KEY VALUE" in problem("--opts", "TEST.METRIC")
