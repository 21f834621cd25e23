"""Horizontal stripes of a feature map."""

from __future__ import annotations

from typing import Callable

import torch

__all__ = ["pool_stripes", "stripe_bounds"]


def stripe_bounds(height: int, stripes: int) -> list[tuple[int, int]]:
    """First row and the row behind the last one of each stripe, as PyTorch's adaptive pooling cuts a map.

    Where `stripes` does not divide `height`, neighbouring stripes overlap by a row.

    Args:
        height: rows of the map.
        stripes: their number, from 1 to `height`.

    Raises:
        ValueError: there are more stripes than rows, or none.
    """
    if not 1 <= stripes <= height:
        raise ValueError(f"a feature map of {height} rows cannot be cut into {stripes} stripes")
    return [(i * height // stripes, -(-(i + 1) * height // stripes)) for i in range(stripes)]


def pool_stripes(feature_map: torch.Tensor, stripes: int, pool: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """One pooled vector a stripe.

    Args:
        feature_map: (N, C, H, W).
        stripes: their number n.
        pool: a global pooling layer, (N, C, h, W) -> (N, C, 1, 1); a learned exponent of it serves every stripe.

    Returns:
        (N, n, C), from the top of the image to the bottom.
    """
    bounds = stripe_bounds(feature_map.shape[2], stripes)
    return torch.stack([pool(feature_map[:, :, first:end]).flatten(1) for first, end in bounds], dim=1)
