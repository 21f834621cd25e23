"""Where a measured number of a ledger row comes from: a finished run, or weights and the dataset; else a skip."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

import pytest
from fastreid.data.datasets import DATASET_REGISTRY

from fastreid_parts.paper_results import check_metrics, load_ledger
from fastreid_parts.paper_results.compare import summarize
from fastreid_parts.paper_results.runner import evaluate_weights, plan_runs

CHECKOUT = Path(__file__).resolve().parents[2]


def results_folder() -> Path:
    return Path(os.environ.get("FASTREID_PARTS_RESULTS", CHECKOUT / "results"))


def weights_file(row) -> Path:
    folder = Path(os.environ.get("FASTREID_PARTS_WEIGHTS", CHECKOUT / "weights"))
    return folder / row.paper / row.dataset / row.variant.run_name / "model_final.pth"


def dataset_problem(name: str) -> str:
    """Why a dataset cannot be read, or nothing."""
    root = os.environ.get("FASTREID_DATASETS", "datasets")
    try:
        DATASET_REGISTRY.get(name)(root=root)
    except (RuntimeError, OSError) as error:
        return f"{name} cannot be read below {root} (FASTREID_DATASETS): {error}"
    return ""


def measured(row):
    """The row's metrics in percent, or a skip that says what to place where."""
    summary = summarize(results_folder(), row.paper, row.dataset, row.variant.run_name)
    if summary.seeds:
        return summary.means
    weights = weights_file(row)
    if not weights.is_file():
        wanted = results_folder() / row.paper / row.dataset / row.variant.run_name / "seed0" / "result.json"
        pytest.skip(
            f"not measured: either a finished run as {wanted} (fastreid-parts reproduce run writes it; "
            f"FASTREID_PARTS_RESULTS is the folder), or weights as {weights} (FASTREID_PARTS_WEIGHTS is the "
            f"folder) and {row.dataset} below FASTREID_DATASETS"
        )
    problem = dataset_problem(row.dataset)
    if problem:
        pytest.skip(problem)
    return _evaluate(row.paper, row.dataset, row.variant.run_name, weights)


@functools.cache
def _evaluate(paper, dataset, variant, weights):
    """Once for all rows of a model."""
    ledger = load_ledger()
    [run] = plan_runs(ledger, ledger.select(paper=paper, dataset=dataset, variant=variant))
    with tempfile.TemporaryDirectory() as folder:
        return evaluate_weights(run, weights, folder)


def assert_within(row, metrics) -> None:
    """Every checked metric lies in the row's range."""
    misses = [str(comparison) for comparison in check_metrics(row, metrics) if comparison.misses]
    assert not misses, f"{misses}; {row.reason}"
