"""Image files in a folder: all that Pillow reads, and what is passed over, by reason."""

from __future__ import annotations

import functools
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from PIL import Image, ImageFile

from ..words import count, some_of

#: Reason -> names of the files that are not read for it.
PassedOver = Mapping[str, Sequence[str]]

#: The reason of images that a folder's own folders hold, where they are not looked into.
BELOW = "in a folder below"
#: How the reason of folders begins that cannot be opened.
UNOPENED = "a folder that cannot be opened"

_NOT_DECODED = ("MPEG",)  # Pillow knows its files and has no decoder


@functools.cache
def image_extensions() -> tuple[str, ...]:
    """List the endings of the files that Pillow reads, in lower case, sorted."""
    Image.init()
    formats = {
        name
        for name, (opener, _) in Image.OPEN.items()
        if name not in _NOT_DECODED and not (isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile))
    }
    return tuple(sorted(end for end, name in Image.registered_extensions().items() if name in formats))


def find_images(folder: str | os.PathLike, deep: bool = False) -> tuple[list[str], dict[str, list[str]]]:
    """Find the image files of a folder, in an order that is the same on every machine.

    Files and folders whose name starts with a dot are passed over: systems leave such companions beside images. A
    folder that links lead to in several ways is read once.

    Args:
        folder: where to look.
        deep: also in the folders below it.

    Returns:
        Their paths relative to `folder`, sorted, and what else there is: reason -> paths.

    Raises:
        OSError: the folder cannot be opened.
    """
    found: list[str] = []
    passed_over: dict[str, list[str]] = defaultdict(list)
    seen: set[tuple[int, int]] = set()
    folders: list[str] = [""]
    links: list[str] = []  # come last, so that an image has the path without them
    while folders or links:
        below = folders.pop() if folders else links.pop()
        directory = os.path.join(folder, below)
        try:
            status = os.stat(directory)
            if (status.st_dev, status.st_ino) in seen:
                passed_over["a link to a folder that is read already"].append(below)
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            if not below:
                raise
            passed_over[f"{UNOPENED} ({error.strerror})"].append(below)
            continue
        for entry in entries:
            path = os.path.join(below, entry.name)
            reason = _why_passed_over(entry)
            if reason:
                passed_over[reason].append(path)
            elif entry.is_dir():
                (links if entry.is_symlink() else folders).append(path)
            else:
                found.append(path)
        if not deep:
            break
    for path in folders if not deep else []:
        try:
            images, rest = find_images(os.path.join(folder, path), deep=True)
        except OSError as error:
            images, rest = [], {f"{UNOPENED} ({error.strerror})": [""]}
        for reason, names in {BELOW: images, **rest}.items():
            if reason == BELOW or reason.startswith(UNOPENED):
                passed_over[reason] += [os.path.join(path, name) if name else path for name in names]
    passed_over["a link to a folder"] += links
    return sorted(found), {reason: sorted(paths) for reason, paths in sorted(passed_over.items()) if paths}


def left_out(paths: Iterable[str], name: str) -> dict[str, list[str]]:
    """Find what lies beside the images of a dataset and is none of them: reason -> paths.

    Args:
        paths: of its images.
        name: of the dataset, for the reason.
    """
    read = {os.path.abspath(path) for path in paths}
    beside: dict[str, list[str]] = defaultdict(list)
    for folder in sorted(filter(os.path.isdir, {os.path.dirname(path) for path in read})):
        images, passed_over = find_images(folder)
        unread = [image for image in images if os.path.join(folder, image) not in read]
        for reason, names in {f"an image that {name} leaves out": unread, **passed_over}.items():
            beside[reason] += [os.path.join(folder, one) for one in names]
    return beside


def describe_passed_over(passed_over: PassedOver) -> list[str]:
    """Say what is passed over: a line for each reason, with the number and the first names."""
    return [
        f"{count(len(names), 'file')} passed over, {reason}: {some_of(names)}"
        for reason, names in passed_over.items()
        if names
    ]


def _why_passed_over(entry: os.DirEntry) -> str:
    """Why an entry is neither an image nor a folder to look into; empty where it is."""
    if entry.name.startswith("."):
        return "hidden"
    try:
        if entry.is_dir():
            return ""
        if not entry.is_file():
            return "a link to nothing" if entry.is_symlink() else "no file"
    except OSError as error:  # a link to itself
        return f"unreadable ({error.strerror})"
    end = os.path.splitext(entry.name)[1].lower()
    return "" if end in image_extensions() else f"no image by its ending, {end or 'none'}"
