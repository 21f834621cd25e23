"""Where a command takes tracklets from: folders a track, features with a table, a MOT text file with frames."""

from __future__ import annotations

import argparse
import os

from ..arguments import positive
from ..identification.reading import described, gathered, images_of_folders, images_of_mot, of_feature_set
from ..identification.tracklets import Tracklets
from ..retrieval import GalleryIndex, extract_images, load_feature_set
from ._indexes import OF_INDEX
from ._models import add_model_source, load_embedder


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
    group.add_argument("--track-column", default="track", metavar="NAME", help="of --table (default: track)")
    text = "of --table (default: time): seconds, or times as 2026-05-01T14:30:00"
    group.add_argument("--time-column", default="time", metavar="NAME", help=text)
    text = "frames a second: of --mot, or of frame numbers that end the names of files"
    group.add_argument("--fps", type=float, default=0.0, metavar="NUMBER", help=text)
    text = "of --mot: a folder of frames for each file"
    group.add_argument("--frames", nargs="+", default=[], metavar="DIR", help=text)
    text = "of --mot: seconds at which frame 1 of each file was taken (default: 0)"
    group.add_argument("--starts", nargs="+", type=float, default=[], metavar="SECONDS", help=text)
    text = "of --mot: folder for the crops, which are kept (default: crops in the folder of the results)"
    group.add_argument("--crops", default="", metavar="DIR", help=text)
    text = "of --mot: take one in so many boxes of a track (default: 1)"
    group.add_argument("--every", type=positive, default=1, metavar="N", help=text)
    add_model_source(parser, OF_INDEX)


def tracklets_of(args: argparse.Namespace, index: GalleryIndex | None) -> Tracklets:
    """Read the tracklets that a command names, and take features of their images where there are none yet.

    Args:
        args: with the options of `add_tracklet_sources`, and --output.
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
    if args.tracks:
        images = images_of_folders(args.tracks, args.fps)
    else:
        if len(args.frames) != len(args.mot) or len(args.starts) not in (0, len(args.mot)):
            raise ValueError("every --mot file needs its folder of --frames, and all or none of them --starts")
        crops = args.crops or os.path.join(args.output or ".", "crops")
        starts = args.starts or [0.0] * len(args.mot)
        parts = zip(args.mot, args.frames, starts)
        images = [
            image
            for file, frames, start in parts
            for image in images_of_mot(file, frames, crops, args.fps, start=start, every=args.every)
        ]
    if args.table:
        images = described(images, args.table, args.track_column, args.time_column)
    embedder = load_embedder(args, index)
    features = extract_images(embedder.cfg, embedder.model, [image.path for image in images])
    return gathered(images, features, embedder.fingerprint, embedder.cfg.dump())
