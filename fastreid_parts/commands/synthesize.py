"""Draw a synthetic re-identification dataset, or a contact sheet of one.

fastreid-parts synthesize --scale market               images in Market-1501's layout
fastreid-parts synthesize --tracks                     consecutive frames of its test people, with times
fastreid-parts synthesize --tracks 1                   of other people under the same cameras
fastreid-parts synthesize --tracks --contact-sheet tracks.png
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np

from ..pedestrians import SCALES, Nuisances, contact_sheet, generate, generate_tracks, track_sheet
from ..pedestrians.generate import check_request
from ..pedestrians.tracks import TABLE, TRAVEL_TIMES
from ..pedestrians.walks import OVERLAPPING


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--root", default="datasets", help="folder for datasets (default: %(default)s)")
    parser.add_argument("--scale", choices=list(SCALES), default="demo", help="size (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides people, places and cameras (default: 0)")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), default=(128, 64), help="pixels (default: 128 64)"
    )
    text = (
        "tracks in place of the dataset: its test people walk past its cameras, with times, boxes and travel times "
        "in tables; a number from 1 on: other people"
    )
    parser.add_argument("--tracks", type=int, nargs="?", const=0, metavar="PART", help=text)
    parser.add_argument("--contact-sheet", metavar="PATH", help="draw a sheet to look at (.png) instead of a dataset")
    parser.add_argument("--identities", type=int, default=8, help="rows of the sheet (default: %(default)s)")
    parser.add_argument(
        "--views", type=int, help="images per camera on the sheet, or frames per track (default: 2, or 12)"
    )
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
        check_request(args.scale, args.seed, size)
        views = args.views if args.views is not None else 2 if args.tracks is None else 12
        if args.tracks is None:
            cameras = SCALES[args.scale].cameras
            sheet = contact_sheet(args.seed, args.identities, views, cameras, nuisances, size)
        elif args.tracks:
            raise ValueError("a sheet of tracks shows the test people: give --tracks without a number")
        else:
            sheet = track_sheet(args.seed, args.identities, views, nuisances, size)
        _write_sheet(Path(args.contact_sheet), sheet)
        print(f"Contact sheet: {args.contact_sheet}")
    elif args.tracks is not None:
        folder = generate_tracks(args.root, args.scale, args.seed, nuisances, size, args.tracks)
        print(f"Tracks: {folder}")
        known = f"--overlapping-views {','.join(f'c{camera}' for camera in OVERLAPPING)}"
        known += f" --travel-times {folder / TRAVEL_TIMES}"
        print(f"Options of identify: --tracks {folder} --table {folder / TABLE} {known}")
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
