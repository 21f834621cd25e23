"""Give tracklets of several cameras their identities: one person, one number.

    fastreid-parts identify --tracks FOLDER --model M --threshold 0.3 --output DIR
    fastreid-parts identify --features FOLDER --track-column track --time-column time --index shop_index --output DIR
    fastreid-parts identify ... --calibrate threshold.json           a threshold, by tracklets whose people are known
    fastreid-parts identify ... --calibration threshold.json --output DIR
    fastreid-parts identify ... --output DIR --overwrite             again, with the corrections that lie in the folder

Nobody is at two places at once: tracklets that overlap in time are different people, unless their cameras see the same
place; travel times forbid more. `batch` links all at once, by constrained agglomerative clustering; `streaming` decides
each tracklet when it arrives, keeps what it decided and goes on from there. In the folder are identities.csv, joins.csv
with the evidence for each join, and identities.html to look at and to correct. Identification of people needs a lawful
basis: see "Lawful use" in the documentation.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from ..arguments import check_without_effect, json_file, positive
from ..config import config_of
from ..evaluation.exact import METRICS
from ..files import locked
from ..identification.batch import LINKAGES, check_threshold
from ..identification.constraints import Rules, read_travel_times
from ..identification.distances import KINDS, Compared
from ..identification.identities import Identified, Linking, identify, identify_arriving
from ..identification.reduced import Reduced, known_people, reduce_tracklets
from ..identification.results import (
    CORRECTIONS,
    IDENTITIES,
    JOINS,
    PAGE,
    REJECTION,
    STATE,
    begin_anew,
    check_folder,
    corrections_of,
    write_results,
)
from ..identification.scores import RejectionCurve, identification_scores, rejection_of_joins
from ..identification.thresholds import calibrate_tracklets, check_replaced, read_threshold, write_threshold
from ..retrieval import Calibration, GalleryIndex
from ..retrieval.calibration import CRITERIA
from ..words import count
from ._indexes import print_log
from ._tracklets import add_tracklet_sources, check_tracklet_options, tracklets_of
from .index import describe_calibration

LAWFUL = (
    "Identification says who was where and when: use it on people who agreed, or where the law gives you a basis "
    '("Lawful use" in the documentation).'
)
MODES = {
    "batch": "all tracklets at once",
    "streaming": "each when it arrives, by what came before; goes on from what the folder holds",
    "both": "streaming, and how far it falls behind batch",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_tracklet_sources(parser)
    text = f"folder for the results; {CORRECTIONS} in it is read where it is there"
    parser.add_argument("--output", default="", metavar="DIR", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace what is there; not corrections")
    modes = "; ".join(f"{name}: {text}" for name, text in MODES.items())
    parser.add_argument("--mode", choices=tuple(MODES), default="batch", help=f"{modes} (default: batch)")
    group = parser.add_argument_group("threshold")
    group.add_argument("--threshold", type=float, metavar="DISTANCE", help="one person below it")
    text = "one that --calibrate chose by labeled tracklets: it says how they are compared, too"
    group.add_argument("--calibration", default="", metavar="JSON", help=text)
    text = (
        "an index: its threshold, which is of images, where no other is given, its model, and with --known its people"
    )
    group.add_argument("--index", default="", metavar="DIR", help=text)
    text = "choose a threshold by these tracklets, and end"
    group.add_argument("--calibrate", type=json_file, metavar="JSON", help=text)
    group.add_argument("--criterion", choices=tuple(CRITERIA), default="fpr", help="of --calibrate, as of `index`")
    group.add_argument("--fpr", type=float, default=1e-3, help="target of the criterion fpr (default: 0.001)")
    group = parser.add_argument_group("distance")
    kinds = "; ".join(f"{name}: {text}" for name, text in KINDS.items())
    group.add_argument("--distance", choices=tuple(KINDS), help=f"{kinds} (default: mean)")
    group.add_argument(
        "--metric", choices=METRICS, help="default: the threshold's, or TEST.METRIC of the model's config"
    )
    group.add_argument("--best-pairs", type=positive, metavar="K", help="pairs that `pairs` averages over (default: 3)")
    text = "images of a tracklet that `pairs` compares (default: 8)"
    group.add_argument("--pair-images", type=positive, metavar="N", help=text)
    linkages = "; ".join(f"{name}: {text}" for name, text in LINKAGES.items())
    text = f"how far apart two groups of tracklets are in batch: {linkages} (default: average)"
    group.add_argument("--linkage", choices=tuple(LINKAGES), default="average", help=text)
    group = parser.add_argument_group("what is known")
    text = "the index's people, by name, are among the answers"
    group.add_argument("--known", action="store_true", help=text)
    text = "a table: camera_a, camera_b, least_seconds, and most_seconds where nobody comes back later"
    group.add_argument("--travel-times", default="", metavar="CSV", help=text)
    text = "pairs of cameras that see the same place, so that one person can be under both"
    group.add_argument("--overlapping-views", nargs="+", default=[], metavar="A,B", help=text)
    text = "clocks of two cameras differ by at most so much (default: 0)"
    group.add_argument("--clock-error", type=float, default=0.0, metavar="SECONDS", help=text)
    text = f"a table: tracklet_a, tracklet_b, same (1 or 0), in place of {CORRECTIONS} in the folder"
    group.add_argument("--corrections", default="", metavar="CSV", help=text)
    text = "identities on the page, at most (default: 100)"
    parser.add_argument("--page-identities", type=positive, default=100, metavar="N", help=text)


def run(args: argparse.Namespace) -> None:
    """Link the tracklets, write what is found, and print how good it is where the truth is known.

    Raises:
        OSError: a folder, a file or an image is not there.
        KeyError: a key does not exist.
        ValueError: arguments, tracklets, threshold, corrections and folder do not fit together.
    """
    print_log()
    print(LAWFUL)
    if bool(args.output) == bool(args.calibrate):
        raise ValueError("say where the results go: --output, or --calibrate for a threshold alone")
    # What is wrong with options, files and folders is said before features are taken
    check_tracklet_options(args)
    _check_options(args)
    rules = _rules(args)
    corrections = [] if args.calibrate else corrections_of(args.output, args.corrections)
    index = GalleryIndex.load(args.index) if args.index else None
    if args.known and index is None:
        raise ValueError("--known people are those of an --index: name it")
    if args.calibrate:
        check_replaced(args.calibrate, args.overwrite)
    else:
        _check_threshold(args, index)
        check_folder(args.output, args.overwrite, goes_on=args.mode != "batch")
    tracklets = tracklets_of(args, index)
    if index is not None:
        index.check_model(tracklets.fingerprint, tracklets.features.shape[1])
    compared, calibration = _compared(args, index, tracklets.config, tracklets.fingerprint)
    reduced = reduce_tracklets(tracklets, compared)
    print(_described(reduced), flush=True)
    if args.calibrate:
        _calibrate(args, reduced, compared, rules, tracklets.fingerprint)
        return
    if args.known and index is not None:
        reduced = known_people(index, compared).followed_by(reduced)
    threshold = args.threshold if calibration is None else calibration.threshold
    linking = Linking(compared, threshold, rules, corrections, args.linkage, tracklets.fingerprint)
    print(_said_of_threshold(args, linking, calibration), flush=True)
    mode = "batch" if args.mode == "batch" else "streaming"
    if mode == "batch":  # of streaming, they may be of tracklets that arrived earlier, or that arrive later
        linking.check_names(reduced)
    if mode == "batch" or args.overwrite:  # contradictions, before anything is replaced
        linking.constraints(reduced)
    with locked(args.output):
        check_folder(args.output, args.overwrite, goes_on=args.mode != "batch")  # others may have been here
        if args.overwrite and mode == "streaming":
            begin_anew(args.output)
        found, scores = _linked(args, reduced, linking)
        if args.overwrite and mode == "batch":  # at last: there may be too many to link
            begin_anew(args.output)
        rejection = rejection_of_joins(found.evidence.joins, found.reduced.truth)
        write_results(args.output, found, linking, mode, scores, args.page_identities, rejection)
    files = [("Identities", IDENTITIES), ("Joins", JOINS), ("Page", PAGE)]
    if rejection is not None:
        print(_said_of_joins(rejection))
        files.append(("Right joins over margins", REJECTION))
    print(_summary(found))
    for what, name in files:
        print(f"{what}: {os.path.join(args.output, name)}")


def _linked(args: argparse.Namespace, reduced: Reduced, linking: Linking) -> tuple[Identified, dict[str, float]]:
    """What is written, and its scores; those of batch are printed beside them where both are asked for."""
    if args.mode == "batch":
        found = identify(reduced, linking)
        rows = {"batch": _scores(found)}
    else:
        found = identify_arriving(reduced, linking, os.path.join(args.output, STATE))
        rows = {"streaming": _scores(found)}
        if args.mode == "both":
            batch = identify(found.reduced, linking.in_force(found.reduced))
            rows["batch"] = _scores(batch)
            print(_behind(found, batch))
    scores = next(iter(rows.values()))
    if scores:
        table = [[mode, *values.values()] for mode, values in rows.items()]
        heads = ["", *(name.replace("_", " ") for name in scores)]
        print(f"\n{tabulate(table, headers=heads, floatfmt='.3f')}\n")
    return found, scores


def _said_of_joins(curve: RejectionCurve) -> str:
    """What a person who looks at the least certain joins gains."""
    half = int(np.searchsorted(curve.answered, 0.5))
    return (
        f"Of the joins {100 * curve.right[-1]:.1f} % are right; of the {100 * curve.answered[half]:.0f} % with the "
        f"largest margins, {curve.margin[half]:.3g} and more, {100 * curve.right[half]:.1f} %"
    )


def _scores(found: Identified) -> dict[str, float]:
    """Against the truth; empty where none is known."""
    rows = [row for row in found.tracklets.tolist() if found.reduced.truth[row]]
    if not rows:
        return {}
    truth = [found.reduced.truth[row] for row in rows]
    return identification_scores(found.identity[rows].tolist(), truth, found.reduced.sizes[rows])


def _behind(found: Identified, batch: Identified) -> str:
    """Say how far streaming falls behind batch: scores as if batch were the truth."""
    of_batch = dict(zip(batch.reduced.names, batch.identity.tolist()))
    rows = found.tracklets
    truth = [of_batch[found.reduced.names[row]] for row in rows.tolist()]
    scores = identification_scores(found.identity[rows].tolist(), truth, found.reduced.sizes[rows])
    return (
        f"Streaming beside batch: of the pairs of tracklets that batch joins it joins "
        f"{100 * scores['pairwise_recall']:.1f} %, and of those that it joins batch joins "
        f"{100 * scores['pairwise_precision']:.1f} %; adjusted Rand index {scores['adjusted_rand']:.3f}"
    )


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options that would have no effect."""

    def without(names: Sequence[str], why: str) -> None:
        check_without_effect(args, add_arguments, names, why)

    if args.calibrate:
        names = ("threshold", "mode", "linkage", "known", "corrections", "page_identities")
        without(names, "--calibrate chooses a threshold and links nothing")
    else:
        without(("criterion", "fpr"), "this is of --calibrate")
    if args.mode == "streaming":
        without(("linkage",), "this is of batch")
    if args.distance == "mean" or not (args.distance or args.calibration):
        without(("best_pairs", "pair_images"), "this is of --distance pairs")


