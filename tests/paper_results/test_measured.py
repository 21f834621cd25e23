"""Measured results on disk."""

from __future__ import annotations

import os

import pytest

from fastreid_parts.paper_results import ResultError, load_measured

from .results import write_result


def load(root):
    return load_measured(root, "cmbn", "Market1501", "baseline")


def test_results_survive_the_disk(tmp_path):
    written = write_result(tmp_path, seed=3)
    assert load(tmp_path) == [written]
    assert [path.name for path in tmp_path.glob("**/seed3/*")] == ["result.json"]


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"paper": "cmbn"}'])
def test_a_damaged_result_is_named(tmp_path, content):
    path = tmp_path / "cmbn" / "Market1501" / "baseline" / "seed0" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(ResultError, match=r"seed0/result\.json is no usable result .*delete it"):
        load(tmp_path)


def test_a_result_that_is_no_percentage_is_named(tmp_path):
    write_result(tmp_path, mAP=float("nan"))
    with pytest.raises(ResultError, match="mAP is nan"):
        load(tmp_path)


def test_a_result_in_the_wrong_place_is_named(tmp_path):
    write_result(tmp_path, "baseline_rb")
    path = tmp_path / "cmbn" / "Market1501" / "baseline_rb"
    path.rename(path.with_name("baseline"))
    with pytest.raises(ResultError, match="it was moved"):
        load(tmp_path)


def test_writing_a_result_is_all_or_nothing(tmp_path, monkeypatch):
    def stop(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(OSError, match="disk full"):
        write_result(tmp_path)
    assert not list(tmp_path.glob("**/*.json*"))
