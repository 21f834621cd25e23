"""Train and evaluate variants of the ledger, each in a folder of its own; skip what is done, resume what was killed."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fastreid
import numpy
import torch
from fastreid.config import CfgNode
from fastreid.engine import default_setup
from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.logger import setup_logger
from torch import nn

from ..analysis.mechanisms import examine
from ..analysis.trained_models import load_test_images
from ..config import find_config, flat_keys, load_config, word_pairs
from ..devices import available
from ..engine import PartsTrainer
from ..files import read_yaml
from ..folders import RunFolder, changed_keys
from ..measuring import where
from ..mechanisms import mechanisms_of
from ..version import versions
from .ledger import Ledger, Row, Variant
from .measured import Measured, ResultError, run_folder

logger = logging.getLogger(__name__)

#: Name of a metric in fast-reid's results -> in ours.
METRIC_NAMES = {"mAP": "mAP", "Rank-1": "rank1", "Rank-5": "rank5", "Rank-10": "rank10", "mINP": "mINP"}
_OWN_KEYS = {"SEED": "--seed", "OUTPUT_DIR": "--output"}


@dataclass(frozen=True)
class Run:
    """One training, or one evaluation of another training's model: a variant on a dataset with a seed.

    Attributes:
        variant: the variant that is measured, of which others may be `same_as`.
        config: its config's name below configs/.
        overrides: config keys of the variant.
        extra: config keys and values that the user added, alternating.
        trained: the run whose model is evaluated, where this one trains none.
    """

    variant: Variant
    dataset: str
    config: str
    overrides: Mapping[str, Any]
    seed: int = 0
    extra: tuple[str, ...] = ()
    trained: Run | None = None

    @property
    def name(self) -> str:
        """Its name for people."""
        return f"{self.variant.paper}/{self.dataset}/{self.variant.name}, seed {self.seed}"

    def folder(self, root: str | Path) -> Path:
        """Its folder below the results folder."""
        return run_folder(root, self.variant.paper, self.dataset, self.variant.name, self.seed)


def plan_runs(
    ledger: Ledger,
    rows: Sequence[Row],
    seeds: Sequence[int] = (0,),
    dataset: str | None = None,
    extra: Sequence[str] = (),
) -> list[Run]:
    """Plan the runs that the rows need, each once, in the rows' order.

    Args:
        ledger: the ledger that the rows are from.
        rows: rows of built variants.
        seeds: one run a seed.
        dataset: train and test on this one instead of the rows' own; a direct transfer is only tested on it.
        extra: config keys and values, alternating, on top of the variants' overrides.

    Raises:
        LedgerError: a variant is not built, or the dataset has no configs.
        ValueError: `extra` has an odd length or sets what the runner sets.
    """
    for key, _ in word_pairs(extra):
        if key in _OWN_KEYS:
            raise ValueError(f"{key} is set by the runner; use {_OWN_KEYS[key]}")

    def run(variant: Variant, target: str, seed: int) -> Run:
        config = ledger.config_of(variant, target)
        overrides = dict(variant.overrides or {})
        trained = None
        if variant.evaluates is not None:
            source = target if variant.train_on is None else ledger.measured_on(variant.train_on)
            trained = run(ledger.variants[variant.paper, variant.evaluates], source, seed)
        if variant.train_on is not None:
            overrides["DATASETS.TESTS"] = (ledger.measured_on(target),)
        return Run(variant, target, config, overrides, seed, tuple(extra), trained)

    runs: dict[tuple[Any, ...], Run] = {}
    for seed in seeds:
        for row in rows:
            variant = ledger.variants[row.paper, row.variant.run_name]
            target = dataset or row.dataset
            runs[variant.paper, variant.name, target, seed] = run(variant, target, seed)
    return list(runs.values())


def make_config(run: Run, output_dir: str | Path) -> CfgNode:
    """Make the frozen config of a run: file, variant's overrides, user's overrides, seed, output folder.

    Args:
        run: the run.
        output_dir: its folder.

    Raises:
        FileNotFoundError: there is no such config file.
        KeyError, ValueError: an override names no key, or its value has another type.
    """
    cfg = load_config(run.config, [word for pair in run.overrides.items() for word in pair])
    cfg.merge_from_list(list(run.extra))
    cfg.SEED = run.seed
    cfg.OUTPUT_DIR = str(output_dir)
    cfg.freeze()
    return cfg


def run_variant(run: Run, root: str | Path, trainer_class: Any | None = None) -> tuple[Measured, bool]:
    """Train and evaluate one run below the results folder, or find that it is done.

    A run that evaluates another's model first has that one trained, likewise, and then reads its `weights_final.pth`.

    Args:
        run: what to measure.
        root: the results folder.
        trainer_class: what trains, and builds every model; PartsTrainer by default.

    Returns:
        The result, and whether it was there already.

    Raises:
        ResultError: the folder holds a run with another config, the trainer gave no usable metrics, or the weights of
            the model to evaluate are gone.
    """
    folder = run.folder(root)
    cfg = make_config(run, folder)
    resolved = read_yaml(cfg.dump())
    owner, finished = RunFolder(cfg), folder / "result.json"
    if finished.exists():
        result = Measured.load(finished)
        _same_experiment(changed_keys(flat_keys(result.resolved_config), owner.config), finished)
        return result, True

    _same_experiment(owner.foreign(), folder)
    resumed = (folder / "last_checkpoint").exists()
    trainer_class = trainer_class or PartsTrainer
    weights = None if run.trained is None else _trained_weights(run.trained, root, trainer_class)
    start = time.perf_counter()
    owner.claim(resume=True)
    with contextlib.closing(owner), _log_into(cfg, run):
        owner.start(cfg)
        if weights is not None:
            cfg, model = load_trained(run, weights, folder, trainer_class)
            metrics = _read_metrics(trainer_class.test(cfg, model), run)
        else:
            trainer = trainer_class(cfg)
            trainer.resume_or_load(resume=True)
            metrics = _read_metrics(trainer.train(), run)
            model = trainer.model
        mechanisms = _examine(model, cfg, trainable=weights is None)
    result = Measured(
        paper=run.variant.paper,
        variant=run.variant.name,
        dataset=run.dataset,
        seed=run.seed,
        config=run.config,
        overrides=dict(run.overrides),
        extra_overrides=dict(word_pairs(run.extra)),
        metrics=metrics,
        resolved_config=resolved,
        versions={
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (torch, numpy, fastreid)},
            "fastreid_parts": versions()["fastreid_parts"],
        },
        device=where(available(cfg.MODEL.DEVICE)),
        wall_seconds=round(time.perf_counter() - start, 1),
        resumed=resumed,
        mechanisms=mechanisms,
    )
    result.save(folder)
    return result, False


def _examine(model: nn.Module, cfg: CfgNode, trainable: bool) -> Mapping[str, Any]:
    """What a model's mechanisms do on the test set, see `examine`."""
    if not mechanisms_of(model):
        return {}
    loader, num_query, _ = load_test_images(cfg)
    return asdict(examine(model, loader, num_query, cfg, trainable))["mechanisms"]


