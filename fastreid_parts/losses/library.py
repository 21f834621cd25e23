"""Losses of pytorch-metric-learning, with that library's defaults.

CGE's Table 5 adds each of them to the cross-entropy and prints two settings, SphereFace's m = 4 and the circle loss's.
The set is that of the public Person_reID_baseline_pytorch, which takes Sphere, Lifted and Contrast from this library
and applies all of them to features of length 1. What it does besides, and the keys here do not do by default: it
divides Sphere and Instance by the batch size once more (SCALE), and its features have length 1 in Sphere too
(MODEL.LOSSES.SPHERE.NORM_FEAT).

The library is imported when a config names one of these losses.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from fastreid.config import CfgNode
from torch import nn

from ..layers.numerics import widened
from ..settings import Settings, key
from . import LossFunction, ModuleBuilder, register_loss


class SphereSettings(Settings, section="MODEL.LOSSES.SPHERE"):
    """SphereLoss."""

    margin: int = key(4, "a whole number", "m of SphereFace; CGE, Sec. 4.2.3", low=1)
    norm_feat: bool = key(False, "logits are cosines, not cosines times the feature's length")
    scale: float = key(1.0, "weight of the term")


class LiftedSettings(Settings, section="MODEL.LOSSES.LIFTED"):
    """LiftedLoss."""

    pos_margin: float = key(0.0, "subtracted from the distances of positive pairs")
    neg_margin: float = key(1.0, "from which the distances of negative pairs are subtracted")
    scale: float = key(1.0, "weight of the term")


class InstanceSettings(Settings, section="MODEL.LOSSES.INSTANCE"):
    """InstanceLoss."""

    gamma: float = key(64.0, "factor on the cosines", above=0)
    scale: float = key(1.0, "weight of the term")


class ContrastiveSettings(Settings, section="MODEL.LOSSES.CONTRASTIVE"):
    """ContrastiveLoss."""

    pos_margin: float = key(0.0, "positive pairs are pulled to this distance")
    neg_margin: float = key(1.0, "negative pairs are pushed to this distance")
    scale: float = key(1.0, "weight of the term")


class SphereLoss(nn.Module):
    """The angular softmax of Liu et al., SphereFace, CVPR 2017, with class weights of its own.

    Mean over the batch of the cross-entropy of the logits |f| cos(theta_k), where that of the true class is
    |f| psi(theta_y) with psi(theta) = (-1)^j cos(m theta) - 2 j on [j pi / m, (j + 1) pi / m]. The paper's annealing of
    psi with the plain cosine is left out, as in the library.

    Args:
        num_classes: K; 0 builds a loss that can be loaded into evaluation but not trained.
        feature_dim: D.
        margin: m, a positive whole number.
        normalize: |f| is 1.

    Raises:
        ValueError: the margin is not positive.
    """

    def __init__(self, num_classes: int, feature_dim: int, margin: int = 4, normalize: bool = False) -> None:
        super().__init__()
        from pytorch_metric_learning.losses import SphereFaceLoss

        SphereSettings.check_value("margin", margin)
        self.normalize = normalize
        self.softmax = SphereFaceLoss(num_classes, feature_dim, margin=margin)

    def forward(self, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(N, D) and (N,) -> scalar."""
        features = widened(features)  # the library would turn its weights to the features' precision
        if self.normalize:
            features = F.normalize(features, dim=1)
        return self.softmax(features, targets)


def lifted_loss(pos_margin: float = 0.0, neg_margin: float = 1.0) -> LossFunction:
    """Mean over anchors of [log sum_p exp(D(a, p) - m_p) + log sum_n exp(m_n - D(a, n))]_+, features of length 1.

    The lifted structure of Song et al. (CVPR 2016) as Hermans et al. (In defense of the triplet loss, 2017) generalize
    it to all positives of an anchor; `GeneralizedLiftedStructureLoss` of the library. The mean is over the anchors that
    have both; the library would take a sum over no pair for exp(0).

    Args:
        pos_margin: m_p.
        neg_margin: m_n.

    Returns:
        (features (N, D), targets (N,)) -> scalar.
    """
    from pytorch_metric_learning.losses import GeneralizedLiftedStructureLoss

    return partial(_lifted, GeneralizedLiftedStructureLoss(neg_margin=neg_margin, pos_margin=pos_margin))


