"""One suite, two stores: a folder and milvus-lite answer alike, and both change whole or not at all."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastreid_parts.evaluation import topk
from fastreid_parts.retrieval import Gallery, GalleryIndex, MilvusGallery, save_feature_set
from fastreid_parts.retrieval.columns import texts_of
from fastreid_parts.retrieval.gallery import change_digest

from .galleries import DIMENSIONS, IMAGES, QUERIES, build, feature_set
from .test_expression import NAMES, Question, images_of, random_columns
from .test_filters import write_table


class Kept:
    """A gallery in a store: built, and opened again as by another process."""

    def __init__(self, store: str, place: Path) -> None:
        self.store, self.place = store, place / ("people.db" if store == "milvus" else "people")

    def build(self, gallery: Any, metric: str = "cosine") -> None:
        if self.store == "milvus":
            MilvusGallery.build(gallery, self.place, "flat", metric).close()
        else:
            build("flat", gallery, metric).save(self.place)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Gallery]:
        if self.store == "milvus":
            with MilvusGallery.load(self.place) as gallery:
                yield gallery
        else:
            with GalleryIndex.held(self.place) as index:
                yield index
                index.save(self.place)


@pytest.fixture(params=["folder", "milvus"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    if request.param == "milvus":
        pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")
        pytest.importorskip("pymilvus", reason="pymilvus is not installed")
    return Kept(request.param, tmp_path)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_same_images_and_distances(kept: Kept, metric: str) -> None:
    gallery, more = feature_set(), feature_set(images=50, seed=3)
    kept.build(gallery, metric)
    query, images = gallery.split()
    left = np.ones(IMAGES + 50, bool)
    with kept.opened() as there:
        np.testing.assert_array_equal(there.add(more), np.arange(IMAGES, IMAGES + 50))
        assert there.remove(rows=[5], paths=[images.paths[9]], identities=[7]) == len(
            {5, 9, *np.flatnonzero(np.concatenate([images.pids, more.split()[1].pids]) == 7)}
        )
    left[[5, 9]] = False
    pids = np.concatenate([images.pids, more.split()[1].pids])
    left &= pids != 7
    rows_left = np.flatnonzero(left)
    everything = np.concatenate([images.features, more.split()[1].features])
    expected, neighbors = topk(query.features, everything[rows_left], 30, metric)
    with kept.opened() as there:
        assert len(there) == left.sum() and there.dimensions == DIMENSIONS
        distances, rows = there.search(gallery, 30)
        np.testing.assert_array_equal(rows, rows_left[neighbors])
        np.testing.assert_allclose(distances, expected, atol=2e-6)
        assert distances.dtype == np.float32 and rows.dtype == np.int64
        assert there.search(gallery, 10_000)[1].shape == (QUERIES, left.sum())
        table = there.images_of(rows[0])
        np.testing.assert_array_equal(table.column("identity"), pids[rows[0]].astype(str))
        said = there.describe()
        assert (said["images"], said["identities"], said["cameras"]) == (left.sum(), 39, 6)
        assert there.add(feature_set(images=2, seed=4)).tolist() == [IMAGES + 50, IMAGES + 51]  # no row comes twice
        there.remove(rows=[IMAGES + 50, IMAGES + 51])
    with kept.opened() as there:
        assert there.add(feature_set(images=1, seed=5)).tolist() == [IMAGES + 52]
        there.remove(rows=[*rows_left.tolist(), IMAGES + 52])
    with kept.opened() as there, pytest.raises(ValueError, match="the index is empty"):
        there.search(gallery, 1)


def test_filters_against_a_loop_over_images(kept: Kept, tmp_path: Path) -> None:
    """200 expressions, drawn at random."""
    images, number = feature_set(images=80), 80
    images.features.paths[:] = [str(tmp_path / path) for path in images.features.paths]
    kept.build(images)
    columns = random_columns(5, number)
    headers = {f"{name}:{NAMES[name]}": texts_of(column) for name, column in columns.items()}
    table = write_table(tmp_path / "table.csv", {"path": images.split()[1].paths, **headers})
    query, found = images.split()[0].features[:1], set()
    with kept.opened() as there:
        assert there.label(table) == number
    with kept.opened() as there:
        assert there.describe()["columns"] == NAMES
        everything = there.search(query, number)[1][0]
        for seed in range(200):
            question = Question(np.random.default_rng(seed))
            meant = [row for row, image in enumerate(images_of(columns)) if question.truth(image) is True]
            k = 5 if seed % 2 else number
            rows = there.search(query, k, where=question.text)[1]
            assert rows.shape == (1, min(k, len(meant))), question.text
            assert rows[0].tolist() == [row for row in everything if row in meant][:k], question.text
            found.add(tuple(rows[0]))
        assert len(found) > 50
        for name in ("site", "height", "time", "identity"):
            groups = there.images_of(np.arange(number)).groups(name)
            best = [row for place, row in enumerate(everything) if groups[row] not in groups[everything[:place]]]
            rows = there.search(query, number, group_by=name)[1][0]
            assert rows[rows >= 0].tolist() == best
            assert there.search(query, 3, group_by=name)[1][0].tolist() == best[:3]


def test_few_groups_do_not_rank_the_whole_gallery(kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = feature_set()
    gallery.features.paths[:] = [str(tmp_path / path) for path in gallery.features.paths]
    kept.build(gallery)
    images = gallery.split()[1]
    cells = {"site": ["till", "door", "exit"], "floor": ["0", "1", "2.5"], "day": ["2026-05-01", "2026-05-02", ""]}
    columns = {name: [values[row % 3] for row in range(IMAGES)] for name, values in cells.items()}
    with kept.opened() as there:
        there.label(write_table(tmp_path / "table.csv", {"path": images.paths, **columns}))
        asked, nearest = [], there._nearest
        monkeypatch.setattr(there, "_nearest", lambda matrix, k, *rest: asked.append(k) or nearest(matrix, k, *rest))
        for group_by, where, number in (
            ("camera", "", 6), ("camera", "camera in (1, 3)", 2), ("site", "", 3), ("floor", "site != 'till'", 2),
            ("day", "day is known", 2),
        ):  # fmt: skip
            rows = there.search(gallery, 10, where=where, group_by=group_by)[1]
            assert ((rows >= 0).sum(axis=1) == number).all() and max(asked) <= 160 < IMAGES // 3
        assert (there.search(gallery, 10, group_by="day")[1] >= 0).all()  # of the others each is a group


WORDS = ["it's", 'a "b"', "back\\slash", "\\", '" or row >= 0 or path == "', "' or 1 == 1 --", "line\nbreak\ttab\r",
         "schräg, 東京", "%", "{row}", "$meta", "a" * 300]  # fmt: skip


def test_texts_are_texts(kept: Kept) -> None:
    """Whatever is in them: asked for, each finds itself alone."""
    gallery = feature_set(images=len(WORDS), queries=1)
    gallery.features.paths[1:] = [f"{word}.jpg" for word in WORDS]
    kept.build(gallery)
    with kept.opened() as there:
        for row, word in enumerate(WORDS):
            text = f"{word}.jpg".replace("'", "''")
            assert there.search(gallery, 20, where=f"path == '{text}'")[1].tolist() == [[row]], word
            assert there.search(gallery, 20, where=f"path != '{text}'")[1].shape == (1, len(WORDS) - 1)
        assert there.remove(paths=[f"{word}.jpg" for word in WORDS[:5]]) == 5


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("row == 1; drop", "not understood at ';"), ("$meta['site'] == 'a'", r"not understood at '\$"),
        ("path like 'a%'", "not understood at 'like"), ("row in [1]", r"not understood at '\["),
        ("path == 'a' || row >= 0", r"not understood at '\|"), ("exists path", "not understood at 'path"),
        ("count(*) == 1", r"not understood at '\("), ("path == \"a' or row >= 0", "not understood"),
        ("color == 'red'", "no column 'color' in the index; it has row, path, identity, camera"),
        ("vector == 1", "no column 'vector'"), ("path > 3", "path is text, and is compared with number"),
        ("row == 'a'", "row is number"), ("row", "ends too early"),
    ],
)  # fmt: skip
def test_no_question(kept: Kept, where: str, message: str) -> None:
    kept.build(feature_set(images=3, queries=1))
    with kept.opened() as there:
        with pytest.raises(ValueError, match=message):
            there.search(feature_set(images=3, queries=1), 2, where=where)
        with pytest.raises(ValueError, match=message):
            there.check_question(where)


NUMBERS = ["row < 2.5", "row <= 2.5", "row > 2.5", "row == 2.5", "row != 2.5", "not row >= 3", "row >= -1e30",
           "row < 1e999", "row != 1e999", "row > 1e999", "row in (1, 2.5, 4)"]  # fmt: skip


def test_rows_are_numbers(kept: Kept) -> None:
    gallery = feature_set(images=6, queries=1)
    kept.build(gallery)
    with kept.opened() as there:
        for where in NUMBERS:
            meant = {row for row in range(6) if eval(where, {"row": row})}
            rows = there.search(gallery, 6, where=where)[1]
            assert rows.shape == (1, len(meant)) and set(rows[0].tolist()) == meant, where


def test_refused_and_left_as_it_was(kept: Kept, tmp_path: Path) -> None:
    gallery = feature_set(images=20)
    kept.build(gallery)
    (tmp_path / "other.csv").write_text("path,site\nnone.jpg,a\n")
    (tmp_path / "mixed.csv").write_text("path,site\na.jpg,1\nb.jpg,two\n")
    with kept.opened() as there:
        for message, use in (
            ("another model", lambda: there.add(feature_set(seed=8, fingerprint="def"))),
            ("another model", lambda: there.search(feature_set(fingerprint="def"), 3)),
            ("20 of 20 images are in the index already, the first is '0/20.jpg'", lambda: there.add(gallery)),
            ("no image of row '20'", lambda: there.remove(rows=[3, 20])),
            ("no image of path 'x'", lambda: there.remove(rows=[3], paths=["x"])),
            ("no image of identity '41'", lambda: there.remove(identities=[41])),
            ("name what to remove", lambda: there.remove()),
            ("at least 1, got 0", lambda: there.search(gallery, 0)),
            ("8 dimensions", lambda: there.search(np.zeros((2, 8)), 3)),
            ("none of the 1 images of the table", lambda: there.label(tmp_path / "other.csv")),
            ("several kinds", lambda: there.label(tmp_path / "mixed.csv")),
            ("has no nprobe", lambda: there.tune(nprobe=3)),
        ):
            with pytest.raises(ValueError, match=message):
                use()
        assert len(there) == 20 and there.search(gallery, 3)[1].shape == (QUERIES, 3)


ADD = """
import sys
from pathlib import Path
from fastreid_parts.retrieval import load_feature_set
from tests.retrieval.test_galleries import Kept
kept = Kept(sys.argv[1], Path(sys.argv[2]))
with kept.opened() as there:
    more = load_feature_set(sys.argv[3])
    print("ready", flush=True)
    there.add(more)
