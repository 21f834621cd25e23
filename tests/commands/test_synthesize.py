"""The command `synthesize`: a page, the images of a set, or tracks."""

from __future__ import annotations

import cv2

from fastreid_parts.pedestrians import is_complete

from ..pedestrians.tiny import tiny_demo  # noqa: F401  a fixture
from .run import problem, run


def test_a_page_and_a_set(tmp_path, capsys):
    path = tmp_path / "new" / "sheet.png"
    options = ["--identities", "2", "--views", "1", "--size", "64", "32", "--background", "0"]
    run(capsys, "synthesize", "--contact-sheet", path, *options)
    assert cv2.imread(str(path)) is not None
    for more, message in (
        (["--size", 0, 0], "each from 32 to 1024 pixels"),
        (["--seed", -1], "whole number from 0 on"),
    ):
        wrong = ["--contact-sheet", tmp_path / "wrong.png", *options, *more]
        assert message in problem(capsys, "synthesize", *wrong)
    wrong = ["--contact-sheet", tmp_path / "sheet.nothing", *options]
    assert "ends in .png" in problem(capsys, "synthesize", *wrong)
    run(capsys, "synthesize", "--root", tmp_path, "--size", "64", "32")
    assert is_complete(tmp_path / "SyntheticReID-demo-seed0")


def test_tracks_and_a_page_of_them(tmp_path, capsys):
    options = ["--tracks", "--size", "32", "32"]
    sheet = tmp_path / "tracks.png"
    run(capsys, "synthesize", *options, "--contact-sheet", sheet, "--identities", "1", "--views", "3")
    assert cv2.imread(str(sheet)).shape[1] == 88 + 3 * 32
    assert "without a number" in problem(capsys, "synthesize", "--tracks", "1", "--contact-sheet", sheet)
    out = run(capsys, "synthesize", "--root", tmp_path, *options).out
    folder = tmp_path / "SyntheticReID-demo-seed0-tracks"
    assert is_complete(folder) and f"--table {folder / 'tracks.csv'} --overlapping-views c1,c2" in out