def _lifted(library: nn.Module, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    same = targets[:, None] == targets[None, :]  # (N, N)
    positives = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    anchors = positives.any(1) & ~same.all(1)
    pairs = (*torch.where(positives & anchors[:, None]), *torch.where(~same & anchors[:, None]))
    # The library's mean is over the batch.
    return library(widened(features), targets, pairs) * (len(targets) / anchors.sum().clamp(min=1))


def instance_loss(gamma: float = 64.0) -> LossFunction:
    """Mean over images i of -log(exp(gamma c_ii) / sum_j exp(gamma c_ij)), with the cosines c of the batch's features.

    The instance loss of Zheng et al. (Dual-path convolutional image-text embeddings with instance loss, TOMM 2020)
    makes every image a class of its own. Here, as in Person_reID_baseline_pytorch and in the library, the
    features of the batch stand for the rows of its classifier. The library's reading of identities as targets is not
    used: it takes the rank of an identity among those of the batch for the column of an image.

    Args:
        gamma: factor on the cosines.

    Returns:
        (features (N, D), targets (N,)) -> scalar; the targets are not looked at.
    """
    from pytorch_metric_learning.losses import InstanceLoss

    return partial(_instance, InstanceLoss(gamma=gamma))


def _instance(library: nn.Module, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return library(widened(features), torch.arange(len(targets), device=features.device))


def contrastive_loss(pos_margin: float = 0.0, neg_margin: float = 1.0) -> LossFunction:
    """Mean of the positive [D(a, p) - m_p]_+ plus mean of the positive [m_n - D(a, n)]_+, features of length 1.

    Hadsell et al. (Dimensionality reduction by learning an invariant mapping, CVPR 2006) with distances that are not
    squared, over all pairs of the batch; pairs that are where they should be do not count in the mean, nor does a
    kind of pair that the batch lacks. `ContrastiveLoss` of the library.

    Args:
        pos_margin: m_p.
        neg_margin: m_n.

    Returns:
        (features (N, D), targets (N,)) -> scalar.
    """
    from pytorch_metric_learning.losses import ContrastiveLoss

    return partial(_contrastive, ContrastiveLoss(pos_margin=pos_margin, neg_margin=neg_margin))


def _contrastive(library: nn.Module, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return library(widened(features), targets)


@register_loss("SphereLoss", term="sphere", applies_to="features", per_branch=True, averages=True)
def _sphere_from_config(cfg: CfgNode) -> tuple[ModuleBuilder, float]:
    settings, num_classes = SphereSettings.from_cfg(cfg), cfg.MODEL.HEADS.NUM_CLASSES
    return lambda width: SphereLoss(num_classes, width, settings.margin, settings.norm_feat), settings.scale


@register_loss("LiftedLoss", term="lifted", applies_to="features")
def _lifted_from_config(cfg: CfgNode) -> tuple[LossFunction, float]:
    settings = LiftedSettings.from_cfg(cfg)
    return lifted_loss(settings.pos_margin, settings.neg_margin), settings.scale


@register_loss("InstanceLoss", term="instance", applies_to="features")
def _instance_from_config(cfg: CfgNode) -> tuple[LossFunction, float]:
    settings = InstanceSettings.from_cfg(cfg)
    return instance_loss(settings.gamma), settings.scale


@register_loss("ContrastiveLoss", term="contrastive", applies_to="features")
def _contrastive_from_config(cfg: CfgNode) -> tuple[LossFunction, float]:
    settings = ContrastiveSettings.from_cfg(cfg)
    return contrastive_loss(settings.pos_margin, settings.neg_margin), settings.scale
