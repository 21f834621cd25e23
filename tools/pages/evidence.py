"""What the runs of docs/results/evidence show of the claims in its plan: verdicts, and the page on them.

The rule is the plan's: differences between the arms of a claim, paired by seed; Student's t over them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

from tools.evidence import SAME, cell_of, curve_of, read_rows

from .markdown import code, table

FOLDER = Path(__file__).resolve().parents[2] / "docs/results/evidence"
SHOWN, NOT_SHOWN, OPPOSITE, IDLE, MISSING = "shown", "not shown", "opposite", "idle", ""
OTHER_CAUSE = "gain of another cause"
_CONFIDENCE = 0.95
_RESAMPLES = 10_000

Rows = Sequence[Mapping[str, Any]]
#: Bench -> arm -> seed -> {strength: mAP in percent}.
Curves = Mapping[str, Mapping[str, Mapping[int, Mapping[str, float]]]]


@dataclass(frozen=True)
class Verdict:
    """What the runs show of one claim.

    Attributes:
        claim: its name.
        differences: of the method to the baseline, points, by seed; of seeds that both have.
        verdict: one of `SHOWN`, `NOT_SHOWN`, `OPPOSITE`, `IDLE`, `OTHER_CAUSE`, and `MISSING` before every seed is
            there, those of the claim that names the cause too.
        baseline, method, control: mean over the seeds, of the first two over those that both have; None without any.
        interval: Student's t at 95 %, of the mean difference; None with fewer than two seeds.
        bootstrap: the same from resampled seeds.
        without: mean difference of the method to itself without the mechanism, by neutral form.
        idle: seeds in which the mechanism had no effect.
    """

    claim: str
    differences: Mapping[int, float]
    verdict: str
    baseline: float | None
    method: float | None
    control: float | None
    interval: tuple[float, float] | None
    bootstrap: tuple[float, float] | None
    without: Mapping[str, float]
    idle: int

    @property
    def mean(self) -> float:
        """The mean difference, points."""
        return float(np.mean(list(self.differences.values())))

    @property
    def gains(self) -> int:
        """In how many seeds the method is better."""
        return sum(value > 0 for value in self.differences.values())


def judge(name: str, plan: Mapping[str, Any], rows: Rows) -> Verdict:
    """Judge a claim by the rule of the plan.

    Args:
        name: of the claim.
        plan: the plan.
        rows: the finished runs.
    """
    compare = plan["claims"][name]["compare"]
    arms = {
        part: {row["seed"]: row for row in rows if (row["bench"], row["arm"]) == (compare["bench"], compare[part])}
        for part in ("baseline", "method", "control")
        if part in compare
    }
    values = {part: {seed: _value(row, compare) for seed, row in found.items()} for part, found in arms.items()}
    both = sorted(values["baseline"].keys() & values["method"].keys())
    differences = {seed: values["method"][seed] - values["baseline"][seed] for seed in both}
    acting = [row["mechanisms"].get(compare.get("mechanism"), {}) for row in arms["method"].values()]
    idle = sum(bool(one.get("idle")) for one in acting)
    interval = student(list(differences.values()))
    verdict = MISSING
    if set(plan["seeds"]) <= set(both) and interval is not None:
        low, high = interval
        verdict = SHOWN if low > 0 else OPPOSITE if high < 0 else NOT_SHOWN
        if "mechanism" in compare and 2 * idle > len(plan["seeds"]):
            verdict = IDLE
    if verdict == SHOWN and (because := plan["claims"][name].get("because")):
        cause = judge(because, plan, rows).verdict
        verdict = cause if cause in (SHOWN, MISSING) else OTHER_CAUSE
    return Verdict(
        name,
        differences,
        verdict,
        _mean([values["baseline"][seed] for seed in both]),
        _mean([values["method"][seed] for seed in both]),
        _mean(values.get("control", {}).values()),
        interval,
        bootstrap(list(differences.values())),
        _without(arms["method"].values(), compare),
        idle,
    )


def student(differences: Sequence[float]) -> tuple[float, float] | None:
    """Give Student's t interval of a mean at 95 %; None for fewer than two numbers.

    Args:
        differences: paired, one a seed.
    """
    if len(differences) < 2:
        return None
    mean, error = float(np.mean(differences)), float(stats.sem(differences))
    if error == 0:
        return mean, mean
    low, high = stats.t.interval(_CONFIDENCE, len(differences) - 1, loc=mean, scale=error)
    return float(low), float(high)


def bootstrap(differences: Sequence[float]) -> tuple[float, float] | None:
    """Give the 95 % interval of a mean from resampled numbers; None for fewer than two.

    Args:
        differences: paired, one a seed.
    """
    if len(differences) < 2:
        return None
    drawn = np.random.default_rng(0).choice(differences, (_RESAMPLES, len(differences)))
    low, high = np.quantile(drawn.mean(axis=1), [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)


def _value(row: Mapping[str, Any], compare: Mapping[str, Any]) -> float:
    metric = compare.get("metric", "mAP")
    return float(row[metric] if metric == "all_right" else row["tests"][compare.get("test", SAME)][metric])


def _mean(values: Iterable[float]) -> float | None:
    return float(np.mean(list(values))) if values else None


def _without(rows: Iterable[Mapping[str, Any]], compare: Mapping[str, Any]) -> dict[str, float]:
    """How much better a method is than the same weights without its mechanism, where the test set is the training's."""
    forms: dict[str, list[float]] = {}
    if compare.get("test", SAME) == SAME and compare.get("metric", "mAP") == "mAP":
        for row in rows:
            one = row["mechanisms"].get(compare.get("mechanism"), {"training_only": True})
            if not one["training_only"]:
                for form, results in one["without"].items():
                    forms.setdefault(form, []).append(row["tests"][SAME]["mAP"] - results["mAP"])
    return {form: float(np.mean(moved)) for form, moved in forms.items()}


