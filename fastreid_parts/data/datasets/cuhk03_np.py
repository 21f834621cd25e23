"""CUHK03 under its new protocol (CUHK03-NP): 767 identities to train on, 700 to test on, the metric of Market-1501.

Images: W. Li et al., "DeepReID", CVPR 2014. Protocol: Z. Zhong et al., "Re-ranking Person Re-identification
with k-reciprocal Encoding", CVPR 2017. Boxes come in two kinds, drawn by hand (labeled) or by a detector
(detected); papers report one of them or, as CAN does, both together (mixed).

Two layouts below the datasets folder are read:

1. as the community distributes it, named like Market-1501 (`0001_c1_1.png`):
   `cuhk03-np/{labeled,detected}/{bounding_box_train,query,bounding_box_test}`;
2. the original release, where fast-reid's own CUHK03 expects it: `cuhk03/cuhk03_release/cuhk-03.mat` and
   `cuhk03/cuhk03_new_protocol_config_{labeled,detected}.mat`. Its images are extracted once, to layout 1.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset
from PIL import Image
from tqdm import tqdm

from ...files import atomic_write, locked, remove_leftovers
from ...words import first_few
from ..image_files import find_images
from .market_naming import JUNK, parse_market_name

logger = logging.getLogger(__name__)

_ROOTS = ("cuhk03-np", "CUHK03-NP", "cuhk03np")
_KIND_FOLDERS = {"labeled": ("labeled", "labelled"), "detected": ("detected",)}
_SPLIT_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
_PROTOCOL_KEYS = {"train": "train_idx", "query": "query_idx", "gallery": "gallery_idx"}
_IMAGES = {
    "labeled": {"train": 7368, "query": 1400, "gallery": 5328},
    "detected": {"train": 7365, "query": 1400, "gallery": 5332},
}

NumberedItem = tuple[str, int, int]  # path, identity, camera counted from 0


class CUHK03NP(ImageDataset):
    """What the three registered datasets share; `kinds` says which boxes a dataset reads.

    Identities have the same number in both kinds. Training identities and cameras are strings
    ("cuhk03np_12", "cuhk03np_0"), test identities and cameras integers.

    Args:
        root: the datasets folder.
        kwargs: passed on to fast-reid's ImageDataset.

    Raises:
        FileNotFoundError: neither layout is below `root`, or a part of one is missing; the message lists what
            was looked for.
        ValueError: an image whose name does not parse, or a damaged file of the original release.
        ImportError: the original release is there, and h5py, which reads it, is not installed.
    """

    dataset_name = "cuhk03np"
    kinds: tuple[str, ...] = ()
    _junk_pids = [JUNK]

    def __init__(self, root: str = "datasets", **kwargs: Any) -> None:
        self.root = root
        splits: dict[str, list[NumberedItem]] = {split: [] for split in _SPLIT_FOLDERS}
        for kind in self.kinds:
            folder = _find_folder(root, kind) or _extract_release(root, kind)
            for split, items in splits.items():
                found = _read_split(folder, split)
                if len(found) != _IMAGES[kind][split]:
                    logger.warning(
                        "CUHK03-NP %s: %d %s images in %s; the published protocol has %d",
                        kind,
                        len(found),
                        split,
                        folder,
                        _IMAGES[kind][split],
                    )
                items.extend(found)
        train = [
            (path, f"{self.dataset_name}_{identity}", f"{self.dataset_name}_{camera}")
            for path, identity, camera in self._training_items(splits)
        ]
        super().__init__(train, splits["query"], splits["gallery"], **kwargs)

    def _training_items(self, splits: dict[str, list[NumberedItem]]) -> list[NumberedItem]:
        return splits["train"]


@DATASET_REGISTRY.register()
class CUHK03NP_labeled(CUHK03NP):
    """CUHK03-NP, boxes drawn by hand: 7,368 training, 1,400 query, 5,328 gallery images."""

    kinds = ("labeled",)


@DATASET_REGISTRY.register()
class CUHK03NP_detected(CUHK03NP):
    """CUHK03-NP, boxes of a detector: 7,365 training, 1,400 query, 5,332 gallery images."""

    kinds = ("detected",)


@DATASET_REGISTRY.register()
class CUHK03NP_mixed(CUHK03NP):
    """Labeled and detected boxes together, in training as in the test.

    The two published splits disagree on one identity each: a person that one trains on, the other tests on.
    Taken together they would train on two identities of their own test, so those are left out of training.
    """

    kinds = ("labeled", "detected")

    def _training_items(self, splits: dict[str, list[NumberedItem]]) -> list[NumberedItem]:
        tested: set[int] = {identity for split in ("query", "gallery") for _, identity, _ in splits[split]}
        kept = [item for item in splits["train"] if item[1] not in tested]
        left_out = {item[1] for item in splits["train"]} & tested
        if left_out:
            logger.info(
                "CUHK03NP_mixed: %d training images of %d identities left out, on which the other boxes are tested",
                len(splits["train"]) - len(kept),
                len(left_out),
            )
        return kept


def _find_folder(root: str, kind: str) -> str | None:
    """The folder of one kind in the community's layout, or None; one with a part missing is an error."""
    for top in _ROOTS:
        for name in _KIND_FOLDERS[kind]:
            folder = os.path.join(root, top, name)
            if not os.path.isdir(folder):
                continue
            missing = [f for f in _SPLIT_FOLDERS.values() if not os.path.isdir(os.path.join(folder, f))]
            if missing:
                raise FileNotFoundError(f"{folder} lacks the folder {', '.join(missing)}: the copy is incomplete")
            return folder
    return None


