"""Claims and proofs: by the plan's rule, read from tests and results, and the same in README."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from scipy import stats

from fastreid_parts.paper_results import submissions
from tools.evidence import cell_of
from tools.pages import claims, curves, evidence, proofs
from tools.pages.evidence import (
    IDLE,
    MISSING,
    NOT_SHOWN,
    OPPOSITE,
    OTHER_CAUSE,
    SHOWN,
    bootstrap,
    judge,
    pages,
    student,
    summary,
)

ROOT = Path(__file__).resolve().parents[2]
PLAN = {
    "seeds": [0, 1, 2, 3, 4],
    "start": {},
    "nuisances": {"some": {}},
    "benches": {"b": {"paper": "rrid", "nuisance": "some", "keys": {}, "arms": {"plain": {}, "with": {}}}},
    "claims": {
        "c": {"says": "it helps", "compare": {"bench": "b", "baseline": "plain", "method": "with", "mechanism": "m"}}
    },
}


def rows(gains, idle=(), baseline=30.0):
    """Runs of both arms; the method gains so much over the baseline with each seed."""
    made = []
    for seed, gain in enumerate(gains):
        for arm, value in (("plain", baseline + seed), ("with", baseline + seed + gain)):
            one = {"figures": {"change": 0.5}, "without": {"none": {"mAP": value - 1}}, "training_only": False}
            made.append(
                {
                    "bench": "b",
                    "arm": arm,
                    "seed": seed,
                    "settings": cell_of(PLAN, "b", arm, seed).digest,
                    "versions": {"fastreid_parts": "0.3 (abc)"},
                    "tests": {"images": {"mAP": value, "rank1": value}, "clean": {"mAP": 50.0}},
                    "mechanisms": {"m": {**one, "idle": seed in idle}},
                    "seconds": 1.0,
                    "device": "cpu",
                    "all_right": value / 2,
                }
            )
    return made


@pytest.mark.parametrize(
    ("gains", "idle", "verdict"),
    [
        ([2.0, 2.5, 1.5, 2.2, 1.8], (), SHOWN),
        ([-2.0, -2.5, -1.5, -2.2, -1.8], (), OPPOSITE),
        ([2.0, -2.5, 1.5, -1.2, 0.8], (), NOT_SHOWN),
        ([9.0, 0.1, 0.1, 0.1, 0.1], (), NOT_SHOWN),  # every seed gains, one by far the most
        ([2.0, 2.5, 1.5, 2.2, 1.8], (0, 1, 2), IDLE),
        ([2.0, 2.5, 1.5, 2.2, 1.8], (0, 1), SHOWN),
        ([2.0, 2.5, 1.5, 2.2], (), MISSING),
        ([], (), MISSING),
        ([1.0] * 5, (), SHOWN),
        ([0.0] * 5, (), NOT_SHOWN),
    ],
)
def test_the_rule_of_the_plan(gains, idle, verdict):
    one = judge("c", PLAN, rows(gains, idle))
    assert one.verdict == verdict and one.gains == sum(gain > 0 for gain in gains)
    assert one.differences == pytest.approx(dict(enumerate(gains)))
    if gains:
        assert one.without == pytest.approx({"none": 1.0}) and one.idle == len(idle)


@pytest.mark.parametrize(
    ("neutral", "verdict"),
    [
        ([2.0, 2.6, 1.4, 2.2, 1.8], OTHER_CAUSE),  # the gain is there without the mechanism as well
        ([0.0, 0.1, -0.1, 0.0, 0.1], SHOWN),
        ([], MISSING),
    ],
)
def test_a_gain_is_the_mechanisms_if_it_goes_with_it(neutral, verdict):
    plan = json.loads(json.dumps(PLAN))
    plan["claims"]["c"]["because"] = "d"
    plan["claims"]["d"] = {"says": "", "compare": {"bench": "b", "baseline": "neutral", "method": "with"}}
    made = rows([2.0, 2.5, 1.5, 2.2, 1.8])
    made += [{**row, "arm": "neutral"} for row in rows(neutral) if row["arm"] == "with"]
    assert judge("c", plan, made).verdict == verdict
    assert judge("c", plan, rows([0.0] * 5)).verdict == NOT_SHOWN


def test_pairs_are_of_one_seed():
    """Seeds differ much more than arms do: unpaired nothing would show. A seed that one arm lacks does not count."""
    made = rows([1.0, 1.2, 0.9, 1.1, 1.0])
    for row in made:
        row["tests"]["images"]["mAP"] += 20 * row["seed"]
    assert judge("c", PLAN, made).verdict == SHOWN
    four = judge("c", PLAN, made[:-1])
    assert four.differences.keys() == {0, 1, 2, 3} and four.method - four.baseline == pytest.approx(four.mean)


def test_the_intervals_are_scipys():
    random = np.random.default_rng(0)
    values = random.normal(1, 2, 5)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert student(values) == pytest.approx((expected.low, expected.high))
    low, high = bootstrap(values)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1))
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.15)
    assert student([1.0]) is None is bootstrap([])


def test_other_metrics_and_tests():
    plan = json.loads(json.dumps(PLAN))
    plan["claims"]["c"]["compare"].update(test="clean")
    one = judge("c", plan, rows([1.0] * 5))
    assert one.mean == 0 and one.baseline == 50 and one.without == {}
    plan["claims"]["c"]["compare"] = {**PLAN["claims"]["c"]["compare"], "metric": "all_right"}
    assert judge("c", plan, rows([1.0] * 5)).mean == pytest.approx(0.5)


def test_the_page_is_of_the_runs(tmp_path):
    (tmp_path / "plan.yml").write_text(yaml.safe_dump(PLAN))
    empty = pages(tmp_path)["results/claims/index.md"]
    assert "None of the 1 claims has all its seeds yet." in empty and "No run is finished yet." in empty
    (tmp_path / "runs.json").write_text(json.dumps({"rows": rows([2.0, 2.5, 1.5, 2.2, 1.8], (0,))}))
    (tmp_path / "_notes.md").write_text("It was looked at.")
    page = pages(tmp_path)["results/claims/index.md"]
    [line] = [line for line in page.splitlines() if line.startswith("| c ")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:5] == ["32.00", "34.00", "+2.00"] and cells[-1] == SHOWN and "5 of 5" in cells
    assert "It was looked at." in page and page.count("(idle)") == 2 and len(re.findall(r"\| b +\| with", page)) == 5
    assert "0 of the 1 claims that are measured, 0 of the shown ones" in page and page.count("0.3 (abc)") == 10
    assert summary(evidence.verdicts(tmp_path)) == "1 of 1 claims measured: 1 shown."
    plan = json.loads(json.dumps(PLAN))
    plan["claims"]["c"]["added"] = "when others were run"
    (tmp_path / "plan.yml").write_text(yaml.safe_dump(plan))
    page = pages(tmp_path)["results/claims/index.md"]
    assert "| when others were run" in page and "1 of the 1 claims that are measured, 1 of the shown ones" in page
    plan["benches"]["b"]["arms"]["with"] = {"keys": {"SOLVER.MAX_EPOCH": 2}}
    (tmp_path / "plan.yml").write_text(yaml.safe_dump(plan))
    assert evidence.verdicts(tmp_path)[0].verdict == MISSING, "of an earlier plan"


def test_the_figure_is_of_the_runs():
    """An interval is drawn where it is, in its verdict's color, and claims without runs are counted alone."""
    found = [judge("c", PLAN, rows(gains)) for gains in ([2.0, 2.5, 1.5, 2.2, 1.8], [-3.0, 2.5, 1.0, 0.0, 1.0], [])]
    drawn = ElementTree.fromstring(claims.draw(found))
    marks = [one for one in drawn.iter() if one.tag.endswith("circle")]
    assert len(marks) == 2 and marks[0].get("fill") != marks[1].get("fill")
    (scale, zero) = np.polyfit([one.mean for one in found[:2]], [float(mark.get("cx")) for mark in marks], 1)
    bars = [one.get("d") for one in drawn.iter() if one.get("stroke-linecap")]
    for one, bar in zip(found, bars):
        ends = [float(bar[1:].split()[0]), float(bar.partition("H")[2])]
        assert ends == pytest.approx([zero + scale * end for end in one.interval], abs=0.2)
    words = "".join(drawn.itertext())
    cut = claims.draw([*found, judge("c", PLAN, rows([-30.0, 30.0]))])  # two seeds: of any width
    assert bars == re.findall(r'd="([^"]+)" stroke="[^"]+" stroke-width="3"', cut)[:2]
    last = [one.get("d") for one in ElementTree.fromstring(cut).iter() if one.get("stroke-linecap")][-1]
    assert (
        float(last[1:].split()[0]) > claims._LABELS and float(last.partition("H")[2]) < claims._WIDTH - claims._VALUES
    )
    assert "2 of 3 claims measured: 1 shown, 1 not shown." in words and "+2.00  shown" in words


