"""The center loss: features near the center of their identity."""

from __future__ import annotations

import torch
from fastreid.config import CfgNode
from torch import nn

from ..layers.gather import gather_rows
from ..settings import Settings, key
from . import ModuleBuilder, register_loss


class CenterSettings(Settings, section="MODEL.LOSSES.CENTER"):
    """CenterLoss."""

    lr: float = key(0.5, "learning rate of the centers", above=0, high=1)
    scale: float = key(0.0005, "weight of the term", "lambda of CAN's Eq. (5)")


class CenterLoss(nn.Module):
    """Eq. (9) of CAN: 1 / (2 N) sum_i |x_i - c_{y_i}|^2, with the square that it lost in print.

    The centers follow the features by the rule of Wen et al. (A discriminative feature learning approach for deep face
    recognition, ECCV 2016), with a learning rate of their own that no schedule and no optimizer touches:
    c_j <- c_j - lr sum_{y_i = j} (c_j - x_i) / (1 + n_j) for the n_j images of identity j in the batch. An optimizer
    with momentum would also move centers of identities that are not in it. They start at zero, are saved in checkpoints
    and, with several processes, follow the images of all of them.

    Args:
        num_classes: K; 0 builds a loss that can be loaded into evaluation but not trained.
        feature_dim: D.
        learning_rate: lr, above 0 up to 1.

    Raises:
        ValueError: the learning rate is out of its range.
    """

    centers: torch.Tensor

    def __init__(self, num_classes: int, feature_dim: int, learning_rate: float = 0.5) -> None:
        super().__init__()
        CenterSettings.check_value("lr", learning_rate)
        self.learning_rate = learning_rate
        self.register_buffer("centers", torch.zeros(num_classes, feature_dim))

    def forward(self, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(N, D) and (N,) -> scalar; where gradients are enabled, the centers take their step."""
        features = features.to(self.centers.dtype)
        value = (features - self.centers[targets]).pow(2).sum(dim=1).mean() / 2
        if torch.is_grad_enabled():
            self.update(features.detach(), targets)
        return value

    @torch.no_grad()
    def update(self, features: torch.Tensor, targets: torch.Tensor) -> None:
        """One step of the centers of the identities in the batch.

        Args:
            features: (N, D).
            targets: (N,).
        """
        features, targets = gather_rows(features), gather_rows(targets)
        same = (targets[:, None] == targets).to(features.dtype)
        away = self.centers[targets] * same.sum(dim=1, keepdim=True) - same @ features
        step = self.learning_rate * away / (1 + same.sum(dim=1, keepdim=True))
        # Every image of an identity gets the step of its first one: they are written in any order.
        self.centers[targets] = (self.centers[targets] - step)[same.argmax(dim=1)]


@register_loss("CenterLoss", term="center", applies_to="features", per_branch=True)
def _from_config(cfg: CfgNode) -> tuple[ModuleBuilder, float]:
    settings, num_classes = CenterSettings.from_cfg(cfg), cfg.MODEL.HEADS.NUM_CLASSES
    return lambda width: CenterLoss(num_classes, width, settings.lr), settings.scale
