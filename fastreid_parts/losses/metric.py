"""The host's metric losses under the names that its own configs use."""

from __future__ import annotations

from fastreid.config import CfgNode
from fastreid.modeling.losses import pairwise_circleloss, pairwise_cosface, triplet_loss

from . import LossFunction, register_loss


@register_loss("TripletLoss", term="triplet", applies_to="features")
def _triplet(cfg: CfgNode) -> tuple[LossFunction, float]:
    section = cfg.MODEL.LOSSES.TRI
    settings = (section.MARGIN, section.NORM_FEAT, section.HARD_MINING)
    return lambda features, targets: triplet_loss(features, targets, *settings), section.SCALE


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
