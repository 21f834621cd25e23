"""FolderReID: a user's own images, as a folder in Market-1501 naming or as a table."""

from __future__ import annotations

import csv as csv_format
import logging
import os
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from fastreid.config import CfgNode
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset

from ...settings import Settings, key
from ..checks import Item, first_few, some_of, unmatched_queries, unmatched_warning
from .market_naming import JUNK, list_images, parse_market_name

logger = logging.getLogger(__name__)

SPLITS = ("train", "query", "gallery")
COLUMNS = ("path", "identity", "camera", "split")
_FOLDERS = {
    "train": ("bounding_box_train", "train"),
    "query": ("query",),
    "gallery": ("bounding_box_test", "gallery"),
}
_DISTRACTOR = "0"  # in Market naming: gallery boxes of people who are in no query, not one person


class FolderSettings(Settings, section="DATASETS.FOLDER"):
    """FolderReID, images of one's own."""

    root: str = key("", "a folder in Market-1501 naming, or the folder that paths of the table start from")
    csv: str = key("", "a table with the columns path, identity, camera, split")


@dataclass(frozen=True)
class Row:
    """One image: where its entry stands (for messages), its file, its identity's and its camera's name."""

    where: str
    path: str
    identity: str
    camera: str
    split: str


@dataclass
class Listing:
    """The usable rows of a dataset and what is wrong with it; `problems` prevent its use, `warnings` do not."""

    numbered: bool  # identities are the numbers in the file names; else any text
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def of(self, split: str) -> list[Row]:
        """Give the rows of one split."""
        return [row for row in self.rows if row.split == split]

    def identity_numbers(self) -> dict[str, int]:
        """Number each test identity, as in the file names, or by its place from 1 when sorted."""
        names = {row.identity for row in self.rows if row.split != "train"}
        if self.numbered:
            return {name: int(name) for name in names}
        return {name: number for number, name in enumerate(sorted(names), start=1)}

    def camera_numbers(self) -> dict[str, int]:
        """Number the cameras over all splits, from 0: c3 in a file name is 2; names in a table count in their order."""
        if self.numbered and all(row.camera != "0" for row in self.rows):
            return {row.camera: int(row.camera) - 1 for row in self.rows}
        names = sorted({row.camera for row in self.rows}, key=lambda c: (int(c) if c.isdecimal() else -1, c))
        return {name: number for number, name in enumerate(names)}

    def items(self, prefix: str) -> dict[str, list[Item]]:
        """List the rows as fast-reid's datasets do: {split: [(path, identity, camera)]}.

        Training identities and cameras are strings that start with `prefix`; elsewhere they are integers.
        """
        identities, cameras = self.identity_numbers(), self.camera_numbers()
        train: list[Item] = [
            (row.path, f"{prefix}_{row.identity}", f"{prefix}_{cameras[row.camera]}") for row in self.of("train")
        ]
        test = {
            split: [(row.path, identities[row.identity], cameras[row.camera]) for row in self.of(split)]
            for split in ("query", "gallery")
        }
        return {"train": train, **test}


@DATASET_REGISTRY.register()
class FolderReID(ImageDataset):
    """A user's own images.

    Either `root` is a folder with `bounding_box_train` (or `train`), `query` and `bounding_box_test` (or
    `gallery`), whose images (.jpg .jpeg .png .bmp .webp) are named `<identity>_c<camera>...`; identity 0 marks
    distractors of the gallery. Or `csv` is a table with the columns path, identity, camera, split, in any order,
    where split is train, query or gallery, and identity and camera are any text; relative paths start at `root`,
    or without one at the table's folder. In both, images of identity -1 are junk and are ignored. Training
    images alone, or query and gallery alone, are enough for training or evaluation alone.

    Args:
        root: the folder.
        csv: the table.
        kwargs: passed on to fast-reid's ImageDataset.

    Attributes:
        identity_names: {number: name} of the test identities.
        camera_names: {number: name} of the cameras.

    Raises:
        FileNotFoundError: the folder or table is not there.
        ValueError: neither is given, or its content is wrong; the message names the first bad rows or files.
    """

    dataset_name = "folder"
    _junk_pids = [JUNK]

    def __init__(self, root: str = "", csv: str = "", **kwargs: Any) -> None:
        listing = list_images_of(root, csv)
        if listing.problems:
            raise ValueError(f"{csv or root}: {len(listing.problems)} problems\n{first_few(listing.problems)}")
        for warning in listing.warnings:
            logger.warning("%s: %s", csv or root, warning)
        self.root = root
        self.identity_names = {number: name for name, number in listing.identity_numbers().items()}
        self.camera_names = {number: name for name, number in listing.camera_numbers().items()}
        items = listing.items(self.dataset_name)
        super().__init__(items["train"], items["query"], items["gallery"], **kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode, root: str, **kwargs: Any) -> FolderReID:
        """The dataset that DATASETS.FOLDER.ROOT and DATASETS.FOLDER.CSV name.

        Args:
            cfg: a config with the plugin's keys.
            root: the datasets folder, in which a relative path is looked up that the working directory lacks.
            kwargs: passed on to fast-reid's ImageDataset.

        Raises:
            ValueError, FileNotFoundError: as the class does.
        """
        there = FolderSettings.from_cfg(cfg)
        return cls(root=_located(there.root, root), csv=_located(there.csv, root), **kwargs)


