"""Cross-entropy over identities, with label smoothing."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from fastreid.config import CfgNode
from fastreid.modeling.losses import cross_entropy_loss as host_cross_entropy

from ..settings import Settings, host_key
from . import LossFunction, register_loss


class CrossEntropySettings(Settings, section="MODEL.LOSSES.CE"):
    """CrossEntropyLoss."""

    epsilon: float = host_key("label smoothing; below 0 the host's adaptive one, with ALPHA", high=1)
    alpha: float = host_key("factor of adaptive smoothing")
    scale: float = host_key("weight of the term")


def cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, epsilon: float = 0.0, alpha: float = 0.2
) -> torch.Tensor:
    """Eq. (4), (5) of CGE: the mean over the batch of -sum_k y_k log softmax(logits)_k, with smoothed targets.

    Without smoothing it is Eq. (4), (5) of RRID, Eq. (6) of CAN and Eq. (2) of RMGL.

    A smoothed target is (1 - epsilon) y + epsilon / K, as Szegedy et al. and the papers define it; the host's own
    function spreads epsilon over the K - 1 wrong identities and leaves samples of zero loss out of its mean.

    Args:
        logits: (N, K).
        targets: (N,), identity indices.
        epsilon: smoothing; below 0 the host's adaptive smoothing, with `alpha` as its factor.
        alpha: MODEL.LOSSES.CE.ALPHA.
    """
    if epsilon < 0:
        return host_cross_entropy(logits, targets, epsilon, alpha)
    return F.cross_entropy(logits, targets, label_smoothing=epsilon)


@register_loss("CrossEntropyLoss", term="cls", applies_to="logits", averages=True)
def _from_config(cfg: CfgNode) -> tuple[LossFunction, float]:
    settings = CrossEntropySettings.from_cfg(cfg)
    return partial(cross_entropy, epsilon=settings.epsilon, alpha=settings.alpha), settings.scale
