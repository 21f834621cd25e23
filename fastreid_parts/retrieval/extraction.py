"""Features of image files or of a dataset's test set, into memory or, part by part, into a folder."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastreid.config import CfgNode
from fastreid.data.common import CommDataset
from torch import nn
from tqdm import tqdm

from ..data.build import build_reid_test_loader
from ..data.checks import Item, check_images
from ..data.image_files import describe_passed_over, find_images
from ..data.loader import loader_workers
from ..data.names import BY_NUMBER, UNKNOWN, Names, columns_of, names_of
from ..data.tables import read_table
from ..data.transforms import build_transforms
from ..evaluation import Features, extract
from ..files import locked
from ..folders import ELSEWHERE
from ..words import count, some_of
from .fingerprint import model_fingerprint
from .manifest import MANIFEST
from .store import FeatureSet, load_feature_set, read_manifest, save_feature_set

logger = logging.getLogger(__name__)

_PARTS = "parts"
_PART_SIZE = 4096  # images: some seconds to some minutes of work that a kill can lose


def list_images(*places: str | os.PathLike) -> list[str]:
    """List image files: those that are named, and those in folders and the folders below them, each folder sorted.

    What is passed over in a folder is logged, by reason; a folder that links lead to in several ways is read once.

    Raises:
        FileNotFoundError: there is neither a file nor a folder, or the folder holds no image.
    """
    if len(places) != 1:
        return [path for place in places for path in list_images(place)]
    path = os.fspath(places[0])
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise FileNotFoundError(f"there is neither an image nor a folder '{path}'")
    found, passed_over = find_images(path, deep=True)
    for line in describe_passed_over(passed_over):
        logger.warning("%s: %s", path, line)
    if not found:
        raise FileNotFoundError(f"the folder '{path}' holds no image of a format that Pillow reads")
    return [os.path.join(path, name) for name in found]


def image_items(cfg: CfgNode, paths: Sequence[str]) -> list[Item]:
    """List image files as items of a dataset, identity and camera `UNKNOWN`, each path once.

    Where DATALOADER.CHECK_IMAGES is set every image is decoded once, and DATALOADER.BAD_IMAGES says what becomes of
    those that cannot be read.

    Args:
        cfg: its DATALOADER section says how images are checked.
        paths: image files.

    Raises:
        ValueError: no paths; unreadable images under BAD_IMAGES "stop", by name; no readable image.
    """
    if not paths:
        raise ValueError("no images to take features of")
    items: list[Item] = [(path, UNKNOWN, UNKNOWN) for path in dict.fromkeys(paths)]
    if not cfg.DATALOADER.CHECK_IMAGES:
        return items
    return check_images(items, cfg.DATALOADER.BAD_IMAGES, workers=max(1, loader_workers(cfg)))


def label_items(items: Sequence[Item], table: str | os.PathLike) -> tuple[list[Item], Names]:
    """Take identities and cameras of images from a table; how many it does not name is logged.

    Args:
        items: (path, identity, camera).
        table: with the columns path, identity and, where it is known, camera; paths start at the table's folder.

    Returns:
        The items with their numbers, and what these are called.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: it is no such table, names an image twice, or names none of these images.
    """
    labels: dict[str, tuple[str, str]] = {}
    for line, row in read_table(table, ("path", "identity"), ("camera",)):
        path = os.path.realpath(os.path.join(os.path.dirname(table), row["path"]))
        label = ("", "") if row["identity"] == str(UNKNOWN) else (row["identity"], row["camera"])
        if labels.setdefault(path, label) != label:
            raise ValueError(f"'{table}', line {line}: {row['path']} is there already, with other labels")
    places = [os.path.realpath(item[0]) for item in items]
    named = sum(place in labels for place in places)
    if not named:
        raise ValueError(f"'{table}' names none of the {count(len(items), 'image')}: its paths start at its own folder")
    logger.info("%s names %d of %s", table, named, count(len(items), "image"))
    if left := sorted(labels.keys() - set(places)):
        logger.warning("%s: %s not among the images: %s", table, count(len(left), "row"), some_of(left))
    columns = [labels.get(place, ("", "")) for place in places]
    pids, camids, names = columns_of([identity for identity, _ in columns], [camera for _, camera in columns])
    return [(item[0], *numbers) for item, *numbers in zip(items, pids.tolist(), camids.tolist())], names


def extract_images(cfg: CfgNode, model: nn.Module, paths: Sequence[str]) -> Features:
    """Features of image files, as a test with this config takes them: test size, TEST.FLIP.

    Args:
        cfg: the model's config.
        model: any fast-reid meta-architecture, on the device that is to compute.
        paths: image files; see `list_images`.

    Returns:
        Features (N, D), identities and cameras `UNKNOWN`; N is less than the number of paths where a path comes twice
        or unreadable images are skipped.

    Raises:
        ValueError: as `image_items` and `fastreid_parts.evaluation.extract`.
    """
    return extract_items(cfg, model, image_items(cfg, paths))


def extract_items(cfg: CfgNode, model: nn.Module, items: Sequence[Item], names: Names = BY_NUMBER) -> Features:
    """Extract features of images of which identity and camera are known.

    Args:
        cfg: the model's config.
        model: with its weights.
        items: (path, identity, camera), the last two as numbers.
        names: what these are called.

    Raises:
        ValueError: as `fastreid_parts.evaluation.extract`.
    """
    test_set = CommDataset(list(items), build_transforms(cfg, is_train=False), relabel=False)
    test_set.names = names
    loader, _ = build_reid_test_loader(cfg, test_set=test_set)
    return extract(model, loader, flip=cfg.TEST.FLIP.ENABLED)


def extract_to_store(
    cfg: CfgNode,
    model: nn.Module,
    items: Sequence[Item],
    directory: str | os.PathLike,
    num_query: int = 0,
    dataset: str = "",
    half: bool = False,
    part_size: int = _PART_SIZE,
    names: Names = BY_NUMBER,
) -> FeatureSet:
    """Features of many images in a folder, in a way that can be stopped at any moment and goes on where it was.

    Finished parts lie in `directory`/parts until all are there and become one feature set. A call for what is finished
    already computes nothing; while another process works in the folder, it waits. Images are recognized by path,
    identity and camera, models by their fingerprint.

    Args:
        cfg: the model's config.
        model: as in `extract_images`.
        items: (path, identity, camera), query images first; checked, see `image_items`.
        directory: of the feature set; made where it is not there.
        num_query: as in `FeatureSet`.
        dataset: as in `FeatureSet`.
        half: as in `save_feature_set`.
        part_size: images of a part.
        names: what identities and cameras are called.

    Returns:
        The feature set, as `load_feature_set` reads it.

    Raises:
        ValueError: the folder holds features of another model or of other images, which are left as they are; no
            images; or as `fastreid_parts.evaluation.extract`.
    """
    directory = os.fspath(directory)
    if not items or not 0 <= num_query < len(items):
        raise ValueError(f"{len(items)} images with {num_query} queries: there is no gallery to take features of")
    fingerprint = model_fingerprint(cfg, model)
    expected = {"num_query": num_query, "dtype": "float16" if half else "float32"}  # of the manifest
    manifest = os.path.join(directory, MANIFEST)
    with contextlib.nullcontext() if os.path.isfile(manifest) else locked(directory):  # who only reads waits for nobody
        if os.path.isfile(manifest):
            return _finished(directory, fingerprint, items, names, expected)
        parts = os.path.join(directory, _PARTS)
        done = _finished_parts(parts, fingerprint, items, names)
        start = sum(len(part.features) for part in done)
        if start:
            logger.info("Going on after %d of %d images, whose features are in %s", start, len(items), parts)
        config = cfg.dump()
        with tqdm(total=len(items), initial=start, desc="images", unit="image", disable=None) as progress:
            for first in range(start, len(items), part_size):
                features = extract_items(cfg, model, items[first : first + part_size], names)
                part = FeatureSet(features, 0, fingerprint, config, dataset)
                save_feature_set(_part_folder(parts, first), part)
                done.append(part)
                progress.update(len(features))
        features = Features.concatenate([part.features for part in done])
        del done  # a second copy of all features, part of it mapped from the files that are removed below
        save_feature_set(directory, FeatureSet(features, num_query, fingerprint, config, dataset), half=half)
        shutil.rmtree(parts, ignore_errors=True)  # another call may have seen that all is there
        return load_feature_set(directory)


def _finished(
    directory: str, fingerprint: str, items: Sequence[Item], names: Names, expected: dict[str, Any]
) -> FeatureSet:
    manifest, there = read_manifest(directory), load_feature_set(directory)
    _check_same(directory, there, fingerprint, items, names)
    for key, value in expected.items():
        if manifest[key] != value:
            raise ValueError(f"'{directory}' holds these features with {key} {manifest[key]}, not {value}: {ELSEWHERE}")
    logger.info("%s holds these features already", directory)
    shutil.rmtree(os.path.join(directory, _PARTS), ignore_errors=True)  # of a call that was killed after its last step
    return there


def _finished_parts(parts: str, fingerprint: str, items: Sequence[Item], names: Names) -> list[FeatureSet]:
    """Read what earlier calls computed of the first images, without a gap.

    Raises:
        ValueError: of another model or of other images.
    """
    done: list[FeatureSet] = []
    first = 0
    while os.path.isdir(_part_folder(parts, first)):
        folder = _part_folder(parts, first)
        try:
            part = load_feature_set(folder)
        except ValueError as error:
            if os.path.isfile(os.path.join(folder, MANIFEST)):
                logger.warning("A part is computed again: %s", error)
            break
        _check_same(parts, part, fingerprint, items[first : first + len(part.features)], names)
        done.append(part)
        first += len(part.features)
    return done


def _check_same(folder: str, there: FeatureSet, fingerprint: str, items: Sequence[Item], names: Names) -> None:
    if there.fingerprint != fingerprint:
        raise ValueError(
            f"'{folder}' holds features of another model or of other settings of it (fingerprint "
            f"{there.fingerprint[:12]}, now {fingerprint[:12]}): {ELSEWHERE}"
        )
    features = there.features
    known = list(zip(features.paths, *names_of(features.pids, features.camids, features.names)))
    paths, pids, camids = zip(*(item[:3] for item in items)) if items else ((), (), ())
    if known != list(zip(paths, *names_of(np.array(pids), np.array(camids), names))):
        raise ValueError(
            f"'{folder}' holds features of other images ({len(known)}, the first is {known[0][0]}): {ELSEWHERE}"
        )


def _part_folder(parts: str, first: int) -> str:
    return os.path.join(parts, f"{first:09d}")
