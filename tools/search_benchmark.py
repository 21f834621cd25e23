"""Search in a large gallery: build time, memory, queries a second and recall of the kinds of index.

    python tools/search_benchmark.py [--images 1000000] [--kinds flat ivfpq-plain ivfpq] [--output search.json]

The gallery is generated: identities are points of a space of some tens of effective dimensions, turned at random into
the features' space; an image is its identity's point plus a variation of half its energy, brought to length 1. Images
of an identity are spread over the whole gallery. Queries are further images of identities that are drawn at random.
Recall is the share of the exact k nearest images (those of `flat`, which is always measured) that a kind finds.

Every kind is built and searched in a process of its own. `memory` is how much that process grew from before the index
was built to after the searches, `on disk` the size of what `save` wrote. Features are generated block by block and
never lie in memory as a whole, and the time for that is not part of the build time. Queries a second are those of all
queries in one call, the median of three. An IVF-PQ index is searched a second time with a quarter of the lists.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from fastreid_parts.commands.cost import resident_megabytes
from fastreid_parts.evaluation import Features
from fastreid_parts.files import atomic_write
from fastreid_parts.retrieval.index import GalleryIndex
from fastreid_parts.retrieval.store import FeatureSet

__all__ = ["Gallery", "KINDS", "main", "measure"]

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
        # Energies that fall with the square root of their number: of 512 dimensions some hundred carry most
        energy = 1 / np.arange(1, dimensions + 1)
        turns = [np.linalg.qr(random.standard_normal((dimensions, dimensions)))[0] for _ in range(2)]
        between, within = (np.sqrt(share * energy / energy.sum()) for share in (1, 0.5))
        identities = max(2, images // per_identity)
        self.centres = ((random.standard_normal((identities, dimensions)) * between) @ turns[0]).astype(np.float32)
        self.variation = (within[:, None] * turns[1]).astype(np.float32)

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
        pids = random.integers(0, len(self.centres), count)
        features = random.standard_normal((count, self.variation.shape[0]), dtype=np.float32) @ self.variation
        features += self.centres[pids]
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        cameras = random.integers(0, 6, count)
        return FeatureSet(Features(features, pids, cameras, [""] * count), 0, "generated", "", "")


def measure(name: str, gallery: Gallery, k: int, truth: np.ndarray | None) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Build one kind of index, search it, save it.

    Args:
        name: one of `KINDS`.
        gallery: what to search in.
        k: length of a list.
        truth: (Q, k) rows of the exact search, or None.

    Returns:
        The numbers, of IVF-PQ also those with a quarter of the lists looked at; the rows that were found, (Q, k).
    """
    kind, parameters = KINDS[name]
    query = gallery.query()
    building = 0.0
    index = None
    before = _resident("VmRSS")
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
    memory = _resident("VmRSS") - before
    if kind == "ivfpq":
        nprobe = index.parameters["nprobe"]
        index.tune(nprobe=max(1, nprobe // 4))
        searched.append(_search(index, query, k, truth))
        index.tune(nprobe=nprobe)
    with tempfile.TemporaryDirectory() as folder:
        index.save(folder)
        size = sum(os.path.getsize(os.path.join(folder, file)) for file in os.listdir(folder))
    same = {"kind": name, "build_s": building, "memory_mib": memory, "disk_mib": size / 2**20}
    same["peak_mib"] = _resident("VmHWM")
    return [{**same, **numbers} for numbers, _ in searched], searched[0][1]


def _search(
    index: GalleryIndex, query: FeatureSet, k: int, truth: np.ndarray | None
) -> tuple[dict[str, Any], np.ndarray]:
    index.search(query, k)
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        _, rows = index.search(query, k)
        times.append(time.perf_counter() - start)
    single = query.features.features[:_SINGLE]
    start = time.perf_counter()
    for row in single:
        index.search(row[None], k)
    alone = (time.perf_counter() - start) / len(single)
    right = rows if truth is None else truth
    numbers = {
        "parameters": dict(index.parameters),
        "queries_per_s": len(rows) / float(np.median(times)),
        "single_query_ms": 1000 * alone,
        "recall": float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(rows, right)])),
    }
    return numbers, rows


def _resident(field: str) -> float:
    """MiB of this process, VmRSS or VmHWM; NaN where the system does not say."""
    value = resident_megabytes(field)
    return float("nan") if value is None else value


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `--help`."""
    args = _parse(argv)
    if args.only:
        _measure_one(args)
        return 0
    results = []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        truth = os.path.join(folder, "truth.npy")
        for name in ["flat", *(name for name in args.kinds if name != "flat")]:
            words = [sys.executable, __file__, "--only", name, "--truth", truth, "--output", f"{truth}.json"]
            for option in ("images", "queries", "dimensions", "per-identity", "k", "seed"):
                words += [f"--{option}", str(getattr(args, option.replace("-", "_")))]
            subprocess.run(words, check=True)
            with open(f"{truth}.json", encoding="utf-8") as file:
                results += json.load(file)
            print(f"{name}: built in {results[-1]['build_s']:.0f} s", flush=True)
    report = {
        "images": args.images,
        "queries": args.queries,
        "dimensions": args.dimensions,
        "k": args.k,
        "seed": args.seed,
        "machine": f"{platform.machine()}, {faiss.omp_get_max_threads()} threads",
        "versions": {"faiss": faiss.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "seconds": time.perf_counter() - start,
        "results": results,
    }
    print(f"\n{_table(results, args.k)}\n\n{report['seconds']:.0f} s in all, {report['machine']}")
    if args.output:
        atomic_write(args.output, lambda file: file.write((json.dumps(report, indent=2) + "\n").encode()))
    return 0


def _measure_one(args: argparse.Namespace) -> None:
    gallery = Gallery(args.images, args.queries, args.dimensions, args.per_identity, args.seed)
    truth = np.load(args.truth) if os.path.exists(args.truth) else None
    numbers, rows = measure(args.only, gallery, args.k, truth)
    if truth is None:
        np.save(args.truth, rows)
    with open(args.output, "w", encoding="utf-8") as file:
        json.dump(numbers, file)


def _table(results: list[dict[str, Any]], k: int) -> str:
    rows = [
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
    return tabulate(rows, headers=[*headers, f"recall@{k}"], tablefmt="pipe", floatfmt=formats)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000, help="of the gallery (default: 1000000)")
    parser.add_argument("--queries", type=int, default=1000, help="default: 1000")
    parser.add_argument("--dimensions", type=int, default=512, help="of a feature (default: 512)")
    parser.add_argument("--per-identity", type=int, default=20, help="images of an identity (default: 20)")
    parser.add_argument("--k", type=int, default=10, help="length of a list (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=tuple(KINDS),
        default=["flat", "ivfpq-plain", "ivfpq"],
        help="what to measure; building hnsw over a million images takes long (default: the others)",
    )
    parser.add_argument("--output", default="", help="a JSON file for the numbers")
    parser.add_argument("--only", choices=tuple(KINDS), help=argparse.SUPPRESS)  # in a process of its own
    parser.add_argument("--truth", default="", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if min(args.images, args.queries, args.dimensions, args.per_identity, args.k) < 1:
        parser.error("all numbers must be at least 1")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
