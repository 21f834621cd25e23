"""What the tests of losses share: batches, and plain-Python distances and cosines."""

from __future__ import annotations

import math

import torch


def batch(
    identities: int = 3, images: int = 4, width: int = 5, length: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of about `length` times sqrt(width), unevenly close, and their identities in mixed order."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(identities * images) % identities
    features = torch.randn(identities, width, generator=generator)[targets] * 0.3
    features = features + torch.randn(len(targets), width, generator=generator)
    return features * length, targets


def distance(a: list[float], b: list[float]) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b)))


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b)) / math.hypot(*a) / math.hypot(*b)


def unit(a: list[float]) -> list[float]:
    return [x / math.hypot(*a) for x in a]


def pairs(targets: torch.Tensor) -> tuple[list[list[int]], list[list[int]]]:
    """For each anchor the indices of its positives, without itself, and of its negatives."""
    ids = targets.tolist()
    positives = [[j for j in range(len(ids)) if ids[j] == ids[i] and j != i] for i in range(len(ids))]
    negatives = [[j for j in range(len(ids)) if ids[j] != ids[i]] for i in range(len(ids))]
    return positives, negatives
