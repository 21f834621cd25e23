"""Where the relation module of RRID looks: Park and Ham, AAAI 2020, Fig. 6."""

from __future__ import annotations

import numpy as np
import torch
from fastreid.evaluation.evaluator import inference_context
from torch import nn

from ..layers import stripe_bounds
from ..methods.rrid import RRIDHead
from .feature_maps import backbone_map

__all__ = ["attribution", "find_relation", "part_of", "part_shares", "relation_maps"]


def attribution(feature_map: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """What each position of a feature map contributes to an output: gradient times activation.

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
    """The head of a model that has a relation module.

    Raises:
        ValueError: it has none.
    """
    head = getattr(model, "heads", None)
    if not isinstance(head, RRIDHead):
        raise ValueError(f"relation maps are of RRIDHead (MODEL.HEADS.NAME), this model has {type(head).__name__}")
    if not head.has_relation:
        raise ValueError(
            "this model has no relation module: MODEL.RRID.RELATION is 'none' or MODEL.RRID.LOCAL_POOL is 'none'"
        )
    return head


def part_of(head: RRIDHead, name: str) -> tuple[int, int]:
    """Which part a local feature is of.

    Args:
        head: with local features.
        name: of one, such as `part_3_of_6`.

    Returns:
        The number of parts of its scale, and its place among them, from 0.

    Raises:
        ValueError: there is no such local feature.
    """
    if name not in head.local_names:
        known = ", ".join(head.local_names)
        raise ValueError(
            f"there is no local feature '{name}'; of MODEL.RRID.PARTS {list(head.scales)} there are {known}"
        )
    place = head.local_names.index(name)
    for parts in head.scales:
        if place < parts:
            return parts, place
        place -= parts
    raise AssertionError("local_names lists the parts of all scales")


def relation_maps(model: nn.Module, images: torch.Tensor, part: str, batch_size: int = 32) -> np.ndarray:
    """Activation maps of R_p(T(p, r)) of a part, or of R_p(r) where MODEL.RRID.RELATION is `rest`.

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
    """How the response is spread over the parts of the images.

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