def _rules(args: argparse.Namespace) -> Rules:
    pairs = [frozenset(part.strip() for part in words.split(",")) for words in args.overlapping_views]
    wrong = [words for words, pair in zip(args.overlapping_views, pairs) if len(pair) != 2 or "" in pair]
    if wrong:
        raise ValueError(f"--overlapping-views takes pairs of two cameras, as in c1,c2; got '{wrong[0]}'")
    travel = read_travel_times(args.travel_times) if args.travel_times else {}
    return Rules(frozenset(pairs), travel, args.clock_error)


def _check_threshold(args: argparse.Namespace, index: GalleryIndex | None) -> None:
    if args.threshold is not None:
        check_threshold(args.threshold)
        if args.calibration:
            raise ValueError("name one threshold: --threshold or --calibration")
    elif not args.calibration and (index is None or index.calibration is None):
        raise ValueError(
            "name a threshold: --threshold, --calibration (which --calibrate writes, by labeled tracklets), or the "
            "--index of one that `index calibrate` chose"
        )


def _compared(
    args: argparse.Namespace, index: GalleryIndex | None, config: str, fingerprint: str
) -> tuple[Compared, Calibration | None]:
    """How tracklets are compared, and the threshold that goes with it where it is not given as a number."""
    asked: Mapping[str, Any] = {
        name: value
        for name, value in (
            ("kind", args.distance), ("metric", args.metric), ("best", args.best_pairs), ("images", args.pair_images),
        )
        if value is not None
    }  # fmt: skip
    if args.calibration:
        calibration, compared = read_threshold(args.calibration, fingerprint)
        differing = [f"{name} {getattr(compared, name)}" for name in asked if getattr(compared, name) != asked[name]]
        if differing:
            raise ValueError(f"the threshold in '{args.calibration}' is of {', '.join(differing)}: ask for the same")
        return compared, calibration
    if index is not None:
        if asked.get("metric", index.metric) != index.metric:
            raise ValueError(f"the index is of {index.metric} distances: leave --metric out, or the index")
        return Compared(**{**asked, "metric": index.metric}), None if args.threshold is not None else index.calibration
    return Compared(**{"metric": config_of(config).TEST.METRIC, **asked}), None


