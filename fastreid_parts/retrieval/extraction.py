"""Features of image files or of a dataset's test set, into memory or, part by part, into a folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence

import numpy as np
from fastreid.config import CfgNode
from fastreid.utils import comm
from torch import nn
from tqdm import tqdm

from ..data.build import ImageCheckSettings, NamedDataset, build_reid_test_loader
from ..data.checks import Item, check_images
from ..data.image_files import describe_passed_over, find_images
from ..data.loader import loader_workers
from ..data.names import BY_NUMBER, UNKNOWN, Names, columns_of, names_of
from ..data.tables import read_table
from ..data.transforms import build_transforms
from ..evaluation import Features, extract
from ..evaluation.features import device_of
from ..files import file_state, locked
from ..folders import ELSEWHERE
from ..words import count, some_of
from .fingerprint import model_fingerprint
from .manifest import MANIFEST
from .parts import Part, Span, join_parts, load_parts, missing_spans, part_folder, share_of
from .store import FeatureSet, load_feature_set, read_manifest, save_feature_set

logger = logging.getLogger(__name__)

#: Where finished parts lie, in the folder of the set.
PARTS = "parts"
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
        ValueError: no paths; unreadable images under BAD_IMAGES "stop", by name; no readable image; BAD_IMAGES "skip"
            without CHECK_IMAGES.
    """
    if not paths:
        raise ValueError("no images to take features of")
    items: list[Item] = [(path, UNKNOWN, UNKNOWN) for path in dict.fromkeys(paths)]
    checks = ImageCheckSettings.from_cfg(cfg)
    if not checks.check_images:
        return items
    return check_images(items, checks.bad_images, workers=max(1, loader_workers(cfg)))


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
    test_set = NamedDataset(items, build_transforms(cfg, is_train=False), names)
    loader, _ = build_reid_test_loader(cfg, test_set=test_set)
    loader.local_rank = device_of(model).index or loader.local_rank  # without a process group nobody else says it
    return extract(model, loader, flip=cfg.TEST.FLIP.ENABLED)


def extract_to_store(
    cfg: CfgNode,
    model: nn.Module,
    items: Sequence[Item],
    directory: str | os.PathLike,
    num_query: int = 0,
    dataset: str = "",
    half: bool = False,
    part_size: int = 0,
    names: Names = BY_NUMBER,
) -> FeatureSet:
    """Features of many images in a folder, in a way that can be stopped at any moment and goes on where it was.

    Finished parts lie in `directory`/parts until all are there and become one feature set. A call for what is finished
    already computes nothing; while another process works in the folder, it waits. Images are recognized by path,
    identity and camera, and by size and time of their files, models by their fingerprint: what was computed of files
    that changed meanwhile is computed again.

    Args:
        cfg: the model's config.
        model: as in `extract_images`.
        items: (path, identity, camera), query images first; checked, see `image_items`.
        directory: of the feature set; made where it is not there.
        num_query: as in `FeatureSet`.
        dataset: as in `FeatureSet`.
        half: as in `save_feature_set`.
        part_size: images of a part; by default some thousand, in whole batches, see `extract_share`.
        names: what identities and cameras are called.

    Returns:
        The feature set, as `load_feature_set` reads it.

    Raises:
        OtherFeaturesError: the folder holds features of another model or of other images, or a finished set of image
            files that changed since; they are left as they are.
        ValueError: no images; a process group; or as `fastreid_parts.evaluation.extract`.
    """
    work = _Extraction(cfg, model, items, os.fspath(directory), num_query, dataset, half, names)
    # Who only reads waits for nobody
    with contextlib.nullcontext() if work.is_finished() else locked(directory):
        if work.is_finished():
            return work.finished()
        work.compute((0, len(items)), work.parts(), part_size, "images")
        there = work.join()
        assert there is not None, "parts that were just written are gone"
        return there


def extract_share(
    cfg: CfgNode,
    model: nn.Module,
    items: Sequence[Item],
    directory: str | os.PathLike,
    rank: int,
    ranks: int,
    num_query: int = 0,
    dataset: str = "",
    half: bool = False,
    part_size: int = 0,
    names: Names = BY_NUMBER,
) -> FeatureSet | None:
    """Take the share of one of several processes in what `extract_to_store` does, on one machine or on many.

    They share the folder and nothing else: no process waits for another to compute, and who finds that all parts are
    there makes them the feature set, so that one that fails costs its share alone. The bytes are those of one
    process with as many threads on the same kind of device: a share is whole batches of TEST.IMS_PER_BATCH. Any number
    of processes can go on where others stopped.

    Args:
        cfg: see `extract_to_store`.
        model: likewise.
        items: all of them, the same in every process.
        directory: likewise.
        rank: number of this process, from 0.
        ranks: how many there are.
        num_query: likewise.
        dataset: likewise.
        half: likewise.
        part_size: likewise.
        names: likewise.

    Returns:
        The feature set, or None as long as shares of others are missing.

    Raises:
        ValueError: as `extract_to_store`; or there is no such process.
    """
    work = _Extraction(cfg, model, items, os.fspath(directory), num_query, dataset, half, names)
    share = share_of(len(items), max(1, cfg.TEST.IMS_PER_BATCH), rank, ranks)
    if not work.is_finished():
        with locked(directory):  # no parts are joined and removed meanwhile
            done = None if work.is_finished() else work.parts()
        if done is not None:
            work.compute(share, done, part_size, f"images, share {rank + 1} of {ranks}")
            del done
            with locked(directory):
                return work.finished() if work.is_finished() else work.join()
    return work.finished()


