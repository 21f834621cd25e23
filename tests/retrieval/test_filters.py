"""Columns of an index: where they come from, what they survive, and searching by them."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastreid_parts.retrieval import GalleryIndex
from fastreid_parts.retrieval.columns import texts_of, value_of

from .galleries import IMAGES, KINDS, build, feature_set
from .test_expression import NAMES, Question, random_columns


def write_table(path: Path, columns: dict[str, list[str]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values()))
    return path


def labeled(kind: str, folder: Path, metric: str = "cosine", images: int = IMAGES) -> GalleryIndex:
    """An index with columns of every kind; the paths of its images start at the folder."""
    index = build(kind, feature_set(images=images), metric)
    index.images.paths = [str(folder / path) for path in index.images.paths]
    columns = {name: texts_of(column) for name, column in random_columns(5, images).items()}
    headers = {f"{name}:{NAMES[name]}": cells for name, cells in columns.items()}
    table = write_table(folder / "table.csv", {"path": index.images.paths, **headers})
    assert index.label(table) == images
    return index


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_filtered_search_finds_what_a_search_of_these_images_alone_does(
    kind: str, metric: str, tmp_path: Path
) -> None:
    index, exact = labeled(kind, tmp_path, metric), labeled("flat", tmp_path, metric)
    for one in (index, exact):
        one.remove(rows=range(0, IMAGES, 7))
    query = feature_set().split()[0].features[:3]
    everything = exact.search(query, len(exact))
    for seed in range(70):
        question = Question(np.random.default_rng(seed)).text
        meant = np.flatnonzero(exact.images.where(question))
        distances, rows = index.search(query, 5, where=question)
        assert rows.shape == (3, min(5, len(meant))), question
        for line in range(len(query)):
            wanted = np.isin(everything[1][line], meant)
            np.testing.assert_allclose(distances[line], everything[0][line][wanted][:5], atol=2e-3, err_msg=question)
            assert set(rows[line]) <= set(meant)


@pytest.mark.parametrize("kind", KINDS)
def test_few_are_found_among_many(kind: str, tmp_path: Path) -> None:
    """Images that an approximate search would not come across."""
    index = labeled(kind, tmp_path)
    query = feature_set().split()[0].features
    farthest = index.search(query[:1], len(index))[1][0, -2:]
    distances, rows = index.search(query[:1], 5, where=f"row in ({farthest[0]}, {farthest[1]})")
    assert sorted(rows[0]) == sorted(farthest) and np.isfinite(distances).all()
    assert index.search(query, 5, where="row == -1")[1].shape == (len(query), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_image_of_each_group(kind: str, tmp_path: Path) -> None:
    index = labeled(kind, tmp_path)
    query = feature_set().split()[0].features[:4]
    everything = index.search(query, len(index))
    for name in ("site", "identity", "time"):
        groups = index.images.groups(name)
        distances, rows = index.search(query, 30, group_by=name)
        for line in range(len(query)):
            order = everything[1][line]
            best = [row for place, row in enumerate(order) if groups[row] not in groups[order[:place]]][:30]
            found = rows[line][rows[line] >= 0]
            assert len(found) == len(best) and len(set(groups[found])) == len(best)
            if kind != "hnsw":
                assert found.tolist() == best
            assert np.isinf(distances[line][rows[line] < 0]).all()
    unknown = index.images.column("site") == ""
    assert len(set(index.images.groups("site")[unknown])) == unknown.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_columns_survive_the_disk_additions_and_removals(kind: str, tmp_path: Path) -> None:
    index = labeled(kind, tmp_path)
    before = {name: texts_of(index.images.column(name)) for name in NAMES}
    index.save(tmp_path / "index")
    index = GalleryIndex.load(tmp_path / "index")
    assert {name: texts_of(index.images.column(name)) for name in NAMES} == before
    index.add(feature_set(images=3, seed=3))
    index.remove(rows=[0, 2])
    index.save(tmp_path / "index")
    index = GalleryIndex.load(tmp_path / "index")
    for name in NAMES:
        texts = texts_of(index.images.column(name))
        assert texts[IMAGES:] == [""] * 3 and texts[3:IMAGES] == before[name][3:] and texts[0] == ""
    assert index.describe()["columns"] == NAMES


def table_of(tmp_path: Path, index: GalleryIndex, **columns: list[str]) -> Path:
    paths = index.images.paths[: len(next(iter(columns.values())))]
    return write_table(tmp_path / "more.csv", {"path": paths, **columns})


class TestTables:
    def test_later_tables_go_over_earlier_ones(self, tmp_path: Path) -> None:
        index = labeled("flat", tmp_path, images=100)
        assert index.label(table_of(tmp_path, index, site=["new", ""], track=["7", "8"])) == 2
        assert index.images.column("site")[:2].tolist() == ["new", ""]
        assert index.images.column("track")[:2].tolist() == [7, 8] and np.isnan(index.images.column("track")[2])

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"mixed": ["1", "two"]}, r"column 'mixed'.*number \('1'\), text \('two'\).*mixed:text"),
            ({"mixed": ["2026-05-01", "1"]}, "several kinds"),
            ({"height": ["tall"]}, "height is number in the index and text in the table"),
            ({"when:date": ["2026-05-01"]}, "no kind 'date'"),
            ({"time:time": ["noon"]}, "'noon' is no time"),
            ({"a b": ["1"]}, "letters, digits"),
            ({"removed": ["1"]}, "every image has"),
            ({"distance": ["1"]}, "a result of `search` has query, rank, distance, same_person; call the column"),
            ({"same_person:text": ["1"]}, "a result of `search` has"),
            ({"a:text": ["1"], "a": ["2"]}, "there twice"),
            ({"identity": ["7"]}, "no column beside"),
        ],
    )
    def test_refused(self, columns: dict[str, list[str]], message: str, tmp_path: Path) -> None:
        index = labeled("flat", tmp_path, images=100)
        before = index.describe()
        with pytest.raises(ValueError, match=message):
            index.label(table_of(tmp_path, index, **columns))
        assert index.describe() == before

    def test_whom_images_show_is_not_read_and_that_is_said(self, tmp_path: Path, caplog: Any) -> None:
        index = labeled("flat", tmp_path, images=100)
        before = index.images.pids.tolist()
        for columns, message in (({"camera": ["9"], "identity": ["7"]}, "identity, camera; whom"), ({}, "")):
            caplog.clear()
            with caplog.at_level("WARNING", "fastreid_parts"):
                logging.getLogger("fastreid_parts").addHandler(caplog.handler)
                index.label(table_of(tmp_path, index, site=["new"], **columns))
                logging.getLogger("fastreid_parts").removeHandler(caplog.handler)
            assert ("not read from" in caplog.text) == bool(message) and message in caplog.text
        assert index.images.pids.tolist() == before

    def test_of_other_images(self, tmp_path: Path) -> None:
        index = labeled("flat", tmp_path, images=100)
        with pytest.raises(ValueError, match="none of the 2 images of the table is in the index"):
            index.label(write_table(tmp_path / "more.csv", {"path": ["x.jpg", "y.jpg"], "site": ["a", "b"]}))
        with pytest.raises(ValueError, match=r"x\.jpg twice"):
            index.label(write_table(tmp_path / "more.csv", {"path": ["x.jpg", "x.jpg"], "site": ["a", "b"]}))
        with pytest.raises(FileNotFoundError):
            index.label(tmp_path / "none.csv")

    def test_unknown_columns_are_named(self, tmp_path: Path) -> None:
        index = labeled("flat", tmp_path, images=100)
        query = feature_set().split()[0].features
        for asked in ({"where": "colour == 'red'"}, {"group_by": "colour"}):
            with pytest.raises(
                ValueError, match="no column 'colour' in the index; it has row, path, identity, camera, site"
            ):
                index.search(query, 5, **asked)


def test_a_whole_number_is_shown_as_one() -> None:
    numbers = np.array([12.0, 12.5, np.nan])
    assert [value_of(numbers, row) for row in range(3)] == [12, 12.5, None]
    assert [repr(value_of(numbers, row)) for row in range(2)] == ["12", "12.5"]
    assert value_of(np.array(["12"], object), 0) == "12"
