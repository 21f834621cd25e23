"""Finished runs for tests, made up: they are written below a temporary folder only."""

from __future__ import annotations

from fastreid_parts.paper_results.measured import Measured, run_folder


def write_result(root, variant="baseline", dataset="Market1501", seed=0, mAP=70.7, rank1=89.5, **changes):
    """Write one result file below `root` and return the `Measured` in it."""
    fields = {
        "paper": "cmbn",
        "variant": variant,
        "dataset": dataset,
        "seed": seed,
        "config": "Market/cmbn.yml",
        "overrides": {},
        "extra_overrides": {},
        "metrics": {"mAP": mAP, "rank1": rank1, "rank5": 95.0, "rank10": 97.0, "mINP": 40.0},
        "resolved_config": {},
        "versions": {"torch": "0"},
        "device": "none",
        "wall_seconds": 1.0,
        "resumed": False,
    }
    measured = Measured(**{**fields, **changes})
    folder = run_folder(root, measured.paper, dataset, variant, seed)
    folder.mkdir(parents=True)
    measured.save(folder)
    return measured
