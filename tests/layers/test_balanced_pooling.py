"""Activation balanced pooling: Eq. (8) to (11) of RMGL as plain loops, and its special cases."""

from __future__ import annotations

import math

import pytest
import torch

from fastreid_parts.layers import (
    ABPSettings,
    BalancedStripes,
    ConcatPool,
    balanced_bounds,
    build_pooling,
    maxima_per_row,
    pool_balanced,
)


def _bounds(counts: list[int], stripes: int) -> list[int]:
    """Eq. (10) by looking at one row after the other."""
    height, total = len(counts), sum(counts)
    bounds = [0]
    for k in range(1, stripes):
        if total:
            h, seen = 0, 0
            while h < height and seen + counts[h] <= math.ceil(k * total / stripes):
                seen += counts[h]
                h += 1
        else:
            h = k * height // stripes
        bounds.append(max(min(h, height - (stripes - k)), bounds[-1] + 1))
    return [*bounds, height]


@pytest.mark.proves("rmgl", level=1)
def test_eq_8_9_each_channel_counts_once_at_its_maximum() -> None:
    torch.manual_seed(0)
    feature_map = torch.relu(torch.randn(3, 40, 6, 4))
    feature_map[0, :7] = 0  # without a response
    feature_map[1, 0] = 0
    feature_map[1, 0, 2, 3] = feature_map[1, 0, 4, 1] = 9.0  # two maxima
    counts = maxima_per_row(feature_map)
    for n in range(3):
        expected = [0] * 6
        for c in range(40):
            best, row = 0.0, None
            for h in range(6):
                for w in range(4):
                    if float(feature_map[n, c, h, w]) > best:
                        best, row = float(feature_map[n, c, h, w]), h
            if row is not None:
                expected[row] += 1
        assert counts[n].tolist() == expected
    assert counts.sum(dim=1).tolist() == [33, 40, 40]


@pytest.mark.parametrize("stripes", [1, 2, 3, 4, 6])
@pytest.mark.proves("rmgl", level=1)
def test_eq_10_row_by_row(stripes: int) -> None:
    generator = torch.Generator().manual_seed(stripes)
    for scale in (1, 3, 20):
        counts = torch.randint(0, scale + 1, (50, 12), generator=generator)
        counts[:5] = 0
        counts[5:10, 1:] = 0  # all in the first row
        counts[10:15, :-1] = 0  # all in the last
        got = balanced_bounds(counts, stripes)
        assert got.tolist() == [_bounds(row, stripes) for row in counts.tolist()]
        assert (got[:, 1:] > got[:, :-1]).all()


def test_stripes_hold_equal_shares_up_to_a_row() -> None:
    torch.manual_seed(0)
    feature_map = torch.rand(8, 600, 24, 8)
    counts = maxima_per_row(feature_map)
    for stripes in (2, 3, 4):
        bounds = balanced_bounds(counts, stripes)
        for n in range(8):
            shares = [int(counts[n, a:b].sum()) for a, b in zip(bounds[n], bounds[n, 1:])]
            assert sum(shares) == 600
            assert max(abs(share - 600 / stripes) for share in shares) <= 2 * int(counts[n].max())


def test_uniform_maxima_give_uniform_stripes() -> None:
    counts = torch.full((2, 24), 5)
    assert balanced_bounds(counts, 3).tolist() == [[0, 8, 16, 24]] * 2
    assert balanced_bounds(torch.zeros(2, 24, dtype=torch.long), 2).tolist() == [[0, 12, 24]] * 2


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.proves("rmgl", level=1)
def test_eq_11_pools_the_rows_of_each_images_own_stripes(kind: str) -> None:
    torch.manual_seed(0)
    feature_map = torch.randn(5, 30, 12, 4) * torch.rand(5, 30, 12, 1) ** 3
    pooled = pool_balanced(feature_map, 3, kind)
    bounds = balanced_bounds(maxima_per_row(feature_map), 3)
    assert len({tuple(row) for row in bounds.tolist()}) > 1  # the images differ
    for n in range(5):
        for k in range(3):
            rows = feature_map[n, :, bounds[n, k] : bounds[n, k + 1]]
            expected = rows.amax(dim=(1, 2)) if kind == "max" else rows.mean(dim=(1, 2))
            assert torch.allclose(pooled[n, k], expected, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["GlobalMaxPool", "GlobalAvgPool", "FastGlobalAvgPool", "ClipGlobalAvgPool", "AdaptiveAvgMaxPool",
             "GeneralizedMeanPooling", "GeneralizedMeanPoolingP"],
)  # fmt: skip
def test_pooled_as_the_layer_pools(name: str) -> None:
    torch.manual_seed(0)
    layer = build_pooling(name)
    feature_map = 2 * torch.rand(3, 20, 12, 4) * torch.rand(3, 1, 12, 1)
    pooled = pool_balanced(feature_map, [2, 3], layer)
    assert pooled.shape == (3, 5, 20)
    for n in range(3):
        expected = []
        for stripes in (2, 3):
            bounds = balanced_bounds(maxima_per_row(feature_map[n : n + 1]), stripes)[0].tolist()
            expected += [
                layer(feature_map[n : n + 1, :, a:b].contiguous()).flatten() for a, b in zip(bounds, bounds[1:])
            ]
        assert torch.allclose(pooled[n], torch.stack(expected), atol=1e-5)


def test_as_many_stripes_as_rows() -> None:
    feature_map = torch.rand(2, 9, 4, 3)
    assert torch.equal(pool_balanced(feature_map, 4), feature_map.amax(dim=3).transpose(1, 2))


@pytest.mark.parametrize(
    ("mode", "pool", "layer", "expected"),
    [
        ("always", "max", "GlobalAvgPool", True),
        ("always", "avg", "GlobalMaxPool", False),
        ("always", "layer", "GlobalMaxPool", True),
        ("always", "layer", "GlobalAvgPool", False),
        ("off", "max", "GlobalAvgPool", False),
        ("off", "avg", "GlobalMaxPool", True),
    ],
)
def test_when_stripes_are_maxima_already(mode: str, pool: str, layer: str, expected: bool) -> None:
    assert BalancedStripes(ABPSettings(mode=mode, pool=pool)).gives_maxima(build_pooling(layer)) is expected


def test_errors() -> None:
    with pytest.raises(ValueError, match="4 rows cannot be cut into 5 stripes"):
        pool_balanced(torch.rand(2, 9, 4, 3), 5)
    with pytest.raises(ValueError, match="not 'median'"):
        pool_balanced(torch.rand(2, 9, 4, 3), 2, "median")
    with pytest.raises(ValueError, match="not by the layer ConcatPool"):
        pool_balanced(torch.rand(2, 9, 4, 3), 2, ConcatPool())
