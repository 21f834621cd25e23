"""RRID, the relation network: relations of each part with the rest, and global contrastive pooling.

Park, Ham: Relation Network for Person Re-Identification, AAAI 2020 (arXiv 1911.09318).

Shapes: N images, K identities, C channels of the feature map (2048 for ResNet-50), c reduced channels (256), P parts of
a scale (2, 4, 6). A feature is c wide: P local ones and a global one a scale.

| paper           | code                             | key                          | test |
|-----------------|----------------------------------|------------------------------|------|
| Eq. (1), Fig. 2 | `RRIDHead.relate_parts`, `rest_matrix` | RRID.RELATION                | `test_the_batched_head` |
| Eq. (2)         | `layers.contrastive_feature`     | RRID.CONTRAST                | `test_the_batched_head` |
| Eq. (3)         | `PartsBaseline.losses`           | LOSSES.CE.SCALE              | `test_eq_3_4` |
| Eq. (4), (5)    | `losses.cross_entropy`           | RRID.CLASSIFY                | `test_eq_3_4` |
| Eq. (6)         | `losses.batch_hard_triplet`      | RRID.TRIPLET                 | `test_eq_3_4` |
| Fig. 1          | `RRIDHead.pool_parts`            | RRID.PARTS                   | `test_of_the_papers_settings` |
| Fig. 3, Table 2 | `RRIDHead.reduce`                | RRID.GLOBAL_POOL, LOCAL_POOL | `test_table_2` |
| Fig. 4, 5       | `analysis.rank_lists`            |                              | `test_rank_lists_of_two_models` |
| Fig. 6          | `analysis.relation_maps`         |                              | `test_relation_maps_of_both` |
| Tables 3, 4     | `analysis.single_features`       | TEST.FEATURES                | `test_each_feature_is` |

Departures and decisions. The numbers come from the authors' code, which departs from the text; the defaults are the
code's, and a key gives the text's reading:
- The contrastive feature is the mean of the parts without their maximum, (sum - max) / (P - 1), which is not negative.
  CONTRAST `avg_minus_max` is the text's p_avg - p_max.
- Every reduction of a part, a rest, a maximum or a contrast is a 1x1 convolution with bias, batch norm and ReLU, with
  weights of its own; so are R_p and R_g on two features, concatenated. Nothing follows the residual sum. REDUCTION
  `conv` is a bare convolution for the reductions.
- Cross-entropy is on the final features and on what they are made of: q, p-bar and r-bar of each part, q_0, p-bar_max
  and p-bar_cont of each scale, 45 for P2, P4, P6, each through a classifier with bias. CLASSIFY `final` is the text's
  15.
- The triplet loss is on each final feature by itself, summed. TRIPLET `concatenation` is the text's reading, one on the
  whole representation. The margin is 1.2; the text has none.
- Its sampler shows each image four times an epoch: 80 of its epochs are 320 here. Its rates fall after 39 and 59 of
  them, the text's after 40 and 60.
- Global average and maximum in Table 2 are of the whole map; "GAP+GMP" is their sum before the reduction. Each scale
  has a global feature, whatever its pooling. Without the relation module a local feature is p-bar.
- MODEL.ABP, of RMGL, gives each image parts with equal shares of the channels' maxima, for all that is made of parts;
  global contrastive pooling starts from their maxima then too. It is no part of the paper, and off.
- Random erasing is the code's: three images in four, before the flip, a ratio drawn uniformly, one random color, and
  pasted at the place given by the rectangle's own size, so that it hits the upper body and never the feet. INPUT.REA
  PLACE, RATIO, FILL and BEFORE_FLIP have the usual ways. Images are resized bilinearly, INPUT.RESIZE.
- Reductions, R_p and R_g start as torch draws a convolution, by fan-in, and their norms' weights, HEADS.NORM_INIT, as
  the code's torch 0.4.1 drew them.
- What differs from the code: its last batch of an epoch has 32 images, ours are all full; batch norm sees the 64 images
  of one GPU, where the authors' two had 32 each. tests/methods/test_parity.py holds features, logits, losses, gradients
  and a step against it; docs/methods/rrid.md lists the settings.
- The stem pools with a border, MODEL.BACKBONE.STEM.PADDING 1, as in the authors' code and in the ResNet that ImageNet's
  weights are of; fast-reid's does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from fastreid.config import configurable
from fastreid.layers.pooling import GeneralizedMeanPooling, GlobalMaxPool
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from torch import nn

from ..layers import (
    ABPSettings,
    BalancedStripes,
    ContrastSettings,
    GroupedBlock,
    GroupedLinear,
    build_pooling,
    contrast,
    contrastive_feature,
    pool_stripes,
    stripe_bounds,
)
from ..mechanisms import Mechanism
from ..parts_baseline import PartsBaseline
from ..parts_head import BranchOutputs, HeadSettings, Neck, PartsHead, part, whole
from ..settings import Settings, choice, key

_POOLS = {
    "gmp": "GlobalMaxPool",
    "gap": "GlobalAvgPool",
    "gap_gmp": "AdaptiveAvgMaxPool",
    "gem": "GeneralizedMeanPoolingP",
}


class RRIDSettings(Settings, section="MODEL.RRID", role="features"):
    """RRID, the relation network. The defaults are the recipe of the authors' code."""

    parts: tuple = key((2, 4, 6), "parts of each scale; [6] is Ours-S", 'P, "Extension"', low=1)
    global_pool: str = choice(
        ("gcp", *_POOLS, "none"), "global pooling; none: local features alone", "Eq. (2), Table 2"
    )
    local_pool: str = choice(("gmp", "gap", "gem", "none"), "pooling of parts; none: global features alone", "Table 2")
    relation: str = choice(
        ("one_vs_rest", "rest", "none"), "what supports a part: R_p(T(p, r)), R_p(r) or nothing", "Eq. (1), Table 2"
    )
    reduction: str = choice(("conv_bn_relu", "conv"), "what reduces C channels to c, 1x1 in either case")
    classify: str = choice(
        ("all", "final"), "classified: what final features are made of too, or they alone", "Eq. (4)", role="training"
    )
    classifier_bias: bool = key(True, "classifiers have a bias; the equation has none", "Eq. (5)", role="training")
    triplet: str = choice(("each", "concatenation"), "the triplet loss's features", "Eq. (6)", role="training")

    def check(self) -> None:
        """See `Settings`.

        Raises:
            ValueError: no scale, or one twice, a single part that is to be related to others, or no feature.
        """
        if not self.parts or len(set(self.parts)) < len(self.parts):
            raise ValueError(
                f"MODEL.RRID.PARTS is {list(self.parts)}; it lists the number of parts of each scale, each number once"
            )
        if self.global_pool == self.local_pool == "none":
            raise ValueError("MODEL.RRID.GLOBAL_POOL and LOCAL_POOL are both 'none': no feature is left")
        if 1 in self.parts and (self.has_contrast or self.has_relation):
            raise ValueError(
                f"MODEL.RRID.PARTS is {list(self.parts)}: a single part has no rest. Leave the scale 1 out, or set "
                "RELATION none and GLOBAL_POOL gmp"
            )

    @property
    def has_contrast(self) -> bool:
        """Whether global features are of contrastive pooling."""
        return self.global_pool == "gcp"

    @property
    def has_relation(self) -> bool:
        """Whether local features have a relation module."""
        return self.relation != "none" and self.local_pool != "none"

    def feature_settings(self) -> dict[str, Any]:
        """See `Settings`."""
        relation = self.relation if self.has_relation else "none"
        return {**super().feature_settings(), "MODEL.RRID.RELATION": relation}


