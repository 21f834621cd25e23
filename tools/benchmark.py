"""Time and memory of parts of the project, each beside another way of doing the same, in turn in one run.

    python tools/benchmark.py evaluation --size market --output evaluation.json    (also: reranking, search)
    python tools/benchmark.py gallery --images 1000000 --kinds flat ivfpq
    python tools/benchmark.py stores                                               (a folder beside milvus-lite)
    python tools/benchmark.py training --models rmgl can --rounds 5                (also: inference)
    python tools/benchmark.py rrid-head --parts 2 4 6 --batch 64
    python tools/benchmark.py export --batches 1 8 32 --rounds 10
    python tools/benchmark.py busy --seconds 20                                    (on a machine that is quiet)

Seconds are the median over rounds, a ratio is the median over rounds of the quotient by the first way.

`evaluation`, `reranking` and `search` take generated features of the sizes of Market-1501 and MSMT17: identities are
random points and images lie around them, so scores are like a trained model's. Every way is measured in processes of
its own, after a run on a few features; memory is the peak of the process, Python and PyTorch included. What the ways
compute is compared. fast-reid's functions are run as they were released, without this package's patches. Its compiled
ranking is built in a temporary folder, where Cython and a compiler are at hand. For `search` it has no function: its
demo orders the matrix of distances.

`gallery` builds, searches and saves the kinds of index over a large generated gallery, each in a process of its own.
Identities are points of a space of some tens of effective dimensions, turned at random into the features' space; an
image is its identity's point plus a variation of half its energy, brought to length 1, and images of an identity are
spread over the whole gallery. Recall is the share of the exact k nearest images (those of `flat`, which is always
measured) that a kind finds. Memory is how much the process grew from before the index was built to after the searches.
Features never lie in memory as a whole, and making them is not part of the build time. Queries a second are those of
all queries in one call. An IVF-PQ index is searched a second time with a quarter of the lists.

`stores` builds a flat gallery in a folder and in milvus-lite, opens it, adds to it and searches it, with a filter too.

`training` and `inference` are the command `cost` with a model of fast-reid's for each method. `rrid-head` is RRID's
head, all parts in one batch, beside the same head with the same weights as a list of small layers.

`export` writes untrained models as `fastreid-parts export` does and takes the features of noise, with torch and with
each runtime, in one process.

`busy` is the rate of training steps alone and beside two other processes, a loop and a NumPy product, with what
`fastreid_parts` tells OpenMP and with other settings; `libgomp's own` is what torch does by itself.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from directions import Directions
from fastreid.modeling import build_model
from fastreid.modeling.heads import build_heads
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

import fastreid_parts
from fastreid_parts.command_line import run_command
from fastreid_parts.commands._throughput import BASELINES
from fastreid_parts.config import load_config
from fastreid_parts.deployment import InferenceModel
from fastreid_parts.deployment.loading import for_inference
from fastreid_parts.deployment.runtimes import format_of, open_exported
from fastreid_parts.deployment.sample_images import draw_people, load_raw
from fastreid_parts.deployment.writers import WriteOptions, write
from fastreid_parts.evaluation import Features
from fastreid_parts.files import write_json
from fastreid_parts.measuring import Run, in_own_process, resident_mib, run_once, summarize, take_turns, where
from fastreid_parts.methods.rrid import RRIDHead
from fastreid_parts.retrieval import FeatureSet, GalleryIndex, MilvusGallery

__all__ = ["KINDS", "PARTS", "SIZES", "SPINS", "Gallery", "main"]


# ---- evaluation, reranking, search --------------------------------------------------------------------------------


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
    return _results(data)


def _by(data: dict[str, np.ndarray], extension: str, **keys: Any) -> dict[str, float]:
    """Results with further keys, of which `__` is a dot; named by them, since no other way has the same."""
    named = {name.replace("__", "."): value for name, value in keys.items()}
    return {f"{name} by {named}": value for name, value in _results(data, *itertools.chain(*named.items())).items()}


def _host(data: dict[str, np.ndarray], extension: str) -> dict[str, float]:
    from fastreid.evaluation import rank

    return _host_results(data, rank.eval_market1501.__wrapped__)


def _host_compiled(data: dict[str, np.ndarray], extension: str) -> dict[str, float]:
    spec = importlib.util.spec_from_file_location("rank_cy", extension)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return _host_results(data, lambda *arguments: module.evaluate_cy(*arguments, False))


def _faiss_neighbors(data: dict[str, np.ndarray], extension: str) -> dict[str, float]:
    """The k1 nearest of every image as of those of another set, which is what fast-reid does."""
    index = faiss.IndexFlatL2(data["features"].shape[1])
    index.add(data["features"])
    squared, _ = index.search(data["features"], _K1)
    return _sampled_neighbors(np.sqrt(np.maximum(squared, 0)))


def _neighbors(data: dict[str, np.ndarray], extension: str) -> dict[str, float]:
    """The search for the k1 nearest alone."""
    from fastreid_parts.evaluation import topk

    return _sampled_neighbors(topk(data["features"], data["features"], _K1)[0])


def _sampled_neighbors(distances: np.ndarray) -> dict[str, float]:
    """Some images' distances to others; that to itself is rounding."""
    lines = np.linspace(0, len(distances) - 1, min(len(distances), 200)).astype(int)
    return {f"neighbor {place}": float(value) for place, value in enumerate(distances[lines, 1:].ravel())}


