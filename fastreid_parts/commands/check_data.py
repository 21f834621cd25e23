"""Look at a dataset before training on it.

Prints how many identities, images and cameras each split has, then everything that is wrong: the entries that
FolderReID cannot use, images that cannot be read, query images that no gallery image can answer, and files that are
passed over, by reason.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys

from fastreid.config import get_cfg
from tabulate import tabulate

from ..data.build import load_dataset
from ..data.checks import Item, check_split, evaluation_problem, find_bad_images, unmatched_queries, unmatched_warning
from ..data.datasets.folder import FolderReID, Listing, list_images_of
from ..data.image_files import describe_passed_over, left_out
from ..words import count, first_few

Splits = dict[str, list[Item]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--dataset-name", default="", help="a registered dataset: Market1501, CUHK03NP_labeled, ...")
    text = "the datasets folder of --dataset-name (default: FASTREID_DATASETS, or ./datasets)"
    parser.add_argument("--root", default=os.getenv("FASTREID_DATASETS", "datasets"), help=text)
    text = "your own images: a folder in Market-1501 naming, or with a subfolder for each identity"
    parser.add_argument("--folder", default="", help=text)
    text = "your own images: a table with the columns path, identity, camera, split; its paths start at --folder, or "
    parser.add_argument("--csv", default="", help=text + "without one at the table's folder")
    parser.add_argument("--workers", type=int, default=4, help="threads that decode images (default: 4)")


def run(args: argparse.Namespace) -> int:
    """Check one dataset.

    Returns:
        0 where the images can be trained on, and evaluated if any are for a test; 1 where an image or an entry prevents
        it (listed on standard output).

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
        splits = listing.items(FolderReID.dataset_name)
    else:
        splits, listing = _registered(args.dataset_name, args.root)
    print(_table(splits))
    bad = find_bad_images([item[0] for items in splits.values() for item in items], workers=args.workers)
    problems = [*listing.problems, *listing.unfit, *(f"{path}: {reason}" for path, reason in bad.items())]
    if not (splits["query"] or splits["gallery"] or problems):
        listing.warnings.append("no query and gallery images: to be trained on and not evaluated")
    passed_over = describe_passed_over(listing.passed_over)
    for lines, noun in ((passed_over, "reason"), (listing.warnings, "warning"), (problems, "problem")):
        if lines:
            what = "Passed over for " if noun == "reason" else ""
            print(f"{what}{count(len(lines), noun)}:\n{first_few(lines)}")
    if not problems:
        left = sum(map(len, listing.passed_over.values()))
        rest = f" {count(left, 'file')} passed over." if left else ""
        print(f"No problems: every image can be read.{rest}")
    return 1 if problems else 0


def _registered(name: str, root: str) -> tuple[Splits, Listing]:
    dataset = load_dataset(name, get_cfg(), root)
    splits = {"train": dataset.train, "query": dataset.query, "gallery": dataset.gallery}
    listing = Listing()
    for split, items in splits.items():
        try:
            check_split(items, split, name)
        except ValueError as error:
            listing.problems.append(str(error))
    if not listing.problems:
        if problem := evaluation_problem(dataset.query, dataset.gallery):
            listing.unfit.append(problem)
        elif unmatched := unmatched_queries(dataset.query, dataset.gallery):
            listing.warnings.append(unmatched_warning(unmatched, len(dataset.query)))
    listing.passed_over = left_out([item[0] for items in splits.values() for item in items], name)
    return splits, listing


def _table(splits: Splits) -> str:
    rows = [
        [split, len({item[1] for item in items}), len(items), len({item[2] for item in items})]
        for split, items in splits.items()
    ]
    return tabulate(rows, headers=["split", "identities", "images", "cameras"], tablefmt="github")
