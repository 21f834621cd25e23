"""Parts of a feature set that is being computed: finished sets of some images each, in any order and by any process."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..evaluation import Features
from .manifest import MANIFEST
from .store import FeatureSet, load_feature_set

logger = logging.getLogger(__name__)

#: From an image to the one before which it ends.
Span = tuple[int, int]


class Part(NamedTuple):
    """Features of images that follow each other.

    Attributes:
        first: number of the first image.
        features: of the images.
    """

    first: int
    features: FeatureSet

    @property
    def end(self) -> int:
        """Number of the image after the last."""
        return self.first + len(self.features.features)


def part_folder(folder: str, first: int) -> str:
    """Name the folder of a part.

    Args:
        folder: of all parts.
        first: number of its first image.
    """
    return os.path.join(folder, f"{first:09d}")


def load_parts(folder: str) -> list[Part]:
    """Read the parts that are finished, in the order of their images; what is damaged is named and left out.

    Args:
        folder: of all parts; it need not be there.
    """
    parts = []
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        place = os.path.join(folder, name)
        if not name.isdigit():
            continue
        try:
            parts.append(Part(int(name), load_feature_set(place)))
        except (ValueError, OSError) as error:
            if os.path.isfile(os.path.join(place, MANIFEST)):
                logger.warning("A part is computed again: %s", error)
    return sorted(parts, key=lambda part: (part.first, -part.end))


def missing_spans(parts: Sequence[Part], span: Span) -> Iterator[Span]:
    """List what parts leave open of a span.

    Args:
        parts: in the order of their images; they may overlap.
        span: of images.
    """
    start, end = span
    for part in parts:
        if part.first >= end:
            break
        if part.first > start:
            yield start, part.first
        start = max(start, part.end)
    if start < end:
        yield start, end


def join_parts(parts: Sequence[Part]) -> Features:
    """Put parts that leave nothing open into one; of an image that is in several the first counts.

    Args:
        parts: in the order of their images.
    """
    taken, end = [], 0
    for part in parts:
        if part.end > end:
            taken.append(part.features.features.take(slice(end - part.first, None)))
            end = part.end
    return Features.concatenate(taken)


def share_of(total: int, batch: int, rank: int, ranks: int) -> Span:
    """Divide images among processes, in whole batches, so that batches are those of one process.

    A feature can depend in its last digits on how many images are computed with it.

    Args:
        total: number of images.
        batch: images of a batch.
        rank: whose share, from 0.
        ranks: number of processes.

    Returns:
        From which image to which; empty where there are fewer batches than processes.

    Raises:
        ValueError: there is no such process.
    """
    if not 0 <= rank < ranks:
        raise ValueError(f"process {rank} of {ranks}: processes are numbered from 0 to {ranks - 1} (RANK, WORLD_SIZE)")
    batches = -(-total // batch)
    first, end = (min(total, batches * number // ranks * batch) for number in (rank, rank + 1))
    return first, end
