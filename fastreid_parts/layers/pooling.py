"""fast-reid's pooling layers by name."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from fastreid.layers import pooling
from torch import nn


class ConcatPool(nn.Module):
    """Global maximum and global average, concatenated: (N, C, H, W) -> (N, 2C, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.maximum = pooling.GlobalMaxPool()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, 2C, 1, 1)."""
        return torch.cat([self.maximum(x), F.adaptive_avg_pool2d(x, 1)], dim=1)


def build_pooling(name: str) -> nn.Module:
    """Build the global pooling layer, (N, C, H, W) -> (N, C, 1, 1), that MODEL.HEADS.POOL_LAYER names.

    Raises:
        ValueError: fast-reid has no such layer.
    """
    if name not in pooling.__all__:
        raise ValueError(f"MODEL.HEADS.POOL_LAYER is '{name}'; fast-reid has {', '.join(pooling.__all__)}")
    return getattr(pooling, name)()
