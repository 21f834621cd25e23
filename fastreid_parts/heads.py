"""Heads that belong to no paper alone."""

from __future__ import annotations

from typing import Any

import torch
from fastreid.config import CfgNode, configurable
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.heads.embedding_head import EmbeddingHead

__all__ = ["GlobalHead"]


@REID_HEADS_REGISTRY.register()
class GlobalHead(EmbeddingHead):
    """fast-reid's EmbeddingHead with a choice of the feature that evaluation gives.

    The host's head evaluates the feature after BNNeck whatever NECK_FEAT says. MODEL.HEADS.TEST_FEAT `before` gives the
    pooled one instead, which is what metric losses see with NECK_FEAT `before`.

    Args:
        test_feat: `before` or `after`.
        **kwargs: see fast-reid's EmbeddingHead.

    Raises:
        ValueError: `test_feat` is neither.
    """

    @configurable
    def __init__(self, *, test_feat: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if test_feat not in ("before", "after"):
            raise ValueError(f"MODEL.HEADS.TEST_FEAT is '{test_feat}'; it is 'before' or 'after'")
        self.test_feat = test_feat

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**super().from_config(cfg), "test_feat": cfg.MODEL.HEADS.TEST_FEAT}

    def forward(self, features: torch.Tensor, targets: torch.Tensor | None = None) -> Any:
        """(N, C, H, W) -> the host's dictionary in training, (N, D) in evaluation."""
        if self.training or self.test_feat == "after":
            return super().forward(features, targets)
        return self.pool_layer(features)[..., 0, 0]
