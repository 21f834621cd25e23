"""What a gallery costs while it grows: adding a little to much, and ten million images in little memory.

    python tools/growth.py make --folder big --images 10000000     features in a file, and the exact nearest of queries
    python tools/growth.py build --folder big                      an index over them
    python tools/growth.py search --folder big                     what it finds of the exact nearest
    python tools/growth.py add --images 1000000 --added 100        `index add`: seconds, and bytes read and written

The first three go on where they were stopped, each in a folder that keeps what is done and the numbers, in growth.json.

Identities and images are drawn as in `tools/benchmark.py gallery`, but block by block: every thousand identities lie in
one of the blocks of 20,000 images. Queries are further images of identities of all blocks. The exact nearest are found
while the features are made.

Memory is of the process: VmHWM, the most that was resident at once, counts pages of mapped files too, which the system
takes back when it needs them; RssAnon does not. A control group can hold both within a limit, `systemd-run --user
--scope -p MemoryMax=6G python tools/growth.py build ...`. Bytes are those of system calls (rchar and wchar of
/proc/self/io), whether they came from the disk or from its cache; pages of mapped files are not among them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from directions import Directions
from tabulate import tabulate
from tqdm import tqdm

from fastreid_parts.evaluation import Features
from fastreid_parts.files import add_to_json, atomic_write, csv_bytes, write_json
from fastreid_parts.measuring import in_own_process
from fastreid_parts.retrieval import FeatureSet, GalleryIndex, load_feature_set
from fastreid_parts.retrieval.ann import KINDS
from fastreid_parts.retrieval.manifest import IMAGE_COLUMNS, write_described, write_manifest

_BLOCK, _IDENTITIES, _CAMERAS = 20_000, 1000, 6
_SAVED = 20  # blocks between two notes of what is done
_K = 10


class Blocks:
    """Features of length 1 with identities, in blocks that depend on the seed and their number alone.

    Args:
        images: in all.
        dimensions: of a feature.
        seed: of everything.
    """

    def __init__(self, images: int, dimensions: int, seed: int) -> None:
        self.images, self.dimensions, self.seed = images, dimensions, seed
        self.directions = Directions(np.random.default_rng([seed, 0]), dimensions)

    def block(self, number: int, queries: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Features (N, D) and identities (N,) of a block, or of so many queries that show its identities."""
        centers = self.directions.centers(np.random.default_rng([self.seed, 1, number]), _IDENTITIES)
        random, pids = self.identities(number, queries)
        return self.directions.around(random, centers[pids % _IDENTITIES]), pids

    def identities(self, number: int, queries: int = 0) -> tuple[np.random.Generator, np.ndarray]:
        """Identities (N,) as `block` gives them, and what draws the features."""
        random = np.random.default_rng([self.seed, 2 + bool(queries), number])
        count = queries or min(_BLOCK, self.images - number * _BLOCK)
        return random, random.integers(0, _IDENTITIES, count) + number * _IDENTITIES

    def __len__(self) -> int:
        return -(-self.images // _BLOCK)


def make(args: argparse.Namespace) -> None:
    """Write a feature set and the exact nearest of its queries."""
    folder = Path(args.folder)
    features = folder / "features"
    if (features / "manifest.json").exists():
        print(f"{features} is there")
        return
    features.mkdir(parents=True, exist_ok=True)
    blocks = Blocks(args.images, args.dimensions, args.seed)
    per_block = -(-args.queries // len(blocks))
    query = np.concatenate([blocks.block(number, per_block)[0] for number in range(len(blocks))])
    query = query[np.random.default_rng(args.seed).permutation(len(query))[: args.queries]]
    part, notes = folder / "features.part", folder / "nearest.npz"
    done, near, rows = 0, np.full((len(query), _K), -np.inf, np.float32), np.full((len(query), _K), -1)
    if notes.exists() and part.exists():
        with np.load(notes) as kept:
            done, near, rows = int(kept["done"]), kept["near"], kept["rows"]
    header = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": (args.images, args.dimensions)}
    np.lib.format.write_array_header_1_0(header, described)
    with open(part, "r+b" if done else "wb") as file:
        if not done:
            file.write(header.getvalue())
        file.truncate(len(header.getvalue()) + 4 * args.dimensions * min(done * _BLOCK, args.images))
        file.seek(0, os.SEEK_END)
        for number in tqdm(range(done, len(blocks)), initial=done, total=len(blocks), desc="blocks", disable=None):
            matrix, _ = blocks.block(number)
            file.write(matrix)
            scores = np.concatenate([near, query @ matrix.T], axis=1)
            every = np.concatenate([rows, np.tile(np.arange(len(matrix)) + number * _BLOCK, (len(query), 1))], axis=1)
            first = np.argpartition(-scores, _K, axis=1)[:, :_K]
            near, rows = (np.take_along_axis(column, first, 1) for column in (scores, every))
            if (number + 1) % _SAVED == 0 or number + 1 == len(blocks):
                file.flush()
                atomic_write(notes, partial(np.savez, done=number + 1, near=near, rows=rows, query=query))
    _finish(blocks, part, features)
    print(f"{args.images} features in {features}, and the exact nearest of {len(query)} queries in {notes}")


def _finish(blocks: Blocks, part: Path, features: Path) -> None:
    """Make a feature set of the features; block by block, as `save_feature_set` takes a matrix in memory."""

    def write_images(file: Any) -> None:
        for number in tqdm(range(len(blocks)), desc="images", disable=None):
            _, pids = blocks.identities(number)
            cameras = np.random.default_rng([blocks.seed, 4, number]).integers(1, _CAMERAS + 1, len(pids))
            if not number:
                file.write(csv_bytes(IMAGE_COLUMNS, ()))
            named = enumerate(zip(pids.tolist(), cameras.tolist()))
            lines = (f"{number:05}/{image:05}.jpg,{pid},{camera}\n" for image, (pid, camera) in named)
            file.write("".join(lines).encode())

    described = {"images.csv": write_described(features / "images.csv", write_images)}
    digest = hashlib.sha256()
    with open(part, "rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    described["features.npy"] = {"bytes": part.stat().st_size, "sha256": digest.hexdigest()}
    part.rename(features / "features.npy")
    said = {"num_query": 0, "fingerprint": "", "dataset": "generated", "config": ""}
    numbers = {"images": blocks.images, "dimensions": blocks.dimensions, "dtype": "float32"}
    write_manifest(features, {**numbers, **said, "files": described})


# ---- measuring ----------------------------------------------------------------------------------------------------


def _status(name: str, *fields: str) -> dict[str, int]:
    """Fields of a file of /proc/self."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self", name).read_text().splitlines() if ":" in line)
    return {field: int(lines[field].split()[0]) for field in fields}


@contextmanager
def _measured(numbers: dict[str, Any]) -> Iterator[None]:
    """Note seconds, MiB and bytes of a block."""
    done, most = threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], _status("status", "RssAnon")["RssAnon"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    before, start = _status("io", "rchar", "wchar"), time.perf_counter()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    numbers["seconds"] = time.perf_counter() - start
    after = _status("io", "rchar", "wchar")
    numbers["read"], numbers["written"] = (after[field] - before[field] for field in ("rchar", "wchar"))
    numbers["anonymous_mib"] = most[0] / 1024
    numbers["peak_mib"] = _status("status", "VmHWM")["VmHWM"] / 1024


def _note(folder: Path, part: str, numbers: dict[str, Any]) -> None:
    add_to_json(folder / "growth.json", {part: numbers})
    print(
        ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in numbers.items()
        )
    )


# ---- ten million --------------------------------------------------------------------------------------------------


def build(args: argparse.Namespace) -> None:
    """Build an index over the features, as `index build` does, and save it."""
    folder, numbers = Path(args.folder), {"kind": args.kind}
    if (folder / args.kind / "manifest.json").exists():
        print(f"{folder / args.kind} is there")
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    chosen = {"nlist": args.nlist} if args.kind == "ivfpq" and args.nlist else {}
    with _measured(numbers):
        gallery = load_feature_set(folder / "features")
        index = GalleryIndex.build(gallery, args.kind, "cosine", **chosen)
        index.save(folder / args.kind)
    numbers["parameters"] = index.parameters
    numbers["images"] = len(index)
    _note(folder, f"build {args.kind}", numbers)


def search(args: argparse.Namespace) -> None:
    """Search it, in a process that loads it, for the nearest that are known."""
    folder = Path(args.folder)
    with np.load(folder / "nearest.npz") as kept:
        query, truth = kept["query"], kept["rows"]
    if not len(truth) or (truth < 0).any():
        raise SystemExit("the exact nearest are not known yet: make")
    numbers: dict[str, Any] = {"kind": args.kind, "queries": len(query)}
    with _measured(numbers):
        start = time.perf_counter()
        index = GalleryIndex.load(folder / args.kind)
        numbers["load_s"] = time.perf_counter() - start
        results = []
        own = index.parameters.get("nprobe", 0)
        for nprobe in (args.nprobe or (own, max(1, own // 4))) if own else (0,):
            if own:
                index.tune(nprobe=nprobe)
            index.search(query[:4], _K)
            start = time.perf_counter()
            _, rows = index.search(query, _K)
            seconds = time.perf_counter() - start
            recall = float(np.mean([len(np.intersect1d(a, b)) / _K for a, b in zip(rows, truth)]))
            results.append({**index.parameters, "queries_per_s": len(query) / seconds, "recall": recall})
    numbers["searches"] = results
    _note(folder, f"search {args.kind}", numbers)


# ---- a little to much -----------------------------------------------------------------------------------------------


def add(args: argparse.Namespace) -> None:
    """Add a few images to many, each step in a process of its own."""
    with tempfile.TemporaryDirectory(dir=args.folder or None) as folder:
        in_own_process(_prepare, folder, args.kind, args.images, args.dimensions, args.seed)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        runs = [
            in_own_process(_add_once, folder, args.added, args.dimensions, number + 1) for number in range(args.rounds)
        ]
    keys = ("seconds", "read", "written", "anonymous_mib", "peak_mib")
    table = [[run[key] / (2**20 if key in ("read", "written") else 1) for key in keys] for run in runs]
    print(f"{args.added} to {args.images} {args.kind} vectors of {args.dimensions}, {size / 2**20:.0f} MiB on disk")
    print(
        tabulate(
            table,
            headers=["seconds", "read [MiB]", "written [MiB]", "anonymous [MiB]", "peak [MiB]"],
            tablefmt="pipe",
            floatfmt=".3f",
        )
    )
    if args.output:
        write_json(
            args.output,
            {**{name: value for name, value in vars(args).items() if name != "work"}, "disk": size, "runs": runs},
        )


def _some(images: int, dimensions: int, seed: int, name: str) -> FeatureSet:
    """Features without structure, of which nothing here depends."""
    random = np.random.default_rng(seed)
    paths = [f"{name}/{number // 1000:04}/{number:08}.jpg" for number in range(images)]
    pids = random.integers(0, max(1, images // 20), images)
    features = random.standard_normal((images, dimensions), dtype=np.float32)
    return FeatureSet(Features(features, pids, random.integers(0, _CAMERAS, images), paths), 0, "generated", "", "")


def _prepare(folder: str, kind: str, images: int, dimensions: int, seed: int) -> None:
    GalleryIndex.build(_some(images, dimensions, seed, "gallery"), kind, "cosine").save(folder)


def _add_once(folder: str, added: int, dimensions: int, number: int) -> dict[str, Any]:
    new = _some(added, dimensions, 1000 + number, f"new{number}")
    numbers: dict[str, Any] = {}
    with _measured(numbers), GalleryIndex.held(folder) as index:
        index.add(new)
        index.save(folder)
    return numbers


# ---- arguments ----------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)

    def part(name: str, work: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = parts.add_parser(name, help=text, description=text)
        sub.set_defaults(work=work)
        return sub

    made = part("make", make, "features in a file, and the exact nearest of queries")
    built = part("build", build, "an index over them")
    searched = part("search", search, "what it finds of the exact nearest")
    added = part("add", add, "adding a few images to many")
    for sub in (made, built, searched):
        sub.add_argument("--folder", required=True, metavar="DIR", help="where they are, and what is done")
    added.add_argument("--folder", default="", metavar="DIR", help="for temporary files, of twice the index's size")
    for sub in (made, added):
        sub.add_argument(
            "--images", type=int, default=10_000_000 if sub is made else 1_000_000, help="default: %(default)s"
        )
        sub.add_argument("--dimensions", type=int, default=512, help="of a feature (default: %(default)s)")
        sub.add_argument("--seed", type=int, default=0, help="of everything (default: %(default)s)")
    made.add_argument("--queries", type=int, default=256, help="default: %(default)s")
    for sub in (built, searched, added):
        sub.add_argument(
            "--kind", choices=tuple(KINDS), default="flat" if sub is added else "ivfpq", help="default: %(default)s"
        )
    text = "lists that ivfpq looks at, one or several numbers (default: the index's own, and a quarter)"
    searched.add_argument("--nprobe", type=int, nargs="+", default=[], help=text)
    built.add_argument("--nlist", type=int, default=0, help="lists of ivfpq (default: by the number of images)")
    added.add_argument("--added", type=int, default=100, help="images (default: %(default)s)")
    added.add_argument("--rounds", type=int, default=3, help="how often (default: %(default)s)")
    added.add_argument("--output", default="", metavar="FILE", help="a JSON file for the numbers")
    args = parser.parse_args(argv)
    args.work(args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
