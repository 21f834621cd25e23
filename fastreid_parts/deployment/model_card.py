"""The page of a model on a hub: what it takes, what was measured, what it learned from, and lawful use."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastreid.config import CfgNode
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..checkpoints import safe_load
from ..config import config_of
from ..evaluation import describe_settings
from ..extras import optional
from ..visualization import read_metrics
from .description import ModelDescription
from .inference import portable_config

logger = logging.getLogger(__name__)

MEASURES = ("mAP", "mINP", "Rank-1", "Rank-5", "Rank-10")


@dataclass(frozen=True)
class Result:
    """What was measured with a model on one dataset.

    Attributes:
        dataset: its name.
        how: how features were compared, as `describe_settings` says it.
        values: each of `MEASURES`, in percent.
    """

    dataset: str
    how: str
    values: Mapping[str, float]


def results_of_run(cfg: CfgNode) -> list[Result]:
    """Take the results that a training logged for the very checkpoint that a model is of.

    Nothing is taken where the log has no evaluation after the checkpoint's epoch, or where the model is tested
    otherwise now than it was then.

    Args:
        cfg: the model's; MODEL.WEIGHTS is the checkpoint, and metrics.json is beside it.
    """
    weights = cfg.MODEL.WEIGHTS
    log = os.path.join(os.path.dirname(weights), "metrics.json")
    if not weights.endswith(".pth") or not os.path.isfile(log):
        return []
    held = safe_load(weights)
    if not {"config", "epoch", "iters_per_epoch"} <= held.keys():
        return []
    trained = config_of(held["config"])
    if portable_config(trained) != portable_config(cfg):
        logger.warning("%s: its results are of another config than the model has now, and are left out", log)
        return []
    curves, done = read_metrics(log), (held["epoch"] + 1) * held["iters_per_epoch"]
    at_checkpoint = {name: dict(zip(*curve)) for name, curve in curves.items()}
    results = []
    for dataset in trained.DATASETS.TESTS:
        prefix = f"{dataset}/" if len(trained.DATASETS.TESTS) > 1 else ""
        values = {measure: at_checkpoint.get(prefix + measure, {}).get(done) for measure in MEASURES}
        known = {measure: float(value) for measure, value in values.items() if value is not None}
        if len(known) == len(MEASURES):
            results.append(Result(dataset, describe_settings(trained), known))
    return results


def results_of_evaluation(path: str | os.PathLike, fingerprint: str) -> list[Result]:
    """Take the results that `evaluate --output` wrote.

    Args:
        path: its JSON.
        fingerprint: of the model that they must be of.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such JSON, or is of another model.
    """
    with open(path, encoding="utf-8") as file:
        try:
            evaluated = json.load(file)["evaluated"]
            found = [
                (one["fingerprint"], one["dataset"] or one["name"], one["settings"], one["results"])
                for one in evaluated
            ]
            results = [
                Result(dataset, how, {measure: float(values[measure]) for measure in MEASURES})
                for _, dataset, how, values in found
            ]
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"'{path}' is not what `evaluate --output` writes: {error!r}") from error
    if any(of_model != fingerprint for of_model, *_ in found):
        raise ValueError(
            f"'{path}' holds results of another model, or of other settings of it, than {fingerprint[:12]}: evaluate "
            "the model that is saved"
        )
    return results


def model_card(
    said: ModelDescription,
    name: str,
    trained_on: Sequence[str],
    results: Sequence[Result] = (),
    license: str = "",
) -> str:
    """Write the page, with the header that a hub reads.

    Args:
        said: the model.
        name: its name.
        trained_on: datasets.
        results: what was measured; nothing else is claimed.
        license: of the weights, as a hub names it; empty: not stated.

    Raises:
        ImportError: huggingface_hub is not installed.
    """
    hub = optional("huggingface_hub", "hub", "a model card")
    task = {"task_type": "image-feature-extraction", "task_name": "Person re-identification"}
    header = hub.ModelCardData(
        library_name="fastreid_parts",
        pipeline_tag=task["task_type"],
        tags=["person-re-identification", "re-id", "fast-reid", said.method.partition(",")[0].lower()],
        datasets=list(trained_on) or None,
        license=license or None,
        model_name=name,
        eval_results=[
            hub.EvalResult(
                **task,
                dataset_type=result.dataset,
                dataset_name=result.dataset,
                dataset_args={"settings": result.how},
                metric_type=measure,
                metric_value=value,
            )
            for result in results
            for measure, value in result.values.items()
        ]
        or None,
    )
    # Markdown, which only the hub turns into HTML
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    page = environment.get_template("model_card.md").render(
        said=said, name=name, trained_on=trained_on, results=results, measures=MEASURES, license=license
    )
    return f"---\n{header.to_yaml()}\n---\n\n{page}"