def list_images_of(root: str = "", csv: str = "") -> Listing:
    """List and validate a user's images; `root` and `csv` are FolderReID's.

    Args:
        root: see FolderReID.
        csv: see FolderReID.

    Returns:
        The usable rows, and every problem and warning.

    Raises:
        FileNotFoundError: the folder or table is not there.
        ValueError: neither is given, or the table is no text.
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


def _list_folder(root: str) -> Listing:
    listing = Listing(numbered=True)
    distractors = {"train": 0, "query": 0}
    splits_of_name: dict[str, list[str]] = defaultdict(list)
    for split, spellings in _FOLDERS.items():
        folders = [name for name in spellings if os.path.isdir(os.path.join(root, name))]
        if len(folders) > 1:
            listing.problems.append(f"both {folders[0]} and {folders[1]} are there; only one can be the {split} split")
        for name in list_images(os.path.join(root, folders[0])) if len(folders) == 1 else []:
            where = f"{folders[0]}/{name}"
            parsed = parse_market_name(name)
            if parsed is None:
                listing.problems.append(f"{where}: the name does not start with <identity>_c<camera>, like 0012_c3_")
                continue
            identity, camera = str(parsed[0]), str(parsed[1])
            if identity == str(JUNK):
                continue
            if identity == _DISTRACTOR and split in distractors:
                distractors[split] += 1
                continue
            splits_of_name[name].append(split)
            listing.rows.append(Row(where, os.path.join(root, folders[0], name), identity, camera, split))
    if not listing.rows and not listing.problems:
        wanted = ", ".join(" or ".join(spellings) for spellings in _FOLDERS.values())
        listing.problems.append(f"no images in the folders {wanted} below {os.path.abspath(root)}")
    for split, count in distractors.items():
        if count:
            listing.warnings.append(f"{count} {split} images of identity 0 left out: distractors are not one person")
    twice = [f"{name} ({' and '.join(splits)})" for name, splits in splits_of_name.items() if len(splits) > 1]
    if twice:
        listing.warnings.append(f"{len(twice)} file names stand in more than one split: {some_of(twice)}")
    return listing


def _list_table(csv: str, start: str) -> Listing:
    listing = Listing(numbered=False)
    first_line_of: dict[str, int] = {}
    try:
        # utf-8-sig, because spreadsheets write a mark in front of the first column's name
        with open(csv, newline="", encoding="utf-8-sig") as file:
            reader = csv_format.DictReader(file, skipinitialspace=True)
            header = [(name or "").strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            missing = [column for column in COLUMNS if column not in header]
            if missing:
                listing.problems.append(
                    f"line 1: no column {', '.join(missing)}; the first line names the columns, separated by "
                    f"commas, and is: {', '.join(header) or 'empty'}"
                )
                return listing
            for entry in reader:
                values = {column: (entry[column] or "").strip() for column in COLUMNS}
                path = os.path.join(start, values["path"])
                complaint = _complaint(values, path)
                if not complaint:
                    known = first_line_of.setdefault(os.path.normcase(os.path.abspath(path)), reader.line_num)
                    if known != reader.line_num:
                        complaint = f"{values['path']} is listed already in line {known}"
                if complaint:
                    listing.problems.append(f"line {reader.line_num}: {complaint}")
                elif values["identity"] != str(JUNK):
                    values["path"] = path
                    listing.rows.append(Row(where=f"line {reader.line_num}", **values))
    except (UnicodeDecodeError, csv_format.Error) as error:
        raise ValueError(f"{csv} is not a table in UTF-8 text, separated by commas: {error}") from error
    if not listing.rows and not listing.problems:
        listing.problems.append("the table has no rows")
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


def _check_splits(listing: Listing) -> None:
    """What shows only in all rows together."""
    query, gallery = listing.of("query"), listing.of("gallery")
    if bool(query) != bool(gallery):
        there, absent = ("query", "gallery") if query else ("gallery", "query")
        listing.problems.append(f"there are {there} images and no {absent} images; an evaluation needs both")
        return
    unmatched = unmatched_queries(
        [(row.where, row.identity, row.camera) for row in query],
        [(row.where, row.identity, row.camera) for row in gallery],
    )
    if query and len(unmatched) == len(query):
        listing.problems.append(
            f"none of the {len(query)} query images has a gallery image of its identity from another camera, "
            "and gallery images from the same camera do not count: nothing can be evaluated"
        )
    elif unmatched:
        listing.warnings.append(unmatched_warning(unmatched, len(query)))
    tested = {row.identity for row in query + gallery}
    both = {row.identity: None for row in listing.of("train") if row.identity in tested}
    if both:
        listing.warnings.append(
            f"{len(both)} identities are trained on and tested on, which makes the result too good: {some_of(both)}"
        )


def _located(path: str, below: str) -> str:
    """`path` as it is where that exists, else below the datasets folder where that exists."""
    moved = os.path.join(below, path)
    return moved if path and not os.path.exists(path) and os.path.exists(moved) else path
