"""Where RRID's relation module looks for a part, and what the models find: Fig. 6 of Park and Ham, AAAI 2020.

For a model with MODEL.RRID.RELATION one_vs_rest the map is of R_p(T(p, r)), for one with `rest` of R_p(r). It lies over
the query image, with the parts drawn on it and the part in question framed; what the model finds stands beside it. A
map is gradient times activation: how much each position of the last feature map contributes to the sum of R_p's vector,
positive contributions only, each map scaled to its own range. The paper does not say how it makes its maps.

The table says how the response is spread over the parts, on the average of all query images. The queries to draw are
chosen as by rank-lists; so is the test set. Retrieval is with the whole representation, or with what TEST.FEATURES
names.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from tabulate import tabulate

from ..evaluation import find_relation, part_of, part_shares, relation_maps
from ..visualization import MarkedImages, draw_rank_lists, load_images
from ..visualization.activation import map_images, scaled_response
from ._trained_models import (
    TrainedModel,
    add_model_options,
    chosen_models,
    run_and_report,
    write_json,
)
from .rank_lists import (
    Searched,
    add_query_options,
    check_query_options,
    describe_lists,
    ranked_examples,
    search_test_set,
)

__all__ = ["main"]

_CHUNK = 64  # images in memory
_SYMBOLS = {"one_vs_rest": "R_p(T(p, r))", "rest": "R_p(r)"}


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `--help`.

    Returns:
        0 when the picture is written, 1 when the arguments do not fit together; the reason is printed.
    """
    return run_and_report(_draw, *_parse(argv))


def _draw(models: list[TrainedModel], args: argparse.Namespace) -> None:
    searched = search_test_set(models, check=lambda model: part_of(find_relation(model), args.part))
    examples = ranked_examples(searched, args)
    parts, place = part_of(find_relation(searched[0].model), args.part)
    images_of: dict[str, list[np.ndarray]] = {}
    shares: dict[str, np.ndarray] = {}
    for one in searched:
        maps = _maps_of_queries(one, args.part)
        shares[one.trained.name] = part_shares(maps, parts).mean(axis=0)
        images_of[one.trained.name] = _overlays(one, maps, examples.rows)
    symbols = {one.trained.name: _SYMBOLS[find_relation(one.model).relation] for one in searched}
    marked = MarkedImages(images_of, symbols, parts, place)
    draw_rank_lists(replace(examples, marked=marked), args.output, args.title)

    described = describe_lists(searched, examples)
    for name, model in described["models"].items():
        model.update(part=args.part, map=symbols[name], share_of_parts=shares[name].tolist())
    numbers = write_json(args.output, described)
    rows = [[name, symbols[name], *(100 * share for share in shares[name])] for name in shares]
    heads = [f"part {number + 1}{' *' if number == place else ''}" for number in range(parts)]
    print(f"\nShare of the response in each part [%], * is {args.part}; {len(searched[0].query)} query images\n")
    print(tabulate(rows, headers=["model", "map of", *heads], tablefmt="pipe", floatfmt=".1f"))
    print(f"\nPicture: {args.output}, numbers: {numbers}")


def _maps_of_queries(searched: Searched, part: str) -> np.ndarray:
    """(Q, h, w) maps of all query images."""
    paths = list(searched.query.paths)
    chunks = []
    for first in range(0, len(paths), _CHUNK):
        _, images = load_images(searched.cfg, paths[first : first + _CHUNK])
        chunks.append(relation_maps(searched.model, images, part))
    return np.concatenate(chunks)


def _overlays(searched: Searched, maps: np.ndarray, rows: Sequence[int]) -> list[np.ndarray]:
    """The maps of some queries, each scaled to 0 .. 1 and laid over its image."""
    shown, images = load_images(searched.cfg, [searched.query.paths[row] for row in rows])
    size = (images.shape[-2], images.shape[-1])
    responses = scaled_response(torch.from_numpy(maps[list(rows)])[:, None], size, reduce="max")
    return [map_images(image, response)[1] for image, response in zip(shown, responses)]


def _parse(argv: list[str] | None) -> tuple[list[TrainedModel], argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog="relation-maps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser)
    parser.add_argument(
        "--part",
        default="P6_local3",
        help="the local feature whose relation is drawn (default: P6_local3, the paper's)",
    )
    add_query_options(parser, k=3)
    parser.add_argument("--output", required=True, help="the PNG to write; the numbers stand beside it as .json")
    parser.add_argument("--title", default="", help="a line above the lists")
    args = parser.parse_args(argv)
    check_query_options(parser, args)
    return chosen_models(parser, args), args
