"""Checks of a dataset before training: what would otherwise fail hours later, hang, or end in a wrong number.

An item is a tuple (path, identity, camera), as fast-reid's datasets list them.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastreid.data.data_utils import read_image
from fastreid.utils import comm
from PIL import Image
from tqdm import tqdm

from ..words import count, first_few, some_of

Item = tuple[str, Any, Any]

logger = logging.getLogger(__name__)

_ORDINARY = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")  # modes that are RGB whatever their values
_POLICIES = ("stop", "skip")
_PROGRESS_FROM = 2000  # images; fewer are checked before a bar could be read
_IDENTITY_SAMPLERS = ("NaiveIdentitySampler", "BalancedIdentitySampler", "EqualIdentitySampler", "SetReWeightSampler")
# fast-reid looks for the folders in this order and takes the first that is there
_MSMT17_FOLDERS = {"MSMT17_V1": "V1", "MSMT17_V2": "V2"}
_MSMT17_FACES = {"V1": "faces visible", "V2": "faces masked"}


def find_bad_images(paths: Sequence[str], *, workers: int = 4) -> dict[str, str]:
    """Decode every image once and say which cannot be read.

    Args:
        paths: image files; a path that comes twice is decoded once.
        workers: threads that decode; at least one is used.

    Returns:
        {path: reason} of the unreadable ones, in the order of `paths`.
    """
    distinct = list(dict.fromkeys(paths))
    quiet = len(distinct) <= _PROGRESS_FROM or not comm.is_main_process()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        reasons = tqdm(
            pool.map(_why_unreadable, distinct),
            desc="Checking images",
            total=len(distinct),
            unit="image",
            disable=quiet,
        )
        return {path: reason for path, reason in zip(distinct, reasons) if reason is not None}


def check_images(items: Sequence[Item], policy: str, *, workers: int = 4) -> list[Item]:
    """Decode every image of `items` once and act on the unreadable ones.

    Args:
        items: (path, identity, camera) tuples.
        policy: DATALOADER.BAD_IMAGES; "stop" raises at unreadable images, "skip" logs them and leaves them out.
        workers: threads that decode.

    Returns:
        The items whose images can be read, in their order.

    Raises:
        ValueError: an unknown policy; unreadable images under "stop"; no readable image at all.
    """
    if policy not in _POLICIES:
        raise ValueError(f"DATALOADER.BAD_IMAGES is '{policy}'; it is one of {', '.join(_POLICIES)}")
    bad = find_bad_images([item[0] for item in items], workers=workers)
    good = [item for item in items if item[0] not in bad]
    if not bad:
        return good
    report = first_few([f"{path}: {reason}" for path, reason in bad.items()])
    if not good:
        raise ValueError(f"None of the {len(bad)} images can be read:\n{report}")
    if policy == "stop":
        raise ValueError(
            f"{len(bad)} of {len(bad) + len({item[0] for item in good})} images cannot be read:\n{report}\n"
            "Replace or remove them, or set DATALOADER.BAD_IMAGES skip to go on without them."
        )
    logger.warning("Going on without %d images that cannot be read:\n%s", len(bad), report)
    return good


def check_named_once(key: str, names: Sequence[str]) -> None:
    """Refuse a dataset that is named twice: its images would count twice, or one result replace the other.

    Args:
        key: that names the datasets.
        names: theirs.

    Raises:
        ValueError: one of them comes twice.
    """
    for name in names:
        if list(names).count(name) > 1:
            raise ValueError(f"{key} names {name} twice: name each dataset once")


def check_apart(key: str, sets: Mapping[str, Sequence[Item]]) -> None:
    """Refuse datasets that share images and call who is on them differently: one person would count as two.

    Args:
        key: that names the datasets.
        sets: {name: training items}.

    Raises:
        ValueError: an image is of one identity in a set and of another in the next.
    """
    seen: dict[str, tuple[str, Any]] = {}
    for name, items in sets.items() if len(sets) > 1 else ():
        for path, identity, *_ in items:
            other, known = seen.setdefault(os.path.realpath(path), (name, identity))
            if other != name and known != identity:
                raise ValueError(
                    f"{key} names {other} and {name}, and {path} is in both: the people of one folder would count as "
                    "twice as many. Name one of the two"
                )


def check_split(items: Sequence[Item], what: str, dataset_name: str) -> None:
    """Refuse an empty split.

    Args:
        items: the split's items.
        what: the split's name: train, query or gallery.
        dataset_name: the dataset's registered name, for the message.

    Raises:
        ValueError: `items` is empty.
    """
    if len(items) == 0:
        raise ValueError(
            f"{dataset_name} has no {what} images: the folder or list of its {what} split is empty, or holds "
            f"nothing that {dataset_name} takes. `fastreid-parts check-data` shows what is found."
            + ("" if what == "train" else ' DATASETS.TESTS "()" trains without evaluating.')
        )


def evaluation_problem(query: Sequence[Item], gallery: Sequence[Item]) -> str:
    """Say why these test images cannot be evaluated; empty where they can.

    Args:
        query: items (path, identity, camera).
        gallery: likewise.
    """
    if not query or not gallery:
        there = [f"{count(len(items), what + ' image')}" for what, items in (("query", query), ("gallery", gallery))]
        return f"there are {' and '.join(there)}, and an evaluation needs both"
    if len(unmatched_queries(query, gallery)) == len(query):
        return (
            f"none of the {count(len(query), 'query', 'queries')} can be scored: no gallery image from another camera "
            "shows their identity. Check identities and cameras"
        )
    return ""


def check_evaluation(query: Sequence[Item], gallery: Sequence[Item], dataset_name: str) -> None:
    """Refuse test images that cannot be evaluated.

    Args:
        query: items (path, identity, camera).
        gallery: likewise.
        dataset_name: the dataset's name, for the message.

    Raises:
        ValueError: a split is empty, or no query can be scored.
    """
    check_split(query, "query", dataset_name)
    check_split(gallery, "gallery", dataset_name)
    if problem := evaluation_problem(query, gallery):
        raise ValueError(f'{dataset_name}: {problem}; DATASETS.TESTS "()" trains without evaluating')


def check_sampler(
    items: Sequence[Item],
    batch_size_per_process: int,
    num_instances: int,
    sampler_name: str,
    *,
    world_size: int = 1,
) -> None:
    """Refuse a batch that the sampler cannot fill from these training items.

    Args:
        items: training items.
        batch_size_per_process: SOLVER.IMS_PER_BATCH divided by the number of processes.
        num_instances: DATALOADER.NUM_INSTANCE, the images of one identity in a batch; for identity samplers.
        sampler_name: DATALOADER.SAMPLER_TRAIN.
        world_size: number of processes, whose batches hold different identities.

    Raises:
        ValueError: the batch is empty or larger than the dataset; for an identity sampler, it is no multiple
            of `num_instances` or wants more identities than `items` hold, on both of which fast-reid's own
            samplers hang.
    """
    batch = batch_size_per_process * world_size
    together = f"{batch} images" + (f" ({batch_size_per_process} in each of {world_size})" if world_size > 1 else "")
    if batch_size_per_process < 1:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH leaves {batch_size_per_process} images for each of {world_size} processes; it "
            "must give every process at least one"
        )
    if batch > len(items):
        raise ValueError(
            f"a batch of {together} is larger than the training set of {len(items)}: lower SOLVER.IMS_PER_BATCH"
        )
    if sampler_name not in _IDENTITY_SAMPLERS:
        return
    if num_instances < 1:
        raise ValueError(f"DATALOADER.NUM_INSTANCE is {num_instances}; {sampler_name} needs at least 1")
    if batch_size_per_process % num_instances:
        raise ValueError(
            f"{sampler_name}: the batch of {batch_size_per_process} images a process is no multiple of "
            f"DATALOADER.NUM_INSTANCE {num_instances}: change that or SOLVER.IMS_PER_BATCH"
        )
    wanted = batch // num_instances
    there = len({item[1] for item in items})
    if wanted > there:
        raise ValueError(
            f"{sampler_name}: a batch of {together}, {num_instances} an identity, wants {wanted} identities, "
            f"and the training set has {there}: lower SOLVER.IMS_PER_BATCH or raise DATALOADER.NUM_INSTANCE"
        )


def unmatched_queries(query: Sequence[Item], gallery: Sequence[Item]) -> list[Item]:
    """Find the query items whose identity no gallery image from another camera shows; metrics leave them out.

    Args:
        query: items (path, identity, camera).
        gallery: likewise.
    """
    cameras: dict[Any, set[Any]] = defaultdict(set)
    for _, identity, camera in gallery:
        cameras[identity].add(camera)
    return [item for item in query if not cameras.get(item[1], set()) - {item[2]}]


def unmatched_warning(unmatched: Sequence[Item], total: int) -> str:
    """Write a line for what `unmatched_queries` found.

    Args:
        unmatched: the query items.
        total: how many queries there are.
    """
    return (
        f"{len(unmatched)} of {total} query images do not count in the evaluation, because no gallery image from "
        f"another camera shows their identity: {some_of(item[1] for item in unmatched)}"
    )


def msmt17_version(root: str) -> str | None:
    """Tell which MSMT17 fast-reid would read below `root`: "V1", "V2", or None where there is none."""
    for folder, version in _MSMT17_FOLDERS.items():
        if os.path.exists(os.path.join(root, folder)):
            return version
    return None


def log_msmt17_version(root: str) -> str:
    """Log in one line which MSMT17 is read, since papers mix the two.

    Args:
        root: the datasets folder.

    Returns:
        "V1" or "V2".

    Raises:
        FileNotFoundError: neither is below `root`.
    """
    version = msmt17_version(root)
    if version is None:
        expected = " or ".join(os.path.join(root, folder) for folder in _MSMT17_FOLDERS)
        raise FileNotFoundError(
            f"MSMT17 is not there: expected {expected}, with list_train.txt, list_val.txt, list_query.txt, "
            "list_gallery.txt and the image folders train and test (V1) or mask_train_v2 and mask_test_v2 (V2). "
            "Its authors hand it out after a signed agreement"
        )
    both = all(os.path.exists(os.path.join(root, folder)) for folder in _MSMT17_FOLDERS)
    logger.info(
        "MSMT17 %s (%s); results on V1 and V2 are not comparable%s",
        version,
        _MSMT17_FACES[version],
        "; MSMT17_V2 is there too and is not used" if both else "",
    )
    return version


def check_size(image: Image.Image) -> None:
    """Refuse an image that takes far more memory than its file, before it is decoded.

    Raises:
        ValueError: it has more pixels than Pillow's limit, `PIL.Image.MAX_IMAGE_PIXELS`, at which Pillow only warns.
    """
    limit, (width, height) = Image.MAX_IMAGE_PIXELS, image.size
    if limit is not None and width * height > limit:
        raise ValueError(
            f"{width} x {height} pixels are more than {limit:,}, Pillow's limit against files that fill the memory: "
            "shrink it, or cut the people out of it"
        )


def _why_unreadable(path: str) -> str | None:
    try:
        if os.path.getsize(path) == 0:
            return "the file is empty"
        with Image.open(path) as image:
            check_size(image)
            # An eighth of the size in gray: the whole JPEG stream is still read, so a cut file shows, and the
            # inverse transform, most of the time, is saved. Other formats ignore it.
            image.draft("L", (1, 1))
            image.load()
            ordinary = image.mode in _ORDINARY
        if not ordinary:  # its values may be none that training takes
            read_image(path)
    except FileNotFoundError:
        return "no such file"
    except Image.UnidentifiedImageError:
        return "not an image"
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error ...
        return str(error) or type(error).__name__
    return None
