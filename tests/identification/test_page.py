"""The folder of results: tables, the page, and whom it belongs to."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastreid_parts.files import plain_cell
from fastreid_parts.folders import FolderError
from fastreid_parts.identification.constraints import Rules
from fastreid_parts.identification.distances import Compared
from fastreid_parts.identification.identities import Identified, Linking, identify
from fastreid_parts.identification.reduced import reduce_tracklets
from fastreid_parts.identification.results import check_folder, check_results, corrections_of, write_results
from fastreid_parts.identification.scores import RejectionCurve

from ..report.html_pages import Tag, every, read_page
from .test_streaming import tracklets

LINKING = Linking(Compared(), 0.3, Rules(travel={("c0", "c1"): (8.0, np.inf)}))


def found_with_images(folder: Path, linking: Linking = LINKING) -> Identified:
    there = tracklets(noise=0.5, people=6)
    random = np.random.default_rng(0)
    paths = []
    for number, path in enumerate(there.paths):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if number != 3:  # gone
            Image.fromarray(random.integers(0, 255, (32, 16, 3), np.uint8)).save(file)
        paths.append(str(file))
    named = replace(there, paths=paths, names=["=<b>&\"'", *there.names[1:]])
    return identify(reduce_tracklets(named, linking.compared), linking)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: plain_cell(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def pairs_of(tag: Tag) -> set[tuple[str, str]]:
    return {(b.attributes["data-a"], b.attributes["data-b"]) for b in tag.all("button")}


def test_tables_and_page(tmp_path: Path) -> None:
    found = found_with_images(tmp_path)
    names = found.reduced.names
    said = [(names[0], names[5], False)]
    write_results(tmp_path / "out", found, replace(LINKING, corrections=said), "batch", {"IDF1": 0.5}, shown=3)
    manifest = check_results(tmp_path / "out")
    assert (manifest["tracklets"], manifest["mode"], manifest["scores"]) == (len(names), "batch", {"IDF1": 0.5})
    identities, joins = rows_of(tmp_path / "out/identities.csv"), rows_of(tmp_path / "out/joins.csv")
    assert [row["tracklet"] for row in identities] == names
    assert (
        len({row["identity"] for row in identities})
        == manifest["identities"]
        == sum(row["new"] == "1" for row in identities)
    )
    for row in identities:
        if row["distance"] and row["second_distance"]:
            margin = float(row["second_distance"]) - float(row["distance"])
            assert float(row["margin"]) == pytest.approx(margin, abs=1e-6)
    of = {row["tracklet"]: row["identity"] for row in identities}
    joined = [row for row in joins if row["joined"] == "1"]
    # As many joins as it takes, each of two tracklets of one identity, below the threshold
    assert len(joined) == len(identities) - manifest["identities"] > 5
    for row in joins:
        assert (of[row["tracklet_a"]], of[row["tracklet_b"]]) == (row["identity_a"], row["identity_b"])
        assert (row["identity_a"] == row["identity_b"]) == (row["joined"] == "1")
        assert row["image_a"] != row["image_b"]
        if row["joined"] == "1":
            assert float(row["distance"]) < float(row["threshold"]) == 0.3
        else:
            assert float(row["distance"]) < 0.6
    assert any(row["reason"] for row in joins) and any(row["second_identity"] for row in joined)

    text = (tmp_path / "out/identities.html").read_text(encoding="utf-8")
    page = read_page(text, own_script=True)
    (policy,) = (tag for tag in every(page) if tag.attributes.get("http-equiv") == "Content-Security-Policy")
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy.attributes["content"]
    assert "default-src 'none'" in policy.attributes["content"]
    section = {tag.attributes["id"]: tag for tag in page.all("section")}
    shown = section["identities"].all("article")
    assert len(shown) == 3
    worst = [max(float(row["distance"]) for row in joined if row["identity_a"] == label) for label in
             (article.all("h3")[0].text.split()[0] for article in shown)]  # fmt: skip
    assert worst == sorted(worst, reverse=True)
    assert pairs_of(section["identities"]) <= {(row["tracklet_a"], row["tracklet_b"]) for row in joined}
    apart = {(row["tracklet_a"], row["tracklet_b"]) for row in joins if row["joined"] == "0"}
    assert pairs_of(section["near"]) and pairs_of(section["near"]) <= apart
    assert json.loads(section["corrections"].attributes["data-given"]) == [[names[0], names[5], 0]]
    assert "no image" in page.text or names.index(found.reduced.names[3])
    assert "Cannot be one person" in section["near"].text
    # Streaming forgets with --overwrite what is known of earlier runs alone
    assert "again with --overwrite. Corrections" in section["corrections"].text
    waiting = [*said, (names[0], "c9/1", True)]
    write_results(tmp_path / "out", found, replace(LINKING, corrections=waiting), "streaming")
    page = read_page((tmp_path / "out/identities.html").read_text(encoding="utf-8"), own_script=True)
    section = {tag.attributes["id"]: tag for tag in page.all("section")}
    assert "with --overwrite, naming all tracklets, those of earlier runs too" in section["corrections"].text
    # What is not there yet does not count, and is kept
    assert check_results(tmp_path / "out")["corrections"] == 1
    assert len(json.loads(section["corrections"].attributes["data-given"])) == 2


def test_numbers_below_zero_are_numbers(tmp_path: Path) -> None:
    """A correction joins two tracklets of which one is nearer to another person: its margin is negative."""
    angles = np.deg2rad([0, 75, 100])
    there = replace(
        tracklets(),
        features=np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32),
        of=np.arange(3), paths=[""] * 3, names=["a/1", "c/1", "a/2"], cameras=["a", "c", "a"],
        start=np.array([0.0, 10, 20]), end=np.array([5.0, 15, 25]), identities=["P", "P", "Q"],
    )  # fmt: skip
    linking = replace(LINKING, threshold=0.01, rules=Rules(), corrections=[("a/1", "c/1", True)])
    found = identify(reduce_tracklets(there, linking.compared), linking)
    curve = RejectionCurve(np.array([0.5, -0.25]), np.array([0.5, 1.0]), np.array([1.0, 1.0]))
    write_results(tmp_path, found, linking, "batch", rejection=curve)
    margins = {}
    for name in ("identities.csv", "rejection.csv"):
        with (tmp_path / name).open(newline="", encoding="utf-8") as file:
            margins[name] = [float(row["margin"]) for row in csv.DictReader(file) if row["margin"]]
    assert min(margins["identities.csv"]) < -0.1 and margins["rejection.csv"] == [0.5, -0.25]


def test_whose_folder_it_is(tmp_path: Path) -> None:
    found = found_with_images(tmp_path)
    out = tmp_path / "out"
    check_folder(out, overwrite=False, goes_on=False)
    write_results(out, found, LINKING, "batch")
    for goes_on in (False, True):
        with pytest.raises(FolderError, match="holds an identification: replace it .--overwrite; corrections.csv stay"):
            check_folder(out, overwrite=False, goes_on=goes_on)
        check_folder(out, overwrite=True, goes_on=goes_on)
    (out / "state.npz").touch()
    check_folder(out, overwrite=False, goes_on=True)
    with pytest.raises(FolderError):
        check_folder(out, overwrite=False, goes_on=False)
    (out / "joins.csv").write_text("joined\n")
    with pytest.raises(ValueError, match=r"joins.csv' has 7 bytes.*identify anew with --overwrite"):
        check_results(out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/manifest.json").write_text('{"kind": "flat"}')
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="holds something else than an identification"):
            check_folder(tmp_path / "other", overwrite, goes_on=False)


def test_corrections_are_kept(tmp_path: Path) -> None:
    assert corrections_of(tmp_path / "none") == []
    (tmp_path / "corrections.csv").write_text("tracklet_a,tracklet_b,same\na,b,1\n")
    (tmp_path / "mine.csv").write_text("tracklet_a,tracklet_b,same\na,b,0\n")
    assert corrections_of(tmp_path) == [("a", "b", True)]
    assert corrections_of(tmp_path, str(tmp_path / "mine.csv")) == [("a", "b", False)]
    with pytest.raises(FileNotFoundError):
        corrections_of(tmp_path, str(tmp_path / "gone.csv"))