def curves_of(plan: Mapping[str, Any], rows: Rows) -> Curves:
    """Gather the curves that were measured, benches and arms in the plan's order, of seeds that all these arms have.

    Args:
        plan: the plan.
        rows: the finished runs.
    """
    found: dict[str, dict[str, dict[int, Mapping[str, float]]]] = {}
    for bench, one in plan.get("curves", {"of": {}})["of"].items():
        own = {
            arm: {
                row["seed"]: curve
                for row in rows
                if (row["bench"], row["arm"]) == (bench, arm) and (curve := curve_of(plan, row))
            }
            for arm in one["arms"]
        }
        measured = {arm: seeds for arm, seeds in own.items() if seeds}
        both = set.intersection(*map(set, measured.values())) if len(measured) > 1 else set()
        if both:
            found[bench] = {arm: {seed: seeds[seed] for seed in sorted(both)} for arm, seeds in measured.items()}
    return found


def load(folder: Path = FOLDER) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read the plan, and the finished runs that were made under it as it is now.

    Args:
        folder: with plan.yml and, where something was measured, runs.json.
    """
    plan = yaml.safe_load((folder / "plan.yml").read_text(encoding="utf-8"))
    return plan, [row for row in read_rows(folder / "runs.json") if _is_planned(plan, row)]


def _is_planned(plan: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    if row["arm"] not in plan["benches"].get(row["bench"], {"arms": ()})["arms"]:
        return False
    return row["settings"] == cell_of(plan, row["bench"], row["arm"], row["seed"]).digest


def papers_claims(plan: Mapping[str, Any]) -> list[str]:
    """Name the claims without those that ask for the cause of another's gain."""
    causes = {claim.get("because") for claim in plan["claims"].values()}
    return [name for name in plan["claims"] if name not in causes]


def verdicts(folder: Path = FOLDER) -> list[Verdict]:
    """Judge every claim, in the plan's order.

    Args:
        folder: as in `load`.
    """
    plan, rows = load(folder)
    return [judge(name, plan, rows) for name in plan["claims"]]


def summary(found: Sequence[Verdict]) -> str:
    """Say in a sentence how many claims are shown.

    Args:
        found: of all claims.
    """
    judged = [one for one in found if one.verdict != MISSING]
    if not judged:
        return f"None of the {len(found)} claims has all its seeds yet."
    counts = ", ".join(
        f"{number} {verdict}"
        for verdict in (SHOWN, OTHER_CAUSE, NOT_SHOWN, OPPOSITE, IDLE)
        if (number := sum(one.verdict == verdict for one in judged))
    )
    return f"{len(judged)} of {len(found)} claims measured: {counts}."


def pages(folder: Path = FOLDER) -> dict[str, str]:
    """Make the page: {path below docs/: Markdown}.

    Args:
        folder: as in `load`.
    """
    plan, rows = load(folder)
    found = [judge(name, plan, rows) for name in plan["claims"]]
    return {"results/claims/index.md": _page(plan, rows, found, folder)}


