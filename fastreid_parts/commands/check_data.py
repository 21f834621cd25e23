"""Look at a dataset before training on it.

Prints how many identities, images and cameras each split has, then everything that is wrong: the entries that
FolderReID cannot use, images that cannot be read, query images that no gallery image can answer.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys

from fastreid.config import get_cfg
from tabulate import tabulate

from ..data.build import load_dataset
from ..data.checks import Item, check_split, find_bad_images, first_few, unmatched_queries, unmatched_warning
from ..data.datasets.folder import FolderReID, list_images_of

Splits = dict[str, list[Item]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--dataset-name", default="", help="a registered dataset: Market1501, CUHK03NP_labeled, ...")
    text = "the datasets folder of --dataset-name (default: FASTREID_DATASETS, or ./datasets)"
    parser.add_argument("--root", default=os.getenv("FASTREID_DATASETS", "datasets"), help=text)
    parser.add_argument("--folder", default="", help="your own images: a folder in Market-1501 naming")
    text = "your own images: a table with the columns path, identity, camera, split; its paths start at --folder, or "
    parser.add_argument("--csv", default="", help=text + "without one at the table's folder")
    parser.add_argument("--workers", type=int, default=4, help="threads that decode images (default: 4)")


def run(args: argparse.Namespace) -> int:
    """Check one dataset.

    Returns:
        0 where training and evaluation can start, 1 where an image or an entry prevents it (listed on standard output).

    Raises:
        OSError: a folder or a file is not there.
        ValueError: the dataset cannot be read.
    """
    if bool(args.dataset_name) == bool(args.folder or args.csv):
        raise ValueError("name what to check: either --dataset-name, or --folder or --csv")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    folder = args.root if args.dataset_name == FolderReID.__name__ else args.folder
    if folder or args.csv:
        listing = list_images_of(folder, args.csv)
        splits, problems, warnings = listing.items(FolderReID.dataset_name), listing.problems, listing.warnings
    else:
        splits, problems, warnings = _registered(args.dataset_name, args.root)
    print(_table(splits))
    bad = find_bad_images([item[0] for items in splits.values() for item in items], workers=args.workers)
    problems += [f"{path}: {reason}" for path, reason in bad.items()]
    if warnings:
        print(f"{len(warnings)} warnings:\n{first_few(warnings)}")
    if problems:
        print(f"{len(problems)} problems:\n{first_few(problems)}")
        return 1
    print("No problems: every image can be read.")
    return 0


def _registered(name: str, root: str) -> tuple[Splits, list[str], list[str]]:
    dataset = load_dataset(name, get_cfg(), root)
    splits = {"train": dataset.train, "query": dataset.query, "gallery": dataset.gallery}
    problems, warnings = [], []
    for split, items in splits.items():
        try:
            check_split(items, split, name)
        except ValueError as error:
            problems.append(str(error))
    unmatched = unmatched_queries(splits["query"], splits["gallery"])
    if unmatched:
        warnings.append(unmatched_warning(unmatched, len(splits["query"])))
    return splits, problems, warnings


def _table(splits: Splits) -> str:
    rows = [
        [split, len({item[1] for item in items}), len(items), len({item[2] for item in items})]
        for split, items in splits.items()
    ]
    return tabulate(rows, headers=["split", "identities", "images", "cameras"], tablefmt="github")
