"""A retrieval report as one HTML file that needs nothing else: tables, curves, rank lists, activation maps, configs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from ..evaluation.ranks import MatchRanks
from ..files import atomic_write
from .html_page import Content, Node, data_uri, document, element, number, section, table
from .rank_list import RankedExamples
from .report_lists import frame_legend, map_examples, query_lists
from .retrieval_curves import CURVES, retrieval_curve

__all__ = ["MEASURES", "Report", "ReportedModel", "ReportedTest", "render_report", "write_report"]

#: What the summary table holds, in percent.
MEASURES = ("mAP", "mINP", "Rank-1", "Rank-5", "Rank-10")

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


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

    Raises:
        ValueError: as `render_report`.
        OSError: an image of the rank lists cannot be read, or the file cannot be written.
    """
    page = render_report(report)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    atomic_write(path, lambda file: file.write(page.encode()))


def render_report(report: Report) -> str:
    """A report as an HTML document, with its images, charts and style inside and no script.

    Raises:
        ValueError: no models or test sets, or a test set lacks a model or none of its queries has a match.
        OSError: an image of the rank lists cannot be read.
    """
    if not report.models or not report.tests:
        raise ValueError("a report needs at least one model and one test set")
    for test in report.tests:
        missing = [model.name for model in report.models if model.name not in test.ranks]
        if missing:
            raise ValueError(f"the report's test set {test.dataset} has no numbers of {', '.join(missing)}")
    named = {
        "summary": ("Summary", list(_summary(report))),
        "curves": ("Curves", list(_per_test(report, _curves))),
        "lists": ("Rank lists", [frame_legend(), *_per_test(report, _examples)]),
        "worst": ("Worst queries", list(_per_test(report, _worst))),
        "maps": ("Activation maps", list(_per_test(report, _maps))),
        "models": ("Models and configs", list(_models(report))),
    }
    named = {identity: part for identity, part in named.items() if part[1]}
    links = [element("li", element("a", heading, href=f"#{identity}")) for identity, (heading, _) in named.items()]
    subject = f"{_names(report)} on {', '.join(test.dataset for test in report.tests)}"
    made = ", ".join(f"{program} {version}" for program, version in report.versions.items())
    date = element("time", report.date.replace("T", " "), datetime=report.date)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", report.title),
        element("style", Path(__file__).with_name("report.css").read_text(encoding="utf-8")),
    )
    body = element(
        "body",
        element(
            "header",
            element("h1", report.title),
            element("p", subject, " · ", date, class_="quiet"),
            element("nav", element("ul", *links), aria_label="Contents"),
        ),
        element("main", *(section(identity, heading, *parts) for identity, (heading, parts) in named.items())),
        element("footer", f"Made with {made}."),
    )
    return document(element("html", head, body, lang="en"))


def _names(report: Report) -> str:
    return ", ".join(model.name for model in report.models)


def _per_test(report: Report, contents: Callable[[Report, ReportedTest], Iterable[Node]]) -> Iterator[Node]:
    """What a function gives for each test set, below the name of the set where there are several."""
    for test in report.tests:
        parts = list(contents(report, test))
        if parts and len(report.tests) > 1:
            yield element("h3", test.dataset)
        yield from parts


def _summary(report: Report) -> Iterator[Node]:
    rows: list[list[Content]] = []
    several = len(report.tests) > 1
    for test in report.tests:
        results = {model.name: test.ranks[model.name].results() for model in report.models}
        best = {measure: max(values[measure] for values in results.values()) for measure in MEASURES}
        for name, values in results.items():
            row: list[Content] = [name, test.dataset] if several else [name]
            for measure in MEASURES:
                shown = number(values[measure])
                stands_out = len(results) > 1 and values[measure] == best[measure]
                row.append(element("strong", shown) if stands_out else shown)
            rows.append(row)
    caption = "Retrieval in percent" + ("" if several else f" on {report.tests[0].dataset}")
    caption += "; the best in bold" if len(report.models) > 1 else ""
    yield table(caption, ["model", *(["test set"] if several else []), *MEASURES], rows, numbers=len(MEASURES))
    told: list[list[Content]] = []
    for fact in dict.fromkeys(fact for model in report.models for fact in model.facts):
        told.append([fact, *(model.facts.get(fact, "") for model in report.models)])
    for file in dict.fromkeys(file for model in report.models for file in model.files):
        told.append([file, *(element("code", model.files.get(file, "")) for model in report.models)])
    yield table("How the numbers were made", ["", *(model.name for model in report.models)], told)
    counted = list(dict.fromkeys(name for test in report.tests for name in test.counts))
    counts: list[list[Content]] = [
        [name, *(number(test.counts[name], 0) if name in test.counts else "" for test in report.tests)]
        for name in counted
    ]
    heads = ["number of", *(test.dataset for test in report.tests)]
    yield table("The test sets" if several else "The test set", heads, counts, numbers=len(report.tests))
    for test in report.tests:
        for note in test.notes:
            yield element("p", note, class_="quiet")


def _curves(report: Report, test: ReportedTest) -> Iterator[Node]:
    results = {name: ranks.results() for name, ranks in test.ranks.items()}
    told = "; ".join(
        f"{name}: " + ", ".join(f"{measure} {values[measure]:.1f} %" for measure in MEASURES)
        for name, values in results.items()
    )
    charts = []
    for kind, (heading, _) in CURVES.items():
        uri = data_uri(retrieval_curve(kind, test.ranks, report.max_rank), "png")
        charts.append(element("figure", element("img", src=uri, alt=f"{heading} on {test.dataset}. {told}")))
    yield element("div", *charts, class_="charts")


def _examples(report: Report, test: ReportedTest) -> Iterator[Node]:
    if test.choice:
        yield element("p", test.choice, class_="quiet")
    for place in range(len(test.examples.labels)):
        yield query_lists(test.examples, place)


def _worst(report: Report, test: ReportedTest) -> Iterator[Node]:
    for name, examples in test.worst.items():
        yield element("h3", f"{name}: the {len(examples.labels)} queries of the lowest average precision")
        for place in range(len(examples.labels)):
            yield query_lists(examples, place)


def _maps(report: Report, test: ReportedTest) -> Iterator[Node]:
    if test.maps:
        told = "Where the last feature map responds to the queries above, in each image from its least to its greatest"
        yield element("p", f"{told} response: blue to red.", class_="quiet")
        yield map_examples(test.examples, test.images, test.maps)


def _models(report: Report) -> Iterator[Node]:
    configs = {model.name: _flat(yaml.safe_load(model.config)) for model in report.models}
    keys = list(dict.fromkeys(key for config in configs.values() for key in config))
    rows: list[list[Content]] = []
    for key in keys:
        values = [config.get(key, "(not there)") for config in configs.values()]
        if len(set(values)) > 1:
            rows.append([element("code", key), *(element("code", value) for value in values)])
    if rows:
        yield table("Keys in which the configs differ", ["key", *configs], rows)
    for model in report.models:
        summary = element("summary", f"Config of {model.name}")
        yield element("details", summary, element("pre", element("code", model.config)))


def _flat(config: Mapping[str, object], above: str = "") -> dict[str, str]:
    """Keys of a nested config as `A.B.C`, with their values as texts."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{above}{key}."))
        else:
            flat[f"{above}{key}"] = str(value)
    return flat
