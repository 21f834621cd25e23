"""RRID, the relation network: relations of each part with the rest, and global contrastive pooling.

Park, Ham: Relation Network for Person Re-Identification, AAAI 2020 (arXiv 1911.09318).

Shapes: N images, K identities, C channels of the feature map (2048 for ResNet-50), c reduced channels (256), P parts of
a scale (2, 4, 6). A feature is c wide: P local ones and a global one a scale.

| paper                     | code                                                          |
|---------------------------|---------------------------------------------------------------|
| "Part-level features"     | `RRIDHead.pool_parts`                                         |
| "One-vs.-rest", r_i       | `rest_matrix`                                                 |
| Eq. (1)                   | `RRIDHead.relate`, MODEL.RRID.RELATION                        |
| "GCP", p_cont             | `layers.contrast`, MODEL.RRID.CONTRAST                        |
| Eq. (2)                   | `layers.contrastive_feature`, MODEL.RRID.GLOBAL_POOL          |
| Eq. (3)                   | MODEL.LOSSES.CE.SCALE (lambda), MODEL.LOSSES.TRI.SCALE        |
| Eq. (4), (5)              | MODEL.RRID.CLASSIFY, CLASSIFIER_BIAS                          |
| Eq. (6)                   | `losses.triplet`, MODEL.RRID.TRIPLET                          |
| "Extension"               | MODEL.RRID.PARTS                                              |
| Table 2                   | MODEL.RRID.PARTS, RELATION, GLOBAL_POOL, LOCAL_POOL           |

Departures and decisions. The numbers come from the authors' code, which departs from the text; the defaults are the
code's, and a key gives the text's reading:
- The contrastive feature is the mean of the parts without their maximum, (sum - max) / (P - 1), which is not negative.
  CONTRAST `avg_minus_max` is the text's p_avg - p_max.
- Every reduction of a part, a rest, a maximum or a contrast is a 1x1 convolution with bias, batch norm and ReLU, with
  weights of its own; so are R_p and R_g on two features side by side. Nothing follows the residual sum. REDUCTION
  `conv` is a bare convolution for the reductions.
- Cross-entropy is on the final features and on what they are made of: q, p-bar and r-bar of each part, q_0, p-bar_max
  and p-bar_cont of each scale, 45 for P2, P4, P6, each through a classifier with bias. CLASSIFY `final` is the text's
  15.
- The triplet loss is on each final feature by itself, summed. TRIPLET `concatenation` is the text's reading, one on the
  whole representation. The margin is 1.2; the text has none.
- Its sampler shows each image four times an epoch: 80 of its epochs are 320 here.
- Global average and maximum in Table 2 are of the whole map; "GAP+GMP" is their sum before the reduction. Each scale
  has a global feature, whatever its pooling. Without the relation module a local feature is p-bar.
- MODEL.ABP, of RMGL, gives each image parts with equal shares of the channels' maxima, for all that is made of parts;
  global contrastive pooling starts from their maxima then too. It is no part of the paper, and off.
- Random erasing comes after the flip here and before it there. A rectangle is placed uniformly, so that the two orders
  draw from the same distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from fastreid.config import CfgNode, configurable
from fastreid.layers import get_norm
from fastreid.layers.pooling import GeneralizedMeanPooling, GlobalMaxPool
from fastreid.layers.weight_init import weights_init_kaiming
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from torch import nn

from ..layers import (
    CONTRASTS,
    BalancedStripes,
    ParallelBlock,
    ParallelLinear,
    build_pooling,
    contrast,
    contrastive_feature,
    pool_stripes,
)
from ..parts_baseline import BranchOutputs, PartsBaseline

__all__ = ["RRID", "RRIDHead", "rest_matrix"]

_POOLS = {
    "gmp": "GlobalMaxPool",
    "gap": "GlobalAvgPool",
    "gap_gmp": "AdaptiveAvgMaxPool",
    "gem": "GeneralizedMeanPoolingP",
}
_CHOICES = {
    "RRID.GLOBAL_POOL": ("gcp", *_POOLS, "none"),
    "RRID.LOCAL_POOL": ("gmp", "gap", "gem", "none"),
    "RRID.RELATION": ("one_vs_rest", "rest", "none"),
    "RRID.CONTRAST": CONTRASTS,
    "RRID.REDUCTION": ("conv_bn_relu", "conv"),
    "RRID.CLASSIFY": ("all", "final"),
    "RRID.TRIPLET": ("each", "concatenation"),
    "HEADS.NECK_FEAT": ("before", "after"),
    "HEADS.TEST_FEAT": ("before", "after"),
}


# ---- equations ----------------------------------------------------------------------------------------------------


def rest_matrix(scales: Sequence[int]) -> torch.Tensor:
    """r_i = 1 / (P - 1) sum_{j != i} p_j, for the parts of all scales one behind the other.

    Args:
        scales: P of each scale.

    Returns:
        (sum P, sum P): the rest features are this times the part features. Its diagonal is zero.
    """
    return torch.block_diag(*((torch.ones(p, p) - torch.eye(p)) / max(p - 1, 1) for p in scales))


# ---- head ---------------------------------------------------------------------------------------------------------


@REID_HEADS_REGISTRY.register()
class RRIDHead(nn.Module):
    """Part pooling, relations and contrastive pooling at several scales. All parts of all scales run as one batch.

    Branches in training: logits `q/<name>` for each final feature and, with CLASSIFY `all`, `p/`, `r/`, `max/` and
    `contrast/` for what it is made of; features `<name>`, or one without a name. In evaluation: (N, D), the final
    features side by side in the order of `feature_names`.

    Args:
        feat_dim: C.
        reduced_dim: c.
        num_classes: K.
        norm: the norm of the reductions.
        parts: P of each scale.
        global_pool, local_pool: pooling of the global and of the local features; `none` leaves them out.
        relation: what supports a part, the pair (p, r), the rest alone, or nothing.
        contrast: see `contrast`.
        reduction: what reduces C channels to c.
        classify: which features have a classifier.
        classifier_bias: whether classifiers add one.
        triplet: metric losses see each final feature, or all side by side.
        with_bnneck: a batch norm on each final feature before its classifier.
        neck_feat, test_feat: metric losses and evaluation see a feature `before` or `after` it.
        abp_mode, abp_pool: activation balanced parts, see `BalancedStripes`.

    Raises:
        ValueError: a setting is not one of its choices, or they leave no feature.
    """

    rest: torch.Tensor

    @configurable
    def __init__(
        self,
        *,
        feat_dim: int,
        reduced_dim: int,
        num_classes: int,
        norm: str,
        parts: Sequence[int],
        global_pool: str,
        local_pool: str,
        relation: str,
        contrast: str,
        reduction: str,
        classify: str,
        classifier_bias: bool,
        triplet: str,
        with_bnneck: bool,
        neck_feat: str,
        test_feat: str,
        abp_mode: str = "off",
        abp_pool: str = "max",
    ) -> None:
        super().__init__()
        settings = {
            "RRID.GLOBAL_POOL": global_pool,
            "RRID.LOCAL_POOL": local_pool,
            "RRID.RELATION": relation,
            "RRID.CONTRAST": contrast,
            "RRID.REDUCTION": reduction,
            "RRID.CLASSIFY": classify,
            "RRID.TRIPLET": triplet,
            "HEADS.NECK_FEAT": neck_feat,
            "HEADS.TEST_FEAT": test_feat,
        }
        for key, value in settings.items():
            if value not in _CHOICES[key]:
                raise ValueError(f"MODEL.{key} is '{value}'; it is one of {', '.join(_CHOICES[key])}")
        if not parts or any(p < 1 for p in parts):
            raise ValueError(f"MODEL.RRID.PARTS is {list(parts)}; it lists the number of parts of each scale")
        if global_pool == local_pool == "none":
            raise ValueError("MODEL.RRID.GLOBAL_POOL and LOCAL_POOL are both 'none': no feature is left")
        if reduced_dim <= 0:
            raise ValueError("RRID reduces its features: MODEL.HEADS.EMBEDDING_DIM must be positive (256)")
        has_local, self.gcp = local_pool != "none", global_pool == "gcp"
        self.relation = relation if has_local else "none"
        if 1 in parts and (self.gcp or self.relation != "none"):
            raise ValueError(
                f"MODEL.RRID.PARTS is {list(parts)}: a single part has no rest. Leave the scale 1 out, or set RELATION "
                "none and GLOBAL_POOL gmp"
            )
        self.scales, self.contrast, self.classify, self.triplet = tuple(parts), contrast, classify, triplet
        self.neck_feat, self.test_feat = neck_feat, test_feat
        self.stripes = BalancedStripes(abp_mode, abp_pool)

        #: Global pooling of the whole map, which CGE pools its stripes with.
        self.pool_layer = build_pooling(_POOLS.get(global_pool, "GlobalMaxPool"))
        if has_local:
            self.part_pool_layer = build_pooling(_POOLS[local_pool])
        self.local_names = [f"P{p}_local{i + 1}" for p in parts for i in range(p)] if has_local else []
        self.global_names = [f"P{p}_global" for p in parts] if global_pool != "none" else []
        self.feature_names = [*self.global_names, *self.local_names]
        self.register_buffer("rest", rest_matrix(parts), persistent=False)

        c, locals_, globals_ = reduced_dim, len(self.local_names), len(self.global_names)
        #: What is reduced from C to c, in this order: (kind, number of features)
        self.reduced = [
            ("max", globals_),
            ("contrast", globals_ if self.gcp else 0),
            ("p", locals_),
            ("r", locals_ if self.relation != "none" else 0),
        ]
        count = sum(number for _, number in self.reduced)
        bare = reduction == "conv"
        self.reduction = ParallelBlock(count, feat_dim, c, norm="" if bare else norm, relu=not bare)
        if self.gcp:
            self.global_relation = ParallelBlock(globals_, 2 * c, c, norm)  # R_g
        if self.relation != "none":
            self.local_relation = ParallelBlock(locals_, c if self.relation == "rest" else 2 * c, c, norm)  # R_p

        self.neck = get_norm(norm, c * len(self.feature_names), bias_freeze=True) if with_bnneck else nn.Identity()
        self.neck.apply(weights_init_kaiming)
        #: Branches whose logits classify the whole image.
        self.global_branches = tuple(f"q/{name}" for name in self.global_names)
        final = [f"q/{name}" for name in self.feature_names]
        self.classified = final + (self._ingredients() if classify == "all" else [])
        self.classifiers = ParallelLinear(len(self.classified), c, num_classes, bias=classifier_bias)
        nn.init.normal_(self.classifiers.weight, std=0.001)
        whole = {"": c * len(self.feature_names)}
        self.feature_dims = dict.fromkeys(self.feature_names, c) if triplet == "each" else whole

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        heads, rrid = cfg.MODEL.HEADS, cfg.MODEL.RRID
        return {
            "feat_dim": cfg.MODEL.BACKBONE.FEAT_DIM,
            "reduced_dim": heads.EMBEDDING_DIM,
            "num_classes": heads.NUM_CLASSES,
            "norm": heads.NORM,
            "parts": rrid.PARTS,
            "global_pool": rrid.GLOBAL_POOL,
            "local_pool": rrid.LOCAL_POOL,
            "relation": rrid.RELATION,
            "contrast": rrid.CONTRAST,
            "reduction": rrid.REDUCTION,
            "classify": rrid.CLASSIFY,
            "classifier_bias": rrid.CLASSIFIER_BIAS,
            "triplet": rrid.TRIPLET,
            "with_bnneck": heads.WITH_BNNECK,
            "neck_feat": heads.NECK_FEAT,
            "test_feat": heads.TEST_FEAT,
            "abp_mode": cfg.MODEL.ABP.MODE,
            "abp_pool": cfg.MODEL.ABP.POOL,
        }

    def forward(self, feature_map: torch.Tensor, targets: torch.Tensor | None = None) -> Any:
        """(N, C, H, W) -> `BranchOutputs`, or (N, D) in evaluation.

        Raises:
            ValueError: a number of parts does not divide H.
        """
        made_of = self.reduce(feature_map)
        before = self.relate(made_of)
        after = self.neck(before.flatten(1)[..., None, None]).view_as(before)
        if not self.training:
            return (before if self.test_feat == "before" else after).flatten(1)
        features = [after]
        if self.classify == "all":
            features += [made_of[kind] for kind in self._ingredient_kinds()]
        logits = self.classifiers(torch.cat(features, dim=1))
        metric = before if self.neck_feat == "before" else after
        if self.triplet == "each":
            by_name = dict(zip(self.feature_names, metric.unbind(dim=1)))
        else:
            by_name = {"": metric.flatten(1)}
        return BranchOutputs(dict(zip(self.classified, logits.unbind(dim=1))), by_name)

    def pool_parts(self, feature_map: torch.Tensor, pool: nn.Module) -> torch.Tensor:
        """Part features of all scales one behind the other, (N, C, H, W) -> (N, sum P, C)."""
        if self.stripes.balanced:
            return self.stripes(feature_map, self.scales, pool)
        height = feature_map.shape[2]
        odd = [p for p in self.scales if height % p]
        if odd:
            raise ValueError(
                f"MODEL.RRID.PARTS has {', '.join(map(str, odd))}, which does not divide the {height} rows of the "
                "feature map: change it or INPUT.SIZE_TRAIN and SIZE_TEST"
            )
        if isinstance(pool, GeneralizedMeanPooling):
            return torch.cat([pool_stripes(feature_map, p, pool) for p in self.scales], dim=1)
        # Maxima and averages are those of stripes that all scales have in common: the map is read once.
        finest = _lcm(self.scales)
        stripes = pool_stripes(feature_map, finest, pool)
        grouped = [stripes.unflatten(1, (p, finest // p)) for p in self.scales]
        by_maximum = isinstance(pool, GlobalMaxPool)
        return torch.cat([g.amax(dim=2) if by_maximum else g.mean(dim=2) for g in grouped], dim=1)

    def part_maxima(self, feature_map: torch.Tensor) -> torch.Tensor:
        """What global contrastive pooling starts from, whatever local features are pooled by: (N, sum P, C)."""
        if self.stripes.balanced:
            return self.stripes.maxima(feature_map, self.scales)
        return self.pool_parts(feature_map, self.pool_layer)

    def reduce(self, feature_map: torch.Tensor) -> dict[str, torch.Tensor]:
        """The reduced features that the final ones are made of: {`max`, `contrast`, `p`, `r`: (N, number, c)}.

        `max` is what the global feature is based on: the maximum, or in Table 2's alternatives the average or the sum
        of both.
        """
        inputs: dict[str, torch.Tensor] = {}
        if self.local_names:
            inputs["p"] = self.pool_parts(feature_map, self.part_pool_layer)
            if self.relation != "none":
                inputs["r"] = torch.einsum("ij,njc->nic", self.rest.to(inputs["p"].dtype), inputs["p"])
        if self.gcp:
            has_maxima = self.local_names and self.stripes.gives_maxima(self.part_pool_layer)
            parts = inputs["p"] if has_maxima else self.part_maxima(feature_map)
            per_scale = parts.split(self.scales, dim=1)
            inputs["max"] = torch.stack([p.amax(dim=1) for p in per_scale], dim=1)
            inputs["contrast"] = torch.stack([contrast(p, self.contrast) for p in per_scale], dim=1)
        elif self.global_names:
            inputs["max"] = self.pool_layer(feature_map).flatten(1)[:, None].expand(-1, len(self.scales), -1)
        present = [(kind, number) for kind, number in self.reduced if number]
        reduced = self.reduction(torch.cat([inputs[kind] for kind, _ in present], dim=1))
        groups = reduced.split([number for _, number in present], dim=1)
        return {kind: group for (kind, _), group in zip(present, groups)}

    def relate(self, made_of: dict[str, torch.Tensor]) -> torch.Tensor:
        """Eq. (2) and Eq. (1): the final features (N, number, c), in the order of `feature_names`."""
        final = []
        if self.global_names:
            base = made_of["max"]
            if self.gcp:
                base = contrastive_feature(self.global_relation, base, made_of["contrast"])
            final.append(base)
        if self.local_names:
            support = self.local_support(made_of)
            final.append(made_of["p"] if support is None else made_of["p"] + support)
        return torch.cat(final, dim=1)

    def local_support(self, made_of: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """R_p(T(p, r)) of Eq. (1), or R_p(r) with RELATION `rest`: (N, sum P, c); None without a relation."""
        if self.relation == "none":
            return None
        if self.relation == "rest":
            return self.local_relation(made_of["r"])
        return self.local_relation(torch.cat([made_of["p"], made_of["r"]], dim=2))

    def _ingredient_kinds(self) -> list[str]:
        """What final features that differ from it are made of."""
        kinds = ["max", "contrast"] if self.gcp else []
        return kinds + (["p", "r"] if self.relation != "none" else [])

    def _ingredients(self) -> list[str]:
        names = {"max": self.global_names, "contrast": self.global_names, "p": self.local_names, "r": self.local_names}
        return [f"{kind}/{name}" for kind in self._ingredient_kinds() for name in names[kind]]


def _lcm(numbers: Sequence[int]) -> int:
    result = 1
    for number in numbers:
        result = result * number // math.gcd(result, number)
    return result


# ---- meta-architecture --------------------------------------------------------------------------------------------


@META_ARCH_REGISTRY.register()
class RRID(PartsBaseline):
    """The relation network: any backbone and `RRIDHead`."""

    training_only = ("heads.classifiers",)
