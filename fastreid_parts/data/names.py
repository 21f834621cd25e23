"""Names of identities and cameras: what a user calls them, beside the numbers that fast-reid counts in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

#: Number of an identity or a camera that is not known.
UNKNOWN = -1

#: What a user sees of an identity or a camera: its name, its number where that is its name, None where it is not known.
Label: TypeAlias = "int | str | None"

# The name of the identity 0, and of the camera 0: fast-reid counts cameras from 0, and the names of files from 1
_FIRST_IDENTITY, _FIRST_CAMERA = 0, 1
_WHOLE = re.compile(r"0|[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Names:
    """What numbers of identities and cameras are called, as far as that is not the number itself.

    Without a name, identity 7 is called 7, and fast-reid's camera 2, which is c3 in Market-1501's file names, is 3.

    Attributes:
        identities: number -> name.
        cameras: fast-reid's number -> name.
    """

    identities: Mapping[int, str] = field(default_factory=dict)
    cameras: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, identities: Mapping[str, int], cameras: Mapping[str, int]) -> Names:
        """Turn numberings around.

        Args:
            identities: from `number_identities`.
            cameras: from `number_cameras`.
        """
        return cls(_own_names(identities, _FIRST_IDENTITY), _own_names(cameras, _FIRST_CAMERA))

    def identity(self, pid: int) -> Label:
        """Say what an identity is called."""
        return _called(int(pid), self.identities, _FIRST_IDENTITY)

    def camera(self, camid: int) -> Label:
        """Say what the camera of one of fast-reid's numbers is called. Every camera that a user sees is this one."""
        return _called(int(camid), self.cameras, _FIRST_CAMERA)


#: Where every identity and camera is called by its number.
BY_NUMBER = Names()


def number_identities(names: Iterable[str]) -> dict[str, int]:
    """Number identities by themselves where all are whole numbers, else by their order, from 1; "" is left out."""
    return _numbered(names, _FIRST_IDENTITY)


def number_cameras(names: Iterable[str]) -> dict[str, int]:
    """Number cameras as fast-reid does, from 0: "3" is 2 where all are whole numbers from 1, else by their order."""
    return _numbered(names, _FIRST_CAMERA)


def columns_of(identities: Sequence[str], cameras: Sequence[str]) -> tuple[np.ndarray, np.ndarray, Names]:
    """Number the identities and cameras of N images.

    Args:
        identities: N names, "" where it is not known.
        cameras: likewise.

    Returns:
        (N,) int64 identities and cameras, `UNKNOWN` where the name is ""; what they are called.
    """
    of_identity, of_camera = number_identities(identities), number_cameras(cameras)
    pids, camids = (
        np.array([numbers.get(name, UNKNOWN) for name in names], np.int64)
        for numbers, names in ((of_identity, identities), (of_camera, cameras))
    )
    return pids, camids, Names.of(of_identity, of_camera)


def names_of(pids: np.ndarray, camids: np.ndarray, names: Names) -> tuple[list[str], list[str]]:
    """Write identities and cameras as names: what `columns_of` takes.

    Args:
        pids: (N,) identities.
        camids: (N,) cameras.
        names: what they are called.
    """
    of_identity = {pid: _text(names.identity(pid)) for pid in np.unique(pids).tolist()}
    of_camera = {camid: _text(names.camera(camid)) for camid in np.unique(camids).tolist()}
    return [of_identity[pid] for pid in pids.tolist()], [of_camera[camid] for camid in camids.tolist()]


def joined(parts: Sequence[tuple[np.ndarray, np.ndarray, Names]]) -> tuple[np.ndarray, np.ndarray, Names]:
    """Concatenate identities and cameras of several sets of images: those of one name are one.

    Args:
        parts: identities, cameras and what they are called, of each set.
    """
    names = parts[0][2]
    if all(own == names for _, _, own in parts):
        return np.concatenate([pids for pids, _, _ in parts]), np.concatenate([camids for _, camids, _ in parts]), names
    texts = [names_of(*part) for part in parts]
    return columns_of([name for own, _ in texts for name in own], [name for _, own in texts for name in own])


def _numbered(names: Iterable[str], first: int) -> dict[str, int]:
    distinct = sorted(set(names) - {""}, key=lambda name: (int(name) if _WHOLE.fullmatch(name) else -1, name))
    if all(_WHOLE.fullmatch(name) and int(name) >= first for name in distinct):
        return {name: int(name) - first for name in distinct}
    return {name: place + 1 - first for place, name in enumerate(distinct)}


def _own_names(numbers: Mapping[str, int], first: int) -> dict[int, str]:
    if all(name == str(number + first) for name, number in numbers.items()):
        return {}
    return {number: name for name, number in numbers.items()}


def _called(number: int, names: Mapping[int, str], first: int) -> Label:
    return None if number < 0 else names.get(number, number + first)


def _text(label: Label) -> str:
    return "" if label is None else str(label)
