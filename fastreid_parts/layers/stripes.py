"""Horizontal stripes of a feature map."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def stripe_bounds(height: int, stripes: int) -> list[tuple[int, int]]:
    """First row and the row after the last one of each stripe, as PyTorch's adaptive pooling cuts a map.

    Where `stripes` does not divide `height`, neighboring stripes overlap by a row.

    Args:
        height: rows of the map.
        stripes: their number, from 1 to `height`.

    Raises:
        ValueError: there are more stripes than rows, or none.
    """
    if not 1 <= stripes <= height:
        raise ValueError(f"a feature map of {height} rows cannot be cut into {stripes} stripes: take larger images")
    return [(i * height // stripes, ((i + 1) * height + stripes - 1) // stripes) for i in range(stripes)]


def window_bounds(height: int, windows: int) -> list[tuple[int, int]]:
    """Eq. (1) of CAN: windows of one size and stride, floor(IS / OS), that end with the map.

    size = height - (windows - 1) stride. The windows overlap where `windows` does not divide `height`. Each is given by
    its first row and the row after its last one.

    Args:
        height: rows of the map, IS.
        windows: their number, OS, from 1 to `height`.

    Raises:
        ValueError: there are more windows than rows, or none.
    """
    if not 1 <= windows <= height:
        raise ValueError(f"a feature map of {height} rows cannot be cut into {windows} windows: take larger images")
    stride = height // windows
    size = height - (windows - 1) * stride
    return [(i * stride, i * stride + size) for i in range(windows)]


def pool_rows(
    feature_map: torch.Tensor, bounds: Sequence[tuple[int, int]], pool: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """One pooled vector for each range of rows.

    Args:
        feature_map: (N, C, H, W).
        bounds: first row and the row after the last one of n ranges.
        pool: a global pooling layer, (N, C, h, W) -> (N, D, 1, 1), each channel by itself; a learned exponent of it
            serves every range.

    Returns:
        (N, n, D), in the order of `bounds`.
    """
    height = feature_map.shape[2]
    if height % len(bounds) == 0 and list(bounds) == stripe_bounds(height, len(bounds)):
        # Ranges that tile the map are further channels of it: no copy, and one gradient as large as the map, not n
        tiles = feature_map.contiguous().unflatten(2, (len(bounds), -1)).flatten(1, 2)
        return pool(tiles).flatten(1).unflatten(1, (-1, len(bounds))).transpose(1, 2)
    # The host's FastGlobalAvgPool takes contiguous maps only
    ranges = (feature_map[:, :, first:end].contiguous() for first, end in bounds)
    return torch.stack([pool(rows).flatten(1) for rows in ranges], dim=1)


def pool_stripes(feature_map: torch.Tensor, stripes: int, pool: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`pool_rows` over `stripe_bounds`: (N, C, H, W) -> (N, stripes, D), from the top of the image to the bottom.

    Args:
        feature_map: (N, C, H, W).
        stripes: their number.
        pool: see `pool_rows`.
    """
    return pool_rows(feature_map, stripe_bounds(feature_map.shape[2], stripes), pool)
