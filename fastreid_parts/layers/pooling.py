"""fast-reid's pooling layers by name."""

from __future__ import annotations

from fastreid.layers import pooling
from torch import nn

__all__ = ["build_pooling"]


def build_pooling(name: str) -> nn.Module:
    """The global pooling layer, (N, C, H, W) -> (N, C, 1, 1), that MODEL.HEADS.POOL_LAYER names.

    Raises:
        ValueError: fast-reid has no such layer.
    """
    if name not in pooling.__all__:
        raise ValueError(f"MODEL.HEADS.POOL_LAYER is '{name}'; fast-reid has {', '.join(pooling.__all__)}")
    return getattr(pooling, name)()
