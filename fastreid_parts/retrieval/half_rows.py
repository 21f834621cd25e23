"""Features in float16 that an index compares again, in mapped files but for the last few: memory is then the codes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

_WAITING = 1 << 26  # bytes in memory, of those that were added last
_BLOCK = 1 << 24  # bytes that are read together


class HalfRows:
    """(P, D) float16 features, of which those that are asked for are read.

    What is appended goes to a temporary file without a name, in the folder that TMPDIR names, which is gone with the
    process.

    Args:
        parts: (N, D) each, float16, or float32 to be rounded when they are read; of mapped files.
        dimensions: D.
    """

    def __init__(self, parts: Sequence[np.ndarray], dimensions: int) -> None:
        self.dimensions = dimensions
        self._parts = list(parts)
        self._file: Any = None
        self._written = 0
        self._waiting: list[np.ndarray] = []
        self._kept: np.ndarray | None = None  # places in the parts, where some were dropped
        self.count = sum(map(len, parts))

    def append(self, rows: np.ndarray) -> None:
        """Put (N, D) float32 features at the end."""
        if self._kept is not None:
            first = sum(map(len, self._everything()))
            self._kept = np.concatenate([self._kept, np.arange(first, first + len(rows))])
        self._waiting.append(rows.astype(np.float16))
        self.count += len(rows)
        if sum(part.nbytes for part in self._waiting) >= _WAITING:
            self._write()
        elif len(self._waiting) > 64:
            self._waiting = [np.concatenate(self._waiting)]

    def _write(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as it is mapped
        else:
            self._parts.pop()  # the mapping of what was there
        for part in self._waiting:
            self._file.write(part)
            self._written += len(part)
        self._waiting = []
        self._file.flush()
        self._parts.append(np.memmap(self._file, np.float16, "r", shape=(self._written, self.dimensions)))

    def _everything(self) -> list[np.ndarray]:
        return [*self._parts, *self._waiting]

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """Read features.

        Args:
            positions: int64 of any shape (...); for a negative one there is some feature or other.

        Returns:
            (..., D) float16.
        """
        places = np.maximum(positions, 0).reshape(-1)
        if self._kept is not None:
            places = self._kept[places]
        parts = self._everything()
        starts = np.cumsum([0, *map(len, parts)])
        of = np.searchsorted(starts, places, side="right") - 1
        rows = np.empty((len(places), self.dimensions), np.float16)
        for number in np.unique(of).tolist():
            mine = of == number
            rows[mine] = parts[number][places[mine] - starts[number]]
        return rows.reshape(*positions.shape, self.dimensions)

    def drop(self, out: np.ndarray) -> None:
        """Forget features; those behind them move up.

        Args:
            out: (P,) bool.
        """
        kept = np.flatnonzero(~out)
        self._kept = kept if self._kept is None else self._kept[kept]
        self.count = len(kept)

    def blocks(self) -> Iterator[np.ndarray]:
        """Give all of them in order, (N, D) float16 at a time."""
        step = max(1, _BLOCK // (2 * self.dimensions))
        for start in range(0, self.count, step):
            yield self[np.arange(start, min(start + step, self.count))]

    def save(self, file: Any) -> None:
        """Write them as `numpy.save` writes an array."""
        header = {"descr": "<f2", "fortran_order": False, "shape": (self.count, self.dimensions)}
        np.lib.format.write_array_header_1_0(file, header)
        for block in self.blocks():
            file.write(block)
