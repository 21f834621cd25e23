"""The regression test itself: it passes in the range, fails out of it, and skips where there is nothing."""

from __future__ import annotations

import pytest

from fastreid_parts.paper_results import load_ledger

from ..paper_results.results import write_result
from . import held


@pytest.fixture(autouse=True)
def empty_folders(tmp_path, monkeypatch):
    for name in ("RESULTS", "WEIGHTS"):
        monkeypatch.setenv(f"FASTREID_PARTS_{name}", str(tmp_path / name.lower()))
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "datasets"))
    return tmp_path


@pytest.fixture
def row():
    [row] = load_ledger().select(paper="cmbn", source="Table 4", dataset="Market1501", variant="baseline_rb")
    return row


def hold(row):
    held.assert_within(row, held.measured(row))


def test_within_passes(row, tmp_path):
    write_result(tmp_path / "results", "baseline_rb", **row.metrics)
    hold(row)


@pytest.mark.parametrize("metric", ["mAP", "rank1"])
@pytest.mark.parametrize(("end", "step", "word"), [("low", -0.1, "below"), ("high", 0.1, "above")])
def test_out_of_range_fails(row, tmp_path, metric, end, step, word):
    metrics = dict(row.metrics)
    metrics[metric] = getattr(row.ranges[metric], end) + step
    write_result(tmp_path / "results", "baseline_rb", **metrics)
    with pytest.raises(AssertionError, match=f"{metric}: .* is {word}; reported {row.metrics[metric]:g}"):
        hold(row)


def skip_message(row):
    with pytest.raises(pytest.skip.Exception) as skipped:
        hold(row)
    return str(skipped.value)


def test_nothing_measured_skips_and_says_what_to_place_where(row, tmp_path):
    message = skip_message(row)
    assert str(tmp_path / "results/cmbn/Market1501/baseline_rb/seed0/result.json") in message
    assert str(tmp_path / "weights/cmbn/Market1501/baseline_rb/model_final.pth") in message
    for name in ("FASTREID_PARTS_RESULTS", "FASTREID_PARTS_WEIGHTS", "FASTREID_DATASETS", "Market1501"):
        assert name in message


def place_weights(tmp_path):
    weights = tmp_path / "weights" / "cmbn" / "Market1501" / "baseline_rb" / "model_final.pth"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"")
    return weights


def test_weights_without_the_dataset_skip(row, tmp_path):
    place_weights(tmp_path)
    assert "Market1501 cannot be read below" in skip_message(row)


def test_weights_and_the_dataset_are_evaluated(row, tmp_path, monkeypatch):
    weights = place_weights(tmp_path)
    asked = []

    def evaluate(run, file, _folder):
        asked.append((run.variant.name, run.dataset, file))
        return {"mAP": row.ranges["mAP"].low - 1, "rank1": 91.4}

    monkeypatch.setattr(held, "evaluate_weights", evaluate)
    monkeypatch.setattr(held, "dataset_problem", lambda name: "")
    with pytest.raises(AssertionError, match="mAP: .* is below"):
        hold(row)
    assert asked == [("baseline_rb", "Market1501", weights)]
