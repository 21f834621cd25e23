"""How the loss is spread over the training images, for one or more trained models (CGE, Fig. 5a).

The classification loss of each training image, divided by the sum over all images, is added up from the lowest to the
highest. Each model is measured by its own loss over logits: cross-entropy, focal loss, or the revised cross-entropy of
CGE, with its label smoothing (--opts MODEL.LOSSES.CE.EPSILON 0 leaves it out). The images are not augmented; batch norm
uses its running statistics, so an image's loss does not depend on the others; no memory is written.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from tabulate import tabulate

from ..config import find_config
from ..evaluation import ImageLosses, image_losses, share_of_hardest
from ..visualization import draw_loss_distribution
from ._trained_models import (
    TrainedModel,
    add_model_options,
    check_models,
    chosen_models,
    load_on_training_set,
    note_different_images,
    run_and_report,
    write_json,
)

__all__ = ["main"]

HARDEST = (1, 5, 10, 20)  # percent of the images


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `--help`.

    Returns:
        0 when table and picture are there, 1 when the arguments do not fit together; the reason is printed.
    """
    return run_and_report(_measure, *_parse(argv))


def _measure(models: list[TrainedModel], args: argparse.Namespace) -> None:
    check_models(models)
    prepared = []
    for trained in models:  # what does not fit shows before the long passes
        model, loader, missing = load_on_training_set(trained)
        missing = {key for key in missing if not key.endswith("num_batches_tracked")}  # older checkpoints have none
        if missing:
            raise ValueError(
                f"'{trained.weights}' lacks {', '.join(sorted(missing)[:3])}, which the loss of {trained.name} needs: "
                "use a checkpoint of the training, not exported weights"
            )
        prepared.append((model, loader))
    note_different_images([loader for _, loader in prepared])
    results: dict[str, ImageLosses] = {}
    for trained, (model, loader) in zip(models, prepared):
        results[trained.name] = result = image_losses(model, loader, trained.name)
        print(f"{trained.name}: {len(result.losses)} images of {loader.dataset.num_classes} identities", flush=True)
    draw_loss_distribution({name: result.losses for name, result in results.items()}, args.output, args.title)
    described = {trained.name: _describe(trained, results[trained.name]) for trained in models}
    numbers_path = write_json(args.output, described)
    print(f"\n{_table(results)}\n\nPicture: {args.output}, numbers: {numbers_path}")


def _describe(trained: TrainedModel, result: ImageLosses) -> dict[str, Any]:
    order = np.argsort(-result.losses, kind="stable")
    return {
        "config": find_config(trained.config_file),
        "weights": trained.weights,
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


def _parse(argv: list[str] | None) -> tuple[list[TrainedModel], argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog="loss-distribution", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser)
    parser.add_argument("--output", required=True, help="the PNG to write; the numbers stand beside it as .json")
    parser.add_argument("--title", default="", help="a line above the plot")
    args = parser.parse_args(argv)
    return chosen_models(parser, args), args
