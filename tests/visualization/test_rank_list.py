from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from fastreid_parts.evaluation import Features, match_ranks
from fastreid_parts.visualization import (
    MarkedImages,
    choose_queries,
    compare_rank_lists,
    draw_rank_lists,
    rank_examples,
    worst_examples,
    worst_queries,
)
from fastreid_parts.visualization.style import JUNK, MATCH, NON_MATCH, QUERY, Sheet


@pytest.fixture
def query_and_gallery(tmp_path: Path) -> tuple:
    """Three gray people; the query of person 2 is nearest to person 0."""
    path = str(tmp_path / "gray.png")
    cv2.imwrite(path, np.full((32, 16, 3), 128, np.uint8))
    query = Features(np.array([[0.0], [10], [1]], np.float32), np.arange(3), np.zeros(3, int), [path] * 3)
    gallery = Features(
        np.array([[0.1], [0.2], [10.1], [20], [21]], np.float32),
        np.array([0, 0, 1, 2, 2]),
        np.ones(5, int),
        [path] * 5,
    )
    return query, gallery


def colors_of(path: Path) -> set:
    pixels = cv2.imread(str(path))[..., ::-1].reshape(-1, 3)
    return {"#{:02x}{:02x}{:02x}".format(*pixel) for pixel in np.unique(pixels, axis=0).tolist()}


def test_draws_frames_for_right_and_wrong(query_and_gallery: tuple, tmp_path: Path) -> None:
    examples = rank_examples(*query_and_gallery, k=3, each=1)
    path = tmp_path / "new" / "rank_lists.png"
    draw_rank_lists(examples, path, title="Title")
    assert {QUERY, MATCH, NON_MATCH} <= colors_of(path)


def test_no_wrong_frame_where_all_is_right(query_and_gallery: tuple, tmp_path: Path) -> None:
    query, gallery = query_and_gallery
    first = Features(query.features[:1], query.pids[:1], query.camids[:1], query.paths[:1])
    draw_rank_lists(rank_examples(first, gallery, k=2, each=1), tmp_path / "a.png")
    assert MATCH in colors_of(tmp_path / "a.png")
    assert NON_MATCH not in colors_of(tmp_path / "a.png")


def test_examples_are_labeled_with_their_precision(query_and_gallery: tuple) -> None:
    examples = rank_examples(*query_and_gallery, k=3, each=1)
    assert [label.split("\n")[0] for label in examples.labels] == ["best", "median", "worst"]
    assert examples.rows[-1] == 2
    # Person 2 comes fourth and fifth: (1/4 + 2/5) / 2
    assert examples.labels[-1].endswith(f"{(1 / 4 + 2 / 5) / 2:.0%}")
    assert examples.longest == 3


def test_choose_queries() -> None:
    precisions = np.array([0.9, np.nan, 0.5, 1.0, 0.1, 0.2, 0.6])
    assert choose_queries(precisions, np.arange(7), each=2) == [
        (3, "best"), (0, "best"), (2, "median"), (6, "median"), (4, "worst"), (5, "worst"),
    ]  # fmt: skip


def test_four_queries_have_no_three_best_and_one_worst() -> None:
    precisions = np.array([0.2, np.nan, 0.9, 0.5, 0.1])
    assert choose_queries(precisions, np.arange(5), each=3) == [
        (2, "1 of 4"), (3, "2 of 4"), (0, "3 of 4"), (4, "4 of 4"),
    ]  # fmt: skip
    assert [group for _, group in choose_queries(precisions[:4], np.arange(4), each=1)] == ["best", "median", "worst"]


def test_choose_queries_prefers_identities_that_were_not_shown() -> None:
    precisions = np.array([1.0, 0.9, 0.8, 0.7])
    assert choose_queries(precisions, np.array([5, 5, 6, 6]), ("best",), each=2) == [(0, "best"), (2, "best")]


def test_choose_queries_never_twice() -> None:
    chosen = choose_queries(np.array([0.5, 0.6]), np.array([1, 2]), each=2)
    assert sorted(query for query, _ in chosen) == [0, 1]


