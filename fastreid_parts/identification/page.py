"""A page to look at identities and to correct them: one HTML file that needs nothing else.

Its own script collects corrections, and gives them as a file; without it, the page is as complete to look at.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .. import report
from ..report import image_uri
from ..version import versions
from ..words import printable
from .evidence import Join, Near
from .identities import Identified, Linking

#: Images of a tracklet on the page, at most.
IMAGES = 4

_HERE = Path(__file__).parent
# Seconds from here on are of a date (2001), below of a recording
_DATES = 1e9


def render_page(found: Identified, linking: Linking, mode: str, scores: Mapping[str, float], shown: int) -> str:
    """Make the page of an identification.

    Identities with several tracklets come first, the least certain of these at the top: those of which a join is
    nearest to the threshold.

    Args:
        found: what was found.
        linking: how.
        mode: `batch` or `streaming`.
        scores: against the truth, where it is known.
        shown: identities on the page, at most; as many that are nearly one.
    """
    reduced, labels = found.reduced, found.labels
    members: dict[int, list[int]] = {}
    for row in found.tracklets.tolist():
        members.setdefault(int(found.identity[row]), []).append(row)
    joins: dict[int, list[Join]] = {}
    for join in found.evidence.joins:
        joins.setdefault(join.identity, []).append(join)
    worst = {one: max(join.distance for join in own) for one, own in joins.items()}
    order = sorted(members, key=lambda one: (-worst.get(one, -np.inf), one))
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader([_HERE, Path(report.__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["printable"] = printable
    environment.globals.update(
        {
            "labels": labels,
            "reduced": reduced,
            "identities": [(one, members[one], joins.get(one, [])) for one in order[:shown]],
            "number": len(members),
            "people": sum(map(bool, reduced.people)),
            "near": [_of_near(found, linking, near) for near in found.evidence.near[:shown]],
            "near_number": len(found.evidence.near),
            "facts": _facts(found, linking, mode),
            "scores": scores,
            "corrections": [[printable(a), printable(b), int(same)] for a, b, same in linking.corrections],
            "images_of": lambda row: _images(reduced.examples[row]),
            "joined": lambda join: _pair_of(found, linking, join),
            "seen": lambda row: _seen(float(reduced.start[row]), float(reduced.end[row])),
            "is_new": found.new.tolist(),
            "script": Markup(script),
            "digest": digest,
            "threshold": linking.threshold,
            "streaming": mode == "streaming",
            "made_with": versions(),
        }
    )
    return environment.get_template("identities.html").render().lstrip()


def _facts(found: Identified, linking: Linking, mode: str) -> dict[str, str]:
    compared, linking = linking.compared, linking.in_force(found.reduced)
    how = "robust means" if compared.kind == "mean" else f"the {compared.best} nearest pairs of images"
    rules = linking.rules
    facts = {
        "mode": mode + (f", {linking.linkage} linkage" if mode == "batch" else ", in the order of arrival"),
        "distance": f"{compared.metric}, of {how}; one person below {linking.threshold:.6g}",
        "constraints": "nobody is at two places at once",
    }
    if rules.overlapping:
        pairs = ", ".join(sorted(" and ".join(sorted(pair)) for pair in rules.overlapping))
        facts["constraints"] += f", but for cameras that see the same place: {pairs}"
    if rules.travel:
        facts["constraints"] += f"; {len(rules.travel)} travel times"
    facts["corrections"] = str(len(linking.corrections))
    facts["model"] = linking.fingerprint[:12] or "unknown"
    return facts


def _pair_of(found: Identified, linking: Linking, pair: Join | Near) -> list[tuple[int, str]]:
    """Both tracklets, each with the image that speaks for the two being one person."""
    reduced = found.reduced
    a, b = reduced.distances(linking.compared).nearest_vectors(pair.one, pair.other)
    return [
        (pair.one, _embedded(reduced.examples[pair.one][a])),
        (pair.other, _embedded(reduced.examples[pair.other][b])),
    ]


def _of_near(found: Identified, linking: Linking, near: Near) -> tuple[Near, list[tuple[int, Any]]]:
    return near, _pair_of(found, linking, near)


def _images(paths: list[str]) -> list[Any]:
    return [_embedded(path) for path in paths[:IMAGES]]


def _embedded(path: str) -> Any:
    """URI, width and height of an image; None where it is not there any more, or was never."""
    if not path or not os.path.isfile(path):
        return None
    try:
        return image_uri(path)
    except (OSError, ValueError):
        return None


def _seen(start: float, end: float) -> str:
    """When a tracklet was seen: a date, or seconds of the recording; empty where unknown."""
    if not np.isfinite(start + end):
        return ""
    if start >= _DATES:
        first, last = (datetime.fromtimestamp(moment, timezone.utc) for moment in (start, end))
        same_day = first.date() == last.date()
        return f"{first:%Y-%m-%d %H:%M:%S} to {last:{'%H:%M:%S' if same_day else '%Y-%m-%d %H:%M:%S'}} UTC"
    return f"{start:.1f} to {end:.1f} s"
