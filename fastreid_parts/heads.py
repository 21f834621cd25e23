"""Heads that belong to no paper alone."""

from __future__ import annotations

from typing import Any

import torch
from fastreid.config import CfgNode, configurable
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.heads.embedding_head import EmbeddingHead

from .parts_head import HeadSettings, PartsHead


@REID_HEADS_REGISTRY.register()
class GlobalHead(PartsHead, EmbeddingHead):
    """fast-reid's EmbeddingHead with a choice of the feature that evaluation gives.

    The host's head evaluates the feature after BNNeck whatever NECK_FEAT says. MODEL.HEADS.TEST_FEAT `before` gives the
    pooled one instead, which is what metric losses see with NECK_FEAT `before`.

    Args:
        heads: of MODEL.HEADS, which it reads all of.
        **kwargs: see fast-reid's EmbeddingHead.
    """

    honors = [one.attribute.upper() for one in HeadSettings.declared_keys()]
    training_only = ("weight",)

    @configurable
    def __init__(self, *, heads: HeadSettings, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.settings, self.test_feat = (heads,), heads.test_feat
        self.pooled_dim, width = kwargs["feat_dim"], heads.embedding_dim or kwargs["feat_dim"]
        self.feature_dims = {"global": self.pooled_dim if heads.test_feat == "before" else width}
        self.metric_dims, self.global_branches = {"": self.pooled_dim if heads.neck_feat == "before" else width}, ("",)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """See fast-reid's EmbeddingHead."""
        return {**EmbeddingHead.from_config(cfg), "heads": HeadSettings.from_cfg(cfg)}

    def forward(self, features: torch.Tensor, targets: torch.Tensor | None = None) -> Any:
        """(N, C, H, W) -> the host's dictionary in training, (N, D) in evaluation."""
        if self.training or self.test_feat == "after":
            return EmbeddingHead.forward(self, features, targets)
        return self.pool_layer(features)[..., 0, 0]

    def feature_settings(self) -> dict[str, Any]:
        """See `Declares`; a reduction stands between before and after as well as BNNeck does."""
        settings = super().feature_settings()
        if self.test_feat == "before" and len(self.bottleneck):
            settings["MODEL.HEADS.TEST_FEAT"] = self.test_feat
        return settings
