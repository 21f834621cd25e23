"""A threshold on distances between tracklets, by tracklets whose people are known.

It is chosen as one on distances between images is, see `retrieval.calibration`, and its stated error is that of a pair
of tracklets that constraints leave open. A threshold of images says nothing exact of tracklets: a robust mean is nearer
to another than two of the images are, of the same person and of different people.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from ..files import sealed, unsealed, write_json
from ..retrieval import Calibration
from ..retrieval.calibration import Block, calibrate_blocks, largest_distance
from .constraints import Constraints
from .distances import Compared
from .reduced import Reduced


def calibrate_tracklets(
    reduced: Reduced,
    compared: Compared,
    constraints: Constraints,
    criterion: str = "fpr",
    target: float = 1e-3,
    source: str = "",
) -> Calibration:
    """Choose a threshold by every pair of labeled tracklets that constraints allow.

    Args:
        reduced: tracklets, of whose people some are known (`truth`).
        compared: how they are compared.
        constraints: on them; pairs that these forbid are never asked for and do not count.
        criterion: one of `fastreid_parts.retrieval.calibration.CRITERIA`.
        target: false positive rate, for the criterion `fpr`.
        source: kept with the threshold.

    Raises:
        ValueError: as `calibrate`; or no tracklet is labeled.
    """
    rows = np.flatnonzero([bool(name) for name in reduced.truth])
    if not len(rows):
        raise ValueError("no tracklet has a known identity: a threshold needs labeled tracklets")
    labeled = reduced.take(rows)
    who = np.unique(labeled.truth, return_inverse=True)[1]
    distances, every = labeled.distances(compared), np.arange(len(rows))

    def blocks() -> Iterator[Block]:
        for part in distances.row_blocks():
            counts = ~constraints.forbidden(rows[part], rows) & (every[part, None] < every[None])
            same = who[part, None] == who[None]
            groups = np.broadcast_to(who[part, None], same.shape)
            yield distances.block(part, slice(None))[counts], same[counts], groups[counts]

    flat = labeled.vectors.reshape(-1, labeled.vectors.shape[2])
    largest = largest_distance(flat, flat, compared.metric)
    return calibrate_blocks(blocks, largest, compared.metric, criterion, target, source)


def write_threshold(path: str | os.PathLike, calibration: Calibration, compared: Compared, fingerprint: str) -> None:
    """Write a threshold of tracklets and what it is of as JSON.

    Args:
        path: the file.
        calibration: the threshold.
        compared: how the tracklets were compared.
        fingerprint: of the model.
    """
    said = {"calibration": asdict(calibration), "compared": asdict(compared), "fingerprint": fingerprint}
    write_json(path, sealed(said))


def check_replaced(path: str | os.PathLike, overwrite: bool) -> None:
    """Refuse a file that is there and no threshold of tracklets.

    Args:
        path: that is to be written.
        overwrite: it is replaced whatever it is.

    Raises:
        ValueError: it is something else.
    """
    if overwrite or not os.path.exists(path):
        return
    try:
        _stored(path)
    except ValueError as error:
        raise ValueError(f"{error}; --overwrite replaces it, or name another file") from error


def read_threshold(path: str | os.PathLike, fingerprint: str) -> tuple[Calibration, Compared]:
    """Read what `write_threshold` wrote.

    Args:
        path: the file.
        fingerprint: of the model whose features are compared.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is another one, was changed, or is of another model.
    """
    calibration, compared, of_model = _stored(path)
    if of_model != fingerprint:
        raise ValueError(
            f"the threshold in '{path}' is of another model ({of_model[:12] or 'unknown'}) than the features "
            f"({fingerprint[:12] or 'unknown'}): calibrate with this one"
        )
    return calibration, compared


def _stored(path: str | os.PathLike) -> tuple[Calibration, Compared, str]:
    """Threshold, how tracklets are compared, and the model's fingerprint."""
    try:
        with open(path, encoding="utf-8") as file:
            said = unsealed(json.load(file))
        return Calibration(**said["calibration"]), Compared(**said["compared"]), said["fingerprint"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"'{path}' is no threshold of tracklets, as `identify --calibrate` writes it: {error}"
        ) from error
