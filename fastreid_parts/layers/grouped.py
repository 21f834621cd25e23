"""Grouped layers: many small ones of the same shape, each with weights of its own, run as one."""

from __future__ import annotations

from typing import Any

import torch
from fastreid.layers import get_norm
from fastreid.layers.weight_init import weights_init_kaiming
from torch import nn


def norm_of_parts(norm: str, parts: int, channels: int, **kwargs: Any) -> nn.Module:
    """Build a norm of fast-reid's for the features of parts, concatenated, that keeps them apart.

    Args:
        norm: its name.
        parts: how many features there are.
        channels: of all of them together.
        **kwargs: see fast-reid's `get_norm`.

    Raises:
        ValueError: it is group norm and there are several: its groups know nothing of parts.
    """
    if norm == "GN" and parts > 1:
        raise ValueError(
            f"MODEL.HEADS.NORM is 'GN', which would normalize the {parts} features of this head together: set it to BN"
        )
    return get_norm(norm, channels, **kwargs)


class GroupedLinear(nn.Module):
    """G linear layers in parallel, (N, G, in) -> (N, G, out): layer g sees entry g alone.

    A single batched matrix product does the work of G small ones, forwards and backwards. On 1x1 maps a 1x1 convolution
    is the same thing.

    Args:
        groups: G.
        in_features: width of each layer's input.
        out_features: width of each layer's output.
        bias: whether the layers add one.
        std: initial weights are normal with this deviation and the bias is 0, as for classifiers; None: both are
            uniform by the fan-in of one layer, as torch draws a convolution's.
    """

    def __init__(
        self, groups: int, in_features: int, out_features: int, bias: bool = True, std: float | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(groups, out_features)) if bias else None
        if std is not None:
            nn.init.normal_(self.weight, std=std)
        else:
            for parameter in self.parameters():
                nn.init.uniform_(parameter, -(in_features**-0.5), in_features**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, G, in) -> (N, G, out)."""
        x, weight = x.transpose(0, 1), self.weight.transpose(1, 2)  # (G, N, in), (G, in, out)
        if self.bias is None:
            return torch.bmm(x, weight).transpose(0, 1)
        return torch.baddbmm(self.bias[:, None], x, weight).transpose(0, 1)


class GroupedBlock(nn.Module):
    """G blocks of 1x1 convolution, batch norm and ReLU in parallel, (N, G, in) -> (N, G, out).

    Args:
        groups: G.
        in_features: width of each block's input.
        out_features: width of each block's output.
        norm: a norm of fast-reid's, which keeps statistics for every channel of every block; "" is none.
        relu: whether a ReLU follows.

    Raises:
        ValueError: see `norm_of_parts`.
    """

    def __init__(self, groups: int, in_features: int, out_features: int, norm: str, relu: bool = True) -> None:
        super().__init__()
        self.conv = GroupedLinear(groups, in_features, out_features)
        self.norm = norm_of_parts(norm, groups, groups * out_features) if norm else None
        if self.norm is not None:
            self.norm.apply(weights_init_kaiming)
        self.relu = relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, G, in) -> (N, G, out)."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x.flatten(1)[..., None, None]).view_as(x)  # the host's norms are 2-d
        return torch.relu(x) if self.relu else x
