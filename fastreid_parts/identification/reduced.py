"""What is kept of a tracklet to compare it, to show it and to go on later: a few vectors and images."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from ..retrieval import GalleryIndex
from .constraints import Sighted
from .distances import Compared, TrackletDistances, filled_of, represent, spread
from .tracklets import Tracklets

#: Images of a tracklet that are kept to be shown, at most, beside those that it is compared by.
SHOWN = 4
#: What the name of a known person begins with among tracklets, in corrections and in results.
KNOWN = "known/"

_ARRAYS = ("start", "end", "sizes", "vectors", "filled", "framed")
_LISTS = ("names", "cameras", "truth", "people", "examples")


@dataclass(frozen=True)
class Reduced:
    """T tracklets, and known people, who are compared like tracklets but were seen nowhere.

    Attributes:
        names: T, what each is called.
        cameras: T, "" where unknown.
        start: (T,) float64 seconds, NaN where unknown.
        end: (T,) float64 seconds.
        truth: T, whom a tracklet shows where that is known beforehand, "" otherwise.
        people: T, what known people are called, "" for tracklets.
        sizes: (T,) int64, how many images there are.
        vectors: (T, width, D) float32, see `represent`.
        filled: (T,) int64, how many of these a tracklet has.
        examples: T lists of image files: one a vector, then others to look at.
        framed: (T,) bool, see `Tracklets`.
    """

    names: list[str]
    cameras: list[str]
    start: np.ndarray
    end: np.ndarray
    truth: list[str]
    people: list[str]
    sizes: np.ndarray
    vectors: np.ndarray
    filled: np.ndarray
    examples: list[list[str]]
    framed: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sighted(self) -> Sighted:
        """When and where they were seen."""
        return Sighted(self.names, self.cameras, self.start, self.end, self.framed)

    @property
    def person(self) -> np.ndarray:
        """(T,) int64, a number for each known person, -1 for tracklets."""
        return np.array([row if name else -1 for row, name in enumerate(self.people)], np.int64)

    def distances(self, compared: Compared) -> TrackletDistances:
        """Distances between them.

        Args:
            compared: as they were reduced.
        """
        return TrackletDistances(self.vectors, self.filled, compared)

    def take(self, rows: np.ndarray) -> Reduced:
        """Take some of them, in an order."""
        lists = {name: [getattr(self, name)[row] for row in rows] for name in _LISTS}
        return Reduced(**lists, **{name: getattr(self, name)[rows] for name in _ARRAYS})

    def in_order(self) -> Reduced:
        """Bring them into the order of their arrival: known people, then tracklets by their end, then by name.

        Of unknown ends they come last.
        """
        end = np.where(np.isnan(self.end), np.inf, self.end)
        keys = [(not name, end[row], self.names[row]) for row, name in enumerate(self.people)]
        return self.take(np.array(sorted(range(len(self)), key=keys.__getitem__), np.int64))

    def followed_by(self, other: Reduced) -> Reduced:
        """Put others behind these.

        Raises:
            ValueError: their features are of other dimensions.
        """
        if self.vectors.shape[1:] != other.vectors.shape[1:]:
            raise ValueError(
                f"features of {other.vectors.shape[2]} dimensions and of {self.vectors.shape[2]} cannot be compared: "
                "take all with the same model"
            )
        lists = {name: getattr(self, name) + getattr(other, name) for name in _LISTS}
        arrays = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in _ARRAYS}
        return Reduced(**lists, **arrays)


def reduce_tracklets(tracklets: Tracklets, compared: Compared) -> Reduced:
    """Keep of tracklets what is compared and shown.

    Args:
        tracklets: with the features of all images.
        compared: how they will be compared.

    Raises:
        ValueError: as `represent`.
    """
    size, framed = len(tracklets.names), tracklets.framed
    return Reduced(
        names=list(tracklets.names),
        cameras=list(tracklets.cameras),
        start=np.asarray(tracklets.start, np.float64),
        end=np.asarray(tracklets.end, np.float64),
        truth=list(tracklets.identities),
        people=[""] * size,
        framed=np.zeros(size, bool) if framed is None else framed,
        **_kept(tracklets.features, tracklets.of, tracklets.paths, compared),
    )


def known_people(index: GalleryIndex, compared: Compared) -> Reduced:
    """Make the people of a gallery known, each by the images that it has of them.

    Images without identity do not count.

    Args:
        index: with identities by name.
        compared: how they will be compared.

    Raises:
        ValueError: no image of the index has an identity; its metric is another one; it keeps no features.
    """
    if index.metric != compared.metric:
        raise ValueError(f"the index of known people is of {index.metric} distances, and these are {compared.metric}")
    features = index.features()
    called = [features.names.identity(pid) for pid in features.pids]
    rows = [row for row, name in enumerate(called) if name is not None]
    if not rows:
        raise ValueError("nobody in the index has a name: an index of known people is built with --labels")
    rows.sort(key=lambda row: str(called[row]))
    people, of = np.unique([str(called[row]) for row in rows], return_inverse=True)
    unknown = np.full(len(people), np.nan)
    return Reduced(
        names=[KNOWN + name for name in people.tolist()],
        cameras=[""] * len(people),
        start=unknown,
        end=unknown.copy(),
        truth=people.tolist(),
        people=people.tolist(),
        framed=np.zeros(len(people), bool),
        **_kept(features.features[rows], of.astype(np.int64), [features.paths[row] for row in rows], compared),
    )


def _kept(features: np.ndarray, of: np.ndarray, paths: Sequence[str], compared: Compared) -> dict[str, Any]:
    vectors, images = represent(features, of, compared)
    sizes = np.bincount(of)
    examples = []
    for own, first, size in zip(images, sizes.cumsum() - sizes, sizes):
        rows = dict.fromkeys([*own[own >= 0].tolist(), *(first + spread(size, SHOWN)).tolist()])
        examples.append([paths[row] for row in list(rows)[: max(compared.width, SHOWN)]])
    return {"sizes": sizes, "vectors": vectors, "filled": filled_of(images), "examples": examples}


def write_arrays(file: BinaryIO, reduced: Reduced, said: dict[str, Any], **arrays: np.ndarray) -> None:
    """Write tracklets and what is known of them as one file of NumPy's (npz).

    Args:
        file: that is written to.
        reduced: the tracklets.
        said: what else is to be kept, as JSON.
        arrays: others, by name.
    """
    text = json.dumps({"said": said, **{name: getattr(reduced, name) for name in _LISTS}}).encode()
    own = {name: getattr(reduced, name) for name in _ARRAYS}
    np.savez(file, json=np.frombuffer(text, np.uint8), **own, **arrays)


def read_arrays(path: str | os.PathLike, names: Sequence[str]) -> tuple[Reduced, dict[str, Any], dict[str, np.ndarray]]:
    """Read what `write_arrays` wrote.

    Args:
        path: the file.
        names: of the other arrays.

    Returns:
        Tracklets, what was said, and the other arrays.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is another one, or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            content = json.loads(stored["json"].tobytes())
            own = {name: stored[name] for name in _ARRAYS if name in stored}
            own.setdefault("framed", np.ones(len(own["start"]), bool))  # as earlier versions took all times
            others = {name: stored[name] for name in names}
        reduced = Reduced(**own, **{name: content[name] for name in _LISTS})
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib, json and NumPy each have errors of their own
        raise ValueError(f"'{path}' is no state of an identification, or damaged: {error}; begin anew") from error
    return reduced, content["said"], others
