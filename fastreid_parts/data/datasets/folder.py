"""FolderReID: a user's own images, as folders or as a table."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fastreid.config import CfgNode
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset

from ...settings import Settings, key
from ...words import count, first_few, some_of
from ..checks import Item, evaluation_problem, unmatched_queries, unmatched_warning
from ..image_files import BELOW, UNOPENED, describe_passed_over, find_images
from ..names import Names, number_cameras, number_identities
from ..tables import read_table
from .market_naming import JUNK, parse_market_name

logger = logging.getLogger(__name__)

SPLITS = ("train", "query", "gallery")
COLUMNS = ("path", "identity", "camera", "split")
_FOLDERS = {
    "train": ("bounding_box_train", "train"),
    "query": ("query",),
    "gallery": ("bounding_box_test", "gallery"),
}
_SPLIT_FOLDERS = {name for spellings in _FOLDERS.values() for name in spellings}
_OTHER_SPLITS = ("test", "testing", "training", "val", "valid", "validation", "probe")
_DISTRACTOR = "0"  # in Market naming: gallery boxes of people who are in no query, not one person
_CAMERA = re.compile(r"(?:^|[^a-z0-9])c(?:am|amera)?[ _-]?(\d+)", re.IGNORECASE)
_NO_CAMERA = "unknown"
_SET_NAME = re.compile(r"[\w.-]+")


class FolderSettings(Settings, section="DATASETS.FOLDER"):
    """FolderReID, images of one's own. A list names several sets, each `name=path` or by its path: FolderReID:name."""

    root: str | tuple[str, ...] = key(
        "", "a folder of images, or the folder that paths of the table start from; or several", several=True
    )
    csv: str | tuple[str, ...] = key(
        "", "a table with the columns path, identity, camera, split; or several", several=True
    )


@dataclass(frozen=True)
class Row:
    """One image: where its entry stands (for messages), its file, its identity's and its camera's name.

    `numbered` says that both are of the file's name, as in Market-1501, where identity 0 is no person.
    """

    where: str
    path: str
    identity: str
    camera: str
    split: str
    numbered: bool = False

    @property
    def distractor(self) -> bool:
        """Whether it shows a person who is in no query."""
        return self.numbered and self.identity == _DISTRACTOR

    @property
    def trained_as(self) -> str:
        """What it is called in training: the numbers of the test may be given again, to others."""
        return f"test_{self.identity}" if self.numbered and self.split != "train" else self.identity


@dataclass
class Listing:
    """The usable rows of a dataset, what is wrong with it, and what of it is not read.

    `problems` prevent its use, `unfit` its evaluation, `warnings` neither.
    """

    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unfit: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    passed_over: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def of(self, split: str) -> list[Row]:
        """Give the rows of one split."""
        return [row for row in self.rows if row.split == split]

    def identity_numbers(self) -> dict[str, int]:
        """Number each test identity, see `number_identities`."""
        return number_identities(row.identity for row in self.rows if row.split != "train")

    def camera_numbers(self) -> dict[str, int]:
        """Number the cameras over all splits, see `number_cameras`."""
        return number_cameras(row.camera for row in self.rows)

    def training_items(self, prefix: str, rows: Iterable[Row] | None = None) -> list[Item]:
        """List images for training, each once and without distractors: (path, identity, camera).

        Args:
            prefix: of identities and cameras, so that those of several datasets stay apart.
            rows: by default those of the split.
        """
        cameras = self.camera_numbers()
        images: dict[str, Row] = {}
        for row in self.of("train") if rows is None else rows:
            if not row.distractor:
                images.setdefault(os.path.abspath(row.path), row)
        return [(row.path, f"{prefix}{row.trained_as}", f"{prefix}{cameras[row.camera]}") for row in images.values()]

    def items(self, prefix: str) -> dict[str, list[Item]]:
        """List the rows as fast-reid's datasets do: {split: [(path, identity, camera)]}.

        Args:
            prefix: of training identities and cameras, which are strings; elsewhere they are integers.
        """
        identities, cameras = self.identity_numbers(), self.camera_numbers()
        test = {
            split: [(row.path, identities[row.identity], cameras[row.camera]) for row in self.of(split)]
            for split in ("query", "gallery")
        }
        return {"train": self.training_items(prefix), **test}