def _jaccard(data: dict[str, np.ndarray], extension: str) -> dict[str, float]:
    from fastreid_parts.evaluation import KReciprocal

    queries = int(data["queries"])
    reranking = KReciprocal(data["features"], queries, _K1, _K2)
    return _sampled(reranking.jaccard(slice(None)), queries)


def _jaccard_alone(data: dict[str, np.ndarray], extension: str) -> dict[str, float]:
    from fastreid_parts.evaluation import KReciprocal

    queries = int(data["queries"])
    neighbors = data["neighbors 0"], data["neighbors 1"]
    reranking = KReciprocal(data["features"], queries, _K1, _K2, neighbors=neighbors)
    return _sampled(reranking.jaccard(slice(None)), queries)


def _with_neighbors(data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    from fastreid_parts.evaluation import topk

    distances, nearest = topk(data["features"], data["features"], _K1)
    return {**data, "neighbors 0": distances, "neighbors 1": nearest}


def _host_jaccard(data: dict[str, np.ndarray], extension: str) -> dict[str, float]:
    """fast-reid's function on the CPU, which only searches the neighbors there."""
    from fastreid.utils import compute_dist

    queries = int(data["queries"])
    whole = compute_dist.compute_jaccard_distance.__wrapped__(
        torch.from_numpy(data["features"]), k1=_K1, k2=_K2, search_option=3
    )
    return _sampled(whole[:queries, queries:], queries)


def _top(data: dict[str, np.ndarray], extension: str) -> dict[str, float]:
    """Build an index over the gallery and find the nearest images of every query."""
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
        "faiss's flat search": _faiss_neighbors,
        "neighbor search alone": _neighbors,
        "fastreid_parts, distances": _jaccard,
        "fastreid_parts, distances after the search": _jaccard_alone,
        "fastreid_parts, evaluated": partial(_by, TEST__RERANK__ENABLED=True),
        "the same, each query alone": partial(_by, TEST__RERANK__ENABLED=True, TEST__QUERIES="alone"),
        "GNN, evaluated": partial(_by, TEST__RERANK__ENABLED=True, TEST__RERANK__METHOD="gnn"),
        "GNN, each query alone": partial(
            _by, TEST__RERANK__ENABLED=True, TEST__RERANK__METHOD="gnn", TEST__QUERIES="alone"
        ),
        "centralization, evaluated": partial(_by, TEST__NFC__ENABLED=True),
        "centralization, each query alone": partial(_by, TEST__NFC__ENABLED=True, TEST__QUERIES="alone"),
        "query expansion, evaluated": partial(_by, TEST__AQE__ENABLED=True),
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


def _results(data: dict[str, np.ndarray], *keys: Any) -> dict[str, float]:
    from fastreid.config import get_cfg

    from fastreid_parts.evaluation import Features, evaluate_features

    cfg = get_cfg()
    cfg.merge_from_list(["TEST.METRIC", "cosine", "MODEL.DEVICE", "cpu", *keys])
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


_COLUMNS = ("features", "pids", "camids", "queries")


def _generate(size: Size, seed: int) -> dict[str, np.ndarray]:
    """Features of length 1; identities and cameras are drawn, so some pairs are of one camera and do not count."""
    random = np.random.default_rng(seed)
    images = size.queries + size.gallery
    pids = random.integers(0, size.identities, images)
    centers = random.standard_normal((size.identities, size.dimensions), dtype=np.float32)
    features = random.standard_normal((images, size.dimensions), dtype=np.float32)
    features *= _VARIATION * (size.dimensions / 512) ** 0.25
    features += centers[pids]
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


def _work(part: str, way: str, folder: str, extension: str) -> Run:
    """Measure one way once, in a process of its own."""
    data = {name: np.load(os.path.join(folder, f"{name}.npy")) for name in _COLUMNS}
    function = PARTS[part][way]
    small = _generate(SIZES["tiny"][part], 0)
    if function is _jaccard_alone:
        data, small = _with_neighbors(data), _with_neighbors(small)
    function(small, extension)  # threads are there, and what is loaded on first use
    run = run_once(partial(function, data, extension), torch.device("cpu"))
    return run._replace(mib=resident_mib("VmHWM"))


def compare_ways(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all ways of a part in turn and print them."""
    part, size = args.part, SIZES[args.size][args.part]
    with tempfile.TemporaryDirectory() as folder:
        for name, array in _generate(size, args.seed).items():
            np.save(os.path.join(folder, f"{name}.npy"), array)
        ways = [way for way in PARTS[part] if way not in args.without]
        extension = _compile_ranking(folder) if "fast-reid, compiled" in ways else ""
        functions: dict[str, Callable[[], Run]] = {
            way: partial(in_own_process, _work, part, way, folder, extension)
            for way in ways
            if way != "fast-reid, compiled" or extension
        }
        runs = take_turns(
            functions, args.rounds, lambda way, run: print(f"{part}, {way}: {run.seconds:.2f} s", flush=True)
        )
    rows = {way: {**row._asdict(), "values": runs[way][0].result} for way, row in summarize(runs).items()}
    print(
        f"\n{part}: {size.queries:,} queries, {size.gallery:,} gallery images, {size.dimensions} dimensions, "
        f"{torch.get_num_threads()} threads, {args.rounds} rounds"
    )
    table = [
        [way, row["seconds"], row["ratio"], row["mib"], *(_of(row["values"], name) for name in ("mAP", "Rank-1"))]
        for way, row in rows.items()
    ]
    headers = ["", "seconds", "time ratio", "peak [MiB]", "mAP", "Rank-1"]
    print(tabulate(table, headers=headers, tablefmt="pipe", floatfmt=("", ".2f", ".3f", ",.0f", ".4f", ".4f")))
    print(f"largest difference of what two ways computed: {_largest_difference(rows):.1e}\n")
    return {"size": asdict(size), "ways": rows}


def _of(values: dict[str, float], measure: str) -> float | None:
    return next((value for name, value in values.items() if name.partition(" by ")[0] == measure), None)


def _largest_difference(rows: dict[str, dict[str, Any]]) -> float:
    """Of the values that ways share by name; results that were re-ranked have no other way beside them."""
    worst = 0.0
    values = [row["values"] for row in rows.values()]
    for place, one in enumerate(values):
        for other in values[place + 1 :]:
            worst = max([worst, *(abs(one[name] - other[name]) for name in one.keys() & other.keys())])
    return worst


# ---- gallery ------------------------------------------------------------------------------------------------------


#: Name in the table -> kind and parameters.
KINDS: dict[str, tuple[str, dict[str, int]]] = {
    "flat": ("flat", {}),
    "ivfpq-plain": ("ivfpq", {"rescore": 0}),
    "ivfpq": ("ivfpq", {}),
    "hnsw": ("hnsw", {}),
}
_BLOCK = 20_000  # images that are generated at once
_TRAINING = 160_000  # images that an index is built over at first, enough to train it for two million
_ROUNDS = 3  # of all queries together
_SINGLE = 50  # queries one by one


class Gallery:
    """Features of length 1 with identities, generated in blocks that depend on the seed and their number alone.

    Args:
        images: of the gallery.
        queries: further images.
        dimensions: of a feature.
        per_identity: images of an identity, on the average.
        seed: of everything.
    """

    def __init__(self, images: int, queries: int, dimensions: int, per_identity: int, seed: int) -> None:
        self.images, self.queries, self.seed = images, queries, seed
        random = np.random.default_rng([seed, 0])
        self.directions = Directions(random, dimensions)
        identities = max(2, images // per_identity)
        self.centers = self.directions.centers(random, identities)

    def blocks(self) -> Iterator[FeatureSet]:
        """The gallery; the first block is large enough to train on."""
        starts = [0, *range(min(_TRAINING, self.images), self.images, _BLOCK), self.images]
        for number, (start, stop) in enumerate(zip(starts, starts[1:])):
            yield self._block(number + 2, stop - start, start)

    def query(self) -> FeatureSet:
        """The queries."""
        return self._block(1, self.queries, -self.queries)

    def _block(self, number: int, count: int, first: int) -> FeatureSet:
        random = np.random.default_rng([self.seed, number])
        pids = random.integers(0, len(self.centers), count)
        features = self.directions.around(random, self.centers[pids])
        cameras = random.integers(0, 6, count)
        return FeatureSet(Features(features, pids, cameras, [""] * count), 0, "generated", "", "")


def measure_kind(
    name: str, sizes: dict[str, int], k: int, truth: np.ndarray | None
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Build one kind of index, search it, save it.

    Args:
        name: one of `KINDS`.
        sizes: arguments of `Gallery`.
        k: length of a list.
        truth: (Q, k) rows of the exact search, or None.

    Returns:
        The numbers, of IVF-PQ also those with a quarter of the lists looked at; the rows that were found, (Q, k).
    """
    kind, parameters = KINDS[name]
    gallery = Gallery(**sizes)
    query = gallery.query()
    building = 0.0
    index = None
    before = resident_mib("VmRSS") or float("nan")
    progress = tqdm(total=gallery.images, desc=name, unit="image", leave=False, disable=None)
    for block in gallery.blocks():
        start = time.perf_counter()
        if index is None:
            index = GalleryIndex.build(block, kind, "cosine", gallery.images, False, **parameters)
        else:
            index.add(block)
        building += time.perf_counter() - start
        progress.update(len(block.features))
    progress.close()
    assert index is not None
    del block
    searched = [_search(index, query, k, truth)]
    memory = (resident_mib("VmRSS") or float("nan")) - before
    if kind == "ivfpq":
        nprobe = index.parameters["nprobe"]
        index.tune(nprobe=max(1, nprobe // 4))
        searched.append(_search(index, query, k, truth))
        index.tune(nprobe=nprobe)
    with tempfile.TemporaryDirectory() as folder:
        index.save(folder)
        size = sum(os.path.getsize(os.path.join(folder, file)) for file in os.listdir(folder))
    same = {"kind": name, "build_s": building, "memory_mib": memory, "disk_mib": size / 2**20}
    same["peak_mib"] = resident_mib("VmHWM")
    return [{**same, **numbers} for numbers, _ in searched], searched[0][1]


def _search(
    index: GalleryIndex, query: FeatureSet, k: int, truth: np.ndarray | None
) -> tuple[dict[str, Any], np.ndarray]:
    device = torch.device("cpu")
    index.search(query, k)
    runs = [run_once(partial(index.search, query, k), device) for _ in range(_ROUNDS)]
    rows = runs[-1].result[1]
    single = query.features.features[:_SINGLE]
    alone = run_once(lambda: [index.search(row[None], k) for row in single], device).seconds / len(single)
    right = rows if truth is None else truth
    numbers = {
        "parameters": dict(index.parameters),
        "queries_per_s": len(rows) / statistics.median(run.seconds for run in runs),
        "single_query_ms": 1000 * alone,
        "recall": float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(rows, right)])),
    }
    return numbers, rows


def compare_kinds(args: argparse.Namespace) -> dict[str, Any]:
    """Measure kinds of index and print them."""
    sizes = {name: getattr(args, name) for name in ("images", "queries", "dimensions", "per_identity", "seed")}
    results: list[dict[str, Any]] = []
    truth = None
    for name in ["flat", *(name for name in args.kinds if name != "flat")]:
        numbers, rows = in_own_process(measure_kind, name, sizes, args.k, truth)
        truth = rows if truth is None else truth
        results += numbers
        print(f"{name}: built in {results[-1]['build_s']:.0f} s", flush=True)
    table = [
        [
            numbers["kind"],
            ", ".join(f"{name} {value}" for name, value in numbers["parameters"].items()),
            *(numbers[key] for key in ("build_s", "memory_mib", "disk_mib", "queries_per_s", "single_query_ms")),
            numbers["recall"],
        ]
        for numbers in results
    ]
    headers = ["index", "parameters", "build [s]", "memory [MiB]", "on disk [MiB]", "queries/s", "one query [ms]"]
    formats = ("", "", ".1f", ".0f", ".0f", ".0f", ".1f", ".3f")
    print("\n" + tabulate(table, headers=[*headers, f"recall@{args.k}"], tablefmt="pipe", floatfmt=formats))
    return {**sizes, "k": args.k, "results": results}


# ---- a folder and Milvus ------------------------------------------------------------------------------------------

_WHERE = "camera != '3' and row >= 100"


def measure_store(store: str, sizes: dict[str, int], more: int, k: int) -> dict[str, float]:
    """Build a flat gallery in a store, open it again, add to it and search.

    Args:
        store: `folder`, or `milvus-lite`.
        sizes: arguments of `Gallery`.
        more: images that are added.
        k: length of a list.
    """
    drawn = Gallery(**sizes)
    (first, *_), query, added = drawn.blocks(), drawn.query(), drawn._block(0, more, 0)
    times: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        times[name] = time.perf_counter() - start
        return result

    with tempfile.TemporaryDirectory() as folder:
        place = os.path.join(folder, "gallery.db")
        if store == "folder":
            timed("build_s", lambda: GalleryIndex.build(first).save(place))
            index: Any = timed("open_s", lambda: GalleryIndex.load(place))
            timed("add_s", lambda: (index.add(added), index.save(place)))
        else:
            timed("build_s", lambda: MilvusGallery.build(first, place).close())
            index = timed("open_s", lambda: MilvusGallery.load(place))
            timed("add_s", lambda: index.add(added))
        queries, alone = query.features.features, query.features.features[:_SINGLE]
        index.search(queries[:1], k)
        timed("all_s", lambda: index.search(queries, k))
        timed("one_s", lambda: [index.search(row[None], k) for row in alone])
        timed("filtered_s", lambda: [index.search(row[None], k, where=_WHERE) for row in alone])
        if store != "folder":
            index.close()
        files = [os.path.join(where, name) for where, _, names in os.walk(place) for name in names]
        size = sum(map(os.path.getsize, files))
    return {
        **{name: times[name] for name in ("build_s", "open_s", "add_s")},
        "queries_per_s": len(queries) / times["all_s"],
        "single_query_ms": 1000 * times["one_s"] / len(alone),
        "filtered_query_ms": 1000 * times["filtered_s"] / len(alone),
        "disk_mib": size / 2**20,
        "peak_mib": resident_mib("VmHWM") or float("nan"),
    }


def compare_stores(args: argparse.Namespace) -> dict[str, Any]:
    """Measure a folder and milvus-lite, each in a process of its own, and print them."""
    sizes = {name: getattr(args, name) for name in ("images", "queries", "dimensions", "per_identity", "seed")}
    results = {store: in_own_process(measure_store, store, sizes, args.more, args.k) for store in _STORES}
    headers = ["store", "build [s]", "open [s]", f"add {args.more:,} [s]", "queries/s", "one query [ms]",
               "one with a filter [ms]", "on disk [MiB]", "peak memory [MiB]"]  # fmt: skip
    formats = ("", ".2f", ".2f", ".2f", ".0f", ".1f", ".1f", ".0f", ".0f")
    table = [[store, *numbers.values()] for store, numbers in results.items()]
    print("\n" + tabulate(table, headers=headers, tablefmt="pipe", floatfmt=formats))
    return {**sizes, "more": args.more, "k": args.k, "results": results}


_STORES = ("folder", "milvus-lite")


# ---- training, inference, RRID's head -------------------------------------------------------------------------------


#: Method -> its config, the config of fast-reid's that it is held against, and the keys that this one needs.
_BAGTRICKS = ("MODEL.HEADS.NAME", "EmbeddingHead")
_MGN_CONFIG, _MGN = BASELINES["mgn"][0], tuple(map(str, BASELINES["mgn"][1]))
_MODELS: dict[str, tuple[str, str, Sequence[str]]] = {
    "cge": ("Market/cge_bot.yml", "Market/cge_bot.yml", _BAGTRICKS),
    "rrid": ("Market/rrid_f.yml", _MGN_CONFIG, _MGN),
    "can": ("Market/can.yml", _MGN_CONFIG, _MGN),
    "rmgl": ("Market/rmgl.yml", _MGN_CONFIG, _MGN),
}


def compare_models(args: argparse.Namespace) -> None:
    """Take a step of each method's model beside one of fast-reid's at the same backbone, input and batch."""
    for name in args.models:
        config, versus, keys = _MODELS[name]
        print(f"\n{name}: {config} beside fast-reid's {versus}, {' '.join(keys)}", flush=True)
        sides = ["INPUT.SIZE_TRAIN", "(384,128)", "INPUT.SIZE_TEST", "(384,128)"]
        words = [args.part, "--config-file", config, "--opts", *sides, "--versus", versus, "--versus-opts", *keys]
        words += [*sides, "--batch", str(args.batch), "--rounds", str(args.rounds), "--memory"]
        if run_command("cost", words, "cost"):
            raise SystemExit(2)


@torch.no_grad()
def _forward(head: nn.Module, feature_map: torch.Tensor, targets: torch.Tensor) -> None:
    """A pass through a head as in training."""
    head(feature_map, targets)


def _forward_and_backward(head: nn.Module, feature_map: torch.Tensor, targets: torch.Tensor) -> None:
    """A pass through a head and back, from the cross-entropy of all logits to the feature map."""
    head.zero_grad(set_to_none=True)
    source = feature_map.detach().requires_grad_()  # the backbone's gradient is part of the work
    outputs = head(source, targets)
    logits = outputs.logits.values() if isinstance(head, RRIDHead) else outputs[1]
    sum(F.cross_entropy(x, targets) for x in logits).backward()


def compare_heads(args: argparse.Namespace) -> dict[str, Any]:
    """Measure both heads and print them."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from tests.methods.plain_rrid import PlainRRIDHead

    device = torch.device(args.device)
    torch.manual_seed(0)
    parts = ["MODEL.RRID.PARTS", args.parts, "MODEL.HEADS.EMBEDDING_DIM", args.reduced]
    sizes = ["MODEL.BACKBONE.FEAT_DIM", args.channels, "MODEL.HEADS.NUM_CLASSES", args.classes]
    batched = build_heads(load_config("Market/rrid_f.yml", [*parts, *sizes])).to(device)
    heads = {"plain": PlainRRIDHead(batched).to(device), "batched": batched}
    feature_map = torch.rand(args.batch, args.channels, *args.map, device=device)
    targets = torch.arange(args.batch, device=device) % args.classes

    table, report = [], {}
    for name, step in (("forward", _forward), ("forward and backward", _forward_and_backward)):
        steps = {
            kind: partial(run_once, partial(step, head, feature_map, targets), device) for kind, head in heads.items()
        }
        take_turns(steps, 1)  # what happens on first use is not timed
        plain, own = summarize(take_turns(steps, args.rounds)).values()
        table.append([name, 1000 * plain.seconds, 1000 * own.seconds, own.ratio, 1 / own.ratio])
        report[name] = {"plain": plain._asdict(), "batched": own._asdict()}
    print(
        f"RRID's head, parts {' '.join(map(str, args.parts))}, {args.batch} maps of {args.channels} channels, "
        f"{args.map[0]}x{args.map[1]}; {where(device)}, {args.rounds} rounds"
    )
    headers = ["", "layer by layer [ms]", "one batch [ms]", "time ratio", "times faster"]
    print(tabulate(table, headers=headers, tablefmt="pipe", floatfmt=("", ".1f", ".1f", ".3f", ".2f")))
    return report


# ---- export -------------------------------------------------------------------------------------------------------


#: Way -> the file that is written and its precision; the first is the model as torch runs it.
EXPORTS = {
    "torch": ("", "float32"),
    "ONNX Runtime": ("model.onnx", "float32"),
    "ONNX Runtime, int8": ("model.onnx", "int8"),
    "OpenVINO": ("model.xml", "float32"),
    "OpenVINO, int8": ("model.xml", "int8"),
}


def _runs(config: str, ways: Sequence[str], opts: Sequence[str], folder: str) -> dict[str, Callable[[np.ndarray], Any]]:
    """What each way computes of pixels, for an untrained model; files are written into the folder."""
    cfg = for_inference(load_config(config, ["MODEL.DEVICE", "cpu", *opts]))
    torch.manual_seed(0)
    model = InferenceModel(cfg, build_model(cfg).eval())
    people = load_raw(cfg, draw_people(32)).numpy()
    runs: dict[str, Callable[[np.ndarray], Any]] = {}
    for way in tqdm(ways, desc=f"exporting {config}", leave=False, disable=None):
        file, precision = EXPORTS[way]
        if not file:
            runs[way] = lambda pixels: model(torch.from_numpy(pixels))
            continue
        path = os.path.join(folder, f"{precision}_{file}")
        options = WriteOptions(precision=precision, calibration=people if precision == "int8" else ())
        write(model, path, format_of(path), model.describe(precision=precision), options)
        runs[way] = open_exported(path)
    return runs


@torch.no_grad()
def compare_exports(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every way at every batch, in turn, and print milliseconds and ratios."""
    device, table, report = torch.device("cpu"), [], {}
    for config in args.configs:
        size = load_config(config, args.opts).INPUT.SIZE_TEST
        with tempfile.TemporaryDirectory() as folder:
            runs = _runs(config, args.ways, args.opts, folder)
            for batch in args.batches:
                pixels = np.random.default_rng(0).uniform(0, 255, (batch, 3, *size)).astype(np.float32)
                steps = {way: partial(run_once, partial(run, pixels), device) for way, run in runs.items()}
                take_turns(steps, 1)  # what happens on first use is not timed
                measured = summarize(take_turns(steps, args.rounds))
                report[f"{config}, {batch}"] = {way: one._asdict() for way, one in measured.items()}
                for way, one in measured.items():
                    table.append([config, batch, way, 1000 * one.seconds, batch / one.seconds, 1 / one.ratio])
    print(f"{' '.join(map(str, size))} pixels, {where(device)}, {args.rounds} rounds")
    headers = ["model", "batch", "", "a batch [ms]", "images/s", f"times faster than {args.ways[0]}"]
    print(tabulate(table, headers=headers, tablefmt="pipe", floatfmt=("", "", "", ".1f", ".1f", ".2f")))
    return report


# ---- busy ---------------------------------------------------------------------------------------------------------


#: Way -> variables of the environment. One that changes nothing keeps this package from setting its own.
SPINS = {
    "libgomp's own": {"KMP_BLOCKTIME": "200"},
    "glibc's heap": {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"},
    "fastreid_parts": {},
    "GOMP_SPINCOUNT 1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT 100000": {"GOMP_SPINCOUNT": "100000"},
    "OMP_WAIT_POLICY passive": {"OMP_WAIT_POLICY": "passive"},
}
_OTHERS = (
    "while True: pass",
    "import numpy; a = numpy.random.rand(700, 700)\nwhile True: a @ a",
)
_STEPS = """
import sys, time
from fastreid_parts.commands.cost import training_step
from fastreid_parts.config import load_config
from fastreid_parts.cpus import keep_freed_memory
keep_freed_memory()  # as the trainer does
batch, seconds = int(sys.argv[2]), float(sys.argv[3])
_, step = training_step(load_config(sys.argv[1], ["MODEL.HEADS.NUM_CLASSES", 100]), batch)
step()
start, steps = time.perf_counter(), 0
while steps < 2 or time.perf_counter() - start < seconds:
    step()
    steps += 1
print(batch * steps / (time.perf_counter() - start))
"""


def _rate(variables: dict[str, str], busy: bool, args: argparse.Namespace) -> float:
    """Images a second of training in a process of its own, whose environment says nothing else on threads and heap."""
    read = ("OMP_", "GOMP_", "KMP_", "MALLOC_", "GLIBC_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(read)}
    others = [subprocess.Popen([sys.executable, "-c", code], env=clean) for code in _OTHERS if busy]
    try:
        command = [sys.executable, "-c", _STEPS, args.config_file, str(args.batch), str(args.seconds)]
        answer = subprocess.run(command, env={**clean, **variables}, capture_output=True, text=True, check=True)
    finally:
        for other in others:
            other.kill()
            other.wait()
    return float(answer.stdout.splitlines()[-1])


def compare_spins(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every way alone and beside other work, in turn, and print the medians."""
    rates: dict[str, dict[bool, list[float]]] = {way: {False: [], True: []} for way in args.ways}
    for _ in range(args.rounds):
        for way, own in rates.items():
            for busy in (False, True):
                own[busy].append(_rate(SPINS[way], busy, args))
                print(f"{way}, {'busy' if busy else 'idle'}: {own[busy][-1]:.1f} images/s", flush=True)
    first = next(iter(rates.values()))[False]
    table, report = [], {}
    for way, measured in rates.items():
        alone, beside = measured[False], measured[True]
        kept = statistics.median(b / a for a, b in zip(alone, beside))
        versus = statistics.median(a / other for a, other in zip(alone, first))
        table.append([way, statistics.median(alone), versus, statistics.median(beside), kept])
        report[way] = {"idle": alone, "busy": beside, "busy_by_idle": kept, "idle_by_first": versus}
    print(f"\n{args.config_file}, {args.batch} images a step, {os.cpu_count()} processors, {args.rounds} rounds")
    headers = ["", "idle [images/s]", "ratio to the first", "busy [images/s]", "busy to idle"]
    print(tabulate(table, headers=headers, tablefmt="pipe", floatfmt=("", ".1f", ".2f", ".1f", ".2f")))
    return report


# ---- arguments ----------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `--help`."""
    args = _parse(argv)
    report: dict[str, Any] = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {
            "fastreid_parts": fastreid_parts.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "faiss": faiss.__version__,
        },
        "arguments": {name: value for name, value in vars(args).items() if name not in ("work", "output")},
    }
    print(f"{report['machine']}; " + ", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    start = time.perf_counter()
    report[args.part] = args.work(args)
    report["seconds"] = time.perf_counter() - start
    print(f"{report['seconds']:.0f} s in all")
    if args.output:
        write_json(args.output, report)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)

    def add(part: str, work: Callable[[argparse.Namespace], Any], rounds: int | None, text: str) -> Any:
        sub = parts.add_parser(part, help=text, description=text)
        sub.set_defaults(work=work)
        if rounds is not None:
            sub.add_argument("--rounds", type=int, default=rounds, help=f"calls of each (default: {rounds})")
        sub.add_argument("--output", default="", metavar="FILE", help="a JSON file for the numbers")
        return sub.add_argument

    def sizes(option: Callable[..., Any], **defaults: tuple[int, str]) -> None:
        for name, (default, text) in defaults.items():
            option(f"--{name.replace('_', '-')}", type=int, default=default, help=f"{text} (default: {default})")

    for part, text in (
        ("evaluation", "CMC, mAP and mINP from features"),
        ("reranking", "k-reciprocal re-ranking, and other ways to find more without training"),
        ("search", f"the {_TOP} nearest images of every query"),
    ):
        option = add(part, compare_ways, 3, text)
        option("--size", choices=tuple(SIZES), default="market", help="of the test set (default: market)")
        option(
            "--without", nargs="+", default=[], choices=tuple(PARTS[part]), metavar="WAY",
            help="ways to leave out, as they stand in the table",
        )  # fmt: skip
        sizes(option, seed=(0, "of the generated features"))
    option = add("gallery", compare_kinds, None, "kinds of index over a large gallery")
    sizes(
        option,
        images=(1_000_000, "of the gallery"),
        queries=(1000, "further images"),
        dimensions=(512, "of a feature"),
        per_identity=(20, "images of an identity"),
        k=(10, "length of a list"),
        seed=(0, "of everything"),
    )
    option(
        "--kinds",
        nargs="+",
        choices=tuple(KINDS),
        default=["flat", "ivfpq-plain", "ivfpq"],
        help="what to measure; building hnsw over a million images takes long (default: the others)",
    )
    option = add("stores", compare_stores, None, "a gallery in a folder and in milvus-lite")
    sizes(
        option,
        images=(10_000, "of the gallery"),
        more=(1000, "images that are added"),
        queries=(1000, "further images"),
        dimensions=(512, "of a feature"),
        per_identity=(20, "images of an identity"),
        k=(10, "length of a list"),
        seed=(0, "of everything"),
    )
    for part in ("training", "inference"):
        option = add(part, compare_models, 3, "a step of each method's model beside one of fast-reid's")
        option("--models", nargs="+", choices=tuple(_MODELS), default=tuple(_MODELS), help="default: all")
        sizes(option, batch=(8, "images a step"))
    option = add("rrid-head", compare_heads, 20, "RRID's head as one batch, and as a list of small layers")
    option("--parts", type=int, nargs="+", default=[2, 4, 6], help="P of each scale (default: 2 4 6)")
    option("--map", type=int, nargs=2, default=[24, 8], help="rows and columns (default: 24 8)")
    option("--device", default="cpu", help="where they run (default: cpu)")
    sizes(
        option,
        batch=(64, "images"),
        channels=(2048, "C of the feature map"),
        reduced=(256, "c of a feature"),
        classes=(751, "identities"),
    )
    option = add("export", compare_exports, 10, "an exported file in its runtime beside the model in torch")
    configs = ["Market/cmbn.yml", "Market/rrid_f.yml"]
    option("--configs", nargs="+", default=configs, metavar="FILE", help=f"models (default: {' '.join(configs)})")
    option("--ways", nargs="+", choices=tuple(EXPORTS), default=list(EXPORTS), help="default: all")
    option("--batches", type=int, nargs="+", default=[1, 8, 32], help="images at once (default: 1 8 32)")
    option("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config keys to change")
    option = add("busy", compare_spins, 3, "training steps alone and beside other processes")
    option("--config-file", default="Synthetic/cmbn.yml", metavar="FILE", help="of the model (default: %(default)s)")
    option("--ways", nargs="+", choices=tuple(SPINS), default=tuple(SPINS), help="settings (default: all)")
    sizes(option, batch=(64, "images a step"), seconds=(20, "of each measurement"))
    args = parser.parse_args(argv)
    numbers = {name: value for name, value in vars(args).items() if isinstance(value, int) and name != "seed"}
    if min(*numbers.values(), *getattr(args, "map", [1])) < 1:
        parser.error(f"{', '.join('--' + name.replace('_', '-') for name in numbers)} must be at least 1")
    if args.part == "rrid-head" and any(parts < 2 or args.map[0] % parts for parts in args.parts):
        parser.error(f"--parts are at least 2 and divide the {args.map[0]} rows of --map")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
