"""An identity classifier over any of fast-reid's softmax layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from fastreid.layers import any_softmax
from torch import nn


class Classifier(nn.Module):
    """Logits of K identities from (N, D) features: MODEL.HEADS.CLS_LAYER with its SCALE and MARGIN, without bias.

    As in fast-reid's own head, `Linear` is the plain inner product and every other layer takes cosines.

    Args:
        in_features: D.
        num_classes: K; 0 builds a classifier that can be loaded into evaluation but not trained.
        cls_type: a class name of `fastreid.layers.any_softmax`.
        scale: factor on the logits.
        margin: margin of the softmax layer, unused by `Linear`.

    Raises:
        ValueError: there is no such softmax layer.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        cls_type: str = "Linear",
        scale: float = 1,
        margin: float = 0.0,
    ) -> None:
        super().__init__()
        if cls_type not in any_softmax.__all__ and not hasattr(any_softmax, cls_type):
            raise ValueError(f"MODEL.HEADS.CLS_LAYER is '{cls_type}'; fast-reid has {', '.join(any_softmax.__all__)}")
        self.weight = nn.Parameter(torch.empty(num_classes, in_features))
        self.cls_layer = getattr(any_softmax, cls_type)(num_classes, scale, margin)
        if num_classes:
            nn.init.normal_(self.weight, std=0.01)

    def forward(self, features: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (N, K); with `targets` (N,) the margin of the softmax layer is applied to them."""
        if type(self.cls_layer) is any_softmax.Linear:
            logits = F.linear(features, self.weight)
        else:
            logits = F.linear(F.normalize(features), F.normalize(self.weight))
        if targets is None:
            return logits * self.cls_layer.s
        return self.cls_layer(logits.clone(), targets)  # the host's softmax layers write into their input

    @torch.no_grad()
    def scores(self, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Give (N, K) of which accuracy is told: logits without a margin, which lowers the right class alone.

        Args:
            features: (N, D).
            logits: of these in training.
        """
        return logits if type(self.cls_layer) is any_softmax.Linear else self(features)
