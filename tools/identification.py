"""Identities of tracklets on drawn tracks of six cameras, each beside simpler ways; and how long many tracklets take.

    python tools/identification.py synthetic --config-file Synthetic/cmbn_acting.yml --weights W --seeds 5
    python tools/identification.py large --tracklets 10000

`synthetic` takes the tracks of `synthesize --tracks`, a part a seed, and one more part for the thresholds: people who
walk past SyntheticReID's cameras, none of whom the model was trained on. For each way it is the threshold with its best
IDF1 on that part; `by pairs` is the threshold of `identify --calibrate` instead, by the false positive rate. Ways that
know neither camera nor time: `nearest` gives each tracklet, in the order of its end, the identity of the nearest one
before it, if that is below the threshold; `components` links whatever is below it.

`large` clusters generated features of length 512 of as many tracklets, four of a person, with time and memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse.csgraph import connected_components
from tabulate import tabulate

from fastreid_parts.deployment import Embedder
from fastreid_parts.deployment.loading import inference_config
from fastreid_parts.evaluation import Features
from fastreid_parts.evaluation.exact import METRICS
from fastreid_parts.files import add_to_json
from fastreid_parts.identification.batch import cluster
from fastreid_parts.identification.constraints import Constraints, Rules, read_travel_times
from fastreid_parts.identification.distances import KINDS, Compared
from fastreid_parts.identification.identities import Linking, identify, identify_arriving
from fastreid_parts.identification.reading import described, gathered, images_of_folders
from fastreid_parts.identification.reduced import Reduced, reduce_tracklets
from fastreid_parts.identification.scores import identification_scores
from fastreid_parts.identification.streaming import Decisions, decide
from fastreid_parts.identification.thresholds import calibrate_tracklets
from fastreid_parts.identification.tracklets import Tracklets
from fastreid_parts.pedestrians.tracks import TABLE, TRAVEL_TIMES, generate_tracks
from fastreid_parts.pedestrians.walks import CAMERAS, OVERLAPPING
from fastreid_parts.retrieval import extract_images

_THRESHOLDS = np.linspace(0.04, 0.84, 21)
_SCORES = ("IDF1", "pairwise_precision", "pairwise_recall", "pairwise_F1", "adjusted_rand")

Way = Callable[[Reduced, Compared, float, Rules], Sequence[int]]


def read_tracks(table: Path, embedder: Embedder) -> Tracklets:
    """Read drawn tracks, with features of a model; these are kept beside the table.

    Args:
        table: that `generate_tracks` wrote.
        embedder: the model.
    """
    images = described(images_of_folders([table.parent]), table)
    kept = table.parent.with_name(f"{table.parent.name}-{embedder.fingerprint[:12]}.npy")
    paths = [image.path for image in images]
    if not kept.exists():
        np.save(kept, extract_images(embedder.cfg, embedder.model, paths).features)
    unknown = np.full(len(paths), -1)
    features = Features(np.load(kept), unknown, unknown, paths)
    return gathered(images, features, embedder.fingerprint, embedder.cfg.dump())


# ---- ways ----------------------------------------------------------------------------------------------------


def nearest(reduced: Reduced, compared: Compared, threshold: float, rules: Rules) -> list[int]:
    """Give each tracklet the identity of the nearest one that came before it, if that is near enough.

    Args:
        reduced: in the order of their arrival.
        compared: how they are compared.
        threshold: below it two are one person.
        rules: what is known of cameras.
    """
    every = np.arange(len(reduced))
    table = reduced.distances(compared).block(every, every)
    found: list[int] = []
    for place in range(len(reduced)):
        before = int(table[place, :place].argmin()) if place else -1
        near = place > 0 and table[place, before] < threshold
        found.append(found[before] if near else max(found, default=-1) + 1)
    return found


def components(reduced: Reduced, compared: Compared, threshold: float, rules: Rules) -> list[int]:
    """Link whatever is below the threshold, and what that is linked with.

    Args:
        reduced: tracklets.
        compared: how they are compared.
        threshold: below it two are one person.
        rules: what is known of cameras.
    """
    every = np.arange(len(reduced))
    return connected_components(reduced.distances(compared).block(every, every) < threshold)[1].tolist()


def clustered(reduced: Reduced, compared: Compared, threshold: float, rules: Rules) -> list[int]:
    """Link as `identify --mode batch` does.

    Args:
        reduced: tracklets.
        compared: how they are compared.
        threshold: below it two groups are one person.
        rules: what is known of cameras.
    """
    constraints = Constraints(reduced.sighted, rules)
    return cluster(reduced.distances(compared), constraints, threshold)[0].tolist()


def clustered_without_time(reduced: Reduced, compared: Compared, threshold: float, rules: Rules) -> list[int]:
    """Link as `clustered`, as if nobody knew times.

    Args:
        reduced: tracklets.
        compared: how they are compared.
        threshold: below it two groups are one person.
        rules: what is known of cameras.
    """
    unknown = np.full(len(reduced), np.nan)
    return clustered(Reduced(**{**vars(reduced), "start": unknown, "end": unknown}), compared, threshold, Rules())


def arriving(reduced: Reduced, compared: Compared, threshold: float, rules: Rules) -> list[int]:
    """Link as `identify --mode streaming` does.

    Args:
        reduced: in the order of their arrival.
        compared: how they are compared.
        threshold: below it a tracklet joins an identity.
        rules: what is known of cameras.
    """
    decisions = Decisions.none(len(reduced))
    decide(reduced, compared, Constraints(reduced.sighted, rules), threshold, decisions)
    return decisions.identity.tolist()


WAYS: dict[str, Way] = {
    "nearest": nearest,
    "components": components,
    "batch without time": clustered_without_time,
    "streaming": arriving,
    "batch": clustered,
}


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all ways on drawn tracks, and print a table: mean and standard deviation over seeds."""
    cfg = inference_config(args.config_file, args.opts)
    embedder = Embedder.load(args.weights, cfg)
    root = Path(args.root)
    # The first part is for thresholds: part 0 is of the people that the model's own test set shows
    folders = [generate_tracks(root, part=1 + number) for number in range(args.seeds + 1)]
    sets = [read_tracks(folder / TABLE, embedder) for folder in folders]
    rules = Rules(
        frozenset({frozenset(f"c{camera}" for camera in OVERLAPPING)}), read_travel_times(folders[0] / TRAVEL_TIMES)
    )
    rows = []
    for kind in args.distances:
        compared = Compared(kind, args.metric)
        reduced = [reduce_tracklets(tracklets, compared).in_order() for tracklets in sets]
        for name, way in WAYS.items():
            best = _best_threshold(way, reduced[0], compared, rules)
            rows.append(_measured(name, way, reduced, compared, best, rules))
        constraints = Constraints(reduced[0].sighted, rules)
        for name in ("streaming", "batch"):
            by_pairs = calibrate_tracklets(reduced[0], compared, constraints, target=args.fpr).threshold
            rows.append(_measured(f"{name}, by pairs", WAYS[name], reduced, compared, by_pairs, rules))
    heads = ["distance", "way", "threshold", *(name.replace("_", " ") for name in _SCORES)]
    shown = [[*row[:3], *(f"{mean:.3f} ± {deviation:.3f}" for mean, deviation in row[3:])] for row in rows]
    print(tabulate(shown, heads, tablefmt="pipe", disable_numparse=True))
    sizes = [len(tracklets) for tracklets in sets[1:]]
    return {
        "command": _command(args),
        "about": (
            f"{sum(sizes)} tracklets of {sum(len(t.features) for t in sets[1:])} images under {CAMERAS} cameras, 40 "
            f"people in each of {args.seeds} parts; thresholds from a part of other people. Features of "
            f"`{args.config_file}`; {args.metric} distance. Mean and standard deviation over parts"
        ),
        "columns": heads,
        "rows": [[row[0], row[1], round(row[2], 3), *([round(a, 3), round(b, 3)] for a, b in row[3:])] for row in rows],
    }


