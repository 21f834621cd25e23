"""evaluate: the numbers of stored features and of models, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastreid.config import CfgNode, get_cfg
from fastreid.evaluation.reid_evaluation import ReidEvaluator
from torch import from_numpy

from fastreid_parts.commands import evaluate
from fastreid_parts.evaluation import Features, average_precisions, evaluate_features
from fastreid_parts.retrieval import FeatureSet, save_feature_set

from . import run as command_line
from .test_extract import write_model

MEASURES = ("mAP", "mINP", "Rank-1", "Rank-5", "Rank-10")


def random_set(seed: int = 0, num_query: int = 12, config: str = "", unmatched: int = 2) -> FeatureSet:
    """60 images of 8 identities under 3 cameras; the first queries show people whom the gallery does not have."""
    rng = np.random.default_rng(seed)
    pids, camids = 1 + np.arange(60) % 8, np.arange(60) // 8 % 3
    pids[:unmatched] = 100 + np.arange(unmatched)
    features = rng.normal(size=(8, 6))[pids % 8] + rng.normal(size=(60, 6))
    paths = [f"images/{number:03d}.jpg" for number in range(60)]
    columns = Features(features.astype(np.float32), pids.astype(np.int64), camids.astype(np.int64), paths)
    return FeatureSet(columns, num_query, "0123456789ab", config, "Market1501")


@pytest.fixture
def run(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """A function that runs the command and gives what it prints."""
    return lambda *words: command_line.run(capsys, "evaluate", *words).out


def host_results(there: FeatureSet, cfg: CfgNode) -> dict[str, float]:
    evaluator = ReidEvaluator(cfg, there.num_query)
    columns = {"targets": from_numpy(there.features.pids), "camids": from_numpy(there.features.camids)}
    evaluator.process(columns, from_numpy(there.features.features))
    return evaluator.evaluate()


def row_of(printed: str, name: str) -> list[str]:
    (row,) = [line for line in printed.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in row.split("|")[2:-1]]


@pytest.mark.parametrize("opts", [(), ("TEST.METRIC", "euclidean"), ("TEST.RERANK.ENABLED", "True")])
def test_stored_features_have_the_results_of_the_host(run: Callable, tmp_path: Path, opts: tuple) -> None:
    sets = {str(tmp_path / name): random_set(seed) for seed, name in enumerate("ab")}
    for folder, there in sets.items():
        save_feature_set(folder, there)
    cfg = get_cfg()
    cfg.merge_from_list(list(opts))
    output = tmp_path / "new" / "numbers_0.3"  # the file that is named, whatever its ending
    words = ("--opts", *opts) if opts else ()
    printed = run("--features", *sets, "--output", output, *words)
    numbers = json.loads(output.read_text())["evaluated"]
    assert [one["name"] for one in numbers] == list(sets)
    for one, (folder, there) in zip(numbers, sets.items()):
        expected = host_results(there, cfg)
        for measure in MEASURES:
            assert one["results"][measure] == pytest.approx(float(expected[measure]), abs=1e-4)
        assert row_of(printed, folder) == [*(f"{one['results'][measure]:.1f}" for measure in MEASURES), "12", "2"]
        assert (one["query"], one["gallery"], one["without_match"]) == (12, 48, 2)
        assert one["dataset"] == "Market1501" and one["fingerprint"] == "0123456789ab"
        assert f"{folder} (Market1501): 12 queries, 48 images of the gallery" in printed
        assert f"{folder}: 2 of 12 query images do not count" in printed and "100, 101" in printed
    assert f"TEST.METRIC {cfg.TEST.METRIC}" in printed
    assert ("re-ranking (k1 20, k2 6, lambda 0.3)" in printed) == cfg.TEST.RERANK.ENABLED


def test_every_query_with_its_image(run: Callable, tmp_path: Path) -> None:
    there = random_set()
    save_feature_set(tmp_path / "set", there)
    run("--features", tmp_path / "set", "--output", tmp_path / "n.json", "--per-query", tmp_path / "new" / "q.csv")
    query, gallery = there.split()
    expected = average_precisions(query, gallery, "cosine")
    described = json.loads((tmp_path / "n.json").read_text())["evaluated"][0]["queries"]
    with open(tmp_path / "new" / "q.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(described) == len(rows) == 12
    for number, (one, row) in enumerate(zip(described, rows)):
        assert one["image"] == row["image"] == query.paths[number]
        assert one["identity"] == int(row["identity"]) == query.pids[number]
        assert one["camera"] == int(row["camera"]) == query.camids[number] + 1
        right = (gallery.pids == query.pids[number]) & (gallery.camids != query.camids[number])
        assert one["matches"] == int(row["matches"]) == right.sum()
        same = (gallery.pids == query.pids[number]) & (gallery.camids == query.camids[number])
        assert one["candidates"] == int(row["candidates"]) == 48 - same.sum()
        assert row["name"] == str(tmp_path / "set")
        if number < 2:  # nobody in the gallery is this person
            assert one["average_precision"] is one["inverse_negative_penalty"] is one["first_match"] is None
            assert row["average_precision"] == row["inverse_negative_penalty"] == row["first_match"] == ""
            continue
        assert one["average_precision"] == pytest.approx(expected[number]) == float(row["average_precision"])
        assert one["inverse_negative_penalty"] == float(row["inverse_negative_penalty"])
        assert one["first_match"] == int(row["first_match"]) >= 1
    counted = [one["average_precision"] for one in described[2:]]
    results = json.loads((tmp_path / "n.json").read_text())["evaluated"][0]["results"]
    assert results["mAP"] == pytest.approx(100 * np.mean(counted))
    assert results["Rank-1"] == pytest.approx(100 * np.mean([one["first_match"] == 1 for one in described[2:]]))


def test_roc_in_percent_and_settings_of_each_set(run: Callable, tmp_path: Path) -> None:
    save_feature_set(tmp_path / "a", random_set())
    save_feature_set(tmp_path / "b", random_set(config="TEST:\n  METRIC: euclidean\n"))
    output = tmp_path / "n.json"
    printed = run("--features", tmp_path / "a", tmp_path / "b", "--opts", "TEST.ROC.ENABLED", True, "--output", output)
    results = json.loads(output.read_text())["evaluated"][0]["results"]
    cfg = get_cfg()
    cfg.TEST.ROC.ENABLED = True
    rate = evaluate_features(random_set().features, 12, cfg)["TPR@FPR=1e-02"]
    assert 0 < rate < 1 and results["TPR@FPR=1e-02"] == rate
    assert row_of(printed, str(tmp_path / "a"))[7] == f"{100 * rate:.1f}"
    assert f"TEST.METRIC cosine: {tmp_path / 'a'}\nTEST.METRIC euclidean: {tmp_path / 'b'}\n" in printed


def test_a_model_across_datasets(
    run: Callable,
    tmp_path: Path,
    tiny_cfg: Callable[..., CfgNode],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    model = write_model(tiny_cfg("TEST.FLIP.ENABLED", True), tmp_path, "ide")
    command_line.run(capsys, "extract", *model, "--output", tmp_path / "set")
    run("--features", tmp_path / "set", "--output", tmp_path / "stored.json")
    stored = json.loads((tmp_path / "stored.json").read_text())["evaluated"][0]

    build = evaluate.build_reid_test_loader
    monkeypatch.setattr(
        evaluate, "build_reid_test_loader", lambda cfg, dataset_name: build(cfg, dataset_name="FolderReID")
    )
    printed = run(*model, "--datasets", "One", "Two", "One", "--output", tmp_path / "n.json")
    numbers = json.loads((tmp_path / "n.json").read_text())["evaluated"]
    assert [one["name"] for one in numbers] == [one["dataset"] for one in numbers] == ["One", "Two"]
    for one in numbers:
        assert one["results"] == pytest.approx(stored["results"]) and one["queries"] == stored["queries"]
        assert one["fingerprint"] == stored["fingerprint"] and one["weights"] == model[-1]
        assert row_of(printed, one["name"])[-2:] == ["4", "0"]
    assert "TEST.METRIC cosine, flip\n" in printed


def test_a_file_that_cannot_be_written_is_refused_first_and_results_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_feature_set(tmp_path / "set", random_set())
    words = ("evaluate", "--features", tmp_path / "set")
    for option in ("--output", "--per-query"):
        answer = command_line.run(capsys, *words, option, tmp_path, code=2)
        assert f"{option}: '{tmp_path}' is a folder: name the file" in answer.err and not answer.out

    def fails(*args: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(evaluate, "write_json", fails)
    answer = command_line.run(capsys, *words, "--output", tmp_path / "n.json", code=2)
    assert "no room" in answer.err and row_of(answer.out, str(tmp_path / "set"))


def test_refuses(
    tmp_path: Path,
    tiny_cfg: Callable[..., CfgNode],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def problem(*words: object) -> str:
        printed = command_line.problem(capsys, "evaluate", *words, "--output", tmp_path / "n.json")
        assert not (tmp_path / "n.json").exists()
        return printed

    save_feature_set(tmp_path / "a", random_set())
    save_feature_set(tmp_path / "images", random_set(num_query=0))
    save_feature_set(tmp_path / "none", random_set(unmatched=12))
    assert "there is no folder 'x'" in problem("--features", tmp_path / "a", "x")
    assert "images': these features are not divided into query and gallery" in problem(
        "--features", tmp_path / "a", tmp_path / "images"
    )
    assert "none of the 12 queries" in problem("--features", tmp_path / "a", tmp_path / "none")
    for key in ("TEST.FLIP.ENABLED", "MODEL.BACKBONE.DEPTH", "INPUT.SIZE_TEST", "TEST.FEATURES"):
        assert f"{key} cannot be changed" in problem("--features", tmp_path / "a", "--opts", key, "x")
    words = ("--features", tmp_path / "a", "--opts", "TEST.METRIC", "manhattan")
    assert "TEST.METRIC is 'manhattan'" in problem(*words)
    assert command_line.run(capsys, "evaluate", *words, code=2).out == ""  # before anything is computed
    assert "TEST.METRIX" in problem("--features", tmp_path / "a", "--opts", "TEST.METRIX", "cosine")
    (tmp_path / "a" / "images.csv").write_text("path\n")
    assert "images.csv' has 5 bytes" in problem("--features", tmp_path / "a")

    model = write_model(tiny_cfg(), tmp_path, "ide")
    monkeypatch.setattr(evaluate, "load_model", lambda *args: pytest.fail("what does not fit shows before the model"))
    assert "no dataset is named 'Market1502'" in problem(*model, "--datasets", "FolderReID", "Market1502")
    assert "names no test set" in problem(*model, "--opts", "DATASETS.TESTS", "()")
    assert "TEST.METRIC is 'manhattan'" in problem(*model, "--opts", "TEST.METRIC", "manhattan")
    assert "no weights file" in problem(*model[:3], "x.pth")
    for words in ([], model[:2], [*model, "--features", "a"]):
        assert "name what to evaluate" in problem(*words)
    assert "--datasets are for a model" in problem("--features", "a", "--datasets", "b")
    assert "pairs KEY VALUE" in problem("--features", tmp_path / "none", "--opts", "TEST.METRIC")


def test_csv_of_unusual_names(tmp_path: Path) -> None:
    rows: list[list[Any]] = [['a "b", c\nd', 1, None], ["bytes\udcff", 2, 0.5]]
    evaluate.write_csv(str(tmp_path / "t.csv"), ["path", "x", "y"], rows)
    with open(tmp_path / "t.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert list(csv.reader(file)) == [["path", "x", "y"], ['a "b", c\nd', "1", ""], ["bytes\udcff", "2", "0.5"]]
