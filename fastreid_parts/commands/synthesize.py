"""Draw a synthetic re-identification dataset, or a contact sheet of one."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np

from ..pedestrians import SCALES, Nuisances, contact_sheet, generate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--root", default="datasets", help="folder for datasets (default: %(default)s)")
    parser.add_argument("--scale", choices=list(SCALES), default="demo", help="size (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides people, places and cameras (default: 0)")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), default=(128, 64), help="pixels (default: 128 64)"
    )
    parser.add_argument("--contact-sheet", metavar="PATH", help="draw a sheet to look at (.png) instead of a dataset")
    parser.add_argument("--identities", type=int, default=8, help="rows of the sheet (default: %(default)s)")
    parser.add_argument("--views", type=int, default=2, help="images per camera on the sheet (default: %(default)s)")
    strengths = parser.add_argument_group("nuisances", "each from 0 (off) to 2; 1 by default")
    for field in fields(Nuisances):
        about = field.metadata["about"]
        strengths.add_argument(f"--{field.name}", type=float, default=1.0, metavar="STRENGTH", help=about)


def run(args: argparse.Namespace) -> None:
    """Write the dataset or the sheet.

    Raises:
        ValueError: a strength or a size cannot be, or the file is no image.
    """
    nuisances = Nuisances(**{field.name: getattr(args, field.name) for field in fields(Nuisances)})
    size = (args.size[0], args.size[1])
    if args.contact_sheet:
        cameras = SCALES[args.scale].cameras
        sheet = contact_sheet(args.seed, args.identities, args.views, cameras, nuisances, size)
        _write_sheet(Path(args.contact_sheet), sheet)
        print(f"Contact sheet: {args.contact_sheet}")
    else:
        print(f"Dataset: {generate(args.root, args.scale, args.seed, nuisances, size)}")


def _write_sheet(path: Path, sheet: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        written = cv2.imwrite(str(path), sheet)
    except cv2.error:
        written = False
    if not written:
        raise ValueError(f"cannot write an image to '{path}'; name a file that ends in .png or .jpg")
