"""Draw where models look: each image, and the activation maps of one or more models beside each other.

An activation map is the mean, over the channels, of the absolute values of the backbone's last feature map,
scaled to 0 .. 1 in each image; with --reduce max it is the maximum over the channels, a saliency map as in Fig. 1
and 7 of the CGE paper (there with --show overlay --per-row 1). With a second model (a baseline), its map stands to
the left; more models are named with --model, in the order in which they are drawn.

--branch all draws the map of every branch of a model's backbone, as in Fig. 4 of the CAN paper, and --branch part3
part5 those alone: CAN has part<n>, CMBN has backbone and reversal. A model without branches keeps its only map.

The table says how much of the images each model responds to: the share of the area where the response is at least
half of its greatest, and the mean response in the upper, middle and lower third of the images.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

from ..evaluation import response_spread
from ..visualization import activation_maps, branch_activation_maps, draw_activation_maps, load_images
from ..visualization.activation import PANELS, REDUCTIONS
from ._trained_models import (
    TrainedModel,
    add_model_options,
    check_models,
    chosen_models,
    load_config,
    load_model,
    load_with_missing,
    run_and_report,
    write_json,
)

__all__ = ["find_images", "load_model", "main"]

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_ALL = "all"  # branches


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `--help`.

    Returns:
        0 when the picture is written, 1 when the arguments do not fit together; the reason is printed.
    """
    return run_and_report(_draw, *_parse(argv))


def _draw(models: list[TrainedModel], args: argparse.Namespace) -> None:
    paths = find_images(args.images)
    check_models(models)
    if len(paths) > args.max_images:
        print(f"{len(paths)} images; the first {args.max_images} are drawn (--max-images)")
        paths = paths[: args.max_images]
    shown: list[np.ndarray] = []
    maps: dict[str, np.ndarray] = {}
    for trained in models:
        cfg = load_config(trained.config_file, trained.opts)
        shown, images = load_images(cfg, paths)
        model, missing = load_with_missing(cfg, trained.weights)
        if not args.branch:
            maps[trained.name] = activation_maps(model, images, reduce=args.reduce)
            continue
        branches = branch_activation_maps(model, images, reduce=args.reduce)
        for branch in _chosen_branches(trained, args.branch, list(branches), missing):
            maps[f"{trained.name} {branch}".strip()] = branches[branch]
    draw_activation_maps(shown, maps, args.output, per_row=args.per_row, title=args.title, show=args.show)
    spread = {name: response_spread(values) for name, values in maps.items()}
    numbers = write_json(args.output, {"reduce": args.reduce, "images": paths, "models": spread})
    rows = [[name, *(100 * value for value in values.values())] for name, values in spread.items()]
    heads = ["response [%]", "area above half", "upper third", "middle third", "lower third"]
    print(tabulate(rows, headers=heads, tablefmt="pipe", floatfmt=".1f"))
    print(f"{len(shown)} images, {' and '.join(maps)}: {args.output}, numbers: {numbers}")


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


def find_images(places: Sequence[str]) -> list[str]:
    """The image files among files and folders, folders in the order of their names and not searched below.

    Raises:
        FileNotFoundError: a place does not exist, or a folder holds no image.
    """
    found: list[str] = []
    for place in places:
        if os.path.isdir(place):
            names = sorted(name for name in os.listdir(place) if name.lower().endswith(_EXTENSIONS))
            if not names:
                raise FileNotFoundError(f"the folder '{place}' holds no image ({', '.join(_EXTENSIONS)})")
            found.extend(os.path.join(place, name) for name in names)
        elif os.path.isfile(place):
            found.append(place)
        else:
            raise FileNotFoundError(f"there is neither an image nor a folder '{place}'")
    return found


def _parse(argv: list[str] | None) -> tuple[list[TrainedModel], argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog="activation-maps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="", help="config of the model, for example Market/cmbn.yml")
    parser.add_argument("--weights", default="", help="its checkpoint")
    parser.add_argument("--label", default="", help="its name in the picture (default: the config's)")
    parser.add_argument("--compare-config-file", default="", help="config of a second model, such as a baseline")
    parser.add_argument("--compare-weights", default="", help="its checkpoint")
    parser.add_argument("--compare-label", default="", help="its name in the picture (default: the config's)")
    add_model_options(parser, required=False)
    parser.add_argument("--images", nargs="+", required=True, help="image files, or folders of them")
    parser.add_argument(
        "--branch",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"draw the maps of these branches of the backbone, or of '{_ALL}' (default: the map that a "
        "representation is pooled from, in CAN the first branch's)",
    )
    parser.add_argument("--output", required=True, help="the PNG to write; the numbers stand beside it as .json")
    parser.add_argument("--max-images", type=int, default=16, help="draw at most so many (default: 16)")
    parser.add_argument("--per-row", type=int, default=2, help="images side by side (default: 2)")
    parser.add_argument(
        "--reduce", choices=REDUCTIONS, default="mean", help="over the channels: mean of absolute values, or maximum"
    )
    parser.add_argument(
        "--show", choices=tuple(PANELS), default="both", help="the map, the map laid over the image, or both"
    )
    parser.add_argument("--title", default="", help="a line above the images")
    args = parser.parse_args(argv)
    if bool(args.compare_config_file) != bool(args.compare_weights):
        parser.error("a second model needs both --compare-config-file and --compare-weights")
    if bool(args.config_file) != bool(args.weights) or not (args.config_file or args.models):
        parser.error("name a model: --config-file with --weights, or --model for each of several")
    if args.compare_weights and not args.weights:
        parser.error("--compare-config-file and --compare-weights stand beside --config-file and --weights")
    if len(args.branch) > 1 and _ALL in args.branch:
        parser.error(f"--branch takes names of branches, or {_ALL}")
    if args.max_images < 1 or args.per_row < 1:
        parser.error("--max-images and --per-row must be at least 1")
    models = []
    for label, config_file, weights in (
        (args.compare_label, args.compare_config_file, args.compare_weights),
        (args.label, args.config_file, args.weights),
    ):
        if weights:
            name = label or os.path.splitext(os.path.basename(config_file))[0]
            models.append(TrainedModel(name, config_file, weights, args.opts))
    return [*models, *chosen_models(parser, args)], args