class OtherFeaturesError(ValueError):
    """A folder holds features of another model, of other images or of image files that changed since."""


class _Extraction:
    """Features that are to be in a folder; parts of them may be there."""

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        items: Sequence[Item],
        directory: str,
        num_query: int,
        dataset: str,
        half: bool,
        names: Names,
    ) -> None:
        if not items or not 0 <= num_query < len(items):
            raise ValueError(f"{len(items)} images with {num_query} queries: there is no gallery to take features of")
        if comm.get_world_size() > 1:
            raise ValueError("a process group is there, of which a loader gives each process a part: extract without")
        self.cfg, self.model, self.items, self.names = cfg, model, items, names
        self.num_query, self.dataset, self.half = num_query, dataset, half
        self.directory, self.folder = directory, os.path.join(directory, PARTS)
        self.fingerprint, self.config = model_fingerprint(cfg, model), cfg.dump()
        # Before an image is read: one that changes meanwhile is seen to by the next call
        self.files = [file_state(path) for path, *_ in items]

    def is_finished(self) -> bool:
        return os.path.isfile(os.path.join(self.directory, MANIFEST))

    def finished(self) -> FeatureSet:
        """Read the whole.

        Raises:
            OtherFeaturesError: of another model, of other images, or of files that changed since.
            ValueError: stored otherwise.
        """
        manifest, there = read_manifest(self.directory), load_feature_set(self.directory)
        _check_same(self.directory, there, self.fingerprint, self.items, self.names)
        if self.changed(there, (0, len(self.items))):
            raise OtherFeaturesError(
                f"'{self.directory}' holds features of these images as they were before their files changed (size or "
                f"time): {ELSEWHERE}"
            )
        for key, value in {"num_query": self.num_query, "dtype": "float16" if self.half else "float32"}.items():
            if manifest[key] != value:
                raise ValueError(
                    f"'{self.directory}' holds these features with {key} {manifest[key]}, not {value}: {ELSEWHERE}"
                )
        logger.info("%s holds these features already", self.directory)
        shutil.rmtree(self.folder, ignore_errors=True)  # of a call that was killed after its last step
        return there

    def parts(self) -> list[Part]:
        """Read what earlier calls and other processes computed; what is of images that changed since is left out.

        Raises:
            ValueError: of another model or of other images.
        """
        valid = []
        for part in load_parts(self.folder):
            _check_same(self.folder, part.features, self.fingerprint, self.items[part.first : part.end], self.names)
            if self.changed(part.features, (part.first, part.end)):
                logger.warning("A part is computed again: of images %d to %d, files changed", part.first, part.end - 1)
            else:
                valid.append(part)
        return valid

    def state(self, span: Span) -> str:
        """Digest sizes and times of the image files of a span."""
        return hashlib.sha256(json.dumps(self.files[slice(*span)]).encode()).hexdigest()

    def changed(self, there: FeatureSet, span: Span) -> bool:
        return there.state not in ("", self.state(span))

    def compute(self, span: Span, done: Sequence[Part], part_size: int, what: str) -> None:
        """Write what is missing of a span, part by part."""
        batch = max(1, self.cfg.TEST.IMS_PER_BATCH)
        part_size = part_size or max(batch, _PART_SIZE // batch * batch)
        open_spans, total = list(missing_spans(done, span)), span[1] - span[0]
        start = total - sum(end - first for first, end in open_spans)
        if start:
            logger.info("Going on after %d of %d images, whose features are in %s", start, total, self.folder)
        with tqdm(total=total, initial=start, desc=what, unit="image", disable=None) as progress:
            for first, end in open_spans:
                for at in range(first, end, part_size):
                    own = at, min(end, at + part_size)
                    features = extract_items(self.cfg, self.model, self.items[slice(*own)], self.names)
                    part = FeatureSet(features, 0, self.fingerprint, self.config, self.dataset, self.state(own))
                    save_feature_set(part_folder(self.folder, at), part)
                    progress.update(len(features))

    def join(self) -> FeatureSet | None:
        """Make one set of the parts, if all are there; the folder is held."""
        parts = self.parts()
        if left := sum(end - first for first, end in missing_spans(parts, (0, len(self.items)))):
            logger.info("%s of other processes missing in %s as yet", count(left, "image"), self.folder)
            return None
        features = join_parts(parts)
        del parts  # a second copy of all features, part of it mapped from the files that are removed below
        state = self.state((0, len(self.items)))
        whole = FeatureSet(features, self.num_query, self.fingerprint, self.config, self.dataset, state)
        save_feature_set(self.directory, whole, half=self.half)
        shutil.rmtree(self.folder, ignore_errors=True)  # another call may have seen that all is there
        return load_feature_set(self.directory)


def _check_same(folder: str, there: FeatureSet, fingerprint: str, items: Sequence[Item], names: Names) -> None:
    if there.fingerprint != fingerprint:
        raise OtherFeaturesError(
            f"'{folder}' holds features of another model or of other settings of it (fingerprint "
            f"{there.fingerprint[:12]}, now {fingerprint[:12]}): {ELSEWHERE}"
        )
    features = there.features
    known = list(zip(features.paths, *names_of(features.pids, features.camids, features.names)))
    paths, pids, camids = zip(*(item[:3] for item in items)) if items else ((), (), ())
    if known != list(zip(paths, *names_of(np.array(pids), np.array(camids), names))):
        raise OtherFeaturesError(
            f"'{folder}' holds features of other images ({len(known)}, the first is {known[0][0]}): {ELSEWHERE}"
        )
