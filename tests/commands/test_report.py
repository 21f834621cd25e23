"""report: its numbers are the evaluator's, its lists are in their order, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model

from fastreid_parts import command_line
from fastreid_parts.analysis.trained_models import inference_config
from fastreid_parts.commands import report
from fastreid_parts.data.build import build_reid_test_loader
from fastreid_parts.evaluation import evaluate_features, extract, rank_features
from fastreid_parts.report import page as page_module
from tests.commands.run import problem
from tests.report.html_pages import Tag, cells, numbers, read_page

RERANKED = ("TEST.RERANK.ENABLED", "True", "TEST.RERANK.K1", "5", "TEST.RERANK.K2", "2", "TEST.AQE.ENABLED", "True")


@pytest.fixture(autouse=True)
def quick_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "retrieval_curve", lambda kind, models, max_rank: kind.encode())


@pytest.fixture
def save(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> Callable[..., list[str]]:
    """A function that writes a model as config file and weights, and gives the words of --model.

    Its features are few and random, so that it does not find everything among so few images.
    """

    def save(name: str, *overrides: Any, seed: int = 0) -> list[str]:
        torch.manual_seed(seed)
        cfg = tiny_cfg("MODEL.HEADS.NUM_CLASSES", 6, "MODEL.HEADS.EMBEDDING_DIM", 2, *overrides)
        model, file = build_model(cfg), f"model{seed}"
        torch.save({"model": model.state_dict()}, tmp_path / f"{file}.pth")
        (tmp_path / f"{file}.yml").write_text(cfg.dump())
        return ["--model", name, str(tmp_path / f"{file}.yml"), str(tmp_path / f"{file}.pth")]

    return save


def report_of(output: Path, *words: str) -> Tag:
    assert command_line.main(["report", *words, "--output", str(output)]) == 0
    return read_page(output.read_text(encoding="utf-8"))


def section(page: Tag, identity: str) -> Tag:
    (found,) = [part for part in page.all("section") if part.attributes["id"] == identity]
    return found


def features_of(words: list[str], *overrides: str) -> tuple[CfgNode, Any, int]:
    cfg = inference_config(words[2], overrides)
    model = build_model(cfg)
    model.load_state_dict(torch.load(words[3])["model"])
    loader, num_query = build_reid_test_loader(cfg, dataset_name="FolderReID")
    return cfg, extract(model, loader, flip=cfg.TEST.FLIP.ENABLED), num_query


@pytest.mark.parametrize("overrides", [("TEST.METRIC", "euclidean", "TEST.FLIP.ENABLED", "True"), RERANKED])
def test_numbers_are_those_of_the_evaluator(
    save: Callable, tmp_path: Path, overrides: tuple[str, ...], capsys: pytest.CaptureFixture
) -> None:
    first, second = save("A"), save("B", seed=1)
    page = report_of(tmp_path / "new" / "r.html", *first, *second, "--each", "1", "--k", "2", "--opts", *overrides)
    scores, made, counts = section(page, "summary").all("table")
    for words, row in zip((first, second), scores.all("tbody")[0].all("tr")):
        cfg, features, num_query = features_of(words, *overrides)
        expected = evaluate_features(features, num_query, cfg)
        assert row.children[0].text == words[1]
        assert numbers(row) == pytest.approx([expected[measure] for measure in cells(scores)[0][1:]])
        # and each list is as long as it was asked for, with its average precision above it
        precisions = rank_features(features, num_query, cfg).average_precision()
        for article in section(page, "lists").all("article"):
            query = [path.endswith(article.all("small")[0].text) for path in features.paths].index(True)
            place = [head.text.split(" ")[0] for head in article.all("h4")].index(words[1])
            assert article.all("h4")[place].text == f"{words[1]} · AP {precisions[query]:.1%}"
            shown = article.all("ol")[place].all("figure")
            assert sum("junk" not in figure.attributes["class"] for figure in shown) == 2
    assert dict(map(tuple, cells(counts)[1:])) == {
        "queries": "4",
        "queries without a match, which are not scored": "0",
        "identities of the queries": "4",
        "gallery images": "20",
        "gallery images of identities that no query shows": "0",
        "identities of the gallery": "4",
        "cameras": "3",
        "junk: pairs of a query and a gallery image that does not count for it": "4",
    }
    told = {row[0]: row[1:] for row in cells(made)[1:]}
    assert told["weights"] == [first[3], second[3]] and len(set(told["ranked by"])) == 1
    ranked_by = told["ranked by"][0]
    assert ("flip" in ranked_by) == ("TEST.FLIP.ENABLED" in overrides)
    assert ("re-ranking (k1 5, k2 2, lambda 0.3)" in ranked_by) == (overrides is RERANKED)
    assert ("query expansion (k 5, 1 times, alpha 3)" in ranked_by) == (overrides is RERANKED)
    assert ranked_by.startswith(f"TEST.METRIC {'cosine' if overrides is RERANKED else 'euclidean'}")
    assert "Report:" in capsys.readouterr().out


def test_worst_queries_and_where_their_first_match_is(save: Callable, tmp_path: Path) -> None:
    words = save("A")
    page = report_of(tmp_path / "r.html", *words, "--worst", "3", "--k", "1", "--each", "1")
    cfg, features, num_query = features_of(words)
    ranks = rank_features(features, num_query, cfg)
    order = np.argsort(ranks.average_precision(), kind="stable")[:3]
    articles = section(page, "worst").all("article")
    for query, article in zip(order, articles):
        first = ranks.first_match()[query]
        name = Path(features.paths[query]).name
        precision = ranks.average_precision()[query]
        assert article.all("h3")[0].text == f"AP {precision:.1%}, first match at rank {first} {name}"
        (match,) = article.all("figure", "match")
        assert match.all("b")[0].text == f"{first} ✓"
    assert len(articles) == 3 and max(ranks.first_match()[order]) > 2
    assert [article.all("h3")[0].texts[0] for article in section(page, "lists").all("article")] == [
        "best AP ", "median AP ", "worst AP ",
    ]  # fmt: skip


def test_maps_configs_and_versions(save: Callable, tmp_path: Path) -> None:
    page = report_of(tmp_path / "r.html", *save("A"), *save("B", "TEST.METRIC", "euclidean", seed=1), "--each", "1")
    maps = section(page, "maps").all("article")
    assert len(maps) == len(section(page, "lists").all("article")) == 3
    assert all(len(article.all("img")) == 5 for article in maps)
    models = section(page, "models")
    assert ["TEST.METRIC", "cosine", "euclidean"] in cells(models.all("table")[0])
    assert "METRIC: euclidean" in models.all("details")[1].text
    footer = page.all("footer")[0].text
    assert f"torch {torch.__version__}" in footer and "fastreid_parts 0." in footer and "Python 3." in footer


def test_named_queries_without_maps_and_worst(save: Callable, tmp_path: Path) -> None:
    words = [*save("<script>&"), "--no-maps", "--worst", "0", "--title", "<b>Mine</b>"]
    page = report_of(tmp_path / "r.html", *words, "--queries", "0102_c1s1_000000_00.jpg")
    assert [part.attributes["id"] for part in page.all("section")] == ["summary", "curves", "lists", "models"]
    (article,) = section(page, "lists").all("article")
    assert article.all("h3")[0].text == "named 0102_c1s1_000000_00.jpg"
    assert article.all("figure", "asked")[0].all("figcaption")[0].text == "id 102 cam 1"
    assert page.all("h1")[0].text == "<b>Mine</b>"
    assert section(page, "summary").all("tbody")[0].all("th")[0].text == "<script>&"


def test_a_model_without_a_map_is_said(save: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_map(model: object, images: object) -> None:
        raise ValueError("the backbone gives no map")

    monkeypatch.setattr(report, "activation_maps", no_map)
    page = report_of(tmp_path / "r.html", *save("A"), "--each", "1")
    assert "No activation maps of A: the backbone gives no map." in section(page, "summary").text
    assert "maps" not in [part.attributes["id"] for part in page.all("section")]


def test_several_test_sets(save: Callable, tmp_path: Path) -> None:
    page = report_of(
        tmp_path / "r.html",
        *save("A"),
        "--each",
        "1",
        "--no-maps",
        "--worst",
        "0",
        "--datasets",
        "FolderReID",
        "FolderReID",
    )
    scores, _, counts = section(page, "summary").all("table")
    assert [row[:2] for row in cells(scores)[1:]] == [["A", "FolderReID"]] * 2
    assert cells(counts)[0] == ["number of", "FolderReID", "FolderReID"]
    assert len(section(page, "lists").all("article")) == 6


def test_refuses(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words, output = save("A"), tmp_path / "r.html"

    def refused(*more: str) -> str:
        message = problem(capsys, "report", *words, *more)
        assert not output.exists()
        return message

    assert "is a folder: name the file to write" in refused("--output", str(tmp_path))
    assert "no dataset is named 'Nowhere'" in refused("--output", str(output), "--datasets", "FolderReID", "Nowhere")
    assert "'x.jpg' names no query images" in refused("--output", str(output), "--queries", "x.jpg")
    assert "both models are named 'A'" in refused("--output", str(output), *words)
    wrong = (["--worst", "-1"], ["--max-rank", "0"], ["--each", "0"], ["--by", "gain"],
             ["--queries", "x.jpg", "--datasets", "A", "B"])  # fmt: skip
    for more in wrong:
        assert "--" in refused("--output", str(output), *more)
