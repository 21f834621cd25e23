"""Activation balanced pooling: stripes that hold equal shares of the channels' maxima. RMGL, Sec. III.C."""

from __future__ import annotations

import torch

__all__ = ["balanced_bounds", "maxima_per_row", "pool_balanced"]


def maxima_per_row(feature_map: torch.Tensor) -> torch.Tensor:
    """How many channels have their maximum in each row: Eq. (8), and the summands of Eq. (9).

    A channel counts once, at its first maximum; a channel without any response counts nowhere, as a ReLU leaves many.

    Args:
        feature_map: (N, C, H, W).

    Returns:
        (N, H), whole numbers.
    """
    width = feature_map.shape[3]
    highest, position = feature_map.flatten(2).max(dim=2)  # (N, C)
    # `max` may give any of several equal maxima: the first is asked for
    position = (feature_map.flatten(2) == highest[..., None]).int().argmax(dim=2)
    live = (feature_map != 0).flatten(2).any(dim=2)
    counts = torch.zeros(feature_map.shape[0], feature_map.shape[2], dtype=torch.long, device=feature_map.device)
    return counts.scatter_add_(1, torch.div(position, width, rounding_mode="floor"), live.long())


def balanced_bounds(counts: torch.Tensor, stripes: int) -> torch.Tensor:
    """Eq. (10): rows h_k with H(h_k) <= ceil(k C / n) < H(h_k + 1), where H sums `counts` from the top.

    Every stripe has a row at least. A map without any response is cut into stripes of the same height.

    Args:
        counts: (N, H), from `maxima_per_row`; their sum is the C of the equation.
        stripes: n, up to H.

    Returns:
        (N, n + 1), from 0 to H: stripe k covers the rows from entry k to the one before entry k + 1.

    Raises:
        ValueError: there are more stripes than rows, or none.
    """
    height = counts.shape[1]
    if not 1 <= stripes <= height:
        raise ValueError(f"a feature map of {height} rows cannot be cut into {stripes} stripes")
    total = counts.sum(dim=1, keepdim=True)
    number = torch.arange(1, stripes, device=counts.device)
    thresholds = -torch.div(-number * total, stripes, rounding_mode="floor")  # (N, n - 1), rounded up
    inner = (counts.cumsum(dim=1)[:, None] <= thresholds[..., None]).sum(dim=2)
    uniform = number * height // stripes
    inner = torch.where(total > 0, inner, uniform)
    # A row for each stripe: below the bound above, with enough rows left for those underneath
    inner = torch.minimum(inner, height - stripes + number).clamp(min=1)
    inner = (inner - number).cummax(dim=1).values.clamp(min=0) + number if stripes > 1 else inner
    edges = torch.zeros_like(total), torch.full_like(total, height)
    return torch.cat([edges[0], inner, edges[1]], dim=1)


def pool_balanced(feature_map: torch.Tensor, stripes: int, kind: str = "max") -> torch.Tensor:
    """Pool each image's own balanced stripes, all images at once.

    Args:
        feature_map: (N, C, H, W).
        stripes: n.
        kind: `max`, or `avg`, Eq. (11) over the rows of the stripe.

    Returns:
        (N, n, C), from the top of the image to the bottom.

    Raises:
        ValueError: `kind` is neither, or there are more stripes than rows.
    """
    if kind not in ("max", "avg"):
        raise ValueError(f"activation balanced pooling is by 'max' or 'avg', not by '{kind}'")
    bounds = balanced_bounds(maxima_per_row(feature_map), stripes)
    rows = torch.arange(feature_map.shape[2], device=feature_map.device)
    inside = (rows >= bounds[:, :-1, None]) & (rows < bounds[:, 1:, None])  # (N, n, H)
    if kind == "avg":
        means = feature_map.mean(dim=3)  # (N, C, H)
        weights = inside.to(means.dtype) / inside.sum(dim=2, keepdim=True)
        return torch.einsum("nkh,nch->nkc", weights, means)
    highest = feature_map.amax(dim=3)
    lowest = torch.finfo(highest.dtype).min
    pooled = [highest.masked_fill(~inside[:, k, None], lowest).amax(dim=2) for k in range(stripes)]
    return torch.stack(pooled, dim=1)
