"""Draw what the training augmentation of a config does to images.

Each image has random draws beside it. A draw goes through everything that a training image goes through before the
model normalizes it: fast-reid's transforms, INPUT.RSA and INPUT.EXTRA_TRANSFORMS. Without --images the images are taken
from the training set of the config, evenly spread over it. To see one augmentation alone, switch the others off: --opts
INPUT.FLIP.ENABLED False. INPUT.RPT pastes pieces of images that came before, and nothing in the first hundred draws.

The table lists the steps in force, in their order, with their settings.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from fastreid.config import CfgNode
from fastreid.data.data_utils import read_image
from tabulate import tabulate
from torchvision.transforms import Compose

from ..arguments import add_config_options, not_negative, png_file, positive
from ..config import load_config
from ..data.build import load_dataset
from ..data.transforms import build_transforms
from ..retrieval import list_images
from ..seeding import seed_epoch
from ..visualization.style import MUTED, Sheet, fitting_size
from ..words import count

_OBJECT = re.compile(r"<(?:\w+\.)*(\w+) object at 0x[0-9a-fA-F]+>")  # what Python says of an object by default

# inches
_LONGEST = 1.3  # the longer side of an image
_GAP = 0.08
_ORIGINAL_GAP = 0.18  # after the originals
_LABEL = 0.17
_HEADER = 0.2
_MARGIN = 0.14
_FRAME = 0.008
_EDGE = "#cbd2d9"  # around an image, so that one that is white at its border has an outline


def run(args: argparse.Namespace) -> None:
    """Draw what a config's training augmentation does.

    Raises:
        OSError, KeyError, ValueError: files, keys, or what the options name do not fit together.
    """
    cfg = load_config(args.config_file, args.opts)
    transform = build_transforms(cfg, is_train=True)
    paths = list_images(*args.images) if args.images else _training_images(cfg)
    if len(paths) > args.max_images:
        kept = np.linspace(0, len(paths) - 1, args.max_images).round().astype(int)
        print(f"{len(paths)} images; {args.max_images} of them, evenly spread, are drawn (--max-images)")
        paths = [paths[number] for number in kept]
    originals = [np.asarray(read_image(path)) for path in paths]
    draws = augmented(transform, paths, args.draws, args.seed)
    title = args.title or Path(args.config_file).stem
    draw_contact_sheet(originals, draws, args.output, [os.path.basename(path) for path in paths], title)
    print(tabulate(steps_in_force(transform), headers=["step", "settings"], tablefmt="pipe"))
    print(f"{count(len(paths), 'image')}, {count(args.draws, 'draw')} of each, seed {args.seed}: {args.output}")


def augmented(transform: Compose, paths: Sequence[str], draws: int, seed: int) -> list[list[np.ndarray]]:
    """Draw what a training transform makes of image files, so many times each.

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
    """List (step, settings) of each part of a transform in its order, as the parts describe themselves."""
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


def draw_contact_sheet(
    originals: Sequence[np.ndarray],
    draws: Sequence[Sequence[np.ndarray]],
    path: str | os.PathLike,
    labels: Sequence[str] = (),
    title: str = "",
) -> None:
    """Draw a row for each image: the original first, then its draws. No image is distorted.

    Args:
        originals: N arrays (H, W, 3) uint8, RGB, of any sizes.
        draws: for each of them as many arrays (H', W', 3) uint8, RGB.
        path: the PNG to write.
        labels: a line above each row, such as a file name.
        title: a line above all rows.

    Raises:
        ValueError: there are no images or no draws, not as many rows of draws or labels as images, or rows differ in
            length.
    """
    if not originals or not draws or not draws[0]:
        raise ValueError("a contact sheet needs at least one image and one draw of it")
    lengths = {len(row) for row in draws}
    if len(draws) != len(originals) or len(lengths) > 1:
        raise ValueError(
            f"{len(originals)} images, {len(draws)} rows of {' or '.join(map(str, sorted(lengths)))} draws: each image "
            "needs as many draws as the others"
        )
    if labels and len(labels) != len(originals):
        raise ValueError(f"{len(originals)} images but {len(labels)} labels")

    rows = [[image, *drawn] for image, drawn in zip(originals, draws)]
    sizes = np.array([[_inches(image) for image in row] for row in rows])  # (N, columns, 2)
    widths, heights = sizes[..., 0].max(axis=0), sizes[..., 1].max(axis=1)
    gaps = [_ORIGINAL_GAP, *[_GAP] * (len(widths) - 2)]
    lefts = _MARGIN + np.cumsum([0, *(widths[:-1] + gaps)])
    line = _LABEL if labels else 0.0
    width = lefts[-1] + widths[-1] - _MARGIN
    height = _HEADER + heights.sum() + len(heights) * (line + _GAP) - _GAP
    sheet, top = Sheet.titled(width, height, title, _MARGIN, 0.28)
    top += _HEADER
    for number, middle in enumerate(lefts + widths / 2):
        sheet.text(middle, top - 0.04, str(number) if number else "original", size=6.5, color=MUTED, va="bottom")
    for row, images in enumerate(rows):
        if labels:
            size = fitting_size(labels[row], width, 6)
            sheet.text(_MARGIN, top + line - 0.03, labels[row], size, MUTED, ha="left", va="bottom")
        top += line
        for pixels, (wide, high), middle in zip(images, sizes[row], lefts + widths / 2):
            upper = top + (heights[row] - high) / 2
            sheet.image(pixels, middle - wide / 2, upper, wide, high, frame=_EDGE, frame_inches=_FRAME)
        top += heights[row] + _GAP
    sheet.save(path)


def _inches(image: np.ndarray) -> tuple[float, float]:
    """Width and height at which an image is drawn; an extreme one keeps a side that can be seen."""
    height, width = image.shape[:2]
    scale = _LONGEST / max(height, width)
    return max(width * scale, 0.05), max(height * scale, 0.05)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    add_config_options(parser, weights=False)
    parser.add_argument("--images", nargs="+", default=[], help="image files, or folders of them, instead of a dataset")
    text = "the PNG to write (default: ./augmentations.png)"
    parser.add_argument("--output", type=png_file, default="augmentations.png", metavar="PNG", help=text)
    parser.add_argument("--draws", type=positive, default=8, help="columns beside the original (default: 8)")
    parser.add_argument("--max-images", type=positive, default=6, help="rows, at most (default: 6)")
    parser.add_argument("--seed", type=not_negative, default=0, help="decides the draws (default: 0)")
    parser.add_argument("--title", default="", help="a line above the images (default: the config's name)")
