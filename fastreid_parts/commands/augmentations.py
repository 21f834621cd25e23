"""Draw what the training augmentation of a config does to images: each image, and beside it random draws.

A draw goes through everything that a training image goes through before the model normalises it: fast-reid's
transforms, INPUT.RSA and INPUT.EXTRA_TRANSFORMS. Without --images the images are taken from the training set of the
config, evenly spread over it. To see one augmentation alone, switch the others off: --opts INPUT.FLIP.ENABLED False.
INPUT.RPT pastes pieces of images that came before, and nothing in the first hundred draws.

The table lists the steps in force, in their order, with their settings.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence

import numpy as np
import torch
from fastreid.config import CfgNode
from fastreid.data.data_utils import read_image
from tabulate import tabulate
from torchvision.transforms import Compose

from ..data.build import load_dataset
from ..data.transforms import build_transforms
from ..seeding import seed_epoch
from ..visualization import draw_contact_sheet
from ._trained_models import load_config
from .activation_maps import find_images

__all__ = ["augmented", "main", "steps_in_force"]

_OBJECT = re.compile(r"<(?:\w+\.)*(\w+) object at 0x[0-9a-fA-F]+>")  # what Python says of an object by default


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `--help`.

    Returns:
        0 when the sheet is written, 1 when config, images and options do not fit together; the reason is printed.
    """
    args = _parse(argv)
    try:
        _draw(args)
    except (OSError, ValueError, KeyError) as error:
        print(f"Problem: {error}")
        return 1
    return 0


def _draw(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts)
    transform = build_transforms(cfg, is_train=True)
    paths = find_images(args.images) if args.images else _training_images(cfg)
    if len(paths) > args.max_images:
        kept = np.linspace(0, len(paths) - 1, args.max_images).round().astype(int)
        print(f"{len(paths)} images; {args.max_images} of them, evenly spread, are drawn (--max-images)")
        paths = [paths[number] for number in kept]
    originals = [np.asarray(read_image(path)) for path in paths]
    draws = augmented(transform, paths, args.draws, args.seed)
    title = args.title or os.path.splitext(os.path.basename(args.config_file))[0]
    draw_contact_sheet(originals, draws, args.output, [os.path.basename(path) for path in paths], title)
    print(tabulate(steps_in_force(transform), headers=["step", "settings"], tablefmt="pipe"))
    print(f"{len(paths)} images, {args.draws} draws of each, seed {args.seed}: {args.output}")


def augmented(transform: Compose, paths: Sequence[str], draws: int, seed: int) -> list[list[np.ndarray]]:
    """What a training transform makes of image files, so many times each.

    Args:
        transform: from `build_transforms` for training: a PIL image to a (3, H, W) tensor in 0 to 255.
        paths: image files.
        draws: how often each image goes through.
        seed: of all generators that transforms draw from.

    Returns:
        For each image, `draws` arrays (H, W, 3) uint8, RGB.

    Raises:
        OSError: a file is no image; the message names it.
    """
    seed_epoch(seed, 0)
    rows = []
    for path in paths:
        image = read_image(path)
        tensors = [torch.as_tensor(transform(image)) for _ in range(draws)]
        rows.append([t.float().round().clamp(0, 255).byte().permute(1, 2, 0).numpy() for t in tensors])
    return rows


def steps_in_force(transform: Compose) -> list[tuple[str, str]]:
    """(step, settings) of each part of a transform in its order, as the parts describe themselves."""
    rows = []
    for step in transform.transforms:
        name = type(step).__name__
        described = _OBJECT.sub(r"\1", re.sub(r"\s+", " ", repr(step)))
        if described == name:  # fast-reid's own classes say nothing of themselves
            settings = {k: v for k, v in vars(step).items() if isinstance(v, (bool, int, float, str, tuple))}
            rows.append((name, ", ".join(f"{key}={value}" for key, value in settings.items())))
        else:
            rows.append((name, described[len(name) :].strip()[1:-1].strip()))  # without "Name(" and ")"
    return rows


def _training_images(cfg: CfgNode) -> list[str]:
    """The files of the config's training sets, in the order of the datasets.

    Raises:
        ValueError: a dataset is unknown, or not where datasets are looked for.
    """
    try:
        items = [item for name in cfg.DATASETS.NAMES for item in load_dataset(name, cfg).train]
    except ValueError as error:
        raise ValueError(f"{error}\nWithout a dataset, draw images of your own: --images FOLDER or FILES") from error
    if not items:
        raise ValueError("the config has no training images (DATASETS.NAMES): draw images of your own with --images")
    return [item[0] for item in items]


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="augmentations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="for example Market/rmgl.yml")
    parser.add_argument("--images", nargs="+", default=[], help="image files, or folders of them, instead of a dataset")
    parser.add_argument("--output", default="augmentations.png", help="the PNG to write (default: ./augmentations.png)")
    parser.add_argument("--draws", type=int, default=8, help="columns beside the original (default: 8)")
    parser.add_argument("--max-images", type=int, default=6, help="rows, at most (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="decides the draws (default: 0)")
    parser.add_argument("--title", default="", help="a line above the images (default: the config's name)")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config keys to change")
    args = parser.parse_args(argv)
    if args.draws < 1 or args.max_images < 1:
        parser.error("--draws and --max-images must be at least 1")
    if len(args.opts) % 2:
        parser.error(f"--opts takes pairs KEY VALUE, got: {' '.join(args.opts)}")
    return args