def test_the_committed_figure_is_what_is_drawn():
    assert claims.FIGURE.read_text(encoding="utf-8") == claims.draw(evidence.verdicts()), "run `make figures`"


def curve_rows():
    """Runs of two arms with curves: the seed's own at each strength; one run has none."""
    made = []
    for arm, seeds in (("plain", (0, 1, 2)), ("with", (2, 0)), ("more", ())):
        for seed in seeds:
            curve = {"0": 80.0 + seed, "1": 60.0 + seed, "2": 20.0 + seed + (arm == "with")}
            made.append({"bench": "b", "arm": arm, "seed": seed, "curve": {"nuisance": "POSE", "mAP": curve}})
    return [*made, {"bench": "b", "arm": "with", "seed": 1}]


def with_curves():
    one = {"nuisance": "POSE", "arms": ["plain", "with", "more"]}
    benches = {"b": {"paper": "rrid", "nuisance": "hard"}}
    curves = {"strengths": [0.0, 1.0, 2.0], "seeds": [0, 1, 2], "of": {"b": one, "c": {**one, "arms": ["x"]}}}
    return {**PLAN, "benches": benches, "nuisances": {"hard": {"POSE": 1.0}}, "curves": curves}


def test_curves_are_of_the_seeds_that_every_arm_has(tmp_path):
    """As a table on the page too; what was not measured is left out, and so is a figure of nothing."""
    plan = with_curves()
    found = evidence.curves_of(plan, curve_rows())
    assert {bench: {arm: list(seeds) for arm, seeds in arms.items()} for bench, arms in found.items()} == {
        "b": {"plain": [0, 2], "with": [0, 2]}
    }
    assert evidence.curves_of(plan, curve_rows()[:3]) == {} == evidence.curves_of(PLAN, curve_rows())
    (tmp_path / "plan.yml").write_text(yaml.safe_dump(plan))
    assert "## Curves" not in pages(tmp_path)["results/claims/index.md"]
    table = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in evidence._curves(plan, found).splitlines()
    ]
    assert table[2:] == [
        ["b", "pose", "plain", "2", "81.0", "61.0", "21.0"],
        ["b", "pose", "with", "2", "81.0", "61.0", "22.0"],
    ]


