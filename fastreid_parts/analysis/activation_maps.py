"""Draw where models look: images, and the activation maps of one or more models.

An activation map is the mean, over the channels, of the absolute values of the backbone's last feature map,
scaled to 0 .. 1 in each image; with --reduce max it is the maximum over the channels, a saliency map as in Fig. 1
and 7 of the CGE paper (there with --show overlay --per-row 1). With a second model (a baseline), its map stands to
the left; more models are named with --model, in the order in which they are drawn.

--kind occlusion draws instead which places the feature depends on that is compared: how far it moves, by cosine, where
a window over the image is covered, on 16 x 8 cells (Zeiler and Fergus, ECCV 2014). It takes 162 passes for an image.

--branch all draws the map of every branch of a model's backbone, as in Fig. 4 of the CAN paper, and
--branch parts_of_3 parts_of_5 those alone: CAN has parts_of_<n>, CMBN has backbone and reversal. A model without
branches keeps its only map.

The table says how much of the images each model responds to: the share of the area where the response is at least
half of its greatest, and the mean response in the upper, middle and lower third of the images.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from ..arguments import positive
from ..retrieval import list_images
from ..visualization import activation_maps, branch_activation_maps, dependence_maps, draw_activation_maps, load_images
from ..visualization.activation import PANELS, REDUCTIONS
from ..words import count
from .trained_models import (
    TrainedModel,
    add_figure_options,
    check_models,
    chosen_models,
    finish,
    inference_config,
    load_with_missing,
)

_ALL = "all"  # branches


def run(args: argparse.Namespace) -> None:
    """Draw the activation maps of the models that the options name.

    Raises:
        OSError, KeyError, ValueError: files, keys, or what the options name do not fit together.
    """
    models = _models(args)
    paths = list_images(*args.images)
    check_models(models)
    if len(paths) > args.max_images:
        print(f"{len(paths)} images; the first {args.max_images} are drawn (--max-images)")
        paths = paths[: args.max_images]
    shown: list[np.ndarray] = []
    maps: dict[str, np.ndarray] = {}
    for trained in models:
        cfg = inference_config(trained.config_file, trained.opts)
        shown, images = load_images(cfg, paths)
        model, missing = load_with_missing(cfg, trained.weights)
        if args.kind == "occlusion":
            branches = {"": dependence_maps(model, images)}
        elif args.branch:
            branches = branch_activation_maps(model, images, reduce=args.reduce)
        else:
            branches = {"": activation_maps(model, images, reduce=args.reduce)}
        for branch in _chosen_branches(trained, args.branch, list(branches), missing):
            maps[f"{trained.name} {branch}".strip()] = branches[branch]
    spread = {name: response_spread(values) for name, values in maps.items()}
    rows = [[name, *(100 * value for value in values.values())] for name, values in spread.items()]
    heads = ["response [%]", "area above half", "upper third", "middle third", "lower third"]
    print(f"{count(len(shown), 'image')}, {' and '.join(maps)}")
    table = tabulate(rows, headers=heads, tablefmt="pipe", floatfmt=".1f")
    numbers = {"kind": args.kind, "reduce": args.reduce, "images": paths, "models": spread}
    look = {"per_row": args.per_row, "title": args.title, "show": args.show}
    finish(args, numbers, table, lambda path: draw_activation_maps(shown, maps, path, **look))


def _chosen_branches(trained: TrainedModel, asked: Sequence[str], known: list[str], missing: set[str]) -> list[str]:
    """Branches of a model to draw.

    Raises:
        ValueError: it has branches but none of such a name, or its file does not hold their weights.
    """
    if known == [""]:
        return known
    chosen = known if list(asked) == [_ALL] else list(asked)
    unknown = [branch for branch in chosen if branch not in known]
    if unknown:
        raise ValueError(f"{trained.name} has no branch {', '.join(unknown)}: it has {', '.join(known)} (--branch)")
    for branch in chosen:
        if any(key.startswith(f"backbone.branches.{branch}.") for key in missing):
            raise ValueError(
                f"'{trained.weights}' does not hold the branch {branch} of {trained.name}, which evaluation does not "
                "need: use a checkpoint of the training"
            )
    return chosen


def response_spread(maps: np.ndarray) -> dict[str, float]:
    """Measure how much of the images a model responds to: numbers beside activation maps.

    Args:
        maps: (N, H, W), each scaled to 0 .. 1, with at least three rows.

    Returns:
        `area`: mean share of an image in which the response is at least half of its greatest. `upper`, `middle`,
        `lower`: mean response in that third of the images.

    Raises:
        ValueError: no maps, or maps of fewer than three rows.
    """
    if not len(maps) or maps.shape[1] < 3:
        raise ValueError(f"thirds of a map need maps of at least three rows, not of shape {maps.shape}")
    thirds = zip(("upper", "middle", "lower"), np.array_split(maps, 3, axis=1))
    return {"area": float((maps >= 0.5).mean()), **{name: float(third.mean()) for name, third in thirds}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    for prefix, which in (("", "the model, for example Market/cmbn.yml"), ("compare-", "a second, such as a baseline")):
        parser.add_argument(f"--{prefix}config-file", default="", help=f"config of {which}")
        parser.add_argument(f"--{prefix}weights", default="", help="its checkpoint")
        parser.add_argument(f"--{prefix}label", default="", help="its name in the figure (default: the config's)")
    parser.add_argument("--images", nargs="+", required=True, help="image files, or folders of them")
    text = "response of the last map, or dependence of the feature on each place, by occlusion (default: %(default)s)"
    parser.add_argument("--kind", choices=("response", "occlusion"), default="response", help=text)
    text = (
        f"draw the maps of these branches of the backbone, or of '{_ALL}' (default: the map that a representation is "
        "pooled from, in CAN the first branch's)"
    )
    parser.add_argument("--branch", nargs="+", default=[], metavar="NAME", help=text)
    parser.add_argument("--max-images", type=positive, default=16, help="draw at most so many (default: 16)")
    parser.add_argument("--per-row", type=positive, default=2, help="images beside each other (default: 2)")
    text = "over the channels: mean of absolute values, or maximum"
    parser.add_argument("--reduce", choices=REDUCTIONS, default="mean", help=text)
    text = "the map, the map laid over the image, or both"
    parser.add_argument("--show", choices=tuple(PANELS), default="both", help=text)
    add_figure_options(parser, required=False)


def _models(args: argparse.Namespace) -> list[TrainedModel]:
    if bool(args.compare_config_file) != bool(args.compare_weights):
        raise ValueError("a second model needs both --compare-config-file and --compare-weights")
    if bool(args.config_file) != bool(args.weights) or not (args.config_file or args.models):
        raise ValueError("name a model: --config-file with --weights, or --model for each of several")
    if args.compare_weights and not args.weights:
        raise ValueError("--compare-config-file and --compare-weights need --config-file and --weights, too")
    if args.kind == "occlusion" and (args.branch or args.reduce != "mean"):
        raise ValueError("--kind occlusion is of the whole feature: it takes neither --branch nor --reduce")
    if len(args.branch) > 1 and _ALL in args.branch:
        raise ValueError(f"--branch takes names of branches, or {_ALL}")
    models = [
        TrainedModel(label or Path(config_file).stem, config_file, weights, args.opts)
        for label, config_file, weights in (
            (args.compare_label, args.compare_config_file, args.compare_weights),
            (args.label, args.config_file, args.weights),
        )
        if weights
    ]
    return [*models, *chosen_models(args)]
