"""The host's losses over pairs of cosines under the names that its own configs use.

Its circle loss is that of Sun et al. (Circle loss, CVPR 2020), taken for each image as anchor and averaged:

    log(1 + sum_n exp(gamma [s_n + m]_+ (s_n - m)) sum_p exp(-gamma [1 + m - s_p]_+ (s_p - 1 + m)))

with the cosines s_p to the anchor's positives, itself not among them, and s_n to its negatives. An anchor that lacks
either gives 0. It has the values and gradients of pytorch-metric-learning's CircleLoss; Table 5 of CGE uses
MODEL.LOSSES.CIRCLE.GAMMA 2 and MARGIN 0.25.
"""

from __future__ import annotations

from fastreid.config import CfgNode
from fastreid.modeling.losses import pairwise_circleloss, pairwise_cosface

from . import LossFunction, register_loss


@register_loss("CircleLoss", term="circle", applies_to="features")
def _circle(cfg: CfgNode) -> tuple[LossFunction, float]:
    section = cfg.MODEL.LOSSES.CIRCLE
    settings = (section.MARGIN, section.GAMMA)
    return lambda features, targets: pairwise_circleloss(features, targets, *settings), section.SCALE


@register_loss("Cosface", term="cosface", applies_to="features")
def _cosface(cfg: CfgNode) -> tuple[LossFunction, float]:
    section = cfg.MODEL.LOSSES.COSFACE
    settings = (section.MARGIN, section.GAMMA)
    return lambda features, targets: pairwise_cosface(features, targets, *settings), section.SCALE