def _page(plan: Mapping[str, Any], rows: Rows, found: Sequence[Verdict], folder: Path) -> str:
    said = {one.claim: plan["claims"][one.claim]["says"] for one in found}
    seeds = len(plan["seeds"])
    measured = [one for one in found if one.verdict != MISSING]
    later = [one for one in measured if "added" in plan["claims"][one.claim]]
    judged, later_shown = len(measured), sum(one.verdict == SHOWN for one in later)
    lines = [
        [
            one.claim,
            said[one.claim],
            _number(one.baseline),
            _number(one.method),
            f"{one.mean:+.2f}" if one.differences else "",
            _range(one.interval),
            _range(one.bootstrap),
            f"{one.gains} of {len(one.differences)}" if one.differences else "",
            _number(one.control),
            ", ".join(f"{form} {moved:+.2f}" for form, moved in one.without.items()),
            plan["claims"][one.claim].get("added", ""),
            one.verdict,
        ]
        for one in found
    ]
    heads = ["claim", "says", "without", "with", "gain", "95 %, t", "95 %, bootstrap", "seeds with a gain"]
    heads += ["without, trained longer", "gain over the same weights with, in its place", "added later", ""]
    parts = [
        "# The papers' claims on drawn people",
        f"{summary(found)} {code('make evidence')} measures what is missing. What was measured is kept, and a run that "
        "was stopped goes on.",
        "What is compared, on which nuisance, with which budget, and what is called shown, is written down in "
        "`docs/results/evidence/plan.yml` before it is run: mAP in percent on SyntheticReID, from a MobileNetV2 of "
        f"ImageNet, {seeds} seeds, paired. Shown: the whole 95 % interval of the gain is above zero. "
        f"{len(later)} of the {judged} claims that are measured, {later_shown} of the shown ones among them, were "
        "added to the plan when others had been run: second settings, and what else a gain may come from. By chance "
        f"alone one of forty claims would be, {judged / 40:.1f} of these {judged}. These are drawings and a small "
        "network: what is not shown here may hold on photographs, and the other way round.",
        "## Claims",
        table(heads, lines),
    ]
    notes = folder / "_notes.md"
    if notes.exists():
        parts += ["## What was looked at", notes.read_text(encoding="utf-8").strip()]
    if curves := curves_of(plan, rows):
        about = (
            "mAP of trained models over the strength of one nuisance in the test, all else as in training, where the "
            "strength was the dotted one: each seed thin, the mean thick. For the eye, not judged. "
            f"{code('fastreid-parts robustness')} draws such curves of any model, on any test set too."
        )
        parts += [
            "## Curves",
            about,
            "![mAP over the strength of one nuisance](../../figures/curves.svg)",
            _curves(plan, curves),
        ]
    parts += ["## Runs", _runs(rows) if rows else "No run is finished yet."]
    return "\n\n".join(parts) + "\n"


def _curves(plan: Mapping[str, Any], found: Curves) -> str:
    strengths = [f"{strength:g}" for strength in plan["curves"]["strengths"]]
    lines = [
        [
            bench,
            plan["curves"]["of"][bench]["nuisance"].lower(),
            arm,
            str(len(seeds)),
            *(f"{np.mean([curve[strength] for curve in seeds.values()]):.1f}" for strength in strengths),
        ]
        for bench, arms in found.items()
        for arm, seeds in arms.items()
    ]
    return table(["bench", "nuisance", "arm", "seeds", *strengths], lines)


def _runs(rows: Rows) -> str:
    lines = [
        [
            row["bench"],
            row["arm"],
            str(row["seed"]),
            *(f"{row['tests'][SAME][name]:.2f}" for name in ("mAP", "rank1")),
            ", ".join(f"{name} {found['mAP']:.2f}" for name, found in row["tests"].items() if name != SAME),
            f"{row['all_right']:.1f}" if "all_right" in row else "",
            "; ".join(_mechanism(name, one) for name, one in row["mechanisms"].items()),
            f"{row['seconds']:.0f}",
            row["versions"]["fastreid_parts"],
        ]
        for row in sorted(rows, key=lambda row: (row["bench"], row["arm"], row["seed"]))
    ]
    devices = ", ".join(dict.fromkeys(row["device"] for row in rows))
    heads = ["bench", "arm", "seed", "mAP", "Rank-1", "other tests, mAP", "all right [%]", "mechanisms", "s", "version"]
    command = code("python tools/evidence.py one BENCH ARM SEED")
    about = f"{command} makes one. On {devices}; some shared it with other work, so that seconds do not compare."
    return f"{table(heads, lines)}\n\n{about}"


def _mechanism(name: str, one: Mapping[str, Any]) -> str:
    figures = ", ".join(f"{figure} {value:.3g}" for figure, value in one["figures"].items())
    return f"{name}{' (idle)' if one['idle'] else ''} {figures}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _range(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}"
