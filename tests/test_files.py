"""Files are written whole or not at all, and what killed processes leave is removed."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import yaml

from fastreid_parts.files import (
    LEFTOVER_AGE,
    add_to_json,
    atomic_write,
    locked,
    plain_cell,
    read_yaml,
    remove_leftovers,
    sealed,
    unsealed,
    write_csv,
    write_json,
    write_numbers,
)

from . import forks

DIES_WRITING = """
import os, signal, sys
from fastreid_parts.files import atomic_write

def write(file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

atomic_write(sys.argv[1], write)
"""


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_write(path, lambda file: file.write(b"old"))

    def fails(file: BinaryIO) -> None:
        file.write(b"new, but not whole")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomic_write(str(path), fails)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def _to_a_full_disk(content: bytes) -> None:
    with open("/dev/full", "wb") as file:
        file.write(content)


def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path: Path) -> None:
    """hiyouga/LlamaFactory#1223: of a full disk, torch.save says `PytorchStreamWriter failed writing file`."""
    path = tmp_path / "file"
    atomic_write(path, lambda file: file.write(b"old"))

    def hidden(file: BinaryIO) -> None:
        try:
            _to_a_full_disk(b"new")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904  as torch.save raises it

    for write in (lambda file: _to_a_full_disk(b"new"), hidden):
        with pytest.raises(OSError, match=f"the disk is full: no room for {path}") as raised:
            atomic_write(path, write)
        assert raised.value.errno == errno.ENOSPC
        assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for target in (tmp_path / "there" / "target", tmp_path / "there" / "new"):
        (tmp_path / "there" / "target").write_bytes(b"old")
        link = tmp_path / "link"
        link.symlink_to(target.relative_to(tmp_path))
        atomic_write(link, lambda file: file.write(b"new"))
        assert link.is_symlink() and target.read_bytes() == b"new"
        link.unlink()
    assert sorted(os.listdir(tmp_path / "there")) == ["new", "target"]


def test_what_is_no_file_is_written_into_and_not_replaced(tmp_path: Path) -> None:
    """A device, /dev/null above all, would be a file from then on."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for name in ("pipe", "link"):
        atomic_write(tmp_path / name, lambda file: file.write(b"through"))
        assert os.read(reader, 100) == b"through" and (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink()
    os.close(reader)
    os.mkdir(tmp_path / "folder")
    with pytest.raises(IsADirectoryError, match="folder' is a folder: name the file to write"):
        atomic_write(tmp_path / "folder", lambda file: file.write(b""))
    assert sorted(os.listdir(tmp_path)) == ["folder", "link", "pipe"]


def test_nobody_sees_a_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def write(file: BinaryIO) -> None:
        file.write(b"first half, ")
        file.flush()
        assert not path.exists()
        file.write(b"second half")

    atomic_write(path, write)
    assert path.read_bytes() == b"first half, second half"


@pytest.mark.parametrize("durable", [True, False])
def test_flushed_to_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: Any, durable: bool) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: calls.append("fsync") or fsync(number))
    monkeypatch.setattr(os, "replace", lambda source, target: calls.append("replace") or replace(source, target))
    atomic_write(tmp_path / "file", lambda file: file.write(b"content"), durable=durable)
    assert calls == (["fsync", "replace"] if durable else ["replace"])


def test_leftovers_of_killed_processes_are_removed_when_they_are_old(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", DIES_WRITING, str(tmp_path / "file")], timeout=100)
    assert killed.returncode == -signal.SIGKILL
    (leftover,) = tmp_path.iterdir()
    assert leftover.read_bytes() == b"half"
    kept = {"file", "notes.tmp", "file.1.tmp"}  # the last one is being written, by process 1 of some container
    for name in kept:
        (tmp_path / name).write_bytes(b"whole")
    remove_leftovers(tmp_path)
    assert leftover.exists()
    for name in ("notes.tmp", leftover):
        os.utime(tmp_path / name, (0, time.time() - LEFTOVER_AGE - 1))
    remove_leftovers(tmp_path)
    assert set(os.listdir(tmp_path)) == kept
    remove_leftovers(tmp_path, age=0)
    assert set(os.listdir(tmp_path)) == {"file", "notes.tmp"}


def test_containers_write_one_file_each_under_a_name_of_its_own(tmp_path: Path) -> None:
    """tphakala/birda#350: process numbers are equal in two containers, and the folder is the same."""

    def work(content: bytes) -> None:
        for _ in range(50):
            atomic_write(tmp_path / "file", lambda file: [file.write(content) for _ in range(100)], durable=False)

    works = [lambda number=number: work(b"%d" % number) for number in range(3)]
    assert forks.together(*works, own_pids=True) == [0, 0, 0]
    assert os.listdir(tmp_path) == ["file"] and len(set((tmp_path / "file").read_bytes())) == 1


@pytest.mark.parametrize("own_pids", [False, True])
def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path, own_pids: bool) -> None:
    counter = tmp_path / "new" / "counter"

    def work() -> None:
        for _ in range(20):
            with locked(counter.parent), locked(counter.parent):  # who holds it may hold it once more
                number = int(counter.read_text()) if counter.exists() else 0
                counter.write_text(str(number + 1))

    assert forks.together(work, work, work, own_pids=own_pids) == [0, 0, 0]
    assert counter.read_text() == "60"


