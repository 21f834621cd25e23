"""Take the features of images once and keep them for evaluation, re-ranking and search.

The images are the test set of a dataset, query images first (by default the first of DATASETS.TESTS), or any image
files and folders (--images), of which a table may say identity and camera (--labels). Test size, TEST.FLIP and the
other settings are the model's.

The work can be stopped at any moment: the same command goes on where it was. A folder that holds features of another
model, of other settings or of other images, or of image files that changed since, is left as it is. An image that
cannot be read is named before the work starts; --opts DATALOADER.BAD_IMAGES skip goes on without it.

Under torchrun, or where RANK and WORLD_SIZE say which of how many this process is, each takes its share, and the last
to finish joins all; on several machines the folder is one that they share.

The folder holds features.npy (N, D), which numpy reads, images.csv (path, identity and camera, by name) and
manifest.json.
"""

from __future__ import annotations

import argparse
import logging

from ..engine.distributed import own_rank
from ..retrieval import FeatureSet, extract_share, extract_to_store, list_images
from ..words import count, test_set
from ._indexes import add_image_sources, items_of, print_log
from ._models import add_model_source, load_embedder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_model_source(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="the folder that the features go to")
    add_image_sources(parser, parser.add_mutually_exclusive_group())
    parser.add_argument("--half", action="store_true", help="store float16: half the space, three decimal digits")


def run(args: argparse.Namespace) -> None:
    """Take the features and store them.

    Raises:
        OSError: there is no such config, weights file or image.
        KeyError: a key does not exist.
        ValueError: arguments, images and folder do not fit together.
    """
    rank, ranks = own_rank()
    print_log(logging.WARNING if rank else logging.INFO)
    paths = list_images(*args.images)
    embedder = load_embedder(args)
    cfg = embedder.cfg
    items, names, num_query, dataset = items_of(cfg, args, paths)
    request = (cfg, embedder.model, items, args.output)
    there: FeatureSet | None
    if ranks > 1:
        there = extract_share(*request, rank, ranks, num_query, dataset, args.half, names=names)
    else:
        there = extract_to_store(*request, num_query, dataset, args.half, names=names)
    if there is None:
        print(f"Share {rank + 1} of {ranks} is done: {args.output}. The process that finishes last joins the shares")
        return
    images = f"{dataset}: {test_set(num_query, len(items) - num_query)}" if dataset else count(len(items), "image")
    dimensions, model_name = there.features.features.shape[1], there.fingerprint[:12]
    print(f"{images}, {dimensions} dimensions, model {model_name}\nFeatures: {args.output}")
