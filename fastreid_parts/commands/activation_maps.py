"""Draw where models look: each image, and the activation map of one model or of two beside each other.

An activation map is the mean, over the channels, of the absolute values of the backbone's last feature map,
scaled to 0 .. 1 in each image. With a second model (a baseline), its map stands to the left.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import numpy as np
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling import build_model
from fastreid.utils.checkpoint import Checkpointer
from torch import nn

from ..config import find_config
from ..visualization import activation_maps, draw_activation_maps, load_images

__all__ = ["find_images", "load_model", "main"]

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `--help`.

    Returns:
        0 when the picture is written, 1 when the arguments do not fit together; the reason is printed.
    """
    args = _parse(argv)
    try:
        _draw(args)
    except (OSError, ValueError, KeyError) as error:
        print(f"Problem: {error}")
        return 1
    return 0


def _draw(args: argparse.Namespace) -> None:
    paths = find_images(args.images)
    if len(paths) > args.max_images:
        print(f"{len(paths)} images; the first {args.max_images} are drawn (--max-images)")
        paths = paths[: args.max_images]
    models = [(args.label, args.config_file, args.weights)]
    if args.compare_weights:
        models.insert(0, (args.compare_label, args.compare_config_file, args.compare_weights))
    shown: list[np.ndarray] = []
    maps: dict[str, np.ndarray] = {}
    for label, config_file, weights in models:
        cfg = load_config(config_file, args.opts)
        shown, images = load_images(cfg, paths)
        name = label or os.path.splitext(os.path.basename(config_file))[0]
        if name in maps:
            raise ValueError(f"both models are named '{name}': tell them apart with --label and --compare-label")
        maps[name] = activation_maps(load_model(cfg, weights), images)
    draw_activation_maps(shown, maps, args.output, per_row=args.per_row)
    print(f"{len(shown)} images, {' and '.join(maps)}: {args.output}")


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


def load_config(config_file: str, opts: Sequence[str]) -> CfgNode:
    """A config for looking at a trained model.

    Raises:
        FileNotFoundError: there is no such config file.
        KeyError: a key does not exist.
    """
    cfg = get_cfg()
    cfg.merge_from_file(find_config(config_file))
    cfg.merge_from_list(list(opts))
    cfg.MODEL.BACKBONE.PRETRAIN = False
    if cfg.MODEL.HEADS.NUM_CLASSES == 0:
        cfg.MODEL.HEADS.NUM_CLASSES = 1  # the classifier must be there, but a feature map does not depend on it
    return cfg


def load_model(cfg: CfgNode, weights: str) -> nn.Module:
    """The model of a config with trained weights, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such weights file.
        ValueError: the file holds the weights of another model.
    """
    if not os.path.isfile(weights):
        raise FileNotFoundError(f"no weights file '{weights}'")
    model = build_model(cfg)
    Checkpointer(model).load(weights)
    return model.eval()


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="activation-maps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="config of the model, for example Market/cmbn.yml")
    parser.add_argument("--weights", required=True, help="its checkpoint")
    parser.add_argument("--label", default="", help="its name in the picture (default: the config's)")
    parser.add_argument("--compare-config-file", default="", help="config of a second model, such as a baseline")
    parser.add_argument("--compare-weights", default="", help="its checkpoint")
    parser.add_argument("--compare-label", default="", help="its name in the picture (default: the config's)")
    parser.add_argument("--images", nargs="+", required=True, help="image files, or folders of them")
    parser.add_argument("--output", required=True, help="the PNG to write")
    parser.add_argument("--max-images", type=int, default=16, help="draw at most so many (default: 16)")
    parser.add_argument("--per-row", type=int, default=2, help="images side by side (default: 2)")
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY VALUE", help="config keys to change, in both models"
    )
    args = parser.parse_args(argv)
    if bool(args.compare_config_file) != bool(args.compare_weights):
        parser.error("a second model needs both --compare-config-file and --compare-weights")
    if args.max_images < 1 or args.per_row < 1:
        parser.error("--max-images and --per-row must be at least 1")
    return args
