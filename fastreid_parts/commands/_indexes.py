"""What the commands about indexes share: the model of an index, and features from a folder or from images."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from fastreid.config import CfgNode

from ..analysis.trained_models import load_test_images
from ..config import word_pairs
from ..data.checks import Item
from ..data.names import BY_NUMBER, UNKNOWN, Names, names_of
from ..data.tables import read_table
from ..files import file_digest, locked
from ..retrieval import (
    FeatureSet,
    Gallery,
    OtherFeaturesError,
    extract_to_store,
    image_items,
    label_items,
    list_images,
    load_feature_set,
    remove_feature_set,
)
from ..retrieval.extraction import PARTS
from ..retrieval.manifest import MANIFEST
from ..retrieval.store import read_manifest
from ._galleries import place_of
from ._models import load_embedder

logger = logging.getLogger(__name__)

#: Of the options that name a model, where there is an index.
OF_INDEX = " (default: the index's own)"


def add_image_sources(parser: argparse.ArgumentParser, source: Any, files: bool = True) -> None:
    """Let images be named by --dataset or --images, and whom these show by --labels.

    Args:
        parser: of the command.
        source: group of its options that exclude each other.
        files: with --images.
    """
    text = "a dataset (default: the first of DATASETS.TESTS)"
    source.add_argument("--dataset", default="", metavar="NAME", help=text)
    if files:
        text = "image files, or folders with those below them"
        source.add_argument("--images", nargs="+", default=[], metavar="PLACE", help=text)
        text = (
            "whom images or features show: a table with the columns path, identity and camera, and others for `search "
            "--where`; its paths start at its folder"
        )
        parser.add_argument("--labels", default="", metavar="CSV", help=text)


def items_of(cfg: CfgNode, args: argparse.Namespace, paths: Sequence[str]) -> tuple[list[Item], Names, int, str]:
    """List the images to take features of, with identity and camera where they are known.

    Args:
        cfg: the config.
        args: with --dataset, by default the first of DATASETS.TESTS, and --labels.
        paths: image files; without any, those of the dataset.

    Returns:
        The items, query images first; what their identities and cameras are called; the number of queries; the name of
        the dataset.

    Raises:
        FileNotFoundError: there is no such table of labels.
        ValueError: no dataset is named or it cannot be read; images cannot be read; the labels are not of the images.
    """
    labels = getattr(args, "labels", "")
    if paths:
        items = image_items(cfg, paths)
        return *(label_items(items, labels) if labels else (items, BY_NUMBER)), 0, ""
    if labels:
        raise ValueError("--labels says whom --images or --features show, and a dataset knows: name some of these")
    loader, num_query, name = load_test_images(cfg, args.dataset, evaluated=False)
    return loader.dataset.img_items, loader.dataset.names, num_query, name


def numbers_of(words: Sequence[str]) -> dict[str, int]:
    """Read pairs NAME VALUE.

    Raises:
        ValueError: a value is missing or no whole number.
    """
    numbers = {}
    for name, value in word_pairs(words):
        try:
            numbers[name] = int(value)
        except ValueError:
            raise ValueError(f"{name} is a whole number, got '{value}'") from None
    return numbers


def print_log(level: int = logging.INFO) -> None:
    """Print what the package logs: what is searched for, what is hidden, where an earlier call stopped.

    Args:
        level: of the least that is printed.
    """
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("fastreid_parts").setLevel(level)


@contextlib.contextmanager
def features_for(args: argparse.Namespace, index: Gallery | None, with_queries: bool = False) -> Iterator[FeatureSet]:
    """Take the features that --features, --images or --dataset names.

    Those of images are kept beside the index while they are computed, in a folder of this command's own, so that the
    same command goes on after an interruption; the folder goes when the block has ended without an error.

    Args:
        args: with these, and the options of `add_place` and `add_model_source`.
        index: whose model is used, or None.
        with_queries: of a dataset, take the query images too.

    Raises:
        FileNotFoundError: a folder, a file or an image is not there.
        KeyError: a key does not exist.
        ValueError: features, model, images and index do not fit together.
    """
    if args.features:
        there = load_feature_set(args.features)
        if index is not None:
            index.check_model(there.fingerprint, there.features.features.shape[1])
        yield _labeled(there, getattr(args, "labels", ""))
        return
    paths = list_images(*args.images)
    embedder = load_embedder(args, index)
    items, names, num_query, dataset = items_of(embedder.cfg, args, paths)
    if not with_queries:
        items, num_query = items[num_query:], 0
    folder = work_folder(args)
    logger.info("Features are kept in %s until the command is done", folder)
    request = (embedder.cfg, embedder.model, items, folder, num_query, dataset)
    with locked(folder):
        try:
            there = extract_to_store(*request, names=names)
        except OtherFeaturesError as error:  # the folder is this command's own: nobody misses what is in it
            logger.info("What was kept there is computed again: %s", error)
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(folder, MANIFEST))
            shutil.rmtree(os.path.join(folder, PARTS), ignore_errors=True)
            there = extract_to_store(*request, names=names)
        yield there
        remove_work(args)


def _labeled(there: FeatureSet, labels: str) -> FeatureSet:
    """Take whom stored features show from a table, if it says so; what they say themselves is not changed."""
    _, first = next(iter(read_table(labels, ("path",), None)), (0, {})) if labels else (0, {})
    if "identity" not in first:
        return there
    features = there.features
    items, names = label_items([(path, UNKNOWN, UNKNOWN) for path in features.paths], labels)
    _, pids, camids = (np.array(column) for column in zip(*items))
    own = zip(*names_of(features.pids, features.camids, features.names))
    for path, known, said in zip(features.paths, own, zip(*names_of(pids, camids, names))):
        if any(known) and any(said) and known != said:
            raise ValueError(
                f"the features say that {path} shows '{known[0]}' under '{known[1]}', and '{labels}' says '{said[0]}' "
                f"under '{said[1]}': leave identity and camera out of it, or take the features anew"
            )
    if (features.pids != UNKNOWN).any() or (features.camids != UNKNOWN).any():
        return there
    return replace(there, features=replace(features, pids=pids, camids=camids, names=names))


def request_digest(args: argparse.Namespace, content: bool = True) -> str:
    """Digest what a command on an index was asked for.

    Args:
        args: the command's.
        content: with that of --labels, on which features do not depend.
    """
    asked = {name: value for name, value in vars(args).items() if name not in ("work", "overwrite", "token")}
    if not args.store:
        del asked["store"], asked["collection"]
    if not args.model:
        del asked["model"]  # as in the digests of before it was an option
    if args.features:
        asked["features"] = read_manifest(args.features)["sha256"]  # others may lie there when it is asked again
    labels = getattr(args, "labels", "")
    if content and labels:
        asked["labels"] = file_digest(labels)
    return hashlib.sha256(json.dumps([args.work.__name__, asked], sort_keys=True, default=str).encode()).hexdigest()


def work_folder(args: argparse.Namespace) -> str:
    """Name where a command keeps features while it computes them.

    Each command has its own: who adds holds the index before this folder, who builds holds it after.
    """
    return os.path.join(place_of(args).beside + ".features", request_digest(args, content=False)[:12])


def may_be_unfinished(args: argparse.Namespace) -> bool:
    """Tell whether a build may have been killed after its last change: what it kept goes at the very end."""
    return bool(args.features) or os.path.isdir(os.path.dirname(work_folder(args)))


def remove_work(args: argparse.Namespace) -> None:
    """Remove what a command kept, as far as it is there."""
    folder = work_folder(args)
    if os.path.isdir(folder):
        remove_feature_set(folder)
    with contextlib.suppress(OSError):  # what another command computes, or one that was killed, is in it
        os.rmdir(os.path.dirname(folder))