def test_a_folder_may_be_removed_by_who_holds_it(tmp_path: Path) -> None:
    def work() -> None:
        for _ in range(20):
            with locked(tmp_path / "work"):
                (tmp_path / "work" / "file").touch(exist_ok=False)
                shutil.rmtree(tmp_path / "work")

    assert forks.together(work, work) == [0, 0]
    assert not (tmp_path / "work").exists()


def test_who_waits_says_so_and_a_kill_lets_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def hold() -> None:
        with locked(tmp_path):
            (tmp_path / "held").touch()
            time.sleep(100)

    child = forks.fork(hold)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    killer = threading.Timer(0.3, os.kill, (child, signal.SIGKILL))
    killer.start()
    with caplog.at_level("INFO"), locked(tmp_path):
        assert forks.code_of(child) == -signal.SIGKILL
    assert f"Another process is changing '{tmp_path}': waiting until it is done" in caplog.text


def test_json_and_tables(tmp_path: Path) -> None:
    """In their own order or that of the alphabet; names of files that are no UTF-8 keep their bytes."""
    path = tmp_path / "new" / "numbers.json"
    write_json(path, {"b": 1, "a": [2.5, None]})
    assert path.read_text() == '{\n  "b": 1,\n  "a": [\n    2.5,\n    null\n  ]\n}\n'
    write_json(path, {"b": 1, "a": 2}, sort_keys=True)
    assert list(json.loads(path.read_text())) == ["a", "b"]
    with pytest.raises(TypeError):
        write_json(path, {"a": path})
    write_csv(tmp_path / "rows" / "t.csv", ["path", "rank"], [["a,b", 1], [os.fsdecode(b"\xff.jpg"), None]])
    assert (tmp_path / "rows" / "t.csv").read_bytes() == b'path,rank\n"a,b",1\n\xff.jpg,\n'


def test_numbers_beside_a_figure_replace_their_own_alone(tmp_path: Path) -> None:
    figure, path = str(tmp_path / "other" / "bars.png"), tmp_path / "other" / "bars.json"
    for number in (1, 2):
        assert write_numbers(figure, {"a": number}, "bars") == str(path)
        assert json.loads(path.read_text()) == {"command": "bars", "a": number}
    for content in (path.read_text().replace('"bars"', '"lists"'), '{"evaluated": []}', "[1]", "{half"):
        path.write_text(content)
        with pytest.raises(ValueError, match="bars.json' is there and no file of bars's: remove it, or name another"):
            write_numbers(figure, {"a": 1}, "bars")
        assert path.read_text() == content


def test_entries_join_those_of_other_names(tmp_path: Path) -> None:
    path = tmp_path / "tables.json"
    for entries in ({"a": 1, "b": 2}, {"b": 3}):
        add_to_json(path, entries)
    assert json.loads(path.read_text()) == {"a": 1, "b": 3}
    for content in ("[1]", "{half"):
        path.write_text(content)
        with pytest.raises(ValueError, match="tables.json is no JSON file of entries"):
            add_to_json(path, {"a": 1})
        assert path.read_text() == content


def test_no_cell_is_a_formula_and_all_come_back(tmp_path: Path) -> None:
    """A name that a spreadsheet runs: hhurz/tableExport.jquery.plugin#230."""
    names = ["=1+1", "+x", "-4x", "@home", "\tx", "\r=x", "'=x", "''-x", "'quoted'", "anna", "", "a=b"]
    write_csv(tmp_path / "names.csv", ["name", "number"], [(name, -1.5) for name in names])
    with open(tmp_path / "names.csv", newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert not any(cell[:1] in set("=+-@\t\r") for cell, _ in rows) and {number for _, number in rows} == {"-1.5"}
    assert [plain_cell(cell) for cell, _ in rows] == names


def test_a_seal_is_of_the_content(tmp_path: Path) -> None:
    content = {"b": 1, "a": [0.1, None, {"name": "\udcff"}]}
    write_json(tmp_path / "sealed.json", sealed(content))
    found = json.loads((tmp_path / "sealed.json").read_text())
    assert unsealed(found) == content and unsealed(dict(reversed(found.items()))) == content
    for changes in ({"b": 2}, {"c": 1}, {"sha256": ""}):
        with pytest.raises(ValueError, match="was changed after it was written"):
            unsealed({**found, **changes})


YAML = [
    "a: [1, 2]\nb: {c: 'd'}",
    "a: 1e-3\nb: 0.1\nc: yes\nd: 2026-01-01\ne: ~",
    "- ö\n- |\n  x\n   y\n",
    "",
    "a: &x 1\nb: *x",
]
NO_YAML = ["a: [1\nb: 2", "a: b: c", "\ta: 1", "a: 'x", "a: *x", "a: {b: 1", "a: @b", "a: !!python/name:os.system x"]


@pytest.mark.parametrize("built_in_c", [True, False])
def test_yaml_is_read_as_python_reads_it(monkeypatch: pytest.MonkeyPatch, built_in_c: bool) -> None:
    """In results and in errors, which the parser in C words in other ways and with other places."""
    if not built_in_c:
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    for text in YAML:
        assert read_yaml(text) == read_yaml(io.StringIO(text)) == yaml.safe_load(text)
    for text in NO_YAML:
        with pytest.raises(yaml.YAMLError) as expected:
            yaml.safe_load(text)
        with pytest.raises(type(expected.value)) as error:
            read_yaml(text)
        assert str(error.value) == str(expected.value)