@DATASET_REGISTRY.register()
class FolderReID(ImageDataset):
    """A user's own images.

    Either `root` is a folder with `bounding_box_train` (or `train`), `query` and `bounding_box_test` (or `gallery`). In
    each, images are named `<identity>_c<camera>...`, where identity 0 marks distractors of the gallery; or every
    subfolder is an identity, and `c3` or `cam3` in the path of an image its camera. A folder without any of the three
    is one of training images. Or `csv` is a table with the columns path, identity, camera, split, in any order, where
    split is train, query or gallery, and identity and camera are any text; relative paths start at `root`, or without
    one at the table's folder. An image may be a query and in the gallery. In all, images of identity -1 are junk and
    are ignored. Every format that Pillow reads is read. What an evaluation needs is asked by who evaluates: training
    images alone can be trained on.

    Args:
        root: the folder.
        csv: the table.
        name: of one of several sets, whose training identities and cameras are kept apart from others'.
        kwargs: passed on to fast-reid's ImageDataset.

    Attributes:
        identity_names: {number: name} of the test identities.
        camera_names: {number: name} of the cameras.
        names: both, where they are not the numbers themselves.

    Raises:
        FileNotFoundError: the folder or table is not there.
        ValueError: neither is given, or its content is wrong; the message names the first bad rows or files.
    """

    dataset_name = "folder"
    _junk_pids = [JUNK]

    def __init__(self, root: str = "", csv: str = "", name: str = "", **kwargs: Any) -> None:
        listing = list_images_of(root, csv)
        if listing.problems:
            raise ValueError(f"{csv or root}: {count(len(listing.problems), 'problem')}\n{first_few(listing.problems)}")
        for warning in [*listing.warnings, *describe_passed_over(listing.passed_over)]:
            _warn(f"{csv or root}: {warning}")
        self.root = root
        self._listing, self._prefix = listing, f"{self.dataset_name}:{name}:" if name else f"{self.dataset_name}_"
        identities, cameras = listing.identity_numbers(), listing.camera_numbers()
        self.identity_names = {number: name for name, number in identities.items()}
        self.camera_names = {number: name for name, number in cameras.items()}
        self.names = Names.of(identities, cameras)
        items = listing.items(self._prefix)
        super().__init__(items["train"], items["query"], items["gallery"], **kwargs)

    def combine_all(self) -> None:
        """Train on all three splits, each image once, without distractors; a name is one person in all of them."""
        rows = [row for split in SPLITS for row in self._listing.of(split)]
        self._train = self._listing.training_items(self._prefix, rows)

    @classmethod
    def from_config(cls, cfg: CfgNode, root: str, name: str = "", **kwargs: Any) -> FolderReID:
        """The dataset that DATASETS.FOLDER.ROOT and DATASETS.FOLDER.CSV name.

        Args:
            cfg: a config with the plugin's keys.
            root: the datasets folder, in which a relative path is looked up that the working directory lacks.
            name: which of several, as in FolderReID:name.
            kwargs: passed on to fast-reid's ImageDataset.

        Raises:
            ValueError, FileNotFoundError: as the class does, or no set or several have the name.
        """
        sets = named_sets(cfg)
        if not name and len(sets) > 1:
            raise ValueError(f"DATASETS.FOLDER names several sets: write {' or '.join(_full(known) for known in sets)}")
        if name and name not in sets:
            known = ", ".join(_full(known) for known in sets) or "none"
            raise ValueError(f"DATASETS.FOLDER names no set '{name}', but {known}")
        places = sets[name] if name else next(iter(sets.values()), {})
        return cls(**{what: _located(place, root) for what, place in places.items()}, name=name, **kwargs)


@functools.cache
def _warn(line: str) -> None:
    """Say it once, and not at each evaluation again."""
    logger.warning(line)


def named_sets(cfg: CfgNode) -> dict[str, dict[str, str]]:
    """Name the sets of DATASETS.FOLDER: {name: {"root": folder, "csv": table}}, one of the two or both.

    A single folder and a single table, which are no lists, are one set.

    Raises:
        ValueError: a name is given twice, or cannot be one.
    """
    given = FolderSettings.from_cfg(cfg).as_dict()
    if all(isinstance(places, str) for places in given.values()):
        places = {what: place for what, place in given.items() if place}
        return {_default_name(given["csv"] or given["root"]): places} if places else {}
    sets: dict[str, dict[str, str]] = defaultdict(dict)
    for what, entries in given.items():
        for entry in [entries] if isinstance(entries, str) else map(str, entries):
            name, equals, place = entry.partition("=")
            if not equals or not _SET_NAME.fullmatch(name):
                name, place = _default_name(entry), entry
            if not place:
                continue
            if not _SET_NAME.fullmatch(name):
                raise ValueError(f"DATASETS.FOLDER.{what.upper()}: give '{entry}' a name, as in shop={place}")
            if what in sets[name]:
                raise ValueError(
                    f"DATASETS.FOLDER.{what.upper()} gives the name {name} twice, to {sets[name][what]} and {place}: "
                    f"write name={place} with another name"
                )
            sets[name][what] = place
    return dict(sets)


