"""Measured results beside reported ones: verdicts and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from .ledger import CHECKED, Row
from .measured import load_measured
from .tolerances import printed

MISSING, DEPARTS = "missing", "departs"
_SHOWN = {"mAP": "mAP", "rank1": "Rank-1"}


@dataclass(frozen=True)
class Summary:
    """The finished runs of one variant on one dataset.

    Attributes:
        seeds: of the runs that follow the ledger, in order.
        means, spreads: of each metric over them, percent; a spread is a standard deviation, None for one run.
        departures: the extra overrides of the runs that do not follow the ledger.
        idle: {mechanism without effect: in how many of the runs that follow the ledger}.
    """

    seeds: Sequence[int]
    means: Mapping[str, float]
    spreads: Mapping[str, float | None]
    departures: Sequence[Mapping[str, object]]
    idle: Mapping[str, int]

    def shown(self, metric: str) -> str:
        """`79.8`, `79.8 +- 0.3 (3)` with the number of seeds, or nothing."""
        if metric not in self.means:
            return ""
        spread = self.spreads[metric]
        text = f"{self.means[metric]:.1f}"
        return text if spread is None else f"{text} ± {spread:.1f} ({len(self.seeds)})"

    def shown_idle(self) -> str:
        """`mask`, `mask (2 of 3)` where other seeds differ, or nothing."""
        seeds = len(self.seeds)
        return ", ".join(name if runs == seeds else f"{name} ({runs} of {seeds})" for name, runs in self.idle.items())


@dataclass(frozen=True)
class Comparison:
    """One metric of one row.

    Attributes:
        verdict: `below`, `within`, `above`, `missing` (nothing measured) or `departs` (own overrides in
            every run).
    """

    row: Row
    metric: str
    measured: float | None
    verdict: str

    @property
    def misses(self) -> bool:
        """Whether the measured number is outside of the range."""
        return self.verdict in ("below", "above")

    def __str__(self) -> str:
        limits = self.row.ranges[self.metric]
        measured = "" if self.measured is None else f"{self.measured:.1f} is "
        return (
            f"{self.row.id} {self.metric}: {measured}{self.verdict}; reported {printed(limits.reported)}, "
            f"tolerated {limits.low:.1f} to {limits.high:.1f}"
        )


def summarize(root: str | Path, paper: str, dataset: str, run_name: str) -> Summary:
    """Mean and spread over the seeds of one variant, of the runs that follow the ledger.

    Args:
        root: the results folder.
        paper: the paper's key.
        dataset: the dataset of the row.
        run_name: the variant that is measured.

    Raises:
        ResultError: a result file is damaged.
    """
    runs = load_measured(root, paper, dataset, run_name)
    faithful = [run for run in runs if not run.departures]
    names = faithful[0].metrics if faithful else ()
    values = {n: [run.metrics[n] for run in faithful] for n in names if all(n in run.metrics for run in faithful)}
    return Summary(
        seeds=[run.seed for run in faithful],
        means={name: mean(numbers) for name, numbers in values.items()},
        spreads={name: stdev(numbers) if len(numbers) > 1 else None for name, numbers in values.items()},
        departures=[run.departures for run in runs if run.departures],
        idle=Counter(name for run in faithful for name in run.idle),
    )


def check_metrics(row: Row, metrics: Mapping[str, float]) -> list[Comparison]:
    """Hold measured metrics, in percent, against a row's ranges.

    Args:
        row: of the ledger.
        metrics: measured, in percent.
    """
    return [Comparison(row, name, metrics[name], row.ranges[name].verdict(metrics[name])) for name in CHECKED]


def compare(rows: Sequence[Row], root: str | Path) -> list[Comparison]:
    """Hold what the results folder has against the rows' ranges; several seeds count with their mean.

    Args:
        rows: of the ledger.
        root: the results folder.

    Raises:
        ResultError: a result file is damaged.
    """
    result: list[Comparison] = []
    for row in rows:
        summary = summarize(root, row.paper, row.dataset, row.variant.run_name)
        if summary.seeds:
            result += check_metrics(row, summary.means)
        else:
            verdict = DEPARTS if summary.departures else MISSING
            result += [Comparison(row, name, None, verdict) for name in CHECKED]
    return result


def markdown_table(rows: Sequence[Row], root: str | Path, dataset: str | None = None) -> str:
    """Put the papers' numbers and the measured ones in columns of their own, empty where nothing was measured.

    A last column names mechanisms without effect, where a row has one: such a row does not measure its mechanism.

    Args:
        rows: the table's rows.
        root: the results folder.
        dataset: show what was measured there, where the papers report nothing, instead of on the rows' own.

    Raises:
        ResultError: a result file is damaged.
    """
    header = ["Source", "Variant", "Dataset"]
    header += [f"{shown}, {who}" for shown in _SHOWN.values() for who in ("paper", "ours")] + ["Seeds", "Idle"]
    lines, departing = [], []
    for row in _distinct(rows) if dataset else rows:
        target = dataset or row.dataset
        summary = summarize(root, row.paper, target, row.variant.run_name)
        cells = [f"{row.paper}, {row.source}", row.label if dataset is None else row.variant.name, target]
        for metric in _SHOWN:
            cells += ["" if dataset else printed(row.metrics[metric]), summary.shown(metric)]
        lines.append([*cells, " ".join(str(seed) for seed in summary.seeds), summary.shown_idle()])
        for keys in summary.departures:
            changes = ", ".join(f"{key} {value}" for key, value in keys.items())
            departing.append(f"- {row.variant.name} on {target}: {changes}")
    if not any(cells[-1] for cells in lines):
        header, lines = header[:-1], [cells[:-1] for cells in lines]
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *lines])
    if departing:
        text += "\n\nNot shown, because they ran with other settings than the ledger's:\n"
        text += "\n".join(dict.fromkeys(departing))
    return text


def order_note(rows: Sequence[Row], root: str | Path, dataset: str) -> str:
    """One sentence a dataset of the rows: does mAP on `dataset` order the variants as the paper's does there?

    Nothing where fewer than two variants were measured.

    Args:
        rows: of one table.
        root: the results folder.
        dataset: the dataset.
    """
    measured = {}
    for row in _distinct(rows):
        summary = summarize(root, row.paper, dataset, row.variant.run_name)
        if summary.seeds:
            measured[row.paper, row.variant.name] = summary.means["mAP"]
    notes = []
    for reported_on in dict.fromkeys(row.dataset for row in rows):
        here = {
            (row.paper, row.variant.name): row.metrics["mAP"]
            for row in rows
            if row.dataset == reported_on and (row.paper, row.variant.name) in measured
        }
        if len(here) < 2:
            continue
        ours, theirs = (
            " > ".join(name for _, name in sorted(here, key=lambda key: -values[key])) for values in (measured, here)
        )
        if theirs == ours:
            notes.append(f"By mAP the variants stand in the paper's order for {reported_on}.")
        else:
            notes.append(f"By mAP the order is {ours}; the paper's for {reported_on} is {theirs}.")
    return "\n".join(notes)


def _distinct(rows: Sequence[Row]) -> list[Row]:
    """The first row of each model."""
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        first.setdefault((row.paper, row.variant.run_name), row)
    return list(first.values())
