"""Verdicts, means over seeds and the side-by-side table, on made-up results."""

from __future__ import annotations

import pytest

from fastreid_parts.paper_results import compare, load_ledger, markdown_table
from fastreid_parts.paper_results.compare import order_note, summarize

from .results import write_result


def rows(variant=None, dataset="Market1501"):
    return load_ledger().select(paper="cmbn", source="Table 4", dataset=dataset, variant=variant)


def verdicts(root, variant="baseline"):
    return {c.metric: c.verdict for c in compare(rows(variant), root)}


def test_nothing_measured_is_missing(tmp_path):
    assert verdicts(tmp_path) == {"mAP": "missing", "rank1": "missing"}


def test_below_within_above(tmp_path):
    limits = rows("baseline")[0].ranges
    write_result(tmp_path, mAP=limits["mAP"].low - 0.01, rank1=limits["rank1"].high + 0.01)
    assert verdicts(tmp_path) == {"mAP": "below", "rank1": "above"}


def test_within_up_to_the_edge(tmp_path):
    limits = rows("baseline")[0].ranges
    write_result(tmp_path, mAP=limits["mAP"].low, rank1=limits["rank1"].high)
    assert verdicts(tmp_path) == {"mAP": "within", "rank1": "within"}


def test_several_seeds_count_with_their_mean(tmp_path):
    low = rows("baseline")[0].ranges["mAP"].low
    write_result(tmp_path, seed=0, mAP=low - 1)
    write_result(tmp_path, seed=1, mAP=low + 3)
    assert verdicts(tmp_path)["mAP"] == "within"
    summary = summarize(tmp_path, "cmbn", "Market1501", "baseline")
    assert summary.means["mAP"] == pytest.approx(low + 1)
    assert summary.spreads["mAP"] == pytest.approx(8**0.5)
    assert summary.shown("mAP") == f"{low + 1:.1f} ± 2.8 (2)"


def test_a_run_with_settings_of_its_own_is_not_held_against_the_paper(tmp_path):
    write_result(tmp_path, mAP=1.0, extra_overrides={"SOLVER.MAX_EPOCH": "1"})
    assert verdicts(tmp_path) == {"mAP": "departs", "rank1": "departs"}
    text = markdown_table(rows("baseline"), tmp_path)
    assert "| 1.0 |" not in text and "SOLVER.MAX_EPOCH" in text


def test_where_and_how_fast_a_run_went_does_not_matter(tmp_path):
    write_result(tmp_path, extra_overrides={"MODEL.DEVICE": "cpu", "DATALOADER.NUM_WORKERS": "2"})
    assert verdicts(tmp_path)["mAP"] == "within"


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_keeps_paper_and_ours_apart(tmp_path):
    write_result(tmp_path, "baseline_rb", mAP=76.54, rank1=90.06)
    header, _, *lines = markdown_table(rows(), tmp_path).splitlines()
    names = cells(header)
    table = {cells(line)[1]: dict(zip(names, cells(line))) for line in lines}
    assert list(table) == ["BaseLine", "BaseLine+RB", "BaseLine+MG", "BaseLine+RB+MG", "BaseLine+RB+MG+CDS"]
    measured, missing = table["BaseLine+RB"], table["BaseLine"]
    assert (measured["mAP, paper"], measured["mAP, ours"]) == ("77.8", "76.5")
    assert (measured["Rank-1, paper"], measured["Rank-1, ours"], measured["Seeds"]) == ("91.4", "90.1", "0")
    assert (missing["mAP, paper"], missing["mAP, ours"], missing["Rank-1, ours"]) == ("70.7", "", "")


def test_a_dataset_without_reported_numbers_has_empty_paper_columns(tmp_path):
    write_result(tmp_path, "baseline", "SyntheticReID", mAP=61.0, rank1=70.0)
    write_result(tmp_path, "baseline_rb", "SyntheticReID", mAP=60.0, rank1=72.0)
    all_rows = load_ledger().select(paper="cmbn", source="Table 4")
    header, _, *lines = markdown_table(all_rows, tmp_path, "SyntheticReID").splitlines()
    assert len(lines) == 5
    first = dict(zip(cells(header), cells(lines[0])))
    assert (first["Dataset"], first["mAP, paper"], first["mAP, ours"]) == ("SyntheticReID", "", "61.0")
    note = order_note(all_rows, tmp_path, "SyntheticReID")
    assert note.splitlines()[0] == (
        "By mAP the order is baseline > baseline_rb; the paper's for Market1501 is baseline_rb > baseline."
    )
    assert len(note.splitlines()) == 4


def test_the_order_of_the_paper_is_recognized(tmp_path):
    write_result(tmp_path, "baseline", "SyntheticReID", mAP=50.0)
    assert order_note(rows(), tmp_path, "SyntheticReID") == ""
    write_result(tmp_path, "baseline_mg", "SyntheticReID", mAP=60.0)
    assert order_note(rows(), tmp_path, "SyntheticReID") == (
        "By mAP the variants stand in the paper's order for Market1501."
    )


def test_a_row_whose_mechanism_was_idle_says_so(tmp_path):
    def of(idle):
        return {"mask": {"figures": {}, "without": {}, "training_only": False, "idle": idle}}

    write_result(tmp_path, "baseline_mg", seed=0, mechanisms=of(True))
    write_result(tmp_path, "baseline_rb", mechanisms=of(False))
    header, _, *lines = markdown_table(rows(), tmp_path).splitlines()
    idle = {cells(line)[1]: dict(zip(cells(header), cells(line)))["Idle"] for line in lines}
    assert {label: names for label, names in idle.items() if names} == {"BaseLine+MG": "mask"}
    write_result(tmp_path, "baseline_mg", seed=1, mechanisms=of(False))
    write_result(tmp_path, "baseline_mg", seed=2, mechanisms={})  # written before mechanisms were examined
    assert summarize(tmp_path, "cmbn", "Market1501", "baseline_mg").shown_idle() == "mask (1 of 3)"
    assert "Idle" not in markdown_table(rows("baseline_rb"), tmp_path)
