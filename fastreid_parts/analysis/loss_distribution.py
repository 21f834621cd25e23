"""How the loss is spread over the training images, for one or more trained models (CGE, Fig. 5a).

The classification loss of each training image, divided by the sum over all images, is added up from the lowest to the
highest. Each model is measured by its own loss over logits: cross-entropy, focal loss, or the revised cross-entropy of
CGE, with its label smoothing (--opts MODEL.LOSSES.CE.EPSILON 0 leaves it out). The images are not augmented; batch norm
uses its running statistics, so an image's loss does not depend on the others; no memory is written.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fastreid.layers.drop import DropBlock2d, DropPath
from fastreid.modeling.backbones.regnet.effnet import MBConv
from fastreid.modeling.meta_arch.baseline import Baseline
from fastreid.modeling.meta_arch.distiller import Distiller
from fastreid.modeling.meta_arch.mgn import MGN
from fastreid.modeling.meta_arch.moco import MoCo
from fastreid.utils.events import EventStorage
from tabulate import tabulate
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..parts_baseline import BranchOutputs, PartsBaseline
from ..visualization.style import MARGIN, MUTED, Sheet, literal
from .trained_models import (
    TrainedModel,
    add_figure_options,
    chosen_models,
    finish,
    load_on_training_set,
    note_different_images,
)

HARDEST = (1, 5, 10, 20)  # percent of the images

# What depends on the other images of the batch or on chance, and therefore stays in evaluation mode
_FIXED = (_NormBase, _DropoutNd, DropBlock2d, DropPath, MBConv)

# inches
_SIDE = (4.4, 3.3)


def run(args: argparse.Namespace) -> None:
    """Measure and draw how the loss is spread over the training images, for the models of --model.

    Raises:
        OSError, KeyError, ValueError: files, keys, or what the options name do not fit together.
    """
    models = chosen_models(args)
    prepared = [_prepare(trained) for trained in models]  # what does not fit shows before the long passes
    note_different_images([loader for _, loader in prepared])
    results: dict[str, ImageLosses] = {}
    for trained, (model, loader) in zip(models, prepared):
        results[trained.name] = result = image_losses(model, loader, trained.name)
        print(f"{trained.name}: {len(result.losses)} images of {loader.dataset.num_classes} identities", flush=True)
    losses = {name: result.losses for name, result in results.items()}
    described = {trained.name: _describe(trained, results[trained.name]) for trained in models}
    finish(args, described, _table(results), lambda path: draw_loss_distribution(losses, path, args.title))


def _prepare(trained: TrainedModel) -> tuple[nn.Module, DataLoader]:
    model, loader, missing = load_on_training_set(trained)
    missing = {key for key in missing if not key.endswith("num_batches_tracked")}  # older checkpoints have none
    if missing:
        raise ValueError(
            f"'{trained.weights}' lacks {', '.join(sorted(missing)[:3])}, which the loss of {trained.name} needs: "
            "use a checkpoint of the training, not exported weights"
        )
    return model, loader


def _describe(trained: TrainedModel, result: ImageLosses) -> dict[str, Any]:
    order = np.argsort(-result.losses, kind="stable")
    return {
        **trained.files(),
        "images": len(result.losses),
        "mean_loss": float(result.losses.mean()),
        "share_of_hardest": {f"{part} %": share_of_hardest(result.losses, part / 100) for part in HARDEST},
        "losses": [[result.paths[row], float(f"{result.losses[row]:.6g}")] for row in order],
    }


def _table(results: dict[str, ImageLosses]) -> str:
    """Share of the loss in percent that the hardest images carry, and the mean loss, one row a model."""
    rows = [
        [name, result.losses.mean(), *(100 * share_of_hardest(result.losses, part / 100) for part in HARDEST)]
        for name, result in results.items()
    ]
    heads = [f"hardest {part} %" for part in HARDEST]
    return "Share of the loss [%]\n\n" + tabulate(
        rows, headers=["model", "mean loss", *heads], tablefmt="pipe", floatfmt=("", ".4g", *(".1f",) * len(HARDEST))
    )


@dataclass(frozen=True)
class ImageLosses:
    """The classification loss of N images.

    Attributes:
        losses: (N,) float64.
        paths: N image files.
    """

    losses: np.ndarray
    paths: Sequence[str]


def cumulative_loss(losses: np.ndarray) -> np.ndarray:
    """Add up the share of the whole loss that the easiest 0, 1, ..., N images carry, (N + 1,), from 0 to 1.

    Args:
        losses: (N,), in any order.

    Raises:
        ValueError: there are none, one is negative or not finite, or all are zero.
    """
    losses = np.asarray(losses, dtype=np.float64)
    if not len(losses):
        raise ValueError("there are no losses to add up")
    bad = int((~np.isfinite(losses)).sum())
    if bad:
        raise ValueError(f"the loss of {bad} of {len(losses)} images is not finite: the training diverged")
    if losses.min() < 0 or losses.max() == 0:
        raise ValueError("losses can be divided by their sum where none is negative and not all are zero")
    curve = np.concatenate([[0.0], np.cumsum(np.sort(losses))])
    return curve / curve[-1]


def share_of_hardest(losses: np.ndarray, part: float) -> float:
    """Give the share of the whole loss, 0 to 1, that the images with the highest losses carry.

    Args:
        losses: (N,).
        part: which part of the images, 0 to 1; of an image in part, that part of its loss counts.

    Raises:
        ValueError: see `cumulative_loss`.
    """
    curve = cumulative_loss(losses)
    return 1 - float(np.interp((1 - part) * len(losses), np.arange(len(curve)), curve))


@torch.no_grad()
def image_losses(model: nn.Module, loader: Iterable[dict], name: str = "") -> ImageLosses:
    """Take the classification loss of each image, as the model is trained on it.

    It is the sum of the configured losses over logits: cross-entropy or focal loss, for CGE on the revised logits, for
    a model with several branches over all of them with their weights. The model does what it does in training, with
    these exceptions: batch norm uses its running statistics and nothing is dropped at random, so that the loss of an
    image does not depend on the others or on chance; there are no gradients, so no memory is written.

    Args:
        model: a `PartsBaseline` or fast-reid's Baseline or MGN, with the classifiers that it was trained with.
        loader: batches with `images` (N, 3, H, W) in 0 to 255, `targets` (N,) and `img_paths`.
        name: of the model, for the progress bar.

    Raises:
        ValueError: the loader is empty, or the model has no loss over logits or computes it in a way of its own.
    """
    losses: list[torch.Tensor] = []
    paths: list[str] = []
    step = {"step": model.update_steps[0]} if isinstance(model, PartsBaseline) else {}
    # The host's losses log an accuracy, and fail where there is nowhere to log to.
    with training_outputs(model) as seen, EventStorage():
        for batch in tqdm(loader, desc=f"losses {name}".strip(), unit="batch", leave=False, disable=None):
            inputs = {**batch, "images": batch["images"].clone(), "targets": batch["targets"].clone()}
            model(inputs, **step)
            *outputs, targets = seen.pop()
            for row in range(len(targets)):
                single = [_row(output, row) for output in outputs]
                terms = type(model).losses(model, *single, targets[row : row + 1])
                losses.append(sum(terms.values()))
            paths.extend(batch["img_paths"])
    if not losses:
        raise ValueError("the loader gave no batch: there are no images to take losses of")
    return ImageLosses(torch.stack(losses).cpu().double().numpy(), paths)


def _row(output: Any, row: int) -> Any:
    """What a head gives, cut down to one image."""
    if isinstance(output, torch.Tensor):
        return output[row : row + 1]
    if isinstance(output, dict):
        return {key: _row(value, row) for key, value in output.items()}
    if isinstance(output, BranchOutputs):
        fields = {field.name: _row(getattr(output, field.name), row) for field in dataclasses.fields(output)}
        return dataclasses.replace(output, **fields)
    return output  # a branch's weight


@contextlib.contextmanager
def training_outputs(model: nn.Module) -> Iterator[list[tuple]]:
    """Open a context in which a model does what it does in training, but for batch statistics and chance.

    Without gradients nothing of its state changes.

    Args:
        model: see `image_losses`.

    Yields:
        What it hands to its `losses`, one entry a forward pass; these know classification only meanwhile.

    Raises:
        ValueError: see `image_losses`.
    """
    modes = [(module, module.training) for module in model.modules()]
    setting, only_logits = _classification_only(model)
    before = getattr(model, setting)
    seen: list[tuple] = []

    def keep(*arguments: Any) -> dict[str, torch.Tensor]:
        seen.append(arguments)
        return {}

    try:
        setattr(model, setting, only_logits)
        object.__setattr__(model, "losses", keep)
        model.train()
        for module in model.modules():
            if isinstance(module, _FIXED):
                module.training = False  # of this module alone: those below it are asked themselves
        yield seen
    finally:
        setattr(model, setting, before)
        model.__dict__.pop("losses", None)
        for module, training in modes:
            module.training = training


def _classification_only(model: nn.Module) -> tuple[str, Any]:
    """The attribute that lists a model's losses, and its value without those over features."""
    if isinstance(model, PartsBaseline):
        terms = [term for term in model.loss_terms if term.applies_to == "logits"]
        if not terms:
            raise ValueError("MODEL.LOSSES.NAME has no loss over logits: this model was not trained to classify")
        return "loss_terms", terms
    if not isinstance(model, (Baseline, MGN)) or isinstance(model, (MoCo, Distiller)):
        raise ValueError(
            "losses of single images can be taken of PartsBaseline and fast-reid's Baseline and MGN, not of "
            f"{type(model).__name__}"
        )
    if "CrossEntropyLoss" not in model.loss_kwargs["loss_names"]:
        raise ValueError("MODEL.LOSSES.NAME has no CrossEntropyLoss: this model was not trained to classify")
    return "loss_kwargs", {**model.loss_kwargs, "loss_names": ["CrossEntropyLoss"]}


def draw_loss_distribution(losses: Mapping[str, np.ndarray], path: str | os.PathLike, title: str = "") -> None:
    """Draw the cumulative share of the loss over the images, easiest first, one curve a model.

    Args:
        losses: name of a model -> (N,), the loss of each image.
        path: the PNG to write.
        title: a line above the plot.

    Raises:
        ValueError: no models, or losses that cannot be divided by their sum.
    """
    if not losses:
        raise ValueError("a distribution needs the losses of at least one model")
    sheet, top = Sheet.titled(0.55 + _SIDE[0], _SIDE[1] + 0.44, title)
    axes = sheet.axes(MARGIN + 0.5, top, *_SIDE)
    axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (2, 2)), label="the same for every image")
    for name, values in losses.items():
        curve = 100 * cumulative_loss(values)
        axes.plot(np.linspace(0, 100, len(curve)), curve, label=literal(name))
    axes.set(xlim=(0, 100), xlabel="training images, from the lowest loss to the highest [%]")
    axes.set(ylim=(0, 100), ylabel="cumulative share of the loss [%]")
    axes.legend(loc="upper left", frameon=False, fontsize=7)
    sheet.save(path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    add_figure_options(parser)