def test_choose_queries_refuses() -> None:
    with pytest.raises(ValueError, match="no query can be scored"):
        choose_queries(np.array([np.nan]), np.array([1]))
    with pytest.raises(ValueError, match="unknown group 'luckiest'"):
        choose_queries(np.array([0.5]), np.array([1]), ("luckiest",))


def test_models_side_by_side(query_and_gallery: tuple, tmp_path: Path) -> None:
    query, gallery = query_and_gallery
    found = Features(np.array([[0.0], [10], [20]], np.float32), query.pids, query.camids, query.paths)
    models = {"without": (query, gallery, "euclidean"), "with": (found, gallery, "euclidean")}
    examples = compare_rank_lists(models, [(2, "greatest\ngain"), (0, "no gain")], k=2)
    assert examples.rows == [2, 0] and examples.labels == ["greatest\ngain", "no gain"]
    assert examples.notes == {"without": [f"AP {(1 / 4 + 2 / 5) / 2:.0%}", "AP 100%"], "with": ["AP 100%", "AP 100%"]}
    assert not examples.lists["without"][0].correct.any() and examples.lists["with"][0].correct.all()
    draw_rank_lists(examples, tmp_path / "two.png")
    assert {QUERY, MATCH, NON_MATCH} <= colors_of(tmp_path / "two.png")
    one = compare_rank_lists({"with": models["with"]}, [(2, "a"), (0, "b")], k=2)
    draw_rank_lists(one, tmp_path / "one.png")
    assert NON_MATCH not in colors_of(tmp_path / "one.png")
    assert cv2.imread(str(tmp_path / "one.png")).shape[1] < cv2.imread(str(tmp_path / "two.png")).shape[1]


def test_a_query_without_a_match_says_so(query_and_gallery: tuple) -> None:
    query, gallery = query_and_gallery
    query = Features(query.features, np.array([0, 1, 7]), query.camids, query.paths)
    examples = compare_rank_lists({"m": (query, gallery, "euclidean")}, [(2, "named")])
    assert examples.notes == {"m": ["no match"]}


def test_different_test_images_do_not_compare(query_and_gallery: tuple) -> None:
    query, gallery = query_and_gallery
    other = Features(query.features, query.pids, query.camids, ["other.png"] * 3)
    models = {"a": (query, gallery, "cosine"), "b": (other, gallery, "cosine")}
    with pytest.raises(ValueError, match="'a' and 'b' have different test images"):
        compare_rank_lists(models, [(0, "")])
    with pytest.raises(ValueError, match="at least one model and one query"):
        compare_rank_lists({"a": models["a"]}, [])


def test_the_marked_region_of_a_picture_is_framed(query_and_gallery: tuple, tmp_path: Path) -> None:
    """The first region from the top, and the third: the frame moves down by two thirds of the picture."""
    examples = compare_rank_lists({"m": (*query_and_gallery, "euclidean")}, [(0, "q")], k=1)
    yellow = np.full((30, 15, 3), (250, 250, 0), np.uint8)
    middles = []
    for marked in (0, 2):
        marks = MarkedImages({"m": [yellow]}, {"m": "map"}, regions=3, marked=marked)
        path = tmp_path / f"{marked}.png"
        draw_rank_lists(replace(examples, marked=marks), path)
        pixels = cv2.imread(str(path))[..., ::-1].astype(int)
        inside = (np.abs(pixels - (250, 250, 0)).max(axis=2) <= 4).nonzero()
        top, bottom, left, right = inside[0].min(), inside[0].max(), inside[1].min(), inside[1].max()
        band = pixels[top - 8 : bottom + 9, left + 3 : right - 3]  # an edge lies half outside of the picture
        edges = (band == (0x2B, 0x6C, 0xB0)).all(axis=2).any(axis=1).nonzero()[0]
        middles.append((edges.min() + edges.max()) / 2 / len(band))
    assert middles == pytest.approx([1 / 6, 5 / 6], abs=0.05)


