"""What is known of public files without having them: names and shapes of their tensors, and the entry they lie in.

A file of manifests/ is named after a published set, with -- for /, and made of lines `name shape`; [0-3] stands for
each number from 0 to 3. Its first line says what it was read from.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent / "manifests"
NAMES = [path.stem.replace("--", "/") for path in sorted(FOLDER.glob("*.txt"))]


def shapes(name: str) -> tuple[str, dict[str, tuple[int, ...]]]:
    """The entry that a set's tensors lie in ("" for none), and {name: shape}."""
    entry, found = "", {}
    for line in (FOLDER / f"{name.replace('/', '--')}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("entry: "):
            entry = line.removeprefix("entry: ")
        elif not line.startswith("#"):
            names, _, shape = line.rpartition(" ")
            for one in _expanded(names):
                found[one] = tuple(map(int, shape.split("x"))) if shape != "-" else ()
    return entry, found


def checkpoint(name: str) -> tuple[Any, dict[str, float]]:
    """A checkpoint with the shapes of a set, in which each tensor has one number of its own, and {name: number}."""
    entry, found = shapes(name)
    numbers = {one: float(number) for number, one in enumerate(found, start=1)}
    state = {one: torch.tensor(numbers[one]).expand(shape) for one, shape in found.items()}
    return ({entry: state, "args": None} if entry else state), numbers


def _expanded(name: str) -> list[str]:
    match = re.search(r"\[(\d+)-(\d+)]", name)
    if match is None:
        return [name]
    return [
        one
        for number in range(int(match[1]), int(match[2]) + 1)
        for one in _expanded(f"{name[: match.start()]}{number}{name[match.end() :]}")
    ]