def _said_of_threshold(args: argparse.Namespace, linking: Linking, calibration: Calibration | None) -> str:
    if calibration is None:
        metric = linking.compared.metric
        return f"One person: {metric} distance below {linking.threshold:.6g}, as given: its error is not known"
    said = describe_calibration(calibration)
    if args.calibration:
        return f"Of pairs of tracklets that constraints leave open:\n{said}"
    return (
        f"{said}\nThat is of pairs of images. Tracklets of different people, too, are nearer to each other than their "
        "images are, so the rate of tracklets is another one: --calibrate measures it"
    )


def _calibrate(args: argparse.Namespace, reduced: Reduced, compared: Compared, rules: Rules, fingerprint: str) -> None:
    linking = Linking(compared, 1.0, rules)
    linking.check_names(reduced)
    constraints = linking.constraints(reduced)
    calibration = calibrate_tracklets(reduced, compared, constraints, args.criterion, args.fpr)
    write_threshold(args.calibrate, calibration, compared, fingerprint)
    print(f"{describe_calibration(calibration)}\nThreshold: {args.calibrate}")


def _described(reduced: Reduced) -> str:
    cameras = {camera for camera in reduced.cameras if camera}
    timed = int(np.isfinite(reduced.start + reduced.end).sum())
    images = count(int(reduced.sizes.sum()), "image")
    said = f"{count(len(reduced), 'tracklet')} of {images}, {count(len(cameras), 'camera')}"
    unknown = len(reduced) - timed
    if unknown or not all(reduced.cameras):
        said += f"; of {unknown} the time is unknown, of {reduced.cameras.count('')} the camera: nothing forbids these"
    return said


def _summary(found: Identified) -> str:
    rows = found.tracklets
    named = {int(one) for one, name in zip(found.identity, found.reduced.people) if name}
    mine = set(found.identity[rows].tolist())
    said = f"{count(len(rows), 'tracklet')}: {count(len(mine), 'identity', 'identities')}"
    if named:
        said += f", {len(mine & named)} of them known people and {len(mine - named)} new"
    near = sum(1 for pair in found.evidence.near if not pair.reason)
    return f"{said}; {count(near, 'pair')} of identities nearly joined"
