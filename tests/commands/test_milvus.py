"""index and search with --store: the commands on a folder, and on Milvus, say and find the same."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastreid_parts.retrieval import MilvusGallery, save_feature_set
from fastreid_parts.retrieval.milvus_connection import Connection
from fastreid_parts.retrieval.milvus_gallery import _gone, _self

from ..retrieval.galleries import feature_set
from . import run as command_line

pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")
pymilvus = pytest.importorskip("pymilvus", reason="pymilvus is not installed")


@pytest.fixture
def run(capsys: pytest.CaptureFixture, tmp_path: Path) -> Callable[..., str]:
    return lambda *words: command_line.run(capsys, *words).out.replace(str(tmp_path), "")


@pytest.fixture
def problem(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    return lambda *words: command_line.problem(capsys, *words)


def features(tmp_path: Path, name: str, **options: int | str) -> Path:
    there = feature_set(**options)  # type: ignore[arg-type]
    there.features.paths[:] = [str(tmp_path / path) for path in there.features.paths]
    save_feature_set(tmp_path / name, there)
    return tmp_path / name


def test_both_places_alike(run: Callable[..., str], tmp_path: Path) -> None:
    first, more = features(tmp_path, "first", images=60), features(tmp_path, "more", images=5, seed=3)
    (tmp_path / "table.csv").write_text("path,site,time\n0/20.jpg,till,2026-05-01\n0/21.jpg,,2026-05-02T10:00\n")
    printed = []
    for option, place in (("--index", tmp_path / "people"), ("--store", tmp_path / "people.db")):
        at = (option, place)
        lines = [run("index", "build", *at, "--features", first, "--metric", "cosine")]
        lines += [run("index", "build", *at, "--features", first, "--metric", "cosine")]  # by an earlier call
        lines += [run("index", "add", *at, "--features", more), run("index", "add", *at, "--features", more)]
        lines += [run("index", "calibrate", *at, "--features", first, "--fpr", "0.1")]
        lines += [run("index", "label", *at, "--table", tmp_path / "table.csv")]
        lines += [run("index", "remove", *at, "--rows", 2, "--identities", 4)]
        lines += [run("index", "compact", *at)]
        search = ("search", *at, "--features", first, "--k", "4", "--output")
        lines += [run(*search, tmp_path / "found.csv").replace(".csv", "")]
        lines += [(tmp_path / "found.csv").read_text()]
        lines += [run(*search, tmp_path / "few.csv", "--where", "site is unknown and time > 2026-05-01")]
        lines += [
            run(*search, tmp_path / "few.csv", "--where", "row < 0"),
            run(*search, tmp_path / "g.csv", "--group-by", "camera"),
        ]
        lines += [(tmp_path / "g.csv").read_text()]
        lines += [run("index", "build", *at, "--features", more, "--metric", "cosine", "--overwrite")]
        lines += [run("index", "info", *at)]
        printed.append([line.replace("people.db", "people") for line in lines])
    for folder, milvus in zip(*printed):
        a, b = (list(csv.reader(text.splitlines())) for text in (folder, milvus))
        assert len(a) == len(b)
        for one, other in zip(a, b):
            assert [_rounded(cell) for cell in one] == [_rounded(cell) for cell in other]
    assert "by an earlier call" in printed[0][1] and "by an earlier call, 65 in" in printed[0][3]
    assert "The same person" in printed[1][-1]  # the threshold stays
    assert not list(tmp_path.glob("*.features"))


def _rounded(cell: str) -> str | float:
    try:
        return round(float(cell), 5)
    except ValueError:
        return cell


def test_bad_input(problem: Callable[..., str], run: Callable[..., str], tmp_path: Path) -> None:
    first, place = features(tmp_path, "first", images=20), tmp_path / "people.db"
    build = ("index", "build", "--features", first, "--store")
    info = ("index", "info", "--store")
    assert "is no store: name a folder as in people.db, or http" in problem(*build, tmp_path / "people")
    assert "is no store" in problem(*build, "ftp://host")
    assert "there is no store" in problem(*info, place) and not place.exists()
    assert "no Milvus server answers at http://127.0.0.1:9" in problem(*info, "http://127.0.0.1:9")
    (tmp_path / "old.db").write_bytes(b"SQLite format 3")
    assert "is a file; a store of milvus-lite 3 is a folder" in problem(*build, tmp_path / "old.db")
    assert (tmp_path / "old.db").read_bytes() == b"SQLite format 3"
    (tmp_path / "some.db").mkdir()
    (tmp_path / "some.db" / "mine.txt").touch()
    assert "holds something else than a store" in problem(*build, tmp_path / "some.db")
    assert "is flat or hnsw, not ivfpq" in problem(*build, place, "--kind", "ivfpq")
    run(*build, place)
    assert "holds an index: add to it, replace it (--overwrite)" in problem(*build, place, "--kind", "hnsw")
    assert "there is no gallery 'other'" in problem(*info, place, "--collection", "other")
    others = features(tmp_path, "others", images=3, seed=5, fingerprint="def")
    assert "another model" in problem("index", "add", "--store", place, "--features", others)
    search = ("search", "--store", place, "--features", first)
    assert "another model" in problem("search", "--store", place, "--features", others)
    assert "no column 'color'" in problem(*search, "--where", "color == 'red'")
    assert "camera is text, and is compared with number" in problem(*search, "--where", "camera > 3")
    assert "no column 'color'" in problem(*search, "--group-by", "color")
    assert "--gpus is for an index in a folder" in problem(*search, "--gpus")
    assert "not allowed with argument" in problem(*info, place, "--index", tmp_path / "people")
    assert "images      20" in run(*info, place)


def test_without_the_packages(problem: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    told = problem("index", "info", "--store", tmp_path / "people.db")
    assert "needs pymilvus: pip install 'fastreid_parts[milvus]'" in told


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A server of Milvus's protocol, at its address."""
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    there, data, port = start_server_in_thread(str(tmp_path / "data"))
    yield f"http://127.0.0.1:{port}"
    there.stop(grace=0).wait()
    data.close()


