"""Time and memory of evaluation, re-ranking, search, training and inference, each beside fast-reid's in one run.

    python tools/benchmark.py evaluation reranking search --size market --output benchmark.json
    python tools/benchmark.py training inference --models rmgl can --rounds 5

`evaluation`, `reranking` and `search` take generated features of the sizes of Market-1501 and MSMT17: identities are
random points and images lie around them, so scores are like a trained model's. Every way is measured in processes of
its own, in turn, after a run on a few features: seconds are the median over rounds, the ratio is the median over rounds
of the quotient, and memory is the peak of the process, Python and PyTorch included. What the ways compute is compared.

fast-reid's functions are run as they were released, without this package's mends. Its compiled ranking is built in a
temporary folder, where Cython and a compiler are at hand. For `search` it has no function: its demo orders the matrix
of distances. tools/search_benchmark.py measures the kinds of index on a large gallery. `training` and `inference` are
tools/cost.py with a model of fast-reid's for each method.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np
import torch
from tabulate import tabulate

import fastreid_parts
from fastreid_parts.commands import cost
from fastreid_parts.files import atomic_write

__all__ = ["PARTS", "SIZES", "main"]


@dataclass(frozen=True)
class Size:
    """A test set: numbers of images, identities, cameras and dimensions."""

    queries: int
    gallery: int
    identities: int
    cameras: int
    dimensions: int


_TINY, _MARKET, _MSMT17 = (
    Size(60, 400, 20, 6, 32),
    Size(3368, 15913, 750, 6, 512),
    Size(11659, 82161, 3060, 15, 512),
)
#: Name -> {part: size}.
SIZES = {
    "tiny": {"evaluation": _TINY, "reranking": _TINY, "search": _TINY},
    "market": {"evaluation": replace(_MARKET, dimensions=2048), "reranking": _MARKET, "search": _MARKET},
    "msmt17": {"evaluation": _MSMT17, "reranking": _MSMT17, "search": _MSMT17},
}
_TOP = 10
_K1, _K2, _LAMBDA = 20, 6, 0.3
# Of a random direction of its own length, an image's share beside its identity's point: 70 to 80 % of mAP
_VARIATION = 2.3


#: Method -> its config, the config of fast-reid's that it is held against, and the keys that this one needs.
_BAGTRICKS = ("MODEL.HEADS.NAME", "EmbeddingHead")
_MGN = ("MODEL.BACKBONE.DEPTH", "50x", "MODEL.BACKBONE.FEAT_DIM", "2048", "MODEL.BACKBONE.LAST_STRIDE", "1")
_MODELS: dict[str, tuple[str, str, Sequence[str]]] = {
    "cge": ("Market/cge_bot.yml", "Market/cge_bot.yml", _BAGTRICKS),
    "rrid": ("Market/rrid_f.yml", "Synthetic/mgn.yml", _MGN),
    "can": ("Market/can.yml", "Synthetic/mgn.yml", _MGN),
    "rmgl": ("Market/rmgl.yml", "Synthetic/mgn.yml", _MGN),
}


# ---- what is measured, each in a process of its own ---------------------------------------------------------------


def _product(data: dict[str, np.ndarray], extension: str) -> dict[str, float]:
    """The matrix product alone, in blocks, and nothing made of it."""
    query, gallery = _halves(data)
    rows = max(1, min(1024, 32 * 2**20 // len(gallery)))  # more are hardly faster
    block = torch.empty(rows, len(gallery))
    for start in range(0, len(query), rows):
        part = query[start : start + rows]
        torch.mm(part, gallery.t(), out=block[: len(part)])
    return {}


def _ours(data: dict[str, np.ndarray], extension: str) -> dict[str, float]:
    return _results(data, rerank=False)


def _ours_reranked(data: dict[str, np.ndarray], extension: str) -> dict[str, float]:
    return _results(data, rerank=True)


def _host(data: dict[str, np.ndarray], extension: str) -> dict[str, float]:
    from fastreid.evaluation import rank

    return _host_results(data, rank.eval_market1501.__wrapped__)


def _host_compiled(data: dict[str, np.ndarray], extension: str) -> dict[str, float]:
    spec = importlib.util.spec_from_file_location("rank_cy", extension)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return _host_results(data, lambda *arguments: module.evaluate_cy(*arguments, False))


def _neighbours(data: dict[str, np.ndarray], extension: str) -> dict[str, float]:
    """The search for the k1 nearest alone."""
    from fastreid_parts.evaluation import topk

    topk(data["features"], data["features"], _K1)
    return {}


def _jaccard(data: dict[str, np.ndarray], extension: str) -> dict[str, float]:
    from fastreid_parts.evaluation import KReciprocal

    queries = int(data["queries"])
    reranking = KReciprocal(data["features"], queries, _K1, _K2)
    return _sampled(reranking.jaccard(slice(None)), queries)


def _jaccard_alone(data: dict[str, np.ndarray], extension: str) -> dict[str, float]:
    from fastreid_parts.evaluation import KReciprocal

    queries = int(data["queries"])
    neighbours = data["neighbours 0"], data["neighbours 1"]
    reranking = KReciprocal(data["features"], queries, _K1, _K2, neighbours=neighbours)
    return _sampled(reranking.jaccard(slice(None)), queries)


def _with_neighbours(data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    from fastreid_parts.evaluation import topk

    distances, nearest = topk(data["features"], data["features"], _K1)
    return {**data, "neighbours 0": distances, "neighbours 1": nearest}


def _host_jaccard(data: dict[str, np.ndarray], extension: str) -> dict[str, float]:
    """fast-reid's function on the CPU, which only searches the neighbours there."""
    from fastreid.utils import compute_dist

    queries = int(data["queries"])
    whole = compute_dist.compute_jaccard_distance.__wrapped__(
        torch.from_numpy(data["features"]), k1=_K1, k2=_K2, search_option=3
    )
    return _sampled(whole[:queries, queries:], queries)


