"""Global contrastive pooling. RRID, paragraph "GCP" and Eq. (2)."""

from __future__ import annotations

import torch

from ..settings import Settings, choice
from .grouped import GroupedBlock


class ContrastSettings(Settings, section="MODEL.RRID", role="features"):
    """Global contrastive pooling of whichever head has it."""

    contrast: str = choice(
        ("rest_mean", "avg_minus_max"),
        "p_cont: (sum - max) / (P - 1), or the text's mean - max",
        '"GCP", p_cont',
        role="features",
    )


def contrast(parts: torch.Tensor, kind: str) -> torch.Tensor:
    """Compute the contrastive feature of global contrastive pooling.

    Args:
        parts: (N, P, C), each the maximum over its part.
        kind: `rest_mean`, (sum_i p_i - max_i p_i) / (P - 1); `avg_minus_max`, mean_i p_i - max_i p_i.

    Returns:
        p_cont, (N, C).
    """
    highest = parts.amax(dim=1)
    if kind == "avg_minus_max":
        return parts.mean(dim=1) - highest
    return (parts.sum(dim=1) - highest) / (parts.shape[1] - 1)


def contrastive_feature(relation: GroupedBlock, highest: torch.Tensor, contrasts: torch.Tensor) -> torch.Tensor:
    """Eq. (2) of RRID: q_0 = p_max + R_g(T(p_max, p_cont)), for G global features at once.

    Args:
        relation: R_g of each of them, from 2c to c features.
        highest: the reduced maxima p_max, (N, G, c).
        contrasts: the reduced contrasts p_cont, (N, G, c).

    Returns:
        q_0, (N, G, c).
    """
    return highest + relation(torch.cat([highest, contrasts], dim=2))
