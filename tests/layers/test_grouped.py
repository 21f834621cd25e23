"""Many small layers as one, against one layer after the other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastreid_parts.layers import GroupedBlock, GroupedLinear, norm_of_parts


def test_group_norm_would_mix_parts() -> None:
    with pytest.raises(ValueError, match="HEADS.NORM is 'GN', .* the 3 features .* BN"):
        GroupedBlock(3, 4, 32, "GN")
    assert isinstance(norm_of_parts("GN", 1, 32), torch.nn.GroupNorm)


@pytest.mark.parametrize("bias", [True, False])
def test_each_layer_sees_its_own_entry_alone(bias: bool) -> None:
    layers, x = GroupedLinear(3, 4, 5, bias), torch.randn(6, 3, 4, requires_grad=True)
    assert (layers.bias is not None) == bias
    got = layers(x)
    assert got.shape == (6, 3, 5)
    for g in range(3):
        assert torch.allclose(
            got[:, g], F.linear(x[:, g], layers.weight[g], layers.bias[g] if bias else None), atol=1e-5
        )
        (gradient,) = torch.autograd.grad(got[:, g].sum(), x, retain_graph=True)
        assert gradient[:, g].all() and not gradient[:, [other for other in range(3) if other != g]].any()


def test_weights_start_by_the_width_of_one_layer() -> None:
    torch.manual_seed(0)
    for width in (8, 50):
        layers = GroupedLinear(20, 300, width)
        for drawn in (layers.weight, layers.bias):
            assert drawn.abs().max() <= 300**-0.5 and drawn.std().item() == pytest.approx(900**-0.5, rel=0.1)
        layers = GroupedLinear(20, 300, width, std=0.02)
        assert layers.weight.std().item() == pytest.approx(0.02, rel=0.05) and not layers.bias.any()
    assert GroupedLinear(2, 4, 0)(torch.randn(3, 2, 4)).shape == (3, 2, 0)  # without identities, as in evaluation


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("norm", ["BN", ""])
def test_a_block_normalizes_every_channel_of_every_layer(norm: str, relu: bool) -> None:
    block, x = GroupedBlock(3, 4, 5, norm, relu), torch.randn(6, 3, 4)
    got = block(x)
    for g in range(3):
        expected = F.linear(x[:, g], block.conv.weight[g], block.conv.bias[g])
        if norm:
            expected = (expected - expected.mean(dim=0)) / (expected.var(dim=0, unbiased=False) + 1e-5).sqrt()
        assert (expected < 0).any()
        assert torch.allclose(got[:, g], expected.relu() if relu else expected, atol=1e-4)
    assert (GroupedBlock(3, 4, 5, norm)(x) >= 0).all()  # with a ReLU by default
