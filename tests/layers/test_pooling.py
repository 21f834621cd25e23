"""Pooling layers by name."""

from __future__ import annotations

import pytest
import torch
from fastreid.layers import pooling

from fastreid_parts.layers import ConcatPool, build_pooling


def test_maximum_and_average_concatenated() -> None:
    x = torch.randn(2, 3, 4, 5)
    expected = torch.cat([x.amax(dim=(2, 3)), x.mean(dim=(2, 3))], dim=1)
    assert torch.allclose(ConcatPool()(x)[..., 0, 0], expected, atol=1e-6) and ConcatPool()(x).shape == (2, 6, 1, 1)


def test_a_layer_of_fast_reids_by_its_name() -> None:
    assert type(build_pooling("GeneralizedMeanPoolingP")) is pooling.GeneralizedMeanPoolingP


def test_unknown_pooling_layer() -> None:
    with pytest.raises(ValueError, match=r"POOL_LAYER is 'GlobalMinPool'; fast-reid has .*GlobalMaxPool"):
        build_pooling("GlobalMinPool")