def test_the_curves_are_drawn_where_they_are():
    plan, found = with_curves(), evidence.curves_of(with_curves(), curve_rows())
    drawn = ElementTree.fromstring(curves.draw(plan, found))
    lines = [one for one in drawn.iter() if one.tag.endswith("polyline")]
    thick = [one for one in lines if one.get("stroke-width") == "2.5"]
    assert len(lines) == 6 and len(thick) == 2 and thick[0].get("stroke") != thick[1].get("stroke")
    points = [[float(value) for value in point.split(",")] for point in thick[1].get("points").split()]
    heights, means = [y for _, y in points], [81.0, 61.0, 22.0]
    slope, zero = np.polyfit(means, heights, 1)
    assert slope < 0 and heights == pytest.approx([zero + slope * mean for mean in means], abs=0.2)
    [dotted] = [one for one in drawn.iter() if one.get("stroke-dasharray")]
    assert float(dotted.get("d")[1:].split()[0]) == points[1][0], "the strength in training"


def test_the_committed_curves_are_what_is_drawn():
    plan, rows = evidence.load()
    found = evidence.curves_of(plan, rows)
    drawn = curves.draw(plan, found) if found else None
    assert (curves.FIGURE.read_text(encoding="utf-8") if curves.FIGURE.exists() else None) == drawn, (
        "run `make figures`"
    )