# ---- equations ----------------------------------------------------------------------------------------------------


def rest_matrix(scales: Sequence[int]) -> torch.Tensor:
    """r_i = 1 / (P - 1) sum_{j != i} p_j, for the parts of all scales one after the other.

    Args:
        scales: P of each scale.

    Returns:
        (sum P, sum P): the rest features are this times the part features. Its diagonal is zero.
    """
    return torch.block_diag(*((torch.ones(p, p) - torch.eye(p)) / max(p - 1, 1) for p in scales))


# ---- head ---------------------------------------------------------------------------------------------------------


@REID_HEADS_REGISTRY.register()
class RRIDHead(PartsHead):
    """Part pooling, relations and contrastive pooling at several scales. All parts of all scales run as one batch.

    Branches in training: logits `<name>` for each final feature and, with CLASSIFY `all`, `part/`, `rest/`, `max/` and
    `contrast/<name>` for what it is made of; features `<name>`, or `all`, all concatenated. In evaluation: (N, D), the
    final features concatenated.

    Args:
        feat_dim: C.
        heads: see `honors`; EMBEDDING_DIM is c.
        settings: see `RRIDSettings`.
        pooling: of contrastive pooling.
        abp: activation balanced parts, see `BalancedStripes`.

    Raises:
        ValueError: MODEL.HEADS.EMBEDDING_DIM is not positive.
    """

    reads = {"settings": RRIDSettings, "pooling": ContrastSettings, "abp": ABPSettings}
    honors = ("EMBEDDING_DIM", "NORM", "WITH_BNNECK", "NECK_FEAT", "TEST_FEAT", "NORM_INIT")
    training_only = ("classifiers",)
    mechanisms = {
        "relation": Mechanism(
            "relate_parts",
            {"no relation": lambda head, result, made_of: made_of["part"]},
            present=lambda head: head.has_relation,
        ),
        "contrast": Mechanism(
            "relate_whole",
            {"no contrast": lambda head, result, made_of: made_of["max"]},
            present=lambda head: head.gcp,
        ),
    }

    rest: torch.Tensor

    @configurable
    def __init__(
        self, *, feat_dim: int, heads: HeadSettings, settings: RRIDSettings, pooling: ContrastSettings, abp: ABPSettings
    ) -> None:
        super().__init__()
        c, norm, scales = heads.width("RRID", usual=256), heads.norm, settings.parts
        self.rrid, self.scales, self.contrast = settings, scales, pooling.contrast
        self.settings = (heads, settings, abp, *([pooling] if settings.has_contrast else []))
        self.gcp, self.has_relation = settings.has_contrast, settings.has_relation
        self.stripes = BalancedStripes(abp)

        # What CGE pools its stripes with
        self.pool_layer, self.pooled_dim = build_pooling(_POOLS.get(settings.global_pool, "GlobalMaxPool")), feat_dim
        self.local_names, self.global_names = [], []
        if settings.local_pool != "none":
            self.part_pool_layer = build_pooling(_POOLS[settings.local_pool])
            self.local_names = [part(i + 1, p) for p in scales for i in range(p)]
        if settings.global_pool != "none":
            self.global_names = [whole(p) for p in scales]
        self.register_buffer("rest", rest_matrix(scales), persistent=False)

        locals_, globals_ = len(self.local_names), len(self.global_names)
        #: What is reduced from C to c, in this order: (kind, number of features)
        self.reduced = [
            ("max", globals_),
            ("contrast", globals_ if self.gcp else 0),
            ("part", locals_),
            ("rest", locals_ if self.has_relation else 0),
        ]
        count = sum(number for _, number in self.reduced)
        bare = settings.reduction == "conv"
        self.reduction = GroupedBlock(count, feat_dim, c, norm="" if bare else norm, relu=not bare)
        if self.gcp:
            self.global_relation = GroupedBlock(globals_, 2 * c, c, norm)  # R_g
        if self.has_relation:
            width = c if settings.relation == "rest" else 2 * c
            self.local_relation = GroupedBlock(locals_, width, c, norm)  # R_p

        names = [*self.global_names, *self.local_names]
        self.feature_dims = dict.fromkeys(names, c)
        self.metric_dims = self.feature_dims if settings.triplet == "each" else {"all": c * len(names)}
        self.neck = Neck(heads, c * len(names), len(names))
        self.global_branches = tuple(self.global_names)
        self.classified = names + (self._ingredients() if settings.classify == "all" else [])
        self.classifiers = GroupedLinear(len(self.classified), c, heads.num_classes, settings.classifier_bias, 0.001)
        heads.init_norms(self)

    def forward(self, feature_map: torch.Tensor, targets: torch.Tensor | None = None) -> Any:
        """(N, C, H, W) -> `BranchOutputs`, or (N, D) in evaluation.

        Raises:
            ValueError: a number of parts does not divide H.
        """
        made_of = self.reduce(feature_map)
        final = self.neck(self.relate(made_of))
        if not self.training:
            return final.evaluated.flatten(1)
        features = [final.classified]
        if self.rrid.classify == "all":
            features += [made_of[kind] for kind in self._ingredient_kinds()]
        logits = self.classifiers(torch.cat(features, dim=1))
        metric = final.metric.unbind(dim=1) if self.rrid.triplet == "each" else [final.metric.flatten(1)]
        return BranchOutputs(dict(zip(self.classified, logits.unbind(dim=1))), dict(zip(self.metric_dims, metric)))

    def check_rows(self, rows: int) -> None:
        """See `PartsHead`; balanced parts have a row each, others are of one height."""
        if not self.local_names and not self.gcp:
            return  # nothing is pooled by parts
        if self.stripes.mode == "off":
            self._check_divides(rows)
        else:
            stripe_bounds(rows, max(self.scales))

    def _check_divides(self, rows: int) -> None:
        odd = [p for p in self.scales if rows % p]
        if odd:
            raise ValueError(
                f"MODEL.RRID.PARTS has {', '.join(map(str, odd))}, which does not divide the {rows} rows of the "
                "feature map: change it or INPUT.SIZE_TRAIN and SIZE_TEST"
            )

    def pool_parts(self, feature_map: torch.Tensor, pool: nn.Module) -> torch.Tensor:
        """Pool the part features of all scales, one after the other.

        Args:
            feature_map: (N, C, H, W).
            pool: the pooling layer.

        Returns:
            (N, sum P, C).

        Raises:
            ValueError: a number of parts does not divide H.
        """
        if self.stripes.balanced:
            return self.stripes(feature_map, self.scales, pool)
        self._check_divides(feature_map.shape[2])
        if isinstance(pool, GeneralizedMeanPooling):
            return torch.cat([pool_stripes(feature_map, p, pool) for p in self.scales], dim=1)
        # Maxima and averages are those of stripes that all scales have in common: the map is read once.
        finest = math.lcm(*self.scales)
        stripes = pool_stripes(feature_map, finest, pool)
        grouped = [stripes.unflatten(1, (p, finest // p)) for p in self.scales]
        by_maximum = isinstance(pool, GlobalMaxPool)
        return torch.cat([g.amax(dim=2) if by_maximum else g.mean(dim=2) for g in grouped], dim=1)

    def part_maxima(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Pool what global contrastive pooling starts from, whatever local features are pooled by: (N, sum P, C)."""
        if self.stripes.balanced:
            return self.stripes.maxima(feature_map, self.scales)
        return self.pool_parts(feature_map, self.pool_layer)

    def reduce(self, feature_map: torch.Tensor) -> dict[str, torch.Tensor]:
        """Reduce what the final features are made of: {`max`, `contrast`, `part`, `rest`: (N, number, c)}.

        `max` is what the global feature is based on: the maximum, or in Table 2's alternatives the average or the sum
        of both.
        """
        inputs: dict[str, torch.Tensor] = {}
        if self.local_names:
            inputs["part"] = self.pool_parts(feature_map, self.part_pool_layer)
            if self.has_relation:
                inputs["rest"] = torch.einsum("ij,njc->nic", self.rest.to(inputs["part"].dtype), inputs["part"])
        if self.gcp:
            has_maxima = self.local_names and self.stripes.gives_maxima(self.part_pool_layer)
            parts = inputs["part"] if has_maxima else self.part_maxima(feature_map)
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
        """Give the final features, of each scale and then of each part: (N, number, c)."""
        final = []
        if self.global_names:
            final.append(self.relate_whole(made_of) if self.gcp else made_of["max"])
        if self.local_names:
            final.append(self.relate_parts(made_of))
        return torch.cat(final, dim=1)

    def relate_whole(self, made_of: dict[str, torch.Tensor]) -> torch.Tensor:
        """Eq. (2): q_0 of each scale, (N, scales, c)."""
        return contrastive_feature(self.global_relation, made_of["max"], made_of["contrast"])

    def relate_parts(self, made_of: dict[str, torch.Tensor]) -> torch.Tensor:
        """Eq. (1): q_i of each part, (N, sum P, c); p_i without a relation."""
        support = self.local_support(made_of)
        return made_of["part"] if support is None else made_of["part"] + support

    def local_support(self, made_of: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """R_p(T(p, r)) of Eq. (1), or R_p(r) with RELATION `rest`: (N, sum P, c); None without a relation."""
        if not self.has_relation:
            return None
        if self.rrid.relation == "rest":
            return self.local_relation(made_of["rest"])
        return self.local_relation(torch.cat([made_of["part"], made_of["rest"]], dim=2))

    def _ingredient_kinds(self) -> list[str]:
        """What final features that differ from it are made of."""
        kinds = ["max", "contrast"] if self.gcp else []
        return kinds + (["part", "rest"] if self.has_relation else [])

    def _ingredients(self) -> list[str]:
        names = {"max": self.global_names, "contrast": self.global_names}
        return [f"{kind}/{name}" for kind in self._ingredient_kinds() for name in names.get(kind, self.local_names)]


# ---- meta-architecture --------------------------------------------------------------------------------------------


@META_ARCH_REGISTRY.register()
class RRID(PartsBaseline):
    """The relation network: any backbone and `RRIDHead`."""
