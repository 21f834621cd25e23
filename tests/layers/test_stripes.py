"""Stripes of a feature map against PyTorch's adaptive pooling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fastreid.layers.pooling import GeneralizedMeanPoolingP, GlobalAvgPool, GlobalMaxPool

from fastreid_parts.layers import pool_stripes, stripe_bounds


@pytest.mark.parametrize("stripes", range(1, 13))
@pytest.mark.parametrize("height", [12, 24, 25])
def test_average_is_adaptive_average_pooling(height: int, stripes: int) -> None:
    features = torch.randn(2, 3, height, 8)
    expected = F.adaptive_avg_pool2d(features, (stripes, 1))[..., 0].transpose(1, 2)
    assert torch.allclose(pool_stripes(features, stripes, GlobalAvgPool()), expected, atol=1e-6)


def test_maximum_of_each_stripe() -> None:
    features = torch.randn(2, 3, 24, 8)
    pooled = pool_stripes(features, 6, GlobalMaxPool())
    for stripe in range(6):
        assert torch.equal(pooled[:, stripe], features[:, :, 4 * stripe : 4 * stripe + 4].amax(dim=(2, 3)))


def test_gem_uses_the_one_exponent_in_every_stripe() -> None:
    pool = GeneralizedMeanPoolingP(norm=2.5)
    features = torch.rand(2, 3, 24, 8)
    pooled = pool_stripes(features, 3, pool)
    for stripe in range(3):
        part = features[:, :, 8 * stripe : 8 * stripe + 8]
        assert torch.allclose(pooled[:, stripe], part.pow(2.5).mean(dim=(2, 3)).pow(1 / 2.5), atol=1e-5)
    pooled.sum().backward()
    assert pool.p.grad is not None and pool.p.grad.abs() > 0


@pytest.mark.parametrize(("height", "stripes"), [(6, 7), (6, 0), (6, -1)])
def test_impossible_stripes(height: int, stripes: int) -> None:
    with pytest.raises(ValueError, match=f"{height} rows cannot be cut into {stripes} stripes"):
        stripe_bounds(height, stripes)
