"""Triplet losses over Euclidean distances: batch-hard, with a margin or a soft one, and weighted (WRT).

Equations are those of CGE (Xi et al., Pattern Recognition 134, 2023). The mean is over the anchors that have a positive
and a negative in the batch: with batches of P identities and K > 1 images of each, over all P K images, as printed. A
batch without such an anchor gives 0, with a gradient of 0. All of this is of TRI.FORM hinge and soft_margin and of WRT:
FORM host is fast-reid's function as it is, which averages over all images and takes an image for its own positive.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from fastreid.config import CfgNode
from fastreid.modeling.losses import triplet_loss as host_triplet
from fastreid.modeling.losses.triplet_loss import hard_example_mining

from ..layers.numerics import widened
from ..settings import Settings, choice, host_key, key
from . import LossFunction, register_loss


class TripletSettings(Settings, section="MODEL.LOSSES.TRI"):
    """TripletLoss."""

    form: str = choice(
        ("host", "hinge", "soft_margin"),
        "host: fast-reid's rule, HARD_MINING or weighted, soft margin where MARGIN is 0; hinge: batch-hard with "
        "MARGIN, 0 included; soft_margin: batch-hard, without a margin",
        "CGE, Eq. (6)",
    )
    squared: bool = key(False, "squared distances, of hinge and soft_margin", "CAN, Eq. (7)")
    margin: float = host_key("margin", "CGE, m of Eq. (6)", low=0)
    norm_feat: bool = host_key("distances between features of length 1; FORM host squares them")
    hard_mining: bool = host_key("of host: the hardest pairs, not weighted ones")
    scale: float = host_key("weight of the term")

    def check(self) -> None:
        """See `Settings`.

        Raises:
            ValueError: SQUARED is set and FORM is host.
        """
        if self.form == "host" and self.squared:
            raise ValueError("MODEL.LOSSES.TRI.SQUARED needs MODEL.LOSSES.TRI.FORM hinge or soft_margin")


class WRTSettings(Settings, section="MODEL.LOSSES.WRT"):
    """WRTLoss."""

    scale: float = key(1.0, "weight of the term", "lambda_2 of CGE's Eq. (10)")


def batch_hard_triplet(
    features: torch.Tensor,
    targets: torch.Tensor,
    margin: float = 0.0,
    soft: bool = False,
    normalize: bool = False,
    squared: bool = False,
) -> torch.Tensor:
    """Eq. (6): 1 / (P K) sum_i [m + D(a_i, p_i) - D(a_i, n_i)]_+, with the farthest positive and nearest negative.

    Eq. (6) of CGE; Eq. (6) of RRID, Eq. (7), (8) of CAN (squared) and Eq. (3) of RMGL, with their margins.

    Args:
        features: (N, D).
        targets: (N,), identity indices.
        margin: m; CGE's is 0.
        soft: log(1 + exp(D(a_i, p_i) - D(a_i, n_i))) instead (Hermans et al., In defense of the triplet loss, 2017),
            which has no margin.
        normalize: distances between features of length 1.
        squared: squares of the distances, as in CAN's Eq. (7).
    """
    if normalize:
        features = F.normalize(widened(features), dim=1)
    same = targets[:, None] == targets[None, :]  # (N, N)
    distances = _distances(features)  # (N, N)
    positive, negative = hard_example_mining(distances, same.to(distances), (~same).to(distances))  # (N,), (N,)
    difference = positive**2 - negative**2 if squared else positive - negative
    values = F.softplus(difference) if soft else F.relu(margin + difference)
    return _mean_of_anchors(values, _others(same), ~same)


def weighted_regularized_triplet(features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Eq. (7): 1 / (P K) sum_i log(1 + exp(sum_p lambda+_p D(a_i, p) - sum_n lambda-_n D(a_i, n))).

    Of CGE. Eq. (8), the lambdas, is read as in AGW (Ye et al., Deep learning for person re-identification, TPAMI 2021):
    lambda+ is the softmax of D over the anchor's positives, lambda- the softmax of -D over its negatives. (As printed,
    the denominators sum exponentials of features, and lambda- lacks the minus.) The gradient goes through the weights,
    as in AGW's code.

    The positives are the other images of the identity: a pair is two images. AGW's code counts the anchor itself, at
    distance 0; at distances of 5 and more that changes the weights by less than 1 %, and at small ones it pulls D+
    down. The host's form of this loss (TRI.HARD_MINING False) adds 1e-6 to sums that it has scaled by exp(-D), so that
    the weights of negatives sum to 0.95 at distances of 15, to 0.12 at 20 and to nothing at 30: it stops pushing.

    Args:
        features: (N, D).
        targets: (N,), identity indices.
    """
    distances = _distances(features)
    same = targets[:, None] == targets[None, :]  # (N, N)
    positives, negatives = _others(same), ~same
    positive = (_masked_softmax(distances, positives) * distances).sum(1)  # (N,)
    negative = (_masked_softmax(-distances, negatives) * distances).sum(1)
    return _mean_of_anchors(F.softplus(positive - negative), positives, negatives)


def _distances(features: torch.Tensor) -> torch.Tensor:
    """Euclidean distances (N, N) in float32 at least, from differences: products cancel where two images are close."""
    features = widened(features)
    return torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")


def _others(same: torch.Tensor) -> torch.Tensor:
    """Pairs of two images of one identity, (N, N), from pairs of the same identity."""
    return same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)


def _masked_softmax(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax of each row over the columns of the mask; finite in a row without any."""
    return torch.softmax(values.masked_fill(~mask, torch.finfo(values.dtype).min), dim=1)


def _mean_of_anchors(values: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    anchors = positives.any(1) & negatives.any(1)
    return (values * anchors).sum() / anchors.sum().clamp(min=1)


@register_loss("TripletLoss", term="triplet", applies_to="features")
def _triplet(cfg: CfgNode) -> tuple[LossFunction, float]:
    settings = TripletSettings.from_cfg(cfg)
    if settings.form == "host":
        host = (settings.margin, settings.norm_feat, settings.hard_mining)
        return lambda features, targets: host_triplet(features, targets, *host), settings.scale
    loss = partial(
        batch_hard_triplet,
        margin=settings.margin,
        soft=settings.form == "soft_margin",
        normalize=settings.norm_feat,
        squared=settings.squared,
    )
    return loss, settings.scale


@register_loss("WRTLoss", term="wrt", applies_to="features")
def _weighted(cfg: CfgNode) -> tuple[LossFunction, float]:
    return weighted_regularized_triplet, WRTSettings.from_cfg(cfg).scale
