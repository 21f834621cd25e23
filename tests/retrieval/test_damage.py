"""Stores that were damaged, edited or written by several: refused, or without effect on what they give."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastreid_parts.files import LOCK
from fastreid_parts.retrieval import Calibration, GalleryIndex, save_feature_set
from fastreid_parts.retrieval.index_files import write_calibration
from fastreid_parts.retrieval.manifest import MANIFEST, write_manifest

from .galleries import KINDS, build, feature_set, given_by

GROWN = tuple(f"{kind}, grown" for kind in KINDS)
STORES = (*KINDS, *GROWN, "features", "half")
_ALWAYS = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
FEW = settings(max_examples=60, derandomize=True, **_ALWAYS)
MANY = settings(max_examples=3000, **_ALWAYS)


def few_and_many(check: Callable, **drawn: st.SearchStrategy) -> tuple[Callable, Callable]:
    """A property as a test of seconds and as one of minutes."""
    return FEW(given(**drawn)(check)), pytest.mark.slow(MANY(given(**drawn)(check)))


def threshold(metric: str = "cosine", value: float = 0.25) -> Calibration:
    return Calibration(value, metric, "fpr", 0.001, 0.001, 0.0005, 0.002, 0.9, 100, 10000, "Set")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind of index, and of features in both widths."""
    root = tmp_path_factory.mktemp("stores")
    for kind in KINDS:
        index = build(kind, feature_set())
        index.remove(rows=[3, 8])
        index.calibration = threshold()
        index.save(root / kind)
        index.save(root / f"{kind}, grown")
        index.add(feature_set(images=5, seed=3))
        index.save(root / f"{kind}, grown")
        index.remove(rows=[4, 702])
        index.save(root / f"{kind}, grown")
    save_feature_set(root / "features", feature_set(images=60))
    save_feature_set(root / "half", feature_set(images=60), half=True)
    return {name: root / name for name in STORES}


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != LOCK)


def verdict(folder: Path, path: Path, content: bytes, whole: list[Any]) -> str:
    """What became of a store with another content of a file, which is put back."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        return "without effect" if given_by(folder) == whole else "another result"
    except ValueError as error:
        assert str(folder) in str(error)
        return "refused"
    finally:
        path.write_bytes(before)


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _damage(stores: dict[str, Path], store: str, data: st.DataObject) -> None:
    folder = stores[store]
    path = data.draw(st.sampled_from(files_of(folder)))
    content = path.read_bytes()
    if data.draw(st.booleans()):
        for bit in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=3)):
            content = flipped(content, bit)
    else:
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    assert verdict(folder, path, content, given_by(folder)) in ("refused", "without effect")


test_bits_and_ends, test_many_bits_and_ends = few_and_many(_damage, store=st.sampled_from(STORES), data=st.data())

# Of each type that JSON has, and of numbers those that nothing can be
NONSENSE = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.integers(max_value=-2),
    st.text(max_size=3),
    st.just([]),
    st.just({"a": 1}),
)


# What any text can be, and what need not be there; of other fields only a rate can be another one
FREE = {"fingerprint", "config", "dataset", "source", "calibration", "last_change"}


def places(content: Any, at: tuple = ()) -> list[tuple]:
    """Where something stands in a manifest."""
    inner = content.items() if isinstance(content, dict) else ()
    return ([at] if at else []) + [place for key, value in inner for place in places(value, (*at, key))]


def _edits(stores: dict[str, Path], store: str, data: st.DataObject, value: Any) -> None:
    folder = stores[store]
    path, whole = folder / MANIFEST, given_by(folder)
    before = path.read_bytes()
    manifest = json.loads(before)
    place = data.draw(st.sampled_from(places(manifest)))
    inner = manifest
    for key in place[:-1]:
        inner = inner[key]
    old = inner[place[-1]]
    inner[place[-1]] = value
    try:
        if data.draw(st.booleans()):  # with a checksum that fits
            write_manifest(folder, manifest)
        else:
            path.write_text(json.dumps(manifest))
        try:
            now = given_by(folder)
        except ValueError as error:
            assert str(folder) in str(error) and str(error).endswith("again")
        else:
            free = isinstance(old, float) and isinstance(value, float) or place[-1] in FREE
            assert now == whole or free, (place, old, value)
    finally:
        path.write_bytes(before)


test_edits, test_many_edits = few_and_many(_edits, store=st.sampled_from(STORES), data=st.data(), value=NONSENSE)


def _interleaving(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]]) -> None:
    """What was saved stays, unless who saved over it had read it."""
    folder = tmp_path_factory.mktemp("index")
    build("flat", feature_set(images=5, queries=0)).save(folder)
    hands = [GalleryIndex.load(folder), GalleryIndex.load(folder)]
    stale, saved, value = [False, False], (set(hands[0].images.paths), None), None
    for number, (who, what) in enumerate(steps):
        index = hands[who]
        if what == "load":
            hands[who], stale[who] = GalleryIndex.load(folder), False
        elif what == "add":
            index.add(feature_set(images=2, queries=0, seed=number + 1))
        elif what == "remove" and len(index) > 1:
            index.remove(rows=[int(np.flatnonzero(index.images.present)[-1])])
        elif what == "calibrate":
            value = threshold(value=number / 100)
            write_calibration(folder, value)
            saved, stale = (saved[0], value), [True, True]
        elif what == "save" and stale[who]:
            with pytest.raises(ValueError, match="was changed by another process"):
                index.save(folder)
        elif what == "save":
            index.save(folder)
            saved, stale[1 - who] = (set(index.images.paths) - {""}, index.calibration), True
        there = GalleryIndex.load(folder)
        assert (set(there.images.paths) - {""}, there.calibration) == saved
    shutil.rmtree(folder)


test_interleaving, test_much_interleaving = few_and_many(
    _interleaving,
    steps=st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["load", "add", "remove", "save", "calibrate"]))),
)


@pytest.mark.parametrize("flips, cuts", [(40, 8), pytest.param(600, 120, marks=pytest.mark.slow)])
def test_every_file_of_every_store(stores: dict[str, Path], flips: int, cuts: int) -> None:
    """mem0ai/mem0#7117, crumbjp/faissdb#12: a damaged file was taken for an empty or another one."""
    random, found = np.random.default_rng(0), Counter()
    for name, folder in stores.items():
        whole = given_by(folder)
        for path in files_of(folder):
            content = path.read_bytes()
            for number in range(flips + cuts):
                changed = (
                    flipped(content, int(random.integers(8 * len(content))))
                    if number < flips
                    else content[: int(random.integers(len(content)))]
                )
                found[name, "flip" if number < flips else "cut", verdict(folder, path, changed, whole)] += 1
    print(*(f"{number:6} {' '.join(what)}" for what, number in sorted(found.items())), sep="\n")
    assert {what[2] for what in found} <= {"refused", "without effect"} and found