def _read_split(folder: str, split: str) -> list[NumberedItem]:
    directory = os.path.join(folder, _SPLIT_FOLDERS[split])
    items, unnamed = [], []
    for name in find_images(directory)[0]:
        parsed = parse_market_name(name)
        if parsed is None:
            unnamed.append(name)
        elif parsed[0] != JUNK:
            items.append((os.path.join(directory, name), parsed[0], parsed[1] - 1))
    if unnamed:
        raise ValueError(
            f"{directory}: {len(unnamed)} images are not named <identity>_c<camera>_<number>, like "
            f"0001_c1_1.png:\n{first_few(unnamed)}"
        )
    return items


# ---- the original release ----


def _extract_release(root: str, kind: str) -> str:
    """Extract one kind from the original release to the community's layout; return its folder.

    The images go to `<kind>.partial`, which becomes `<kind>` once the last one is written. A run that was
    killed is taken up where it stopped, and of several processes one extracts while the others wait.
    """
    release = os.path.join(root, "cuhk03", "cuhk03_release", "cuhk-03.mat")
    protocol = os.path.join(root, "cuhk03", f"cuhk03_new_protocol_config_{kind}.mat")
    if not (os.path.isfile(release) and os.path.isfile(protocol)):
        raise FileNotFoundError(_not_found(root, kind, release, protocol))
    folder = os.path.join(root, _ROOTS[0], kind)
    partial = folder + ".partial"
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with locked(os.path.dirname(folder)):
        if os.path.isdir(folder):  # another process was quicker
            return folder
        logger.info("CUHK03-NP %s: extracting %s to %s, once", kind, release, folder)
        _extract(release, _read_protocol(protocol), kind, partial)
        for split in _SPLIT_FOLDERS.values():
            remove_leftovers(os.path.join(partial, split), age=0)
        os.rename(partial, folder)
    return folder


def _read_protocol(path: str) -> list[tuple[str, str]]:
    """Each image of the protocol as (its name in the release, its place in the community's layout).

    The release names an image `<camera pair>_<person of the pair>_<view>_<slot>.png`, all counted from 1.
    """
    from scipy.io import loadmat  # only who extracts needs it

    try:
        table = loadmat(path)
        names = [str(cell.item()) for cell in table["filelist"].ravel()]
        identities = [int(identity) for identity in table["labels"].ravel()]
        images = []
        for split, key in _PROTOCOL_KEYS.items():
            for index in table[key].ravel().astype(int) - 1:
                _, _, view, slot = _numbers(names[index])
                place = f"{identities[index]:04d}_c{view}_{slot}.png"
                images.append((names[index], os.path.join(_SPLIT_FOLDERS[split], place)))
    except (KeyError, IndexError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path} is not the protocol file of CUHK03-NP ({error!r}); place a fresh copy") from error
    return images


def _extract(release: str, images: list[tuple[str, str]], kind: str, folder: str) -> None:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{release} is an HDF5 file; reading it needs h5py: pip install h5py") from error
    for split in _SPLIT_FOLDERS.values():
        os.makedirs(os.path.join(folder, split), exist_ok=True)
    try:
        source = h5py.File(release, "r")
    except OSError as error:
        raise ValueError(f"{release} cannot be read as HDF5, it may be cut short: {error}") from error
    with source:
        # MATLAB stores arrays with their axes reversed: (10, persons) is a cell array of persons x 10 slots
        pairs = [source[reference][()].T for reference in source[kind][()].ravel()]
        for name, place in tqdm(images, desc=f"CUHK03-NP {kind}", unit="image"):
            path = os.path.join(folder, place)
            if os.path.exists(path):
                continue
            pair, person, _, slot = _numbers(name)
            try:
                pixels = source[pairs[pair - 1][person - 1, slot - 1]][()].T  # (H, W, 3), RGB
            except IndexError:
                pixels = np.empty(0)
            if pixels.ndim != 3:  # an empty cell is stored as its two sizes
                raise ValueError(f"{release} has no {kind} image {name}, which the protocol lists")
            _write_png(pixels, path)


def _write_png(pixels: np.ndarray, path: str) -> None:
    image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8))
    atomic_write(path, lambda file: image.save(file, format="PNG"), durable=False)


def _numbers(name: str) -> tuple[int, int, int, int]:
    pair, person, view, slot = (int(part) for part in name.split(".")[0].split("_"))
    return pair, person, view, slot


def _not_found(root: str, kind: str, release: str, protocol: str) -> str:
    tops = ", ".join(_ROOTS)
    kinds = " or ".join(_KIND_FOLDERS[kind])
    state = [f"{path} ({'there' if os.path.isfile(path) else 'missing'})" for path in (release, protocol)]
    return (
        f"CUHK03-NP {kind} is not below {os.path.abspath(root)}. Looked for, in this order:\n"
        f"  1. the community's layout: {os.path.join(root, _ROOTS[0], _KIND_FOLDERS[kind][0])} with the "
        f"folders {', '.join(_SPLIT_FOLDERS.values())} (also as {tops}; {kinds})\n"
        f"  2. the original release: {' and '.join(state)}"
    )
