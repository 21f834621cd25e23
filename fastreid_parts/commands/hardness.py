"""How hard the training images are, and how well single stripes tell people apart, for one or more trained models.

n local classifiers each see one horizontal stripe of the feature map. Images that all of them get right are the
easiest, images that none gets right the hardest (CGE, Fig. 4); the precision of a classifier is the share of the
images that it gets right (Tables 1b and 2).

A model that was trained with CGE is read with its own memories, from its checkpoint. For any other model, memories are
built first: the normalised mean of the local features of each identity's training images. Such a memory has seen the
very images that it classifies, each with the weight of one of an identity's images; --rebuild builds them for every
model, so that models with and without CGE are compared alike. The training images are not augmented, and batch norm
uses its running statistics.
"""

from __future__ import annotations

import argparse
from typing import Any

from tabulate import tabulate
from torch import nn
from torch.utils.data import DataLoader

from ..config import find_config
from ..evaluation import LocalDecisions, build_local_classifiers, find_local_classifiers, local_decisions
from ..methods.cge import LocalClassifiers
from ..visualization.hardness import draw_hardness, level_names
from ._trained_models import (
    TrainedModel,
    add_model_options,
    check_models,
    chosen_models,
    load_config,
    load_on_training_set,
    note_different_images,
    run_and_report,
    write_json,
)

__all__ = ["main"]

CHECKPOINT, BUILT = "its own", "built from the training images"


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `--help`.

    Returns:
        0 when table and picture are there, 1 when the arguments do not fit together; the reason is printed.
    """
    return run_and_report(_measure, *_parse(argv))


def _measure(models: list[TrainedModel], args: argparse.Namespace) -> None:
    check_models(models)
    prepared = [_prepare(trained, args) for trained in models]  # what does not fit shows before the long passes
    numbers = {trained.name: stripes for trained, (_, _, _, stripes) in zip(models, prepared)}
    if len(set(numbers.values())) > 1:
        listed = ", ".join(f"{name} {number}" for name, number in numbers.items())
        raise ValueError(f"models with different numbers of local classifiers do not share a table: {listed}")
    note_different_images([loader for _, loader, _, _ in prepared])
    decisions: dict[str, LocalDecisions] = {}
    described: dict[str, dict[str, Any]] = {}
    for trained, (model, loader, classifiers, stripes) in zip(models, prepared):
        identities = loader.dataset.num_classes
        source = CHECKPOINT if classifiers is not None else BUILT
        if classifiers is None:
            classifiers = build_local_classifiers(model, loader, identities, stripes, trained.name)
        result = local_decisions(model, loader, classifiers, trained.name)
        decisions[trained.name] = result
        print(
            f"{trained.name}: {len(result.correct)} images of {identities} identities; memories: {source}", flush=True
        )
        described[trained.name] = {
            "config": find_config(trained.config_file),
            "weights": trained.weights,
            "memories": source,
            "images": len(result.correct),
            "identities": identities,
            "stripes": stripes,
            "levels": dict(zip(level_names(stripes), result.level_shares().tolist())),
            "precision": result.precision().tolist(),
        }
    if len({model["memories"] for model in described.values()}) > 1:
        print("Memories of different origin are not compared alike: --rebuild builds them for every model")
    draw_hardness(decisions, args.output, args.title)
    numbers_path = write_json(args.output, described)
    print(f"\n{_table(decisions)}\n\nPicture: {args.output}, numbers: {numbers_path}")


def _prepare(
    trained: TrainedModel, args: argparse.Namespace
) -> tuple[nn.Module, DataLoader, LocalClassifiers | None, int]:
    """Model, training images, the memories to read (None: to be built), and the number of stripes."""
    model, loader, missing = load_on_training_set(trained)
    own = find_local_classifiers(model)
    if own is None or args.rebuild:
        default = load_config(trained.config_file, trained.opts).MODEL.CGE.NUM_STRIPES
        return model, loader, None, args.stripes or default
    stripes = len(own.memory)
    if any(key.endswith("local_classifiers.memory") for key in missing) or not own.memory.any():
        raise ValueError(
            f"'{trained.weights}' holds no memories of {stripes} stripes, which {trained.name}'s config has: change "
            "MODEL.CGE.NUM_STRIPES, or make memories from the training images with --rebuild"
        )
    if args.stripes not in (0, stripes):
        raise ValueError(
            f"{trained.name} has memories of {stripes} stripes: --stripes {args.stripes} needs --rebuild as well"
        )
    return model, loader, own, stripes


def _table(decisions: dict[str, LocalDecisions]) -> str:
    """Levels and precision in percent, one column a model."""
    models = list(decisions.values())
    stripes = models[0].correct.shape[1]
    shares = [model.level_shares() for model in models]
    precision = [model.precision() for model in models]
    rows = [[name, *(100 * share[level] for share in shares)] for level, name in enumerate(level_names(stripes))] + [
        [f"precision of M_{i + 1}", *(100 * values[i] for values in precision)] for i in range(stripes)
    ]
    return tabulate(rows, headers=["[%]", *decisions], tablefmt="pipe", floatfmt=".1f")


def _parse(argv: list[str] | None) -> tuple[list[TrainedModel], argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog="hardness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser)
    parser.add_argument("--output", required=True, help="the PNG to write; the numbers stand beside it as .json")
    parser.add_argument(
        "--stripes",
        type=int,
        default=0,
        help="n, for memories that are built (default: MODEL.CGE.NUM_STRIPES of the model's config)",
    )
    parser.add_argument("--rebuild", action="store_true", help="build memories, also for models that have their own")
    parser.add_argument("--title", default="", help="a line above the charts")
    args = parser.parse_args(argv)
    if args.stripes < 0:
        parser.error("--stripes must be at least 1")
    return chosen_models(parser, args), args
