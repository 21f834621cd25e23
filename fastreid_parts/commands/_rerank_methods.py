"""`rerank --methods`: what finds more without training, measured one after the other on the same features."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fastreid.config import CfgNode
from tabulate import tabulate
from tqdm import tqdm

from ..devices import for_comparison
from ..evaluation import MatchRanks, Ranking, describe_settings
from ..evaluation.evaluator import check_test_keys
from ..measuring import Run, run_with_growth, where
from ..retrieval import FeatureSet
from .evaluate import MEASURES

#: Name of a method -> the keys that switch it on.
METHODS: dict[str, tuple[Any, ...]] = {
    "none": (),
    "nfc": ("TEST.NFC.ENABLED", True),
    "aqe": ("TEST.AQE.ENABLED", True),
    "k-reciprocal": ("TEST.RERANK.ENABLED", True, "TEST.RERANK.METHOD", "k-reciprocal"),
    "gnn": ("TEST.RERANK.ENABLED", True, "TEST.RERANK.METHOD", "gnn"),
}
#: TEST.QUERIES, in the order of the table.
QUERIES = ("together", "alone")
_OFF = ("TEST.NFC.ENABLED", False, "TEST.AQE.ENABLED", False, "TEST.RERANK.ENABLED", False)


def method(text: str) -> str:
    """Take a method, or several joined by `+`: a `type` of argparse.

    Raises:
        argparse.ArgumentTypeError: there is none of that name, or it cannot be joined.
    """
    names = text.split("+")
    for name in names:
        if name not in METHODS:
            close = difflib.get_close_matches(name, METHODS, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise argparse.ArgumentTypeError(f"'{name}' is none of {', '.join(METHODS)}{hint}")
    switched = [key for name in names for key in METHODS[name][::2]]
    if len(names) > 1 and ("none" in names or len(set(switched)) < len(switched)):
        raise argparse.ArgumentTypeError(f"'{text}': join nfc, aqe and one of k-reciprocal and gnn, each once")
    return text


@dataclass(frozen=True)
class Measured:
    """A method in one of its variants.

    Attributes:
        method: its name.
        queries: TEST.QUERIES; None for `none`, which never looks at other queries.
        cfg: as which it was evaluated.
        run: seconds from the features to the ranks, memory on top of the features, and the ranks.
    """

    method: str
    queries: str | None
    cfg: CfgNode
    run: Run

    @property
    def ranks(self) -> MatchRanks:
        """Where the matches of each query stand."""
        return self.run.result

    def described(self) -> dict[str, Any]:
        """Give the row as it is written to JSON."""
        return {
            "method": self.method,
            "queries": self.queries,
            "settings": describe_settings(self.cfg),
            "results": self.ranks.results(),
            "seconds": self.run.seconds,
            "mib": self.run.mib,
        }


def measure_methods(there: FeatureSet, cfg: CfgNode, methods: Sequence[str], queries: Sequence[str]) -> list[Measured]:
    """Measure each method in each variant.

    Args:
        there: the features.
        cfg: whose keys of TEST are the methods' settings; which are enabled does not matter.
        methods: as `method` takes them.
        queries: variants, of `QUERIES`.

    Raises:
        ValueError: a key has a value that cannot be; before anything is measured.
    """
    planned: list[tuple[str, str | None, CfgNode]] = []
    for name in dict.fromkeys(methods):
        for variant in dict.fromkeys(queries) if name != "none" else (None,):
            own = cfg.clone()
            own.merge_from_list([*_OFF, *(word for one in name.split("+") for word in METHODS[one])])
            own.TEST.QUERIES = variant or "together"
            check_test_keys(own)
            planned.append((name, variant, own))
    device = torch.device(for_comparison(cfg.MODEL.DEVICE))
    measured = []
    for name, variant, own in tqdm(planned, desc="methods", unit="method", leave=False, disable=None):

        def rank(own: CfgNode = own) -> MatchRanks:
            return Ranking(there.features, there.num_query, own).ranks()

        measured.append(Measured(name, variant, own, run_with_growth(rank, device)))
    return measured


def methods_table(measured: Sequence[Measured]) -> str:
    """Write percentages, seconds and memory, one row a method and variant, and what each adds to the first's mAP."""
    first = measured[0].ranks.results()["mAP"]
    rows = []
    for one in measured:
        results = one.ranks.results()
        more = None if one is measured[0] else results["mAP"] - first
        numbers = (*(results[measure] for measure in MEASURES), more, one.run.seconds, one.run.mib)
        rows.append([one.method, one.queries, *numbers])
    device = torch.device(for_comparison(measured[0].cfg.MODEL.DEVICE))
    gain = f"mAP over {measured[0].method}"
    heads = ["method", "queries", *(f"{measure} [%]" for measure in MEASURES), gain, "seconds", "memory [MiB]"]
    formats = ("", "", *(".1f" for _ in MEASURES), "+.1f", ".2f", ",.0f")
    return f"{tabulate(rows, headers=heads, tablefmt='pipe', floatfmt=formats, missingval='-')}\n\n{where(device)}"
