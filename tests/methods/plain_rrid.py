"""RRID's head as its authors wrote it, with a small layer for every part: what the batched head is compared with."""

from __future__ import annotations

import torch
from torch import nn

from fastreid_parts.methods.rrid import RRIDHead

__all__ = ["PlainRRIDHead"]


def _block(width: int, reduced: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, reduced, 1), nn.BatchNorm2d(reduced), nn.ReLU())


class PlainRRIDHead(nn.Module):
    """The authors' recipe (GCP, one-vs.-rest, all features classified) in module lists: a small layer for every part.

    Args:
        head: the batched head that it takes a copy of the weights from.
    """

    def __init__(self, head: RRIDHead) -> None:
        super().__init__()
        self.scales = head.scales
        width, reduced = head.reduction.conv.weight.shape[2], head.reduction.conv.weight.shape[1]
        classes = head.classifiers.weight.shape[1]
        globals_, locals_ = len(self.scales), sum(self.scales)
        self.reductions = nn.ModuleList(_block(width, reduced) for _ in range(2 * globals_ + 2 * locals_))
        self.global_relations = nn.ModuleList(_block(2 * reduced, reduced) for _ in range(globals_))
        self.local_relations = nn.ModuleList(_block(2 * reduced, reduced) for _ in range(locals_))
        count = 3 * globals_ + 3 * locals_
        self.classifiers = nn.ModuleList(nn.Linear(reduced, classes) for _ in range(count))
        for blocks, source in (
            (self.reductions, head.reduction),
            (self.global_relations, head.global_relation),
            (self.local_relations, head.local_relation),
        ):
            # The recipe's head has all of them
            assert source is not None and source.conv.bias is not None and source.norm is not None
            for g, block in enumerate(blocks):
                share = slice(g * reduced, (g + 1) * reduced)
                block[0].weight.data.copy_(source.conv.weight.data[g, :, :, None, None])
                block[0].bias.data.copy_(source.conv.bias.data[g])
                block[1].weight.data.copy_(source.norm.weight.data[share])
                block[1].bias.data.copy_(source.norm.bias.data[share])
        assert head.classifiers.bias is not None
        for g, classifier in enumerate(self.classifiers):
            classifier.weight.data.copy_(head.classifiers.weight.data[g])
            classifier.bias.data.copy_(head.classifiers.bias.data[g])

    def forward(
        self, feature_map: torch.Tensor, targets: torch.Tensor | None = None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """(N, C, H, W) -> final features (N, c), global ones first, and logits (N, K) of all classified features."""
        maxima, contrasts, parts, rests = [], [], [], []
        for scale in self.scales:
            rows = feature_map.shape[2] // scale
            own = [feature_map[:, :, i * rows : (i + 1) * rows].amax(dim=(2, 3), keepdim=True) for i in range(scale)]
            highest = own[0]
            for part in own[1:]:
                highest = torch.maximum(highest, part)
            maxima.append(highest)
            contrasts.append((sum(own) - highest) / (scale - 1))
            parts += own
            rests += [sum(other for j, other in enumerate(own) if j != i) / (scale - 1) for i in range(scale)]
        inputs = maxima + contrasts + parts + rests
        reduced = [block(x) for block, x in zip(self.reductions, inputs)]
        s, p = len(self.scales), sum(self.scales)
        maxima, contrasts, parts, rests = (
            reduced[:s],
            reduced[s : 2 * s],
            reduced[2 * s : 2 * s + p],
            reduced[2 * s + p :],
        )
        final = [m + r(torch.cat([m, c], 1)) for m, c, r in zip(maxima, contrasts, self.global_relations)]
        final += [a + r(torch.cat([a, b], 1)) for a, b, r in zip(parts, rests, self.local_relations)]
        features = [x[..., 0, 0] for x in final + maxima + contrasts + parts + rests]
        logits = [classifier(x) for classifier, x in zip(self.classifiers, features)]
        return features[: s + p], logits