def list_images_of(root: str = "", csv: str = "") -> Listing:
    """List and validate a user's images; `root` and `csv` are FolderReID's.

    Args:
        root: see FolderReID.
        csv: see FolderReID.

    Returns:
        The usable rows, every problem and warning, and what is not read.

    Raises:
        FileNotFoundError: the folder or table is not there.
        ValueError: neither is given, or the table is no text or lacks a column.
    """
    if not root and not csv:
        raise ValueError("FolderReID needs a folder or a table: set DATASETS.FOLDER.ROOT or DATASETS.FOLDER.CSV")
    if root and not os.path.isdir(root):
        raise FileNotFoundError(f"DATASETS.FOLDER.ROOT: there is no folder {os.path.abspath(root)}")
    if csv and not os.path.isfile(csv):
        raise FileNotFoundError(f"DATASETS.FOLDER.CSV: there is no file {os.path.abspath(csv)}")
    listing = _list_table(csv, root or os.path.dirname(csv)) if csv else _list_folder(root)
    if not listing.problems:
        _check_splits(listing)
    return listing


# ---- folders ------------------------------------------------------------------------------------------------------


def _list_folder(root: str) -> Listing:
    listing = Listing()
    any_split = False
    below = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    strange = [name for name in below if name.lower() in _OTHER_SPLITS]
    for split, spellings in _FOLDERS.items():
        folders = [name for name in below if name.lower() in spellings]
        any_split |= bool(folders)
        if len(folders) > 1:
            listing.problems.append(f"both {folders[0]} and {folders[1]} are there; only one can be the {split} split")
        elif folders:
            _list_split(listing, root, folders[0], split)
    wanted = ", ".join(" or ".join(spellings) for spellings in _FOLDERS.values())
    hint = "" if any_split else _split_folders_below(root)
    if any_split:
        _pass_over_the_rest(listing, root)
    elif strange:
        listing.problems.append(f"no split is called {' or '.join(strange)}: the folders are {wanted}")
    elif not hint:
        _list_split(listing, root, "", "train")
        if listing.rows:
            listing.warnings.append(f"none of the folders {wanted} is there: all images are taken for training")
    if not listing.rows and not listing.problems:
        where = f"; {hint} has them: name that one" if hint else ""
        listing.problems.append(f"no images in the folders {wanted} below {os.path.abspath(root)}{where}")
    for split in ("train", "query"):
        out = sum(row.distractor for row in listing.of(split))
        if out:
            listing.warnings.append(
                f"{count(out, split + ' image')} of identity {_DISTRACTOR} left out: distractors are not one person"
            )
            listing.rows = [row for row in listing.rows if not (row.split == split and row.distractor)]
    splits_of_name: dict[str, list[str]] = defaultdict(list)
    for row in listing.rows:
        splits_of_name[row.where.partition(os.sep)[2]].append(row.split)
    twice = [f"{name} ({' and '.join(splits)})" for name, splits in splits_of_name.items() if len(splits) > 1]
    if twice:
        listing.warnings.append(f"{count(len(twice), 'file name')} in more than one split: {some_of(twice)}")
    return listing


def _list_split(listing: Listing, root: str, folder: str, split: str) -> None:
    """Add the images of one split: Market naming where they lie in the folder itself, else a subfolder an identity."""
    place = os.path.join(root, folder)
    images, passed_over = find_images(place)
    by_subfolder = not images
    if by_subfolder:
        images, passed_over = find_images(place, deep=True)
    for reason, names in passed_over.items():
        listing.passed_over[reason] += [os.path.join(folder, name) for name in names]
    without_camera, deeper = 0, set()
    for name in images:
        where = os.path.join(folder, name)
        if by_subfolder:
            identity, _, rest = name.partition(os.sep)
            camera = _CAMERA.search(rest)
            without_camera += camera is None
            if os.sep in rest and not _CAMERA.search(os.path.dirname(rest)):
                deeper.add(os.path.dirname(where))
            found = (identity, str(int(camera.group(1))) if camera else _NO_CAMERA)
        elif (parsed := parse_market_name(name)) is not None:
            found = (str(parsed[0]), str(parsed[1]))
        else:
            listing.problems.append(
                f"{where}: the name does not start with <identity>_c<camera>, like 0012_c3_, and the image is not in a "
                "subfolder that names an identity"
            )
            continue
        if found[0] == str(JUNK):
            listing.passed_over[f"junk, of identity {JUNK}"].append(where)
            continue
        listing.rows.append(Row(where, os.path.join(root, where), *found, split, numbered=not by_subfolder))
    if deeper:
        listing.warnings.append(
            f"{count(len(deeper), 'folder')} below that of an identity named by no camera, its images taken as of that "
            f"identity: {some_of(sorted(deeper))}"
        )
    if without_camera:
        listing.warnings.append(
            f"{count(without_camera, split + ' image')} without a camera in the name, like 0017_c3.jpg or cam3/17.jpg: "
            f"they count as of one camera, '{_NO_CAMERA}'"
        )


