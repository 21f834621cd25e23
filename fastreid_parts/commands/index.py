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

Milvus keeps a gallery in place of a folder where --store names it: `--store people.db` in a file, milvus-lite, or
`--store http://host:19530`, a server or cluster that many machines search.

An index knows the images, their identities and cameras, the model's config, checkpoint and fingerprint; features of
another model are refused. Every change is written beside the old index, which is replaced when the new one is whole;
a command that would change an index waits while another one does. `build` leaves an index that is there as it is,
unless --overwrite says otherwise; its threshold stays where model and metric do.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from tabulate import tabulate

from ..evaluation.exact import METRICS
from ..folders import ELSEWHERE, FolderError
from ..retrieval import Calibration, Gallery, MilvusGallery, calibrate, calibrate_pairs, extract_images, read_pairs
from ..retrieval.ann import KINDS
from ..retrieval.calibration import CONFIDENCE, CRITERIA
from ..retrieval.columns import read_columns
from ..retrieval.gallery import change_digest
from ..words import count
from ._galleries import TOKEN, InFolder, InMilvus, add_place, place_of
from ._indexes import (
    OF_INDEX,
    add_image_sources,
    features_for,
    may_be_unfinished,
    numbers_of,
    print_log,
    remove_work,
    request_digest,
)
from ._models import add_model_source, load_embedder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the commands on an index."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, work: Any, text: str, folder: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        add_place(sub, folder)
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
    text = "free a gallery on a server that a process held which was killed, and take back what it left"
    command("release", _release, text, folder=False)


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
    parameters, digest = numbers_of(args.parameters), request_digest(args)
    place = place_of(args)
    before = place.state()
    if before and not args.overwrite:
        try:
            with place.opened() as there:
                again = there.last_change == digest and may_be_unfinished(args)
        except ValueError as error:
            raise FolderError(
                f"'{place}' holds an index that cannot be read: replace it (--overwrite), or {ELSEWHERE}. {error}"
            ) from error
        if again:  # the call before was killed late
            remove_work(args)
            print(f"Index: {place}, by an earlier call")
            return
        raise FolderError(f"'{place}' holds an index: add to it, replace it (--overwrite), or {ELSEWHERE}")
    columns = _columns_of_labels(args)
    with features_for(args, None) as gallery:
        metric = args.metric or gallery.to_cfg().TEST.METRIC
        kept = _kept_calibration(place, gallery.fingerprint, metric) if before else None
        rest: dict[str, Any] = {"fall_back": args.fall_back, **parameters}
        with place.build(gallery, args.kind, metric, before, columns, kept, digest, **rest) as index:
            table = _table(index)
    print(f"{table}\n\nIndex: {place}")


def _columns_of_labels(args: argparse.Namespace) -> tuple[list[str], dict[str, Any]] | None:
    """What --labels says beside identity and camera, as `ImageTable.fill` takes it; read before features are taken."""
    places, columns = read_columns(args.labels) if args.labels else ([], {})
    return (places, columns) if columns else None


def _kept_calibration(place: InFolder | InMilvus, fingerprint: str, metric: str) -> Calibration | None:
    """The threshold of the index that is replaced; None, and a line that says so, where it goes."""
    try:
        with place.opened() as before:
            if (before.fingerprint, before.metric) == (fingerprint, metric):
                return before.calibration
            if before.calibration is not None:
                print("The threshold of the index that was there goes with it, as it is of another model or metric")
    except ValueError as error:  # a damaged one is replaced for that very reason
        print(f"Of the index that was there nothing is kept, its threshold neither: {error}")
    return None


def _add(args: argparse.Namespace) -> None:
    if not (args.features or args.images or args.dataset):
        raise ValueError("name what to add: --features, --images or --dataset")
    columns, place = _columns_of_labels(args), place_of(args)
    with place.held() as index, features_for(args, index) as images:
        if index.last_change == change_digest(images, columns=columns):
            said = "these images are there by an earlier call"
        else:
            said = f"{count(len(index.add(images, columns)), 'image')} added"
            place.keep(index)
        print(f"{said}, {len(index)} in the index")


def _compact(args: argparse.Namespace) -> None:
    place = place_of(args)
    with place.held() as index:
        index.compact()
        place.keep(index)
        print(f"{len(index)} in the index, as a whole")


def _label(args: argparse.Namespace) -> None:
    place = place_of(args)
    with place.held() as index:
        named = index.label(args.table)
        place.keep(index)
        print(f"{count(named, 'image')} of {len(index)} named by {args.table}\n\n{_table(index)}")


def _remove(args: argparse.Namespace) -> None:
    named = args.rows, args.paths, args.identities
    if not (any(named) or args.rebuild):
        raise ValueError("name what to remove: --paths, --identities or --rows")
    place = place_of(args)
    with place.held() as index:
        if any(named) and index.last_change == change_digest(None, *named):
            said = "these images were removed by an earlier call"
        else:
            said = f"{count(index.remove(*named) if any(named) else 0, 'image')} removed"
        if args.rebuild:
            index.compact()
        place.keep(index)
        print(f"{said}, {len(index)} in the index")


def _calibrate(args: argparse.Namespace) -> None:
    place = place_of(args)
    with place.held() as index:
        options: dict[str, Any] = {"metric": index.metric, "criterion": args.criterion, "target": args.fpr}
        if args.pairs:
            pairs = read_pairs(args.pairs)
            paths = sorted({path for pair in pairs for path in pair[:2]})
            embedder = load_embedder(args, index)
            features = extract_images(embedder.cfg, embedder.model, paths)
            calibration = calibrate_pairs(features, pairs, source=args.pairs, **options)
            place.keep_calibration(index, calibration)
        else:
            with features_for(args, index, with_queries=True) as labeled:
                calibration = calibrate(labeled, source=labeled.dataset or args.features, **options)
                place.keep_calibration(index, calibration)
    if index.kind == "ivfpq" and not index.parameters["rescore"]:
        print("The threshold is of exact distances, and this index gives approximate ones (rescore 0)")
    print(describe_calibration(calibration))


def _info(args: argparse.Namespace) -> None:
    with place_of(args).opened() as index:
        print(_table(index))


def _release(args: argparse.Namespace) -> None:
    with MilvusGallery.load(args.store, args.collection, args.token or os.environ.get(TOKEN, "")) as gallery:
        gallery.release()
        print(f"{args.store} is free, {len(gallery)} in the index")


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


def _table(index: Gallery) -> str:
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