def _best_threshold(way: Way, reduced: Reduced, compared: Compared, rules: Rules) -> float:
    thresholds = _THRESHOLDS if compared.metric == "cosine" else _THRESHOLDS * _scale(reduced, compared)
    scored = [(_scores(way(reduced, compared, float(one), rules), reduced)["IDF1"], -float(one)) for one in thresholds]
    return -max(scored)[1]


def _scale(reduced: Reduced, compared: Compared) -> float:
    every = np.arange(len(reduced))
    return float(np.median(reduced.distances(compared).block(every, every)))


def _scores(found: Sequence[int], reduced: Reduced) -> dict[str, float]:
    return identification_scores(found, reduced.truth, reduced.sizes)


def _measured(
    name: str, way: Way, reduced: Sequence[Reduced], compared: Compared, threshold: float, rules: Rules
) -> list[Any]:
    scores = [_scores(way(one, compared, threshold, rules), one) for one in reduced[1:]]
    spread = [[score[which] for score in scores] for which in _SCORES]
    return [compared.kind, name, threshold, *((float(np.mean(one)), float(np.std(one))) for one in spread)]


# ---- many ----------------------------------------------------------------------------------------------------


def generated(tracklets: int, images: int, seed: int = 0) -> Tracklets:
    """Make tracklets of generated features, four of a person, under six cameras within a day.

    Args:
        tracklets: how many.
        images: of each.
        seed: of the features.
    """
    random = np.random.default_rng(seed)
    people = np.arange(tracklets) // 4
    centers = random.standard_normal((people.max() + 1, 512), np.float32)
    own = centers[people] + 0.5 * random.standard_normal((tracklets, 512), np.float32)
    features = np.repeat(own, images, axis=0)
    features += 0.6 * random.standard_normal(features.shape, np.float32)
    start = random.uniform(0, 86400, tracklets)
    cameras = [f"c{number}" for number in random.integers(1, CAMERAS + 1, tracklets)]
    return Tracklets(
        features,
        np.repeat(np.arange(tracklets), images),
        [""] * len(features),
        [f"{camera}/{number:06d}" for number, camera in enumerate(cameras)],
        cameras,
        start,
        start + random.uniform(2, 20, tracklets),
        people.astype(str).tolist(),
        "",
        "",
    )