def _pass_over_the_rest(listing: Listing, root: str) -> None:
    """Name the images that lie beside the folders of the splits."""
    beside, passed_over = find_images(root)
    beside += [name for name in passed_over.get(BELOW, ()) if name.split(os.sep)[0].lower() not in _SPLIT_FOLDERS]
    listing.passed_over["an image beside the folders of the splits"] += beside
    for reason, names in passed_over.items():
        if reason.startswith(UNOPENED):
            listing.passed_over[reason] += names


def _split_folders_below(root: str) -> str:
    """A folder directly below that has what `root` lacks; empty where there is none."""
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if entry.is_dir() and any(os.path.isdir(os.path.join(entry.path, name)) for name in _SPLIT_FOLDERS):
            return entry.path
    return ""


# ---- a table ------------------------------------------------------------------------------------------------------


def _list_table(csv: str, start: str) -> Listing:
    listing = Listing()
    first_of: dict[str, dict[str, tuple[int, dict[str, str]]]] = {}
    for line, values in read_table(csv, COLUMNS):
        path = os.path.join(start, values["path"])
        complaint = _complaint(values, path) or _seen_before(first_of, line, values, path)
        if complaint:
            listing.problems.append(f"line {line}: {complaint}")
        elif values["identity"] == str(JUNK):
            listing.passed_over[f"junk, of identity {JUNK}"].append(values["path"])
        else:
            listing.rows.append(Row(f"line {line}", path, values["identity"], values["camera"], values["split"]))
    if not listing.rows and not listing.problems:
        listing.problems.append("the table has no rows")
    spellings: dict[str, set[str]] = defaultdict(set)
    for row in listing.rows:
        if row.identity.isdecimal():
            spellings[row.identity.lstrip("0")].add(row.identity)
    alike = [" and ".join(sorted(names)) for names in spellings.values() if len(names) > 1]
    if alike:
        listing.warnings.append(f"identities that differ in zeros alone are different people: {some_of(alike)}")
    return listing


def _complaint(values: dict[str, str], path: str) -> str:
    """What is wrong with one row of a table; empty where nothing is."""
    empty = [column for column in COLUMNS if not values[column]]
    if empty:
        return f"{' and '.join(empty)} empty"
    if values["split"] not in SPLITS:
        return f"unknown split '{values['split']}'; it is one of {', '.join(SPLITS)}"
    if not os.path.isfile(path):
        return f"no file {path}"
    return ""


def _seen_before(
    first_of: dict[str, dict[str, tuple[int, dict[str, str]]]], line: int, values: dict[str, str], path: str
) -> str:
    """What is wrong with one more row of an image, which may be a query and in the gallery; empty where nothing is."""
    known = first_of.setdefault(os.path.normcase(os.path.abspath(path)), {})
    before = next(iter(known.values()), None)
    if before is not None and ("train" in (*known, values["split"]) or values["split"] in known):
        return f"{values['path']} is listed already in line {before[0]}"
    if before is not None and any(before[1][name] != values[name] for name in ("identity", "camera")):
        return f"{values['path']} has another identity or camera than in line {before[0]}"
    known[values["split"]] = (line, values)
    return ""


# ---- both ---------------------------------------------------------------------------------------------------------


def _check_splits(listing: Listing) -> None:
    """What shows only in all rows together."""
    query, gallery = (
        [(row.where, row.identity, row.camera) for row in listing.of(split)] for split in ("query", "gallery")
    )
    if query or gallery:
        if problem := evaluation_problem(query, gallery):
            listing.unfit.append(problem)
        elif unmatched := unmatched_queries(query, gallery):
            listing.warnings.append(unmatched_warning(unmatched, len(query)))
    tested = {item[1] for item in query + gallery}
    both = {row.identity: None for row in listing.of("train") if row.identity in tested}
    if both:
        listing.warnings.append(
            f"{count(len(both), 'identity', 'identities')} in training and in the test, which makes the result too "
            f"good: {some_of(both)}"
        )


def _default_name(path: str) -> str:
    return re.sub(r"\.csv$", "", os.path.basename(os.path.normpath(path)), flags=re.IGNORECASE)


def _full(name: str) -> str:
    return f"{FolderReID.__name__}:{name}"


def _located(path: str, below: str) -> str:
    """`path` as it is where that exists, else below the datasets folder where that exists."""
    moved = os.path.join(below, path)
    return moved if path and not os.path.exists(path) and os.path.exists(moved) else path
