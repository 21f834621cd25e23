"""Build, change, look at and calibrate an index over a gallery, for `search`.

    fastreid-parts index build --index DIR --features FOLDER              features that `extract` stored
    fastreid-parts index build --index DIR --config-file C --weights W --images PLACE ... --labels people.csv
    fastreid-parts index build --index DIR --config-file C --weights W --dataset NAME    its gallery
    fastreid-parts index add --index DIR --images PLACE ...
    fastreid-parts index remove --index DIR --identities anna --paths shop/0001.jpg
    fastreid-parts index label --index DIR --table shop.csv    what else is known of images: path, time, site, track ...
    fastreid-parts index compact --index DIR                    one whole again, without what was removed
    fastreid-parts index calibrate --index DIR --dataset NAME --fpr 0.001       "the same person": yes or no
    fastreid-parts index info --index DIR

An index knows the images, their identities and cameras, the model's config, checkpoint and fingerprint; features of
another model are refused. Every change is written beside the old index, which is replaced when the new one is whole;
a command that would change an index waits while another one does. `build` leaves an index that is there as it is,
unless --overwrite says otherwise; its threshold stays where model and metric do.
"""

from __future__ import annotations

import argparse
from typing import Any

from tabulate import tabulate

from ..evaluation.exact import METRICS
from ..folders import ELSEWHERE, FolderError
from ..retrieval import Calibration, GalleryIndex, calibrate, calibrate_pairs, extract_images, read_pairs
from ..retrieval.ann import KINDS
from ..retrieval.calibration import CONFIDENCE, CRITERIA
from ..retrieval.columns import read_columns
from ..retrieval.index import change_digest
from ..retrieval.index_files import INDEX_FOLDER, write_calibration
from ..words import count
from ._indexes import (
    OF_INDEX,
    add_image_sources,
    features_for,
    numbers_of,
    print_log,
    remove_work,
    request_digest,
)
from ._models import add_model_source, load_embedder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the commands on an index."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, work: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--index", required=True, metavar="DIR", help="the index's folder")
        sub.set_defaults(work=work)
        return sub

    build = command("build", _build, "make an index over stored features, images or a dataset's gallery")
    _add_source_options(build, note="")
    kinds = "; ".join(f"{kind}: {text}" for kind, text in KINDS.items())
    build.add_argument("--kind", choices=tuple(KINDS), default="flat", help=kinds)
    build.add_argument("--metric", choices=METRICS, help="default: TEST.METRIC of the model's config")
    build.add_argument("--overwrite", action="store_true", help="replace the index that is there")
    known = "ivfpq: nlist, m, nbits, nprobe, rescore; hnsw: M, efConstruction, efSearch (default: by the image number)"
    build.add_argument("--parameters", nargs="+", default=[], metavar="NAME VALUE", help=known)
    build.add_argument("--fall-back", action="store_true", help="flat where there are too few images to train ivfpq")
    _add_source_options(command("add", _add, "add images or stored features"))
    remove = command("remove", _remove, "remove images; all that are named")
    remove.add_argument("--paths", nargs="+", metavar="IMAGE", help="as they stand in the index")
    remove.add_argument("--identities", nargs="+", metavar="NAME", help="all images of these people")
    remove.add_argument("--rows", nargs="+", type=int, metavar="NUMBER", help="numbers in the index, as search prints")
    remove.add_argument("--rebuild", action="store_true", help="make an hnsw graph anew, without what is hidden in it")
    command("compact", _compact, "write the index anew as a whole: segments joined, a graph without removed images")
    described = command("label", _label, "take columns of a table, such as time or track, for `search --where`")
    text = "images by the column path, which starts at its folder, and columns of texts, numbers or times"
    described.add_argument("--table", required=True, metavar="CSV", help=text)
    labeled = command(
        "calibrate", _calibrate, "choose the distance below which two images show the same person, by labeled images"
    )
    source = _add_source_options(labeled, files=False)
    source.add_argument("--pairs", default="", metavar="CSV", help="a table of pairs: image_a, image_b, same (1 or 0)")
    criteria = "; ".join(f"{name}: {text}" for name, text in CRITERIA.items())
    labeled.add_argument("--criterion", choices=tuple(CRITERIA), default="fpr", help=criteria)
    labeled.add_argument("--fpr", type=float, default=1e-3, help="target of the criterion fpr (default: 0.001)")
    command("info", _info, "say what is in an index, after a check of its files")


def _add_source_options(parser: argparse.ArgumentParser, note: str = OF_INDEX, files: bool = True) -> Any:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--features", default="", metavar="FOLDER", help="features that `extract` stored")
    parser.set_defaults(images=[])
    add_image_sources(parser, source, files)
    add_model_source(parser, note)
    return source


def run(args: argparse.Namespace) -> None:
    """Do what the command on an index says.

    Raises:
        OSError: a folder, a file or an image is not there.
        KeyError: a key does not exist.
        ValueError: arguments, features and index do not fit together.
    """
    print_log()
    args.work(args)


