"""Search an index, which `index` built, with images, folders of images or stored features.

For every query the nearest images are printed: distance, identity and camera by name where they are known (c3 in a
file name is camera 3), path, and, where the index is calibrated, whether it is the same person. The model is the one of
the index unless it is named, by an exported file for example; another than the index was made with is refused.
"""

from __future__ import annotations

import argparse
import logging
import os
from typing import Any

import numpy as np
from tabulate import tabulate

from ..arguments import not_negative, png_file, positive, table_file
from ..evaluation import Features, RankList, who_and_where
from ..files import write_csv, write_json
from ..retrieval import FeatureSet, Gallery, GalleryIndex, extract_images, list_images, load_feature_set
from ..retrieval.columns import OF_RESULTS, value_of
from ..retrieval.image_table import ImageTable
from ..visualization import RankedExamples, draw_rank_lists
from ..words import count
from ._galleries import add_place, place_of
from ._indexes import OF_INDEX, numbers_of, print_log
from ._models import add_model_source, load_embedder
from .index import describe_calibration

logger = logging.getLogger(__name__)

#: The first queries are drawn, at most so many.
MAX_QUERIES = 12

_COLUMNS = ("query", "rank", "distance", "identity", "camera", "row", "path")
_SAME = "same_person"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_place(parser)
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--query", nargs="+", default=[], metavar="PLACE", help="image files, or folders of them")
    text = "features that `extract` stored: their queries, or all of them"
    query.add_argument("--features", default="", metavar="FOLDER", help=text)
    add_model_source(parser, OF_INDEX)
    parser.add_argument("--k", type=positive, default=10, help="images that a query finds (default: 10)")
    text = "only among images of which this is true, as in \"camera != 'till' and time >= 2026-05-01\""
    parser.add_argument("--where", default="", metavar="EXPRESSION", help=text)
    text = "the best image of each value of a column alone, such as identity, or one that `index label` added"
    parser.add_argument("--group-by", default="", metavar="COLUMN", help=text)
    text = "nprobe, rescore (ivfpq) or efSearch (hnsw)"
    parser.add_argument("--tune", nargs="+", default=[], metavar="NAME VALUE", help=text)
    parser.add_argument("--gpus", action="store_true", help="search on all GPUs")
    parser.add_argument("--output", type=table_file, help="a file for all results, .csv or .json")
    parser.add_argument("--picture", type=png_file, metavar="PNG", help="a PNG of what the first queries found")
    text = "print the lists of so many (default: 10)"
    parser.add_argument("--print-queries", type=not_negative, default=10, metavar="N", help=text)


def run(args: argparse.Namespace) -> None:
    """Search, and print, write and draw what is found.

    Raises:
        OSError: a folder, a file or an image is not there.
        KeyError: a key does not exist.
        ValueError: arguments, queries and index do not fit together.
    """
    print_log()
    place = place_of(args)
    with place.opened() as index:
        _search(args, str(place), index)


def _search(args: argparse.Namespace, place: str, index: Gallery) -> None:
    index.tune(**numbers_of(args.tune))
    if args.gpus:
        if not isinstance(index, GalleryIndex):
            raise ValueError("--gpus is for an index in a folder: Milvus searches on what its server has")
        index.use_gpus()
    index.check_question(args.where, args.group_by)  # what is wrong with it is said before features are taken
    query = _queries(args, index)
    distances, rows = index.search(query.features, args.k, args.where, args.group_by)
    if not rows.shape[1]:
        print(f"No image of the index is one of which this is true: {args.where}\n")
    known = np.unique(rows[rows >= 0])
    images = index.images_of(known)
    for name in [name for name in OF_RESULTS if name in images.columns]:  # of an index of an earlier version
        logger.warning("The index's column %s is left out: a result has one that is called so", name)
        del images.columns[name]
    found = [_found(index, images, known, *one) for one in zip(query.paths, distances, rows)]
    for path, entries in list(zip(query.paths, found))[: args.print_queries]:
        print(f"{path}\n{_table(entries)}\n")
    if len(query) > args.print_queries:
        rest = "they are in the output" if args.output else "--output writes them all"
        more = count(len(query) - args.print_queries, "more query is", "more queries are")
        print(f"{more} not printed: {rest}\n")
    if index.calibration is not None:
        print(describe_calibration(index.calibration), flush=True)
    if args.output:
        _write(args.output, place, index, images, found)
        print(f"Results: {args.output}")
    if args.picture:
        draw_found(index, query, distances, rows, args.picture)
        print(f"Picture: {args.picture}")


