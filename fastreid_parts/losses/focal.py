"""Focal loss over identities."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from fastreid.config import CfgNode

from ..layers.numerics import widened
from ..settings import Settings, host_key
from . import LossFunction, register_loss


class FocalSettings(Settings, section="MODEL.LOSSES.FL"):
    """FocalLoss."""

    alpha: float = host_key("factor", "alpha; 0.5 in CGE, Sec. 4.2.1", above=0)
    gamma: float = host_key("exponent", "gamma; 1 in CGE, Sec. 4.2.1", low=0)
    scale: float = host_key("weight of the term")


def focal_loss(logits: torch.Tensor, targets: torch.Tensor, alpha: float = 0.5, gamma: float = 1.0) -> torch.Tensor:
    """Mean over the batch of -alpha (1 - p_t)^gamma log p_t, with p_t = softmax(logits)_target.

    Lin et al., Focal loss for dense object detection, ICCV 2017, Eq. (5); alpha 0.5 and gamma 1 are CGE's, Sec. 4.2.1.
    There is no background class, so alpha is one factor for all identities. Targets are not smoothed: the loss is
    defined by the probability of the one true class. The host's own function takes the logarithm after the softmax
    and gives NaN as soon as a probability underflows.

    Args:
        logits: (N, K).
        targets: (N,), identity indices.
        alpha: factor, positive.
        gamma: 0 or more; 0 is alpha times the cross-entropy.
    """
    log_p = F.log_softmax(widened(logits), dim=1).gather(1, targets[:, None]).squeeze(1)  # (N,)
    # 1 - p_t without cancellation; the bound keeps the gradient of the power finite where p_t is 1.
    remainder = (-torch.expm1(log_p)).clamp(min=1e-12)
    return -(alpha * remainder**gamma * log_p).mean()


@register_loss("FocalLoss", term="cls", applies_to="logits", averages=True)
def _from_config(cfg: CfgNode) -> tuple[LossFunction, float]:
    settings = FocalSettings.from_cfg(cfg)
    return partial(focal_loss, alpha=settings.alpha, gamma=settings.gamma), settings.scale