print("done", flush=True)
"""


@pytest.mark.slow  # each process imports torch
def test_killed_while_it_adds(kept: Kept, tmp_path: Path, kills: int = 5) -> None:
    """kill -9 at moments that are spread over an addition: the old gallery or the new one, never half."""
    kept.build(feature_set(images=300))
    more = feature_set(images=4000, seed=3)
    save_feature_set(tmp_path / "more", more)
    command = [sys.executable, "-c", ADD, kept.store, str(tmp_path), str(tmp_path / "more")]
    seen, length, next_row = set(), 1.0, 300
    for attempt in range(kills):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout and process.stdout.readline() == "ready\n"
            start = time.monotonic()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=length * attempt / (kills - 1) + 0.01)
            process.kill()
            process.wait()
            length = max(length, time.monotonic() - start)
        with kept.opened() as there:
            new = there.last_change == change_digest(more)
            seen.add(new)
            assert len(there) == (4300 if new else 300)
            rows = there.search(more, 5000)[1]
            assert rows.shape == (QUERIES, len(there)) and len(np.unique(rows)) == len(there)
            if new:
                added = np.unique(rows[rows >= next_row])  # no row comes twice
                assert len(added) == 4000
                next_row = int(added.max()) + 1
                there.remove(rows=added.tolist())
    assert False in seen
