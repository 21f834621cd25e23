"""Activation balanced pooling: stripes that hold equal shares of the channels' maxima. RMGL, Sec. III.C."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from fastreid.layers import pooling
from torch import nn

from ..mechanisms import Mechanism
from ..settings import Settings, choice
from .stripes import pool_stripes


class ABPSettings(Settings, section="MODEL.ABP", role="test"):
    """Activation balanced pooling, RMGL's Sec. III.C; for RMGL, RRID and fast-reid's MGN (BalancedMGN)."""

    for_any_model = True

    mode: str = choice(
        ("off", "test", "always"),
        "when stripes have equal shares of the channels' maxima",
        "RMGL, Sec. III.C",
        trains_with=("always",),
    )
    pool: str = choice(
        ("max", "avg", "layer"), "what pools balanced stripes; layer: what pools uniform ones", "RMGL, Eq. (11)"
    )

    def feature_settings(self) -> dict[str, Any]:
        """See `Settings`; evaluation balances with `test` as with `always`."""
        return {} if self.mode == "off" else {"MODEL.ABP.MODE": "test", "MODEL.ABP.POOL": self.pool}


def maxima_per_row(feature_map: torch.Tensor) -> torch.Tensor:
    """Eq. (8), (9) of RMGL: how many channels have their maximum in each row; Eq. (9) sums them from the top.

    A channel counts once, at its first maximum; a channel without any response counts nowhere, as a ReLU leaves many.

    Args:
        feature_map: (N, C, H, W).

    Returns:
        (N, H), whole numbers.
    """
    highest = feature_map.amax(dim=3)  # (N, C, H)
    # `max` may give any of several equal maxima: the first is asked for
    row = (highest == highest.amax(dim=2, keepdim=True)).int().argmax(dim=2)  # (N, C)
    live = (feature_map != 0).flatten(2).any(dim=2)
    rows = torch.arange(feature_map.shape[2], device=feature_map.device)
    # No tensor is filled or scattered into: torch's older exporter to ONNX takes its shape from the sample's
    return ((row[..., None] == rows) & live[..., None]).sum(dim=1)


def balanced_bounds(counts: torch.Tensor, stripes: int) -> torch.Tensor:
    """Eq. (10) of RMGL: rows h_k with H(h_k) <= ceil(k C / n) < H(h_k + 1), where H sums `counts` from the top.

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
    # n (H(h) - 1) < k C, as whole numbers: runtimes differ in how they divide and round up
    inner = (stripes * (counts.cumsum(dim=1) - 1)[:, None] < (number * total)[..., None]).sum(dim=2)
    uniform = number * height // stripes
    inner = torch.where(total > 0, inner, uniform)
    # A row for each stripe: below the bound above, with enough rows left for those underneath
    inner = torch.minimum(inner, height - stripes + number).clamp(min=1)
    if stripes > 1:
        # No exporter to ONNX has a form for `cummax`
        highest = [(inner - number)[:, :k].amax(dim=1) for k in range(1, stripes)]
        inner = torch.stack(highest, dim=1).clamp(min=0) + number
    top = total * 0
    return torch.cat([top, inner, top + height], dim=1)


def pool_balanced(
    feature_map: torch.Tensor, stripes: int | Sequence[int], pool: str | nn.Module = "max"
) -> torch.Tensor:
    """Eq. (11) of RMGL: pool each image's own balanced stripes, all images at once.

    Args:
        feature_map: (N, C, H, W).
        stripes: n, or several numbers, whose stripes come one after the other.
        pool: `max`; `avg`, Eq. (11) over the rows of the stripe; or one of fast-reid's pooling layers.

    Returns:
        (N, n, C) for the sum n of all stripes, those of one number from the top of the image to the bottom.

    Raises:
        ValueError: `pool` is none of these, or there are more stripes than rows.
    """
    counts = maxima_per_row(feature_map)
    rows = torch.arange(feature_map.shape[2], device=feature_map.device)
    bounds = [balanced_bounds(counts, n) for n in ([stripes] if isinstance(stripes, int) else stripes)]
    inside = torch.cat([(rows >= b[:, :-1, None]) & (rows < b[:, 1:, None]) for b in bounds], dim=1)  # (N, n, H)
    if pool == "max":
        return _maxima(feature_map, inside)
    if pool == "avg":
        return _means(feature_map, inside)
    for kind, function in _LAYERS.items():
        if isinstance(pool, kind):
            return function(pool, feature_map, inside)
    name = f"'{pool}'" if isinstance(pool, str) else f"by the layer {type(pool).__name__}"
    raise ValueError(
        f"activation balanced pooling is by 'max', 'avg' or one of {', '.join(k.__name__ for k in _LAYERS)}, not {name}"
    )


def _maxima(feature_map: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) and (N, n, H) -> (N, n, C)."""
    highest = feature_map.amax(dim=3)  # (N, C, H)
    lowest = torch.finfo(highest.dtype).min
    # One stripe after the other: all at once would be n maps
    pooled = [highest.masked_fill(~rows[:, None], lowest).amax(dim=2) for rows in inside.unbind(dim=1)]
    return torch.stack(pooled, dim=1)


def _means(feature_map: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) and (N, n, H) -> (N, n, C)."""
    means = feature_map.mean(dim=3)  # (N, C, H)
    weights = inside.to(means.dtype) / inside.sum(dim=2, keepdim=True)
    return torch.einsum("nkh,nch->nkc", weights, means)