def _trained_weights(run: Run, root: str | Path, trainer_class: Any) -> Path:
    """The weights of a run, which is trained where it is not yet."""
    run_variant(run, root, trainer_class)
    weights = run.folder(root) / "weights_final.pth"
    for file in (weights, weights.with_name("model_final.pth")):  # older runs have the second alone
        if file.is_file():
            return file
    raise ResultError(f"{run.name} is done, but its {weights} is gone; delete its folder to train it again")


def evaluate_weights(
    run: Run, weights: str | Path, output_dir: str | Path, trainer_class: Any = PartsTrainer
) -> dict[str, float]:
    """Metrics, in percent, of a checkpoint under a run's config, without training.

    Args:
        run: the run.
        weights: the checkpoint.
        output_dir: the folder of logs.
        trainer_class: what builds the model.

    Raises:
        FileNotFoundError: there is no such file, or the dataset is not there.
    """
    cfg, model = load_trained(run, weights, output_dir, trainer_class)
    return _read_metrics(trainer_class.test(cfg, model), run)


def load_trained(
    run: Run, weights: str | Path, output_dir: str | Path, trainer_class: Any = PartsTrainer
) -> tuple[CfgNode, nn.Module]:
    """Load a run's config and model with a checkpoint's weights.

    Args:
        run: the run.
        weights: the checkpoint.
        output_dir: the folder of logs.
        trainer_class: what builds the model.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not Path(weights).is_file():
        raise FileNotFoundError(f"no weights at {weights}")
    cfg = make_config(run, output_dir).clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.PRETRAIN = False
    model = trainer_class.build_model(cfg)
    Checkpointer(model).load(str(weights))
    return cfg, model


def _read_metrics(results: Mapping[str, Any] | None, run: Run) -> dict[str, float]:
    results = results or {}
    return metrics_of(results.get(run.dataset, results), run.name)  # one entry a test set, where there are several


def metrics_of(results: Mapping[str, Any], name: str) -> dict[str, float]:
    """Give the metrics of an evaluation by the ledger's names: mAP, rank1, rank5, rank10 and mINP, in percent.

    Args:
        results: by fast-reid's names.
        name: whose they are, for people.

    Raises:
        ResultError: one is missing or not finite.
    """
    missing = [host for host in METRIC_NAMES if host not in results]
    if missing:
        raise ResultError(f"{name}: the evaluation gave no {', '.join(missing)}")
    metrics = {ours: float(results[host]) for host, ours in METRIC_NAMES.items()}
    if not all(math.isfinite(value) for value in metrics.values()):
        raise ResultError(f"{name}: the evaluation gave {metrics}")
    return metrics


def _same_experiment(difference: str, path: Path) -> None:
    if difference:
        raise ResultError(f"{path} holds another run: {difference}; use another --output, or delete its folder")


@contextlib.contextmanager
def _log_into(cfg: CfgNode, run: Run) -> Iterator[None]:
    """The host's log set-up for one run; the next run in this process starts with a clean one."""
    host = logging.getLogger("fastreid")  # the plugin's loggers hang below it
    before = list(host.handlers)
    try:
        default_setup(cfg, argparse.Namespace(config_file=find_config(run.config), eval_only=False))
        yield
    finally:
        for handler in [h for h in host.handlers if h not in before]:
            host.removeHandler(handler)
            handler.close()
        setup_logger.cache_clear()