def _top(data: dict[str, np.ndarray], extension: str) -> dict[str, float]:
    """Build an index over the gallery and find the nearest images of every query."""
    from fastreid_parts.evaluation import Features
    from fastreid_parts.retrieval import FeatureSet, GalleryIndex

    query, gallery = (half.numpy() for half in _halves(data))
    nobody = np.full(len(gallery), -1)
    images = Features(gallery, nobody, nobody, [""] * len(gallery))
    index = GalleryIndex.build(FeatureSet(images, 0, "generated", "", ""), "flat", "cosine")
    distances = [index.search(query[start : start + 1000], _TOP)[0] for start in range(0, len(query), 1000)]
    return _sampled(np.concatenate(distances), len(query))


def _host_top(data: dict[str, np.ndarray], extension: str) -> dict[str, float]:
    from fastreid.utils.compute_dist import compute_cosine_distance

    query, gallery = _halves(data)
    distances = compute_cosine_distance(query, gallery)
    order = np.argsort(distances, axis=1)[:, :_TOP]
    return _sampled(np.take_along_axis(distances, order, axis=1), len(query))


#: Part -> {name of a way: its function}; the first is what the others are held against.
PARTS: dict[str, dict[str, Callable[[dict[str, np.ndarray], str], dict[str, float]]]] = {
    "evaluation": {
        "matrix product alone": _product,
        "fastreid_parts": _ours,
        "fast-reid, compiled": _host_compiled,
        "fast-reid": _host,
    },
    "reranking": {
        "neighbour search alone": _neighbours,
        "fastreid_parts, distances": _jaccard,
        "fastreid_parts, distances after the search": _jaccard_alone,
        "fastreid_parts, evaluated": _ours_reranked,
        "fast-reid, distances": _host_jaccard,
    },
    "search": {
        "matrix product alone": _product,
        "fastreid_parts": _top,
        "fast-reid's demo": _host_top,
    },
}