def _power_means(layer: nn.Module, feature_map: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    return _means(feature_map.clamp(min=layer.eps).pow(layer.p), inside).pow(1.0 / layer.p)


#: fast-reid's pooling layers as functions of the layer, the map (N, C, H, W) and each stripe's rows (N, n, H)
_LAYERS: dict[type[nn.Module], Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    pooling.GlobalMaxPool: lambda layer, x, inside: _maxima(x, inside),
    pooling.GlobalAvgPool: lambda layer, x, inside: _means(x, inside),
    pooling.FastGlobalAvgPool: lambda layer, x, inside: _means(x, inside),
    pooling.ClipGlobalAvgPool: lambda layer, x, inside: _means(x, inside).clamp(0.0, 1.0),
    pooling.AdaptiveAvgMaxPool: lambda layer, x, inside: _means(x, inside) + _maxima(x, inside),
    pooling.GeneralizedMeanPooling: _power_means,
}


#: What ABP.POOL names, as layers
_POOLS = {"max": pooling.GlobalMaxPool(), "avg": pooling.GlobalAvgPool()}


def pool_uniform(feature_map: torch.Tensor, stripes: int | Sequence[int], layer: nn.Module) -> torch.Tensor:
    """Pool stripes of one height: (N, C, H, W) -> (N, n, C) for the sum n of `stripes`.

    Args:
        feature_map: (N, C, H, W).
        stripes: n, or several numbers.
        layer: one of fast-reid's pooling layers.
    """
    numbers = [stripes] if isinstance(stripes, int) else stripes
    return torch.cat([pool_stripes(feature_map, n, layer) for n in numbers], dim=1)


def moved_bounds(feature_map: torch.Tensor, stripes: int | Sequence[int]) -> torch.Tensor:
    """Average how far balanced bounds are from uniform ones, as a share of the height; a scalar.

    Args:
        feature_map: (N, C, H, W).
        stripes: n, or several numbers.
    """
    height, counts = feature_map.shape[2], maxima_per_row(feature_map)
    numbers = [n for n in ([stripes] if isinstance(stripes, int) else stripes) if n > 1]
    moved = [balanced_bounds(counts, n) - torch.arange(n + 1, device=counts.device) * height / n for n in numbers]
    inner = [bounds[:, 1:-1].abs().flatten() for bounds in moved]
    return torch.cat(inner).mean() / height if inner else feature_map.new_zeros(())


class BalancedStripes(nn.Module):
    """The stripes of a head: of uniform height, or activation balanced where that is switched on. No parameters.

    As a child of the head it is in training and in evaluation mode with it.

    Args:
        settings: when stripes are balanced, and what balanced ones are pooled by.
    """

    mechanisms = {
        "balanced_stripes": Mechanism(
            "cut",
            {"uniform": lambda _, result, *arguments: pool_uniform(*arguments)},
            lambda _, result, feature_map, stripes, layer: {"moved": moved_bounds(feature_map, stripes)},
            present=lambda module: module.mode != "off",
        )
    }

    def __init__(self, settings: ABPSettings) -> None:
        super().__init__()
        self.mode, self.pool = settings.mode, settings.pool
        self.highest = pooling.GlobalMaxPool()

    @property
    def balanced(self) -> bool:
        """Whether stripes are balanced now."""
        return self.mode == "always" or (self.mode == "test" and not self.training)

    def forward(self, feature_map: torch.Tensor, stripes: int | Sequence[int], layer: nn.Module) -> torch.Tensor:
        """(N, C, H, W) -> (N, n, C) for the sum n of `stripes`; `layer` is the head's pooling layer."""
        balanced_pool = _POOLS.get(self.pool, layer)
        return self.cut(feature_map, stripes, balanced_pool if self.balanced else layer)

    def cut(self, feature_map: torch.Tensor, stripes: int | Sequence[int], layer: nn.Module) -> torch.Tensor:
        """Pool the stripes.

        Args:
            feature_map: (N, C, H, W).
            stripes: n, or several numbers.
            layer: what pools them, balanced or not.
        """
        pool = pool_balanced if self.balanced else pool_uniform
        return pool(feature_map, stripes, layer)

    def gives_maxima(self, layer: nn.Module) -> bool:
        """Tell whether what `forward` gives with this layer are the maxima of stripes."""
        if self.balanced and self.pool != "layer":
            return self.pool == "max"
        return isinstance(layer, pooling.GlobalMaxPool)

    def maxima(self, feature_map: torch.Tensor, stripes: int | Sequence[int]) -> torch.Tensor:
        """Pool the maxima of the same stripes, whatever `forward` pools them by: (N, C, H, W) -> (N, n, C).

        Args:
            feature_map: (N, C, H, W).
            stripes: n, or several numbers.
        """
        return self.cut(feature_map, stripes, self.highest)