def many(args: argparse.Namespace) -> dict[str, Any]:
    """Measure time and memory of many tracklets, and print a table."""
    tracklets = generated(args.tracklets, args.images)
    rows = []
    for kind in args.distances:
        compared = Compared(kind)
        began = time.perf_counter()
        reduced = reduce_tracklets(tracklets, compared)
        reducing = time.perf_counter() - began
        for mode, link in (("batch", identify), ("streaming", identify_arriving)):
            began = time.perf_counter()
            found = link(reduced, Linking(compared, args.threshold))
            seconds = time.perf_counter() - began
            score = _scores(found.identity.tolist(), found.reduced)["IDF1"]
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            rows.append([kind, mode, round(reducing, 1), round(seconds, 1), round(peak, 2), round(score, 3)])
            print(tabulate(rows[-1:], tablefmt="plain"), flush=True)
    heads = ["distance", "mode", "reducing [s]", "linking [s]", "peak so far [GiB]", "IDF1"]
    print(tabulate(rows, heads, tablefmt="pipe"))
    about = (
        f"{args.tracklets} tracklets of {args.images} generated images each; the peak is of the whole process, "
        f"{tracklets.features.nbytes / 2**30:.2f} GiB of features included"
    )
    return {"command": _command(args), "about": about, "columns": heads, "rows": rows}


def _command(args: argparse.Namespace) -> str:
    if args.name == "synthetic":
        own = f"--config-file {args.config_file} --weights {os.path.basename(args.weights)} --seeds {args.seeds}"
    else:
        own = f"--tracklets {args.tracklets}"
    return f"python tools/identification.py {args.name} {own}"


def main() -> None:
    """Run a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="name")
    synthetic = commands.add_parser("synthetic")
    synthetic.add_argument("--config-file", required=True)
    synthetic.add_argument("--weights", required=True)
    synthetic.add_argument("--opts", nargs="*", default=[])
    synthetic.add_argument("--root", default=tempfile.gettempdir(), help="folder for the tracks, which are kept")
    synthetic.add_argument("--seeds", type=int, default=5, help="parts of tracks (default: 5)")
    synthetic.add_argument("--fpr", type=float, default=1e-3)
    synthetic.add_argument("--metric", choices=METRICS, default="cosine")
    synthetic.set_defaults(work=compare)
    large = commands.add_parser("large")
    large.add_argument("--tracklets", type=int, default=10_000)
    large.add_argument("--images", type=int, default=8)
    large.add_argument("--threshold", type=float, default=0.4)
    large.set_defaults(work=many)
    for command in (synthetic, large):
        command.add_argument("--distances", nargs="+", choices=tuple(KINDS), default=list(KINDS))
        command.add_argument("--output", default="", help="a JSON file of tables, in which this one is put")
    args = parser.parse_args()
    table = args.work(args)
    if args.output:
        add_to_json(args.output, {f"identify-{args.name}": table})


if __name__ == "__main__":
    main()
