"""What a retrieval report holds, and the page made of it: `page.html` says how it looks, `style.css` in which style."""

from __future__ import annotations

import base64
import io
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fastreid.data.data_utils import read_image
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from ..config import flat_keys
from ..evaluation.features import identity_and_camera
from ..evaluation.ranks import MatchRanks
from ..evaluation.search import RankList
from ..files import read_yaml, write_bytes
from ..visualization.activation import PANELS, map_images
from ..visualization.rank_list import FRAMES, RankedExamples, frame_kind
from ..visualization.retrieval_curves import CURVES, retrieval_curve

#: What the summary table holds, in percent.
MEASURES = ("mAP", "mINP", "Rank-1", "Rank-5", "Rank-10")

# Frame of the style sheet -> what it means
_FRAMES = {
    "asked": "query",
    "match": "match: the query's identity, seen by another camera",
    "non-match": "non-match: another identity",
    "junk": "junk: the query's identity from the query's own camera, or nobody; it does not count and has no rank",
}
_MARKS = {"asked": "?", **{kind: mark for kind, (mark, _) in FRAMES.items()}}
# A run of more junk images than this is cut to its first ones
_JUNK_RUN = 3
_JUNK_SHOWN = 2
# Longer sides of embedded images in pixels: twice what the style sheet shows, for screens of high density
_LONGEST = 256
_QUALITY = 88


@dataclass(frozen=True)
class ReportedModel:
    """A model of a report.

    Attributes:
        name: of the model, by which the tests know it.
        facts: what to say about it, such as how its numbers were made.
        files: what it was made of.
        config: its whole config, as YAML.
    """

    name: str
    facts: Mapping[str, str]
    files: Mapping[str, str]
    config: str


@dataclass(frozen=True)
class ReportedTest:
    """What models retrieve on one test set.

    Attributes:
        dataset: its name.
        counts: what there is in it: a text -> a number.
        ranks: name of a model -> where the matches of each query stand.
        examples: rank lists of chosen queries, of all models.
        worst: name of a model -> rank lists of the queries that it is worst at, whose labels say how bad they are.
        images: what activation maps are of, (H, W, 3) uint8 RGB, for each query of `examples`; empty without maps.
        maps: name of a model -> (N, h, w) activation maps of these images.
        choice: a sentence on how the queries of `examples` were chosen.
        notes: sentences on what is not as the reader may expect.
    """

    dataset: str
    counts: Mapping[str, float]
    ranks: Mapping[str, MatchRanks]
    examples: RankedExamples
    worst: Mapping[str, RankedExamples] = field(default_factory=dict)
    images: Sequence[np.ndarray] = ()
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    choice: str = ""
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """All that stands in a report.

    Attributes:
        title: its heading.
        models: at least one.
        tests: at least one, each with all of the models.
        versions: name of a program -> its version.
        date: when it was made, in ISO 8601.
        max_rank: the last rank of the CMC.
    """

    title: str
    models: Sequence[ReportedModel]
    tests: Sequence[ReportedTest]
    versions: Mapping[str, str]
    date: str
    max_rank: int = 20


def write_report(report: Report, path: str | os.PathLike) -> None:
    """Write a report as one HTML file; folders on the way are made.

    Args:
        report: what stands in it.
        path: the file.

    Raises:
        ValueError: as `render_report`.
        OSError: an image of the rank lists cannot be read, or the file cannot be written.
    """
    # Names of files that are no UTF-8 text are shown by their bytes
    write_bytes(path, render_report(report).encode(errors="backslashreplace"))