def with_junk(query_and_gallery: tuple) -> tuple:
    """The same, and another image of person 0, nearest to its query, by the query's own camera."""
    query, gallery = query_and_gallery
    features = np.concatenate([[[0.05]], gallery.features]).astype(np.float32)
    paths = [gallery.paths[0]] * 6
    return query, Features(features, np.append(0, gallery.pids), np.append(0, gallery.camids), paths)


def test_junk_is_framed_gray_and_has_no_rank(
    query_and_gallery: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, gallery = with_junk(query_and_gallery)
    texts: list[str] = []
    write = Sheet.text
    monkeypatch.setattr(Sheet, "text", lambda *args, **more: (texts.append(args[3]), write(*args, **more)))
    models = {"m": (query, gallery, "euclidean")}
    draw_rank_lists(compare_rank_lists(models, [(0, "q")], k=2, with_junk=True), tmp_path / "junk.png")
    assert {QUERY, MATCH, JUNK} <= colors_of(tmp_path / "junk.png")
    assert [text for text in texts if "0.0500" in text or "✓" in text] == ["– 0.0500", "1 ✓ 0.100", "2 ✓ 0.200"]
    assert "3" not in texts  # no numbers above columns that are no ranks
    texts.clear()
    draw_rank_lists(compare_rank_lists(models, [(0, "q")], k=2), tmp_path / "plain.png")
    assert JUNK not in colors_of(tmp_path / "plain.png")
    assert {"1", "2", "✓ 0.100"} <= set(texts)
    assert rank_examples(query, gallery, k=2, each=1, with_junk=True).longest == 3


def test_without_labels_and_frames(query_and_gallery: tuple, tmp_path: Path) -> None:
    whole = rank_examples(*query_and_gallery, k=1, each=1)
    shapes = []
    for number, (examples, title) in enumerate(
        ((whole, ""), (replace(whole, labels=[], framed=False), ""), (whole, "T"))
    ):
        path = tmp_path / f"{number}.png"
        draw_rank_lists(examples, path, title)
        shapes.append(cv2.imread(str(path)).shape[1])
    assert shapes[1] < shapes[0] < shapes[2]  # no column of labels; room for a title
    assert {MATCH, NON_MATCH}.isdisjoint(colors_of(tmp_path / "1.png")) and QUERY in colors_of(tmp_path / "1.png")


def test_worst_queries(query_and_gallery: tuple, tmp_path: Path) -> None:
    query, gallery = query_and_gallery
    query = Features(query.features, np.array([0, 7, 2]), query.camids, query.paths)  # the second has no match
    ranks = match_ranks(query, gallery, "euclidean")
    assert worst_queries(ranks, 1) == [2] and worst_queries(ranks, 9) == [2, 0] and worst_queries(ranks, 0) == []
    near = {row: np.abs(gallery.features[:, 0] - query.features[row, 0]) for row in (0, 2)}
    examples = worst_examples(query, gallery, ranks, near, count=5, k=1)
    assert examples.rows == [2, 0]
    assert examples.labels == [
        f"AP {(1 / 4 + 2 / 5) / 2:.1%},\nfirst match\nat rank 4",
        "AP 100.0%,\nfirst match\nat rank 1",
    ]
    assert [found.places.tolist() for found in examples.lists[""]] == [[1, 4], [1]]
    draw_rank_lists(examples, tmp_path / "worst.png")
    assert {QUERY, MATCH, NON_MATCH} <= colors_of(tmp_path / "worst.png")
    nobody = Features(query.features, np.array([7, 8, 9]), query.camids, query.paths)
    with pytest.raises(ValueError, match="no query can be scored"):
        worst_examples(nobody, gallery, match_ranks(nobody, gallery), near)


def test_a_camera_is_shown_by_the_number_of_its_files_name(
    query_and_gallery: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = []
    monkeypatch.setattr(Sheet, "text", lambda sheet, x, y, text, *args, **more: texts.append(text))
    draw_rank_lists(rank_examples(*query_and_gallery, k=1, each=1), tmp_path / "lists.png")
    assert {text for text in texts if "cam" in text} >= {"id 1 · cam 1", "id 1 · cam 2"}
