"""Where a command takes tracklets from: folders a track, features with a table, a MOT text file with frames."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os

from ..arguments import check_without_effect, positive
from ..files import file_state
from ..identification.reading import (
    TIME,
    TRACK,
    TrackedImage,
    check_tracks,
    described,
    gathered,
    images_of_folders,
    images_of_mot,
    of_feature_set,
)
from ..identification.tracklets import Tracklets
from ..retrieval import GalleryIndex, extract_to_store, image_items, load_feature_set
from ._indexes import OF_INDEX
from ._models import add_model_source, load_embedder

logger = logging.getLogger(__name__)

_OF_MOT = ("frames", "cameras", "starts", "crops", "every")
_OF_MODEL = ("model", "config_file", "weights", "opts")


def add_tracklet_sources(parser: argparse.ArgumentParser) -> None:
    """Let tracklets be named.

    Args:
        parser: of the command.
    """
    group = parser.add_argument_group("tracklets")
    source = group.add_mutually_exclusive_group(required=True)
    text = "folders: each that holds images is a track, the folder above it its camera"
    source.add_argument("--tracks", nargs="+", default=[], metavar="PLACE", help=text)
    text = "features that `extract` stored; --table says the track of each image"
    source.add_argument("--features", default="", metavar="FOLDER", help=text)
    text = "MOT text files, one a camera, whose name is the file's: frame, track, left, top, width, height a line"
    source.add_argument("--mot", nargs="+", default=[], metavar="TXT", help=text)
    text = "what is known of images: path, and track, time, camera or identity (the truth, for scores and thresholds)"
    group.add_argument("--table", default="", metavar="CSV", help=text)
    group.add_argument("--track-column", default=TRACK, metavar="NAME", help="of --table (default: track)")
    text = "of --table (default: time): seconds, or times as 2026-05-01T14:30:00"
    group.add_argument("--time-column", default=TIME, metavar="NAME", help=text)
    text = "frames a second: of --mot, or of frame numbers that end the names of files"
    group.add_argument("--fps", type=float, default=0.0, metavar="NUMBER", help=text)
    text = "of --mot: a video or a folder of frames for each file; without it --crops holds all crops"
    group.add_argument("--frames", nargs="+", default=[], metavar="PLACE", help=text)
    text = "of --mot: what the camera of each file is called (default: as the file, without its ending)"
    group.add_argument("--cameras", nargs="+", default=[], metavar="NAME", help=text)
    text = "of --mot: seconds at which frame 1 of each file was taken (default: 0)"
    group.add_argument("--starts", nargs="+", type=float, default=[], metavar="SECONDS", help=text)
    text = (
        "of --mot: folder for the crops, camera/track/frame.jpg, kept (default: crops in the folder of the results, or "
        "beside the threshold)"
    )
    group.add_argument("--crops", default="", metavar="DIR", help=text)
    text = "of --mot: take one in so many boxes of a track (default: 1)"
    group.add_argument("--every", type=positive, default=1, metavar="N", help=text)
    add_model_source(parser, OF_INDEX)


def check_tracklet_options(args: argparse.Namespace) -> None:
    """Refuse options of `add_tracklet_sources` that would have no effect.

    Raises:
        ValueError: the message names them.
    """
    if not args.table:
        columns = ("track_column", "time_column")
        check_without_effect(args, add_tracklet_sources, columns, "a column is of --table")
    if not args.mot:
        check_without_effect(args, add_tracklet_sources, _OF_MOT, "this is of --mot")
    if args.features:
        check_without_effect(args, add_tracklet_sources, ("fps",), "--features have their times by --table")
        check_without_effect(args, add_tracklet_sources, _OF_MODEL, "--features are there already")


def tracklets_of(args: argparse.Namespace, index: GalleryIndex | None) -> Tracklets:
    """Read the tracklets that a command names, and take features of their images where there are none yet.

    Features lie in the folder of the results, where the same command goes on after an interruption.

    Args:
        args: with the options of `add_tracklet_sources`, --output, and --calibrate where there is no output.
        index: whose model is used where none is named, or None.

    Raises:
        FileNotFoundError: a folder, a file or an image is not there.
        KeyError: a key does not exist.
        ValueError: options, images, table and model do not fit together.
    """
    if args.features:
        if not args.table:
            raise ValueError("--features need a --table that says the track of each image")
        there = load_feature_set(args.features)
        return of_feature_set(there, args.table, args.track_column, args.time_column)
    images = images_of_folders(args.tracks, args.fps) if args.tracks else _of_mot(args)
    if args.table:
        images = described(images, args.table, args.track_column, args.time_column)
    check_tracks(images)  # before features are taken
    embedder = load_embedder(args, index)
    items = image_items(embedder.cfg, [image.path for image in images])
    readable = {path for path, *_ in items}  # DATALOADER.BAD_IMAGES says what becomes of others
    files = [(os.path.abspath(path), *(file_state(path) or ())) for path in sorted(readable)]  # crops are cut anew
    asked = json.dumps([embedder.fingerprint, *files])
    kept = os.path.join(args.output, "features") if args.output else f"{args.calibrate}.features"
    folder = os.path.join(kept, hashlib.sha256(asked.encode()).hexdigest()[:12])
    logger.info("Features are kept in %s: the same images and model are not computed again", folder)
    there = extract_to_store(embedder.cfg, embedder.model, items, folder)
    images = [image for image in images if image.path in readable]
    return gathered(images, there.features, there.fingerprint, there.config)


def _of_mot(args: argparse.Namespace) -> list[TrackedImage]:
    many = len(args.mot)
    for option in ("frames", "cameras", "starts"):
        if len(getattr(args, option)) not in (0, many):
            raise ValueError(f"--{option} is given for each --mot file, or for none: {many} here")
    if not args.frames and not args.crops:
        raise ValueError("--mot needs --frames that boxes are cut out of, or --crops that were cut already")
    cameras = args.cameras or [os.path.splitext(os.path.basename(file))[0] for file in args.mot]
    twice = [camera for place, camera in enumerate(cameras) if camera in cameras[:place]]
    if twice:
        raise ValueError(f"two --mot files are of a camera '{twice[0]}': name them by --cameras")
    crops = args.crops or (os.path.join(args.output, "crops") if args.output else f"{args.calibrate}.crops")
    parts = zip(args.mot, args.frames or [""] * many, cameras, args.starts or [0.0] * many)
    return [
        image
        for file, frames, camera, start in parts
        for image in images_of_mot(file, crops, args.fps, frames, camera, start, args.every)
    ]
