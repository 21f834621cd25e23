"""The host's losses over pairs of cosines under the names that its own configs use.

Its circle loss is that of Sun et al. (Circle loss, CVPR 2020), taken for each image as anchor and averaged:

    log(1 + sum_n exp(gamma [s_n + m]_+ (s_n - m)) sum_p exp(-gamma [1 + m - s_p]_+ (s_p - 1 + m)))

with the cosines s_p to the anchor's positives, itself not among them, and s_n to its negatives. An anchor that lacks
either gives 0. It has the values and gradients of pytorch-metric-learning's CircleLoss; Table 5 of CGE uses
MODEL.LOSSES.CIRCLE.GAMMA 2 and MARGIN 0.25.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fastreid.config import CfgNode
from fastreid.modeling.losses import pairwise_circleloss, pairwise_cosface

from . import LossFunction, register_loss


def _register(name: str, term: str, host_loss: Callable) -> None:
    @register_loss(name, term=term, applies_to="features")
    def _from_config(cfg: CfgNode) -> tuple[LossFunction, float]:
        section = cfg.MODEL.LOSSES[term.upper()]
        return partial(host_loss, margin=section.MARGIN, gamma=section.GAMMA), section.SCALE


_register("CircleLoss", "circle", pairwise_circleloss)
_register("Cosface", "cosface", pairwise_cosface)