def test_marks_are_read_and_wrong_ones_refused(tmp_path):
    folder = tmp_path / "tests"
    folder.mkdir()
    mark = "@pytest.mark.proves"
    (folder / "test_a.py").write_text(
        f'{mark}("rrid", "can", level=1)\ndef test_one(): ...\n'
        f'class TestB:\n    {mark}("rrid", level=2)\n    def test_two(): ...\n'
    )
    found = proofs.marked(folder)
    assert found["rrid"] == {1: ["tests/test_a.py::test_one"], 2: ["tests/test_a.py::test_two"]}
    assert proofs.short(found["rrid"]) == "1, 2" and set(found["can"]) == {1}
    for wrong in ('"agw", level=1', '"rrid", level=4', '"rrid"', "level=1"):
        (folder / "test_b.py").write_text(f"{mark}({wrong})\ndef test_three(): ...\n")
        with pytest.raises(ValueError, match="names no method or no level"):
            proofs.marked(folder)


def test_a_shown_claim_is_level_4(tmp_path):
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence/plan.yml").write_text(yaml.safe_dump(PLAN))
    runs = tmp_path / "evidence/runs.json"
    for gains, proved in (([2.0, 2.5, 1.5, 2.2, 1.8], ["c"]), ([0.0] * 5, None)):
        runs.write_text(json.dumps({"rows": rows(gains)}))
        assert proofs.levels(ROOT / "tests", tmp_path)["rrid"].get(4) == proved
    plan = json.loads(json.dumps(PLAN))
    plan["claims"]["cause"] = plan["claims"]["c"]
    plan["claims"]["other"] = {**plan["claims"]["c"], "because": "cause"}
    (tmp_path / "evidence/plan.yml").write_text(yaml.safe_dump(plan))
    runs.write_text(json.dumps({"rows": rows([2.0, 2.5, 1.5, 2.2, 1.8])}))
    assert proofs.levels(ROOT / "tests", tmp_path)["rrid"][4] == ["c", "other"]


@pytest.mark.parametrize(
    ("mechanisms", "idle", "misses", "proved"),
    [
        ({"mask": {}}, [], [False, False], ["a.zip"]),
        ({"mask": {}}, [], [False, True], None),
        ({"mask": {}}, ["mask"], [False, False], None),
        ({}, [], [False, False], None),  # the baseline of a paper
        ({"mask": {}}, [], [], None),  # of a dataset that no paper reports on
    ],
)
def test_a_submitted_result_is_level_5(tmp_path, monkeypatch, mechanisms, idle, misses, proved):
    """If it is within the range, and of the method."""
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence/plan.yml").write_text(yaml.safe_dump(PLAN))
    measured = SimpleNamespace(paper="cmbn", mechanisms=mechanisms, idle=idle)
    sent = SimpleNamespace(measured=measured, path=Path("a.zip"))
    verdict = SimpleNamespace(comparisons=[SimpleNamespace(misses=one) for one in misses])
    monkeypatch.setattr(submissions, "submitted", lambda root: [Path("a.zip")])
    monkeypatch.setattr(submissions, "read_submission", lambda path: sent)
    monkeypatch.setattr(submissions, "verify", lambda *_, **__: verdict)
    assert proofs.levels(ROOT / "tests", tmp_path)["cmbn"].get(5) == proved


def test_readme_says_what_is_proved():
    """Its table and its sentence on the claims are those of today's tests and runs."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for method, own in proofs.levels().items():
        [line] = [line for line in text.splitlines() if line.startswith(f"| [{method.upper()}](docs/methods/")]
        assert line.split("|")[-2].strip() == proofs.short(own), method
    assert summary(evidence.verdicts()) in text
