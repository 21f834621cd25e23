"""fast-reid's MGN, the Multiple Granularity Network, with activation balanced stripes.

Wang, Yuan, Chen, Li, Zhou: Learning Discriminative Features with Multiple Granularities for Person Re-Identification,
ACM Multimedia 2018. The pooling is RMGL's (Sec. III.C), which follows the same branches.

fast-reid's MGN cuts the maps of its two local branches into stripes of the same height. `BalancedMGN` is that model,
with its weights, its heads and its losses, where MODEL.ABP decides about the stripes. With MODEL.ABP.MODE off it is
MGN.
"""

from __future__ import annotations

from typing import Any

import torch
from fastreid.config import CfgNode, configurable
from fastreid.layers import pooling
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.modeling.meta_arch.mgn import MGN

from ..layers import ABPSettings, BalancedStripes
from ..parts_baseline import training_targets
from ..settings import Declares

_STRIPES = {"b2": ("b21", "b22"), "b3": ("b31", "b32", "b33")}
#: The order of the host's features in evaluation, and of the arguments of its `losses`
_FEATURES = ("b1", "b2", "b3", "b21", "b22", "b31", "b32", "b33")
_LOSSES = ("b1", "b2", "b21", "b22", "b3", "b31", "b32", "b33")
#: A head pools its input, so that of a stripe that is pooled already must stay what it is
_POOLED_ONCE = (
    pooling.GlobalMaxPool,
    pooling.GlobalAvgPool,
    pooling.FastGlobalAvgPool,
    pooling.ClipGlobalAvgPool,
    pooling.GeneralizedMeanPooling,
)


@META_ARCH_REGISTRY.register()
class BalancedMGN(Declares, MGN):
    """fast-reid's MGN with stripes that MODEL.ABP balances, in evaluation or always. A checkpoint of MGN fits.

    Args:
        abp: when stripes are balanced, and what by.
        **kwargs: see fast-reid's MGN.

    Raises:
        ValueError: stripes are to be balanced, and MODEL.HEADS.POOL_LAYER changes what is pooled already.
    """

    reads = {"abp": ABPSettings}

    @configurable
    def __init__(self, *, abp: ABPSettings, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        layer = self.b21_head.pool_layer
        if abp.mode != "off" and not isinstance(layer, _POOLED_ONCE):
            raise ValueError(
                f"MODEL.HEADS.POOL_LAYER is {type(layer).__name__}; MGN's balanced stripes (MODEL.ABP) work with "
                f"{', '.join(kind.__name__ for kind in _POOLED_ONCE)} and GeneralizedMeanPoolingP"
            )
        self.settings, self.stripes = (abp,), BalancedStripes(abp)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """See fast-reid's MGN."""
        return {**super().from_config(cfg), "abp": ABPSettings.from_cfg(cfg)}

    def forward(self, batched_inputs: dict[str, Any] | torch.Tensor) -> Any:
        """The host's dictionary of losses in training, (N, 8 D) in evaluation."""
        if not self.stripes.balanced:
            return super().forward(batched_inputs)
        shared = self.backbone(self.preprocess_image(batched_inputs))
        inputs = {name: getattr(self, name)(shared) for name in ("b1", *_STRIPES)}  # (N, C, H, W)
        for branch, parts in _STRIPES.items():
            for k, part in enumerate(parts):
                # Each head has a pooling layer of its own, with an exponent of its own where that is learned
                pooled = self.stripes(inputs[branch], len(parts), self._head(part).pool_layer)
                inputs[part] = pooled[:, k, :, None, None]
        if not self.training:
            return torch.cat([self._head(name)(inputs[name]) for name in _FEATURES], dim=1)
        targets = training_targets(batched_inputs, self.device)
        return self.losses(*(self._head(name)(inputs[name], targets) for name in _LOSSES), targets)

    def _head(self, name: str) -> torch.nn.Module:
        return getattr(self, f"{name}_head")