def _build(args: argparse.Namespace) -> None:
    parameters = numbers_of(args.parameters)
    before = INDEX_FOLDER.state(args.index)
    if before and not args.overwrite:
        if GalleryIndex.load(args.index).last_change == request_digest(args):  # the call before was killed late
            remove_work(args)
            print(f"Index: {args.index}, by an earlier call")
            return
        raise FolderError(f"'{args.index}' holds an index: add to it, replace it (--overwrite), or {ELSEWHERE}")
    columns = _columns_of_labels(args)
    with features_for(args, None) as gallery:
        metric = args.metric or gallery.to_cfg().TEST.METRIC
        index = GalleryIndex.build(gallery, args.kind, metric, fall_back=args.fall_back, **parameters)
        if before:
            _keep_calibration(args.index, index)
        if columns:
            index.images.fill(*columns)
        index.last_change = request_digest(args)
        index.save(args.index, before)
    print(f"{_table(index)}\n\nIndex: {args.index}")


def _columns_of_labels(args: argparse.Namespace) -> tuple[list[str], dict[str, Any]] | None:
    """What --labels says beside identity and camera, as `ImageTable.fill` takes it; read before features are taken."""
    places, columns = read_columns(args.labels) if args.labels else ([], {})
    return (places, columns) if columns else None


def _keep_calibration(directory: str, index: GalleryIndex) -> None:
    """Take over the threshold of the index that is replaced, or say that it goes."""
    try:
        before = GalleryIndex.load(directory)
    except ValueError as error:  # a damaged one is replaced for that very reason
        print(f"Of the index that was there nothing is kept, its threshold neither: {error}")
        return
    if (before.fingerprint, before.metric) == (index.fingerprint, index.metric):
        index.calibration = before.calibration
    elif before.calibration is not None:
        print("The threshold of the index that was there goes with it, as it is of another model or metric")


def _add(args: argparse.Namespace) -> None:
    if not (args.features or args.images or args.dataset):
        raise ValueError("name what to add: --features, --images or --dataset")
    columns = _columns_of_labels(args)
    with GalleryIndex.held(args.index) as index, features_for(args, index) as images:
        if index.last_change == change_digest(images):
            said = "these images are there by an earlier call"
        else:
            said = f"{count(len(index.add(images)), 'image')} added"
            if columns:
                index.images.fill(*columns)
            index.save(args.index)
    print(f"{said}, {len(index)} in the index")


def _compact(args: argparse.Namespace) -> None:
    with GalleryIndex.held(args.index) as index:
        index.compact()
        index.save(args.index)
    print(f"{len(index)} in the index, as a whole")


def _label(args: argparse.Namespace) -> None:
    with GalleryIndex.held(args.index) as index:
        named = index.label(args.table)
        index.save(args.index)
    print(f"{count(named, 'image')} of {len(index)} named by {args.table}\n\n{_table(index)}")


def _remove(args: argparse.Namespace) -> None:
    named = args.rows, args.paths, args.identities
    if not (any(named) or args.rebuild):
        raise ValueError("name what to remove: --paths, --identities or --rows")
    with GalleryIndex.held(args.index) as index:
        if any(named) and index.last_change == change_digest(None, *named):
            said = "these images were removed by an earlier call"
        else:
            said = f"{count(index.remove(*named) if any(named) else 0, 'image')} removed"
        if args.rebuild:
            index.compact()
        index.save(args.index)
    print(f"{said}, {len(index)} in the index")


def _calibrate(args: argparse.Namespace) -> None:
    with GalleryIndex.held(args.index) as index:
        options: dict[str, Any] = {"metric": index.metric, "criterion": args.criterion, "target": args.fpr}
        if args.pairs:
            pairs = read_pairs(args.pairs)
            paths = sorted({path for pair in pairs for path in pair[:2]})
            embedder = load_embedder(args, index)
            features = extract_images(embedder.cfg, embedder.model, paths)
            calibration = calibrate_pairs(features, pairs, source=args.pairs, **options)
            write_calibration(args.index, calibration)
        else:
            with features_for(args, index, with_queries=True) as labeled:
                calibration = calibrate(labeled, source=labeled.dataset or args.features, **options)
                write_calibration(args.index, calibration)
    if index.kind == "ivfpq" and not index.parameters["rescore"]:
        print("The threshold is of exact distances, and this index gives approximate ones (rescore 0)")
    print(describe_calibration(calibration))


def _info(args: argparse.Namespace) -> None:
    print(_table(GalleryIndex.load(args.index)))


def describe_calibration(calibration: Calibration) -> str:
    """Say what a threshold is and does, in a sentence or two."""
    return (
        f"The same person: {calibration.metric} distance below {calibration.threshold:.6g}, by "
        f"{calibration.negatives} pairs of different people and {calibration.positives} of the same"
        f"{' of ' + calibration.source if calibration.source else ''}.\n"
        f"False positive rate {_percent(calibration.fpr)} ({CONFIDENCE:.0%} interval {_percent(calibration.fpr_low)} "
        f"to {_percent(calibration.fpr_high)}), true positive rate {_percent(calibration.tpr)}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _table(index: GalleryIndex) -> str:
    rows = []
    for name, value in index.describe().items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number}" for key, number in value.items())
        if name == "fingerprint":
            name, value = "model", value[:12] or "unknown"
        if value != "" and (name, value) != ("hidden images", 0):  # only an hnsw index hides images
            rows.append([name, value])
    table = tabulate(rows, tablefmt="plain", disable_numparse=True)
    return table if index.calibration is None else f"{table}\n\n{describe_calibration(index.calibration)}"
