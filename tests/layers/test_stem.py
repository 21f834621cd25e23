"""The stem's pooling with a border: torchvision's windows, the same size of map, and in the fingerprint."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastreid_parts.layers import PaddedStemPool, StemSettings


@pytest.mark.parametrize("size", [(64, 32), (62, 30), (2, 2)])
def test_is_torchvisions_pooling_of_the_size_of_fast_reids(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *size)
    pooled = PaddedStemPool()(maps)
    assert torch.equal(pooled, nn.MaxPool2d(3, 2, padding=1)(maps))
    assert pooled.shape == nn.MaxPool2d(3, 2, ceil_mode=True)(maps).shape


def test_windows_begin_a_pixel_earlier() -> None:
    maps = torch.arange(64.0).view(1, 1, 8, 8)
    assert PaddedStemPool()(maps)[0, 0, 0].tolist() == [9, 11, 13, 15]
    assert nn.MaxPool2d(3, 2, ceil_mode=True)(maps)[0, 0, 0].tolist() == [18, 20, 22, 23]


def test_what_it_was_built_with_is_a_feature_setting() -> None:
    assert PaddedStemPool().feature_settings() == {"MODEL.BACKBONE.STEM.PADDING": 1}
    with pytest.raises(ValueError, match="MODEL.BACKBONE.STEM.PADDING is 2; it is one of 0, 1"):
        StemSettings(padding=2)