def _halves(data: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.from_numpy(data["features"])
    return features[: int(data["queries"])], features[int(data["queries"]) :]


def _results(data: dict[str, np.ndarray], rerank: bool) -> dict[str, float]:
    from fastreid.config import get_cfg

    from fastreid_parts.evaluation import Features, evaluate_features

    cfg = get_cfg()
    cfg.merge_from_list(["TEST.METRIC", "cosine", "TEST.RERANK.ENABLED", rerank, "MODEL.DEVICE", "cpu"])
    cfg.merge_from_list(["TEST.RERANK.K1", _K1, "TEST.RERANK.K2", _K2, "TEST.RERANK.LAMBDA", _LAMBDA])
    features = Features(data["features"], data["pids"], data["camids"], [""] * len(data["pids"]))
    return dict(evaluate_features(features, int(data["queries"]), cfg))


def _host_results(data: dict[str, np.ndarray], rank: Callable[..., Any]) -> dict[str, float]:
    """What fast-reid's evaluator does between features and results."""
    from fastreid.utils.compute_dist import compute_cosine_distance

    query, gallery = _halves(data)
    queries = int(data["queries"])
    distances = compute_cosine_distance(query, gallery)
    halves = (slice(queries), slice(queries, None))
    people = (column[half] for column in (data["pids"], data["camids"]) for half in halves)
    cmc, precisions, inps = rank(distances, *people, 50)
    return {"Rank-1": 100 * float(cmc[0]), "mAP": 100 * float(np.mean(precisions)), "mINP": 100 * float(np.mean(inps))}


def _sampled(distances: np.ndarray, queries: int) -> dict[str, float]:
    """Some distances, spread over queries and gallery, so that two ways can be compared; those below 1 first."""
    lines = np.linspace(0, queries - 1, min(queries, 40)).astype(int)
    chosen = np.sort(distances[lines], axis=1)[:, :100].ravel()
    return {f"distance {place}": float(value) for place, value in enumerate(chosen)}


# ---- running ------------------------------------------------------------------------------------------------------


def _generate(size: Size, seed: int) -> dict[str, np.ndarray]:
    """Features of length 1; identities and cameras are drawn, so some pairs are of one camera and do not count."""
    random = np.random.default_rng(seed)
    images = size.queries + size.gallery
    pids = random.integers(0, size.identities, images)
    centres = random.standard_normal((size.identities, size.dimensions), dtype=np.float32)
    features = random.standard_normal((images, size.dimensions), dtype=np.float32)
    features *= _VARIATION * (size.dimensions / 512) ** 0.25
    features += centres[pids]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    camids = random.integers(0, size.cameras, images)
    return {"features": features, "pids": pids, "camids": camids, "queries": np.array(size.queries)}


def _compile_ranking(folder: str) -> str:
    """Build fast-reid's extension in a copy; its path, or an empty string where that fails."""
    import fastreid.evaluation.rank_cylib as cylib

    copy = os.path.join(folder, "rank_cylib")
    shutil.copytree(os.path.dirname(cylib.__file__), copy)
    words = [sys.executable, "setup.py", "build_ext", "--inplace"]
    built = subprocess.run(words, cwd=copy, capture_output=True, text=True)
    libraries = [name for name in os.listdir(copy) if name.startswith("rank_cy.") and name.endswith((".so", ".pyd"))]
    if built.returncode or not libraries:
        reason = (built.stderr.strip() or "no output").splitlines()[-1]
        print(f"fast-reid's compiled ranking is left out: it could not be built with Cython and a compiler: {reason}")
        return ""
    return os.path.join(copy, libraries[0])


def _work(args: argparse.Namespace) -> None:
    """Measure one way once and write what it gave."""
    part, way = args.way
    columns = ("features", "pids", "camids", "queries")
    data = {name: np.load(os.path.join(args.folder, f"{name}.npy")) for name in columns}
    function = PARTS[part][way]
    small = _generate(SIZES["tiny"][part], 0)
    if function is _jaccard_alone:
        data, small = _with_neighbours(data), _with_neighbours(small)
    function(small, args.extension)  # threads are there, and what is loaded on first use
    start = time.perf_counter()
    values = function(data, args.extension)
    seconds = time.perf_counter() - start
    with open(os.path.join(args.folder, "result.json"), "w", encoding="utf-8") as file:
        json.dump({"seconds": seconds, "mib": cost.resident_megabytes("VmHWM"), "values": values}, file)


def _compare(part: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure all ways of a part in turn and print them."""
    size = SIZES[args.size][part]
    ways = [way for way in PARTS[part] if way not in args.without]
    measured: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        for name, array in _generate(size, args.seed).items():
            np.save(os.path.join(folder, f"{name}.npy"), array)
        extension = _compile_ranking(folder) if "fast-reid, compiled" in ways else ""
        if not extension:
            measured.pop("fast-reid, compiled", None)
        for _ in range(args.rounds):
            for way in measured:
                words = [sys.executable, __file__, part, "--folder", folder, "--extension", extension]
                subprocess.run([*words, "--way", part, way], check=True)
                with open(os.path.join(folder, "result.json"), encoding="utf-8") as file:
                    measured[way].append(json.load(file))
                print(f"{part}, {way}: {measured[way][-1]['seconds']:.2f} s", flush=True)
    base = [one["seconds"] for one in next(iter(measured.values()))]
    rows = {
        way: {
            "seconds": statistics.median(one["seconds"] for one in runs),
            "ratio": statistics.median(one["seconds"] / first for one, first in zip(runs, base)),
            "mib": max(one["mib"] or 0 for one in runs),
            "values": runs[0]["values"],
        }
        for way, runs in measured.items()
    }
    print(
        f"\n{part}: {size.queries:,} queries, {size.gallery:,} gallery images, {size.dimensions} dimensions, "
        f"{torch.get_num_threads()} threads, {args.rounds} rounds"
    )
    table = [
        [way, row["seconds"], row["ratio"], row["mib"], *(row["values"].get(name) for name in ("mAP", "Rank-1"))]
        for way, row in rows.items()
    ]
    headers = ["", "seconds", "time ratio", "peak [MiB]", "mAP", "Rank-1"]
    print(tabulate(table, headers=headers, tablefmt="pipe", floatfmt=("", ".2f", ".3f", ",.0f", ".4f", ".4f")))
    print(f"largest difference of what two ways computed: {_largest_difference(rows):.1e}\n")
    return {"size": vars(size), "ways": rows}


def _largest_difference(rows: dict[str, dict[str, Any]]) -> float:
    """Of the values that ways share by name; results that were re-ranked have no other way beside them."""
    worst = 0.0
    values = [row["values"] for row in rows.values()]
    for place, one in enumerate(values):
        for other in values[place + 1 :]:
            worst = max([worst, *(abs(one[name] - other[name]) for name in one.keys() & other.keys())])
    return worst


def _models(mode: str, args: argparse.Namespace) -> None:
    """A step of each method's model beside one of fast-reid's at the same backbone, input and batch."""
    for name in args.models:
        config, versus, keys = _MODELS[name]
        print(f"\n{name}: {config} beside fast-reid's {versus}, {' '.join(keys)}", flush=True)
        sides = ["INPUT.SIZE_TRAIN", "(384,128)", "INPUT.SIZE_TEST", "(384,128)"]
        words = [mode, "--config-file", config, "--opts", *sides, "--versus", versus, "--versus-opts", *keys, *sides]
        cost.main([*words, "--batch", str(args.batch), "--rounds", str(args.rounds), "--memory"])


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `--help`."""
    args = _parse(argv)
    if args.way:
        _work(args)
        return 0
    report: dict[str, Any] = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {
            "fastreid_parts": fastreid_parts.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "faiss": faiss.__version__,
        },
        "size": args.size,
        "rounds": args.rounds,
    }
    print(f"{report['machine']}; " + ", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    for part in args.parts:
        if part in PARTS:
            report[part] = _compare(part, args)
        else:
            _models(part, args)
    if args.output:
        atomic_write(args.output, lambda file: file.write((json.dumps(report, indent=2) + "\n").encode()))
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = (*PARTS, "training", "inference")
    parser.add_argument("parts", nargs="+", choices=parts, help="what to measure")
    parser.add_argument("--size", choices=tuple(SIZES), default="market", help="of the test set (default: market)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each way is measured (default: 3)")
    parser.add_argument(
        "--without", nargs="+", default=[], metavar="WAY", help="ways to leave out, as they stand in the table"
    )
    parser.add_argument(
        "--models", nargs="+", choices=tuple(_MODELS), default=tuple(_MODELS), help="for training and inference"
    )
    parser.add_argument("--batch", type=int, default=8, help="images a step, for training and inference (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the generated features (default: 0)")
    parser.add_argument("--output", default="", help="a JSON file for the numbers of evaluation, reranking and search")
    for hidden in ("--folder", "--extension"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    parser.add_argument("--way", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    known = {way for part in args.parts if part in PARTS for way in PARTS[part]}
    unknown = [way for way in args.without if way not in known]
    if unknown:
        parser.error(f"--without takes: {', '.join(sorted(known))}; got {', '.join(unknown)}")
    if args.rounds < 1 or args.batch < 1:
        parser.error("--rounds and --batch must be at least 1")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