def test_a_server(run: Callable[..., str], problem: Callable[..., str], server: str, tmp_path: Path) -> None:
    first, more = features(tmp_path, "first", images=60), features(tmp_path, "more", images=5, seed=3)
    at = ("--store", server, "--collection", "shop")
    assert "images      60" in run("index", "build", *at, "--features", first, "--kind", "hnsw")
    assert "5 images added, 65 in the index" in run("index", "add", *at, "--features", more)
    client = pymilvus.MilvusClient(server)
    held = '{"process": "x", "host": "elsewhere", "pid": 7, "since": "2026-05-01T14:00:00Z"}'
    client.alter_collection_properties("shop", properties={"fastreid_parts_held": held})
    told = problem("index", "remove", *at, "--rows", 3)
    assert "another process changes 'shop'" in told and "7 on elsewhere" in told and "`index release`" in told
    assert "65 in the index" in run("index", "release", *at)
    assert "1 image removed, 64" in run("index", "remove", *at, "--rows", 3)
    client.create_collection("docs", dimension=4)
    assert "is something else than a gallery" in problem("index", "info", "--store", server, "--collection", "docs")
    assert "is something else" in problem(
        "index", "build", "--store", server, "--collection", "docs", "--features", first, "--overwrite"
    )
    client.alter_collection_properties("shop", properties={"fastreid_parts": '{"format": 1}'})
    assert "the gallery 'shop' in" in problem("index", "info", *at)
    assert "nothing is kept" in run("index", "build", *at, "--features", first, "--overwrite")
    client.close()


@pytest.mark.parametrize("group_by", ["", "identity"])
@pytest.mark.parametrize("before", ["query", "search"])
def test_a_search_beside_a_removal(
    group_by: str, before: str, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another process removes what is found, between the steps of a search: the gallery after it is seen."""
    images = feature_set(images=60)
    MilvusGallery.build(images, server).close()
    with MilvusGallery.load(server) as one, MilvusGallery.load(server) as other:
        nearest = np.unique(one.search(images, 1)[1])[:3].tolist()
        call, done = one._call.__call__, []

        def meanwhile(self: Connection, method: str, *words: Any, **options: Any) -> Any:
            if self is one._call and method == before and not done:
                done.append(other.remove(rows=nearest))
            return call.__func__(self, method, *words, **options)

        monkeypatch.setattr(Connection, "__call__", meanwhile)
        distances, rows = one.search(images, 5, group_by=group_by)
        expected = other.search(images, 5, group_by=group_by)
        assert done and not np.isin(nearest, rows).any()
        np.testing.assert_array_equal(rows, expected[1])
        np.testing.assert_allclose(distances, expected[0], atol=1e-6)
        with pytest.raises(ValueError, match=f"rows {nearest[0]}, {nearest[1]} are not in the gallery"):
            one.images_of(np.array([*nearest[:2], rows[0, 0]]))


def test_what_is_missing_is_never_made_up(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors that do not come back, though nothing was removed."""
    images = feature_set(images=60)
    MilvusGallery.build(images, server).close()
    with MilvusGallery.load(server) as gallery:
        whole, named = gallery.search(images, 60), gallery._named
        monkeypatch.setattr(gallery, "_named", lambda *asked: [one for one in named(*asked) if one["row"] != 7])
        distances, rows = gallery.search(images, 60)
        assert rows.shape[1] == 59
        for line in range(len(rows)):
            there = whole[1][line] != 7
            np.testing.assert_array_equal(rows[line], whole[1][line][there])
            np.testing.assert_allclose(distances[line], whole[0][line][there], atol=1e-6)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a hold is freed by hand")
def test_only_a_process_that_is_counted_here_is_taken_for_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    ended = {**_self(), "pid": process.pid}
    assert _gone(ended) and not _gone(_self())
    for of_another in ({"host": "elsewhere"}, {"counted": "a container with the host's name"}, {"counted": ""}):
        assert not _gone({**ended, **of_another})
    assert not _gone({"host": ended["host"], "pid": process.pid})  # as it was written before