def render_report(report: Report) -> str:
    """Make a report an HTML document, with its images, charts and style inside and no script.

    Raises:
        ValueError: no models or test sets, or a test set lacks a model, none of its queries has a match, or it has not
            as many activation maps as queries.
        OSError: an image of the rank lists cannot be read.
    """
    if not report.models or not report.tests:
        raise ValueError("a report needs at least one model and one test set")
    for test in report.tests:
        missing = [model.name for model in report.models if model.name not in test.ranks]
        if missing:
            raise ValueError(f"the report's test set {test.dataset} has no numbers of {', '.join(missing)}")
        for name, responses in test.maps.items():
            queries, images = len(test.examples.rows), len(test.images)
            if not len(responses) == images == queries:
                raise ValueError(f"{queries} queries, {images} images and {len(responses)} activation maps of '{name}'")
    sections = {"summary": "Summary", "curves": "Curves", "lists": "Rank lists"}
    if any(test.worst for test in report.tests):
        sections["worst"] = "Worst queries"
    if any(test.maps for test in report.tests):
        sections["maps"] = "Activation maps"
    sections["models"] = "Models and configs"
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(
        report=report,
        sections=sections,
        measures=list(MEASURES),
        frames=_FRAMES,
        marks=_MARKS,
        differing=_differing_keys(report.models),
        answers=_answers,
        charts=lambda test: _charts(test, report.max_rank),
        file_name=os.path.basename,
        image_uri=image_uri,
        keys_of=_keys_of,
        map_images=lambda image, response: list(zip(PANELS["both"], map_images(image, response))),
        results_of=_results_of,
        who=identity_and_camera,
    )
    return environment.get_template("page.html").render().lstrip()


def image_uri(image: str | np.ndarray) -> tuple[str, int, int]:
    """Put an image into a data URI as a JPEG, made smaller if it is large.

    Args:
        image: a file, or (H, W, 3) uint8 RGB.

    Returns:
        The URI; width and height in pixels.

    Raises:
        OSError: the file cannot be read.
    """
    pixels = read_image(image, format="RGB") if isinstance(image, str) else image
    small = Image.fromarray(np.ascontiguousarray(pixels))
    small.thumbnail((_LONGEST, _LONGEST), Image.LANCZOS)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=_QUALITY)
    return _data_uri(content.getvalue(), "jpeg"), *small.size


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _results_of(test: ReportedTest) -> dict[str, dict[str, float]]:
    return {name: ranks.results() for name, ranks in test.ranks.items()}


def _charts(test: ReportedTest, max_rank: int) -> Iterator[tuple[str, str, str]]:
    """Heading, data URI and, in words, the results of each chart."""
    told = "; ".join(
        f"{name}: " + ", ".join(f"{measure} {values[measure]:.1f} %" for measure in MEASURES)
        for name, values in _results_of(test).items()
    )
    for kind, (heading, _) in CURVES.items():
        yield heading, _data_uri(retrieval_curve(kind, test.ranks, max_rank), "png"), told


class _Answer(NamedTuple):
    kind: str  # of frame
    rank: int  # 0 for junk
    image: int  # row of the gallery
    distance: float


def _answers(found: RankList) -> Iterator[_Answer | str]:
    """The images of a rank list; instead of longer runs of junk, and of ranks that it leaves out, a text."""
    places = found.places.tolist()
    last = 0
    for is_junk, group in itertools.groupby(range(len(places)), key=lambda position: places[position] == 0):
        run = list(group)
        shown = run[:_JUNK_SHOWN] if is_junk and len(run) > _JUNK_RUN else run
        for position in shown:
            if places[position] > last + 1:
                yield f"… ranks {last + 1} to {places[position] - 1} …"
            last = places[position] or last
            kind = frame_kind(found.correct[position], places[position])
            yield _Answer(kind, places[position], int(found.gallery[position]), float(found.distances[position]))
        if len(shown) < len(run):
            yield f"and {len(run) - len(shown)} more junk"


def _keys_of(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys of several mappings, each once, in order of appearance."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _differing_keys(models: Sequence[ReportedModel]) -> dict[str, list[str]]:
    """Key of a config -> its value in each model's, where they are not all the same."""
    configs = [flat_keys(read_yaml(model.config)) for model in models]
    rows = {key: [str(config.get(key, "(not there)")) for config in configs] for key in _keys_of(configs)}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}
