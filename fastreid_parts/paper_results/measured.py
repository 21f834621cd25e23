"""Measured results on disk: one `<paper>/<dataset>/<variant>/seed<k>/result.json` a finished run.

A result file exists only where a training ended and was evaluated; nothing else writes numbers there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..files import write_json
from ..folders import NEUTRAL_KEYS


class ResultError(ValueError):
    """A result file cannot be used; the message names it and says what to do."""


@dataclass(frozen=True)
class Measured:
    """One finished run.

    Attributes:
        paper, variant, dataset, seed: what was run.
        config: the config's name below configs/.
        overrides: the variant's keys.
        extra_overrides: keys that the person who started the run added.
        metrics: percent: mAP, rank1, rank5, rank10, mINP.
        resolved_config: the whole config, nested.
        versions: of python, torch, fastreid, fastreid_parts and numpy.
        device: what it ran on.
        wall_seconds: time of the process that finished it.
        resumed: whether an earlier process had done a part.
        mechanisms: of the model, by name, as `analysis.mechanisms.examine` gives them; older results have none.
    """

    paper: str
    variant: str
    dataset: str
    seed: int
    config: str
    overrides: Mapping[str, Any]
    extra_overrides: Mapping[str, Any]
    metrics: Mapping[str, float]
    resolved_config: Mapping[str, Any]
    versions: Mapping[str, str]
    device: str
    wall_seconds: float
    resumed: bool
    mechanisms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def departures(self) -> dict[str, Any]:
        """The extra overrides that make it another experiment than the ledger's."""
        return {key: value for key, value in self.extra_overrides.items() if key not in NEUTRAL_KEYS}

    @property
    def idle(self) -> list[str]:
        """The mechanisms that had no effect."""
        return [name for name, one in self.mechanisms.items() if one["idle"]]

    def save(self, folder: str | Path) -> Path:
        """Write `result.json` in one step: it is whole or not there."""
        path = Path(folder) / "result.json"
        write_json(path, asdict(self), sort_keys=True)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Measured:
        """Read a result file.

        Raises:
            ResultError: it is not a result of this plugin, or a metric is not a percentage.
        """
        try:
            return cls.of(json.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:
            raise ResultError(f"{path} is no usable result ({error}); delete it and run the variant again") from error

    @classmethod
    def of(cls, content: Any) -> Measured:
        """Read what is in a result file.

        Args:
            content: of its JSON.

        Raises:
            ValueError: something is missing or of another kind, or a metric is not a percentage.
        """
        try:
            result = cls(**content)
        except TypeError as error:
            raise ValueError(f"it is no result: {error}") from error
        _check_kinds(result, str, ("paper", "variant", "dataset", "config", "device"))
        maps = ("overrides", "extra_overrides", "metrics", "resolved_config", "versions", "mechanisms")
        _check_kinds(result, Mapping, maps)
        if type(result.seed) is not int:
            raise ValueError(f"seed is {result.seed!r}")
        if missing := [name for name in ("mAP", "rank1") if name not in result.metrics]:
            raise ValueError(f"it has no {' and '.join(missing)}")
        for name, value in result.metrics.items():
            if type(value) not in (int, float) or not 0 <= value <= 100:  # NaN neither
                raise ValueError(f"{name} is {value!r}")
        if wrong := [
            name for name, one in result.mechanisms.items() if not isinstance(one, Mapping) or "idle" not in one
        ]:
            raise ValueError(f"it does not say whether {', '.join(wrong)} was idle")
        return result


def _check_kinds(result: Measured, kind: type, names: Sequence[str]) -> None:
    for name in names:
        if not isinstance(getattr(result, name), kind):
            raise ValueError(f"{name} is {getattr(result, name)!r}")


def run_folder(root: str | Path, paper: str, dataset: str, run_name: str, seed: int) -> Path:
    """Give the folder of one run below the results folder.

    Args:
        root: the results folder.
        paper: the paper's key.
        dataset: the dataset of the row.
        run_name: the variant that is measured.
        seed: of the run.
    """
    return Path(root) / paper / dataset / run_name / f"seed{seed}"


def load_measured(root: str | Path, paper: str, dataset: str, run_name: str) -> list[Measured]:
    """Load the finished runs of one variant on one dataset, by seed; none if there are none.

    Args:
        root: the results folder.
        paper: the paper's key.
        dataset: the dataset of the row.
        run_name: the variant that is measured.

    Raises:
        ResultError: a file is damaged, or lies where another run's belongs.
    """
    results = []
    for path in (Path(root) / paper / dataset / run_name).glob("seed*/result.json"):
        result = Measured.load(path)
        if path.parent != run_folder(root, result.paper, result.dataset, result.variant, result.seed):
            raise ResultError(
                f"{path} holds {result.paper}/{result.dataset}/{result.variant}, seed {result.seed}: "
                "it was moved; put it back or delete it"
            )
        results.append(result)
    return sorted(results, key=lambda result: result.seed)
