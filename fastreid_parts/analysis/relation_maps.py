"""Draw where RRID's relation module looks for a part, and what the models find.

As in Fig. 6 of Park and Ham, AAAI 2020. For a model with MODEL.RRID.RELATION one_vs_rest the map is of R_p(T(p, r)),
for one with `rest` of R_p(r). It lies over the query image, with the parts drawn on it and the part in question framed;
what the model finds stands beside it. A map is gradient times activation: how much each position of the last feature
map contributes to the sum of R_p's vector, positive contributions only, each map scaled to its own range. The paper
does not say how it makes its maps.

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
from fastreid.evaluation.evaluator import inference_context
from tabulate import tabulate
from torch import nn

from ..evaluation.feature_maps import backbone_map
from ..layers import stripe_bounds
from ..methods.rrid import RRIDHead
from ..parts_baseline import head_of
from ..visualization import MarkedImages, draw_rank_lists, load_images
from ..visualization.activation import map_images, scaled_response
from .searched import Searched, add_query_options, check_query_options, describe_lists, ranked_examples, search_test_set
from .trained_models import add_figure_options, chosen_models, finish

_CHUNK = 64  # images in memory
_SYMBOLS = {"one_vs_rest": "R_p(T(p, r))", "rest": "R_p(r)"}


def run(args: argparse.Namespace) -> None:
    """Draw where the relation module of the models of --model looks.

    Raises:
        OSError, KeyError, ValueError: files, keys, or what the options name do not fit together.
    """
    check_query_options(args)
    models = chosen_models(args)
    searched = search_test_set(models, check=lambda model: part_of(find_relation(model), args.part))
    examples = ranked_examples(searched, args)
    parts, place = part_of(find_relation(searched[0].model), args.part)
    images_of: dict[str, list[np.ndarray]] = {}
    shares: dict[str, np.ndarray] = {}
    for one in searched:
        maps = _maps_of_queries(one, args.part)
        shares[one.trained.name] = part_shares(maps, parts).mean(axis=0)
        images_of[one.trained.name] = _overlays(one, maps, examples.rows)
    symbols = {one.trained.name: _SYMBOLS[find_relation(one.model).rrid.relation] for one in searched}
    marked = MarkedImages(images_of, symbols, parts, place)
    shown = replace(examples, marked=marked)
    described = describe_lists(searched, examples)
    for name, model in described["models"].items():
        model.update(part=args.part, map=symbols[name], share_of_parts=shares[name].tolist())
    rows = [[name, symbols[name], *(100 * share for share in shares[name])] for name in shares]
    heads = [f"part {number + 1}{' *' if number == place else ''}" for number in range(parts)]
    print(f"\nShare of the response in each part [%], * is {args.part}; {len(searched[0].query)} query images")
    table = tabulate(rows, headers=["model", "map of", *heads], tablefmt="pipe", floatfmt=".1f")
    finish(args, described, table, lambda path: draw_rank_lists(shown, path, args.title))


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


def attribution(feature_map: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Show what each position of a feature map contributes to an output: gradient times activation.

    Positive part of sum_c F_c d(sum of output) / dF_c. The paper does not say how it makes a map of R_p's vector, which
    has no positions any more; this one is exact where the output is linear in the map.

    Args:
        feature_map: F, (N, C, h, w), which `output` was computed from, with `requires_grad`.
        output: (N, D).

    Returns:
        (N, h, w), not negative.
    """
    (gradient,) = torch.autograd.grad(output.sum(), feature_map)
    return (feature_map * gradient).sum(dim=1).clamp(min=0).detach()


def find_relation(model: nn.Module) -> RRIDHead:
    """Find the head of a model that has a relation module.

    Raises:
        ValueError: it has none.
    """
    head = head_of(model)
    if not isinstance(head, RRIDHead):
        raise ValueError(f"relation maps are of RRIDHead (MODEL.HEADS.NAME), this model has {type(head).__name__}")
    if not head.has_relation:
        raise ValueError(
            "this model has no relation module: MODEL.RRID.RELATION is 'none' or MODEL.RRID.LOCAL_POOL is 'none'"
        )
    return head


def part_of(head: RRIDHead, name: str) -> tuple[int, int]:
    """Tell which part a local feature is of.

    Args:
        head: with local features.
        name: of one, such as `part_3_of_6`.

    Returns:
        The number of parts of its scale, and its place among them, from 0.

    Raises:
        ValueError: there is no such local feature.
    """
    known = dict(zip(head.local_names, ((parts, place) for parts in head.scales for place in range(parts))))
    if name not in known:
        scales = f"MODEL.RRID.PARTS {list(head.scales)}"
        raise ValueError(f"there is no local feature '{name}'; of {scales} there are {', '.join(known)}")
    return known[name]


def relation_maps(model: nn.Module, images: torch.Tensor, part: str, batch_size: int = 32) -> np.ndarray:
    """Make activation maps of R_p(T(p, r)) of a part, or of R_p(r) where MODEL.RRID.RELATION is `rest`.

    `attribution` of the last feature map to what the relation module adds to the part's own feature. The model runs in
    evaluation mode.

    Args:
        model: RRID with a relation module.
        images: (N, 3, H, W) in 0 to 255.
        part: the local feature of the part, such as `part_3_of_6`.
        batch_size: images that go through the model at once.

    Returns:
        (N, h, w) float32, not negative, as large as the feature map.

    Raises:
        ValueError: the model has no relation module or no such part.
    """
    head = find_relation(model)
    part_of(head, part)
    place = head.local_names.index(part)
    chunks = []
    for chunk in images.split(batch_size):
        feature_map = backbone_map(model, chunk).requires_grad_()
        with inference_context(model), torch.enable_grad():
            support = head.local_support(head.reduce(feature_map))
            assert support is not None
            chunks.append(attribution(feature_map, support[:, place]).cpu().numpy())
    return np.concatenate(chunks)


def part_shares(maps: np.ndarray, parts: int) -> np.ndarray:
    """Measure how the response is spread over the parts of the images.

    Args:
        maps: (N, h, w), not negative.
        parts: P, horizontal parts of the same height.

    Returns:
        (N, P), shares of a map's sum, from the top of the image to the bottom; zeros where a map is zero.

    Raises:
        ValueError: P is not a number of parts of h rows.
    """
    sums = np.stack([maps[:, first:end].sum(axis=(1, 2)) for first, end in stripe_bounds(maps.shape[1], parts)], axis=1)
    total = maps.sum(axis=(1, 2))[:, None]
    return np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    add_figure_options(parser)
    text = "the local feature whose relation is drawn (default: part_3_of_6, the paper's)"
    parser.add_argument("--part", default="part_3_of_6", help=text)
    add_query_options(parser, k=3)
