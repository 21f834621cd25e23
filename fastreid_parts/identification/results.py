"""The folder of an identification: tables of identities and joins, a page to look at, and what was done."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from ..files import csv_bytes, locked, remove_leftovers
from ..folders import ELSEWHERE, FolderError
from ..retrieval.manifest import FolderKind, check_file, write_described, write_manifest
from .constraints import read_corrections
from .identities import Identified, Linking
from .page import render_page
from .scores import RejectionCurve

IDENTITIES, JOINS, PAGE = "identities.csv", "joins.csv", "identities.html"
#: Where the truth is known: how often joins are right when those with the smallest margins are left to a person.
REJECTION = "rejection.csv"
#: Of streaming: what was decided, to go on from.
STATE = "state.npz"
#: Written by a user, or by the page; read by the next run.
CORRECTIONS = "corrections.csv"

_IDENTITY_COLUMNS = (
    *("tracklet", "identity", "new", "camera", "start", "end", "images"),
    *("distance", "second_identity", "second_distance", "margin"),
)
_JOIN_COLUMNS = (
    *("joined", "identity_a", "identity_b", "tracklet_a", "tracklet_b", "image_a", "image_b"),
    *("nearest_distance", "distance", "threshold", "second_identity", "second_distance", "reason"),
)
_KEYS: dict[str, Any] = {
    **{"tracklets": int, "identities": int, "known_people": int, "corrections": int},
    **{"mode": ("batch", "streaming"), "linkage": str, "compared": dict, "threshold": float},
    **{"rules": dict, "fingerprint": str, "scores": dict, "files": dict},
}
FOLDER = FolderKind(
    "identification",
    _KEYS,
    mark="known_people",
    remedy="identify anew with --overwrite",
    unfinished="the same command finishes it",
)


def check_folder(directory: str | os.PathLike, overwrite: bool, goes_on: bool) -> None:
    """Refuse a folder that holds other things, or an identification that is not to be replaced.

    Args:
        directory: of the results.
        overwrite: replace what is there.
        goes_on: streaming, which goes on from the state that is there.

    Raises:
        ValueError: the folder holds something else.
        FolderError: it holds an identification.
    """
    there = FOLDER.state(directory)
    state = os.path.exists(os.path.join(directory, STATE))
    if overwrite or not (there or state) or (goes_on and state):
        return
    raise FolderError(
        f"'{directory}' holds an identification: replace it (--overwrite; corrections.csv stays), or {ELSEWHERE}"
    )


def begin_anew(directory: str | os.PathLike) -> None:
    """Remove what was decided in streaming, before all else that is replaced."""
    state = os.path.join(directory, STATE)
    if os.path.exists(state):
        os.remove(state)


def corrections_of(directory: str | os.PathLike, given: str = "") -> list[tuple[str, str, bool]]:
    """Read the corrections that are given, or else those in the folder of results, where there are any.

    Args:
        directory: of the results.
        given: a table.

    Raises:
        FileNotFoundError: the given table is not there.
        ValueError: as `read_corrections`.
    """
    own = os.path.join(directory, CORRECTIONS)
    path = given or (own if os.path.exists(own) else "")
    return read_corrections(path) if path else []


def write_results(
    directory: str | os.PathLike,
    found: Identified,
    linking: Linking,
    mode: str,
    scores: Mapping[str, float] | None = None,
    shown: int = 100,
    rejection: RejectionCurve | None = None,
) -> None:
    """Write an identification: identities.csv, joins.csv, identities.html, and at last manifest.json.

    Args:
        directory: made where it is not there; results in it are replaced.
        found: what was found.
        linking: how.
        mode: `batch` or `streaming`.
        scores: against the truth, where it is known.
        shown: identities on the page, at most.
        rejection: of the joins, where the truth is known.

    Raises:
        ValueError: the folder holds something else.
        OSError: a file cannot be written.
    """
    directory = os.fspath(directory)
    FOLDER.state(directory)
    contents = {
        IDENTITIES: csv_bytes(_IDENTITY_COLUMNS, identity_rows(found)),
        JOINS: csv_bytes(_JOIN_COLUMNS, join_rows(found, linking)),
        PAGE: render_page(found, linking, mode, scores or {}, shown).encode(errors="backslashreplace"),
    }
    if rejection is not None:
        points = zip(rejection.margin, rejection.answered, rejection.right)
        rows = ([_short(margin), f"{answered:.6f}", f"{right:.6f}"] for margin, answered, right in points)
        contents[REJECTION] = csv_bytes(("margin", "answered", "right"), rows)
    with locked(directory):
        remove_leftovers(directory)
        if rejection is None and os.path.exists(os.path.join(directory, REJECTION)):
            os.remove(os.path.join(directory, REJECTION))  # of an earlier run
        files = {
            name: write_described(os.path.join(directory, name), partial(_write, content))
            for name, content in contents.items()
        }
        rules, corrections = linking.rules, linking.in_force(found.reduced).corrections
        write_manifest(
            directory,
            {
                "tracklets": len(found.tracklets),
                "identities": len(set(found.identity[found.tracklets].tolist())),
                "known_people": len(found.reduced) - len(found.tracklets),
                "corrections": len(corrections),
                "mode": mode,
                "linkage": linking.linkage if mode == "batch" else "",
                "compared": asdict(linking.compared),
                "threshold": float(linking.threshold),
                "rules": {
                    "overlapping": sorted(sorted(pair) for pair in rules.overlapping),
                    "travel": [[*pair, least, _finite(most)] for pair, (least, most) in sorted(rules.travel.items())],
                    "clock_error": rules.clock_error,
                },
                "fingerprint": linking.fingerprint,
                "scores": dict(scores or {}),
                "files": files,
            },
        )


def check_results(directory: str | os.PathLike) -> dict[str, Any]:
    """Read the manifest of an identification, after a check of the files that it names.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no identification, an unfinished one, or files that were changed.
    """
    manifest = FOLDER.read(directory)
    for name, described in manifest["files"].items():
        check_file(os.path.join(directory, name), described, FOLDER.remedy)
    return manifest


def identity_rows(found: Identified) -> list[list[Any]]:
    """Make the rows of identities.csv: a tracklet each, in the order of arrival."""
    reduced, evidence, labels, new = found.reduced, found.evidence, found.labels, found.new
    rows = []
    for row in found.tracklets.tolist():
        second = int(evidence.second_identity[row])
        rows.append(
            [
                *(reduced.names[row], labels[found.identity[row]], int(new[row]), reduced.cameras[row]),
                *(_finite(reduced.start[row]), _finite(reduced.end[row]), int(reduced.sizes[row])),
                *(_short(evidence.distance[row]), labels[second] if second >= 0 else ""),
                *(_short(evidence.second[row]), _short(evidence.second[row] - evidence.distance[row])),
            ]
        )
    return rows


def join_rows(found: Identified, linking: Linking) -> list[list[Any]]:
    """Make the rows of joins.csv: what was joined, then what was nearly joined.

    Args:
        found: what was found.
        linking: how.
    """
    labels, rows = found.labels, []
    for join in found.evidence.joins:
        label, second = labels[join.identity], labels[join.second_identity] if join.second_identity >= 0 else ""
        distances = _short(join.nearest), _short(join.distance), linking.threshold
        reason = "correction" if join.corrected else ""
        rows.append([1, label, label, *_pair(found, linking, join.one, join.other), *distances, second,
                     _short(join.second), reason])  # fmt: skip
    for near in found.evidence.near:
        names = labels[near.identity_a], labels[near.identity_b]
        distances = _short(near.nearest), _short(near.distance), linking.threshold
        rows.append([0, *names, *_pair(found, linking, near.one, near.other), *distances, "", None, near.reason])
    return rows


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _pair(found: Identified, linking: Linking, one: int, other: int) -> list[str]:
    reduced = found.reduced
    a, b = reduced.distances(linking.compared).nearest_vectors(one, other)
    return [reduced.names[one], reduced.names[other], reduced.examples[one][a], reduced.examples[other][b]]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _short(value: float) -> float | None:
    """Seven digits: those of float32. A number, since a text with a sign in front would be taken for a formula."""
    return float(f"{value:.7g}") if np.isfinite(value) else None