def _queries(args: argparse.Namespace, index: Gallery) -> Features:
    """What to search with.

    Raises:
        FileNotFoundError: a folder, a file or an image is not there.
        KeyError: a key does not exist.
        ValueError: the features or the model are not the index's, or images cannot be read.
    """
    if args.features:
        there: FeatureSet = load_feature_set(args.features)
        index.check_model(there.fingerprint, there.features.features.shape[1])
        return there.split()[0] if there.num_query else there.features
    paths = list_images(*args.query)
    embedder = load_embedder(args, index)
    return extract_images(embedder.cfg, embedder.model, paths)


def _found(
    index: Gallery, images: ImageTable, known: np.ndarray, query: str, distances: np.ndarray, rows: np.ndarray
) -> list[dict[str, Any]]:
    """One entry for each image that a query found; identity and camera are None where they are not known."""
    entries = []
    for rank, (distance, row) in enumerate(zip(distances.tolist(), rows.tolist()), start=1):
        if row < 0:  # an approximate search may find fewer
            break
        place = int(np.searchsorted(known, row))
        values = (query, rank, distance, *who_and_where(images, place).values(), row, images.paths[place])
        entry: dict[str, Any] = dict(zip(_COLUMNS, values))
        entry.update({name: value_of(column, place) for name, column in images.columns.items()})
        if index.calibration is not None:
            entry[_SAME] = bool(index.calibration.same_person(np.float32(distance)))
        entries.append(entry)
    return entries


def _table(entries: list[dict[str, Any]]) -> str:
    first = entries[0] if entries else {}
    own = [name for name in first if name not in (*_COLUMNS, _SAME)]
    names = [name for name in (*_COLUMNS[1:3], _SAME, *_COLUMNS[3:5], *own, *_COLUMNS[5:]) if name in first]
    rows = [[_cell(name, entry[name]) for name in names] for entry in entries]
    return tabulate(rows, headers=[name.replace("_", " ") for name in names], tablefmt="simple", disable_numparse=True)


def _cell(name: str, value: Any) -> str:
    if name == _SAME:
        return "yes" if value else "no"
    if value is None:
        return "-"
    return f"{value:#.4g}" if name == "distance" else str(value)


def _write(path: str, place: str, index: Gallery, images: ImageTable, found: list[list[dict[str, Any]]]) -> None:
    """Write what was found as CSV or JSON, by the ending."""
    if path.lower().endswith(".csv"):
        names = [*_COLUMNS, *images.columns, *([_SAME] if index.calibration is not None else [])]
        rows = ({**entry, _SAME: int(entry.get(_SAME, 0))} for entries in found for entry in entries)
        write_csv(path, names, ([row[name] for name in names] for row in rows))
        return
    threshold = None if index.calibration is None else index.calibration.threshold
    head = {"index": place, **index.describe(), "threshold": threshold}
    write_json(path, {"searched": head, "found": found})


def draw_found(index: Gallery, query: Features, distances: np.ndarray, rows: np.ndarray, path: str) -> None:
    """Draw what queries found: a query a row, the nearest images to its right.

    Of a calibrated index, images that are the same person by the threshold are framed green and marked with ✓, others
    red and with ✗; otherwise they have no frame.

    Args:
        index: that was searched.
        query: Q images.
        distances: (Q, k) of what was found.
        rows: (Q, k) rows of the index, -1 where nothing was found.
        path: the PNG.

    Raises:
        FileNotFoundError: an image of a query or of the index is not where it was.
    """
    number, calibration = min(len(query), MAX_QUERIES), index.calibration
    rows = rows[:number]
    known = np.unique(rows[rows >= 0])
    images, places = index.images_of(known), np.where(rows >= 0, np.searchsorted(known, rows), -1)
    lists = []
    for place, (near, found) in enumerate(zip(distances, places)):
        same = np.zeros(len(near), bool) if calibration is None else calibration.same_person(near)
        there = found >= 0
        lists.append(RankList(place, found[there], near[there], same[there]))
    for file in (*query.paths[:number], *(images.paths[row] for one in lists for row in one.gallery)):
        if not os.path.isfile(file):
            raise FileNotFoundError(f"'{file}' is not there any more: a figure needs the images of the index")
    titles = [f"{number} of {len(query)} queries"] if number < len(query) else []
    if calibration is not None:
        titles.insert(0, f"✓ the same person: {index.metric} distance below {calibration.threshold:.4g}")
    gallery = Features(np.empty((len(images.paths), 0)), images.pids, images.camids, images.paths, images.names)
    examples = RankedExamples(query, gallery, {"": lists}, framed=calibration is not None)
    draw_rank_lists(examples, path, " · ".join(titles))
