"""The images of a report: rank lists with framed answers, and activation maps beside their images."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..evaluation.features import Features
from ..evaluation.search import RankList
from .activation import PICTURES, map_pictures
from .html_page import Content, Node, element, figure
from .rank_list import RankedExamples

__all__ = ["frame_legend", "map_examples", "query_lists"]

# Frame of the style sheet -> a mark that says the same to those who cannot tell its colour, and what it means
_FRAMES = {
    "asked": ("?", "query"),
    "right": ("✓", "right: the query's identity, seen by another camera"),
    "wrong": ("✗", "wrong: another identity"),
    "junk": (
        "–",
        "junk: the query's identity from the query's own camera, or nobody; it does not count and has no rank",
    ),
}
# A run of more junk images than this is cut to its first ones
_JUNK_RUN = 3
_JUNK_SHOWN = 2


def frame_legend() -> Node:
    """What the frames of `query_lists` mean."""
    marks = [element("li", element("span", mark, class_=kind), text) for kind, (mark, text) in _FRAMES.items()]
    return element("ul", *marks, class_="legend", aria_label="Frames of the images")


def query_lists(examples: RankedExamples, place: int) -> Node:
    """One query, and what each model found for it.

    Args:
        examples: rank lists.
        place: which of their queries.

    Raises:
        OSError: an image cannot be read.
    """
    row, label = examples.rows[place], examples.labels[place].replace("\n", " ")
    lists: list[Node] = []
    for name, found in examples.lists.items():
        notes = examples.notes.get(name)
        heading = " · ".join(text for text in (name, notes[place] if notes else "") if text)
        if heading:
            lists.append(element("h4", heading))
        lists.append(element("ol", *_answers(examples.gallery, found[place]), class_="images"))
    return element(
        "article",
        element("h3", f"{label} ", element("small", os.path.basename(examples.query.paths[row]))),
        element("div", _asked(examples.query, row), element("div", *lists), class_="found"),
        class_="query",
    )


def map_examples(examples: RankedExamples, images: Sequence[np.ndarray], maps: Mapping[str, np.ndarray]) -> Node:
    """The queries of rank lists, each with the activation map of every model, alone and laid over the image.

    Args:
        examples: whose queries the images are.
        images: (H, W, 3) uint8 RGB, one a query.
        maps: name of a model -> (N, h, w) from `activation_maps`.

    Raises:
        ValueError: not as many maps as images or queries.
    """
    for name, responses in maps.items():
        if not len(responses) == len(images) == len(examples.rows):
            raise ValueError(
                f"{len(examples.rows)} queries, {len(images)} images and {len(responses)} activation maps of '{name}'"
            )
    articles = []
    for number, (row, image) in enumerate(zip(examples.rows, images)):
        who = _who(examples.query, row)
        figures = [figure(image, f"query, {who}", "plain", "image")]
        for name, responses in maps.items():
            for kind, picture in zip(PICTURES["both"], map_pictures(image, responses[number])):
                alt = f"activation map of {name}, {kind}: {who}"
                figures.append(figure(picture, alt, "plain", f"{name}, {kind}" if name else kind))
        label = examples.labels[number].replace("\n", " ")
        heading = element("h3", f"{label} ", element("small", os.path.basename(examples.query.paths[row])))
        articles.append(element("article", heading, element("div", *figures, class_="images"), class_="query"))
    return element("div", *articles, class_="maps")


def _asked(query: Features, row: int) -> Node:
    return figure(query.paths[row], f"query, {_who(query, row)}", "framed asked", *_caption(query, row))


def _answers(gallery: Features, found: RankList) -> Iterator[Node]:
    """The images of a rank list; instead of longer runs of junk, and of ranks that it leaves out, a text."""
    places = found.places.tolist()
    last = 0
    for is_junk, group in itertools.groupby(range(len(places)), key=lambda position: places[position] == 0):
        run = list(group)
        shown = run[:_JUNK_SHOWN] if is_junk and len(run) > _JUNK_RUN else run
        for position in shown:
            if places[position] > last + 1:
                yield element("li", f"… ranks {last + 1} to {places[position] - 1} …", class_="more")
            last = places[position] or last
            yield element("li", _answer(gallery, found, position, places[position]))
        if len(shown) < len(run):
            yield element("li", f"and {len(run) - len(shown)} more junk", class_="more")


def _answer(gallery: Features, found: RankList, position: int, place: int) -> Node:
    image = int(found.gallery[position])
    kind = "junk" if place == 0 else "right" if found.correct[position] else "wrong"
    mark, _ = _FRAMES[kind]
    alt = f"rank {place}, {kind}: {_who(gallery, image)}" if place else f"{kind}: {_who(gallery, image)}"
    caption = [
        element("b", f"{place} {mark}" if place else mark),
        f"{found.distances[position]:#.3g}",
        element("br"),
        *_caption(gallery, image),
    ]
    return figure(gallery.paths[image], alt, f"framed {kind}", *caption)


def _who(features: Features, image: int) -> str:
    # fast-reid counts cameras from 0, the files' names from 1
    return f"identity {features.pids[image]}, camera {features.camids[image] + 1}"


def _caption(features: Features, image: int) -> list[Content]:
    return [f"id {features.pids[image]}", element("br"), f"cam {features.camids[image] + 1}"]
