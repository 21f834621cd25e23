"""CAN, the Collaborative Attention Network: adjacent parts of several granularities, together.

Li, Sun, Wang, Xu, Yang, Cui: Collaborative Attention Network for Person Re-identification, 2019 (arXiv 1911.13008).

Shapes: N images, K identities, C channels of the backbone (2048 for ResNet-50), n parts of a branch (1, 3, 5, 7),
D dimensions of an embedded feature (256). Branch n has a global feature and, but for n = 1, n - 1 local ones.

| paper        | code                        | key                         | test |
|--------------|-----------------------------|-----------------------------|------|
| Eq. (1)      | `layers.window_bounds`      | CAN.WINDOWS                 | `test_eq_1` |
| Eq. (2)      | `CANHead.pool_branch`       | CAN.PARTS                   | `test_eq_2_to_4` |
| Eq. (3), (4) | `Embedding`                 | CAN.EMBEDDING               | `test_eq_2_to_4` |
| Eq. (5)      | `PartsBaseline.losses`      | LOSSES.CENTER.SCALE         | `test_eq_5_to_9` |
| Eq. (6)      | `losses.cross_entropy`      | HEADS.SCALE                 | `test_eq_5_to_9` |
| Eq. (7), (8) | `losses.batch_hard_triplet` | LOSSES.TRI.SQUARED          | `test_eq_5_to_9` |
| Eq. (9)      | `losses.CenterLoss`         | LOSSES.CENTER.LR            | `test_eq_5_to_9` |
| Fig. 1, 3    | `collaborate`               | CAN.COLLABORATIVE_ATTENTION | `test_collaborative` |
| Fig. 2       | `CAN.build_backbone`        | CAN.PARTS, POOL             | `test_every_branch` |
| Fig. 4       | `analysis.activation_maps`  |                             | `test_branches` |
| Table 4      | `CANHead.group`             | CAN.CLUSTER                 | `test_a_group_is` |

Departures and decisions:
- Eq. (1)'s windows overlap for 5, 7 and 9 parts of 24 rows, against the text's "evenly divided". WINDOWS `adaptive` are
  PyTorch's, which overlap by a row at most; the authors' later code has them, and so have the configs.
- Two adjacent 1x1 blocks, one above the other and max-pooled, are their elementwise maximum. Branch n has n - 1 local
  features then, the paper's twelve; without collaborative attention it has n.
- One embedding serves all features of all branches. EMBEDDING `normalized_each` is the authors' later code:
  batch norm without a shift before and after the convolution, then PReLU with a slope a channel, called once a feature,
  so that each has batch statistics of its own and moves the running ones. `normalized` has the statistics of all
  features together and one slope, `conv` is the text's convolution alone. Its weights start by fan-in, and those of its
  norms, HEADS.NORM_INIT, as that code draws them.
- The classifiers, one a feature, take cosines. They need a scale: with 751 identities cross-entropy over bare cosines
  cannot fall below 4.6. It is 14, as in that later code.
- Cross-entropy is averaged over the features; triplet and center loss over seven groups: the four global features, and
  the local ones of a branch, concatenated. CLUSTER `global` is the first four alone.
- Distances are not squared: margin 1.3 is that of the code's command for training, for such distances. Eq. (7) prints
  squares and no margin. With TRI.SQUARED 1.3 is too small for features of any length: take NORM_FEAT and 0.2, as
  docs/methods/can.md explains.
- On any backbone each branch has `layer4` of `backbones.stages` for itself; of a ViT, the last quarter of its blocks.
- Eq. (9) lost the square of the norm. Centers are state of the model; see `losses.center`. The code has no factor 1/2,
  and draws new random centers at each call, a defect that is not followed.
- Identities are drawn equally (EqualIdentitySampler), and the paper's epochs are counted in that code's iterations.
- What the later code has and the paper does not is left out: instance norm, pad and crop, random patches, random
  erasing, a warm-up, a rate of 3.5e-4, decays after 150, 250 and 350 of its epochs, weight decay, AMSGrad with centered
  gradients and a width of 192. "Adam with default parameters" has no decay. tests/methods/test_parity.py holds
  features, logits, losses, gradients and statistics against it; docs/methods/can.md lists the settings.
- MODEL.CAN.WINDOWS `adaptive` and EMBEDDING `normalized_each` are not the keys' defaults, which came first and stay as
  they are; configs/Base-CAN.yml sets both.
- The representation is all features, concatenated and compared by cosine.
- The stem pools with a border, MODEL.BACKBONE.STEM.PADDING 1, as in the authors' code and in the ResNet that ImageNet's
  weights are of; fast-reid's does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fastreid.config import CfgNode, configurable
from fastreid.layers import pooling
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from torch import nn

from ..backbones import BranchedBackbone, build_parts_backbone
from ..layers import ConcatPool, GroupedLinear, build_pooling, norm_of_parts, pool_rows, stripe_bounds, window_bounds
from ..mechanisms import Mechanism
from ..parts_baseline import PartsBaseline
from ..parts_head import BranchOutputs, HeadSettings, Neck, PartsHead, branch, part, whole
from ..settings import Settings, choice, key

_WINDOWS = {"equation": window_bounds, "adaptive": stripe_bounds}


class CANSettings(Settings, section="MODEL.CAN", role="features"):
    """CAN, the Collaborative Attention Network."""

    parts: tuple = key((1, 3, 5, 7), "parts of each branch", "Tables 2, 3", low=1)
    collaborative_attention: bool = key(True, "local features are of two adjacent parts", "CA of Table 3")
    windows: str = choice(tuple(_WINDOWS), "where parts begin and end; adaptive: PyTorch's pooling", "Eq. (1)")
    pool: str = choice(
        ("concat", *(name for name in pooling.__all__ if name not in ("Identity", "Flatten"))),
        "maximum and average concatenated, or a pooling layer of fast-reid's by name",
        "Sec. 3.2",
    )
    embedding: str = choice(
        ("normalized", "normalized_each", "conv"),
        "with norms and PReLU, statistics of all features together or of each by itself; or the convolution alone",
        "Eq. (2) to (4)",
    )
    cluster: str = choice(("global_local", "global"), "features of triplet and center loss", "Table 4", role="training")

    def check(self) -> None:
        """See `Settings`.

        Raises:
            ValueError: no branch, or one twice.
        """
        if not self.parts or len(set(self.parts)) < len(self.parts):
            raise ValueError(
                f"MODEL.CAN.PARTS is {list(self.parts)}; it lists the parts of each branch, each number once"
            )

    def feature_settings(self) -> dict[str, Any]:
        """See `Settings`; a single part has neither windows nor neighbors."""
        settings = super().feature_settings()
        if max(self.parts) == 1:
            del settings["MODEL.CAN.WINDOWS"], settings["MODEL.CAN.COLLABORATIVE_ATTENTION"]
        return settings


def collaborate(blocks: torch.Tensor) -> torch.Tensor:
    """Collaborative attention (Sec. 3.2): the maximum of each block and the one below it.

    Args:
        blocks: (N, n, C), from the top to the bottom.

    Returns:
        (N, n - 1, C).
    """
    return torch.maximum(blocks[:, :-1], blocks[:, 1:])


def neighbor_angle(blocks: torch.Tensor) -> torch.Tensor:
    """Average the angle between each block and the one below it, in degrees, a scalar.

    Args:
        blocks: (N, n, C), from the top to the bottom.
    """
    cosine = F.cosine_similarity(blocks[:, :-1].float(), blocks[:, 1:].float(), dim=2)
    return cosine.clamp(-1, 1).acos().rad2deg().mean()


class Embedding(nn.Module):
    """Eq. (3), (4): f_ik = W^T f_nk, one 1x1 convolution for the features of all branches, (N, G, C) -> (N, G, D).

    Args:
        in_features: C.
        out_features: D.
        norm: a norm of fast-reid's; "" is the bare convolution of the text.
        order: the G features in the order in which training takes them one after the other, each with batch statistics
            of its own that move the running ones; empty: all at once, with statistics of all together.
    """

    def __init__(self, in_features: int, out_features: int, norm: str, order: Sequence[int] = ()) -> None:
        super().__init__()
        self.order = order
        conv = nn.Conv2d(in_features, out_features, 1, bias=False)
        layers = [conv]
        if norm:
            # Group norm of one feature after the other is not what evaluation computes, of all at once
            before, after = (
                norm_of_parts(norm, len(order), width, bias_freeze=True) for width in (in_features, out_features)
            )
            layers = [before, conv, after, nn.PReLU(out_features if order else 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, G, C) -> (N, G, D)."""
        if self.order and self.training:
            embedded = {g: self.layers(features[:, g, :, None, None]).flatten(1) for g in self.order}
            return torch.stack([embedded[g] for g in sorted(embedded)], dim=1)
        return self.layers(features.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)


@REID_HEADS_REGISTRY.register()
class CANHead(PartsHead):
    """Pooling of each branch, collaborative attention, the shared embedding and a cosine classifier a feature.

    Branches in training: logits `<name>` of each feature, with weights that average them; features `global_of_<n>` and,
    with CLUSTER `global_local`, `parts_of_<n>`, the local ones of a branch concatenated, averaged too. With
    collaborative attention `part_<k>_of_<n>` is of the k-th part and the one below it. In evaluation: (N, D sum of
    features), in the order of `feature_dims`.

    Args:
        feat_dim: C.
        heads: see `honors`; EMBEDDING_DIM is D, SCALE the factor on the cosines.
        settings: see `CANSettings`.

    Raises:
        ValueError: MODEL.HEADS.EMBEDDING_DIM is not positive.
    """

    reads = {"settings": CANSettings}
    honors = ("EMBEDDING_DIM", "NORM", "SCALE", "WITH_BNNECK", "NECK_FEAT", "TEST_FEAT", "NORM_INIT")
    training_only = ("classifiers",)
    mechanisms = {
        "attention": Mechanism(
            "attend",
            {"no neighbor": lambda head, result, blocks: blocks[:, :-1]},
            lambda head, result, blocks: {"angle": neighbor_angle(blocks)},
            present=lambda head: head.can.collaborative_attention and max(head.parts) > 1,
        )
    }

    @configurable
    def __init__(self, *, feat_dim: int, heads: HeadSettings, settings: CANSettings) -> None:
        super().__init__()
        width = heads.width("CAN", usual=256)
        self.settings = (heads, settings)
        self.can, self.parts, self.scale = settings, settings.parts, heads.scale
        self.bounds = _WINDOWS[settings.windows]
        concat = settings.pool == "concat"
        self.pool_layer = ConcatPool() if concat else build_pooling(settings.pool)
        self.pooled_dim = 2 * feat_dim if concat else feat_dim
        attention = settings.collaborative_attention
        #: Local features of each branch.
        self.local_counts = [0 if n == 1 else n - 1 if attention else n for n in self.parts]
        names: list[str] = []
        for n, count in zip(self.parts, self.local_counts):
            names += [whole(n), *(part(i + 1, n) for i in range(count))]
        self.feature_dims = dict.fromkeys(names, width)

        norm = "" if settings.embedding == "conv" else heads.norm
        # The authors' code embeds the global features first
        order = sorted(range(len(names)), key=lambda g: not names[g].startswith("global_"))
        each = order if settings.embedding == "normalized_each" else ()
        self.embedding = Embedding(self.pooled_dim, width, norm, each)
        self.neck = Neck(heads, len(names) * width, len(names))
        self.classifiers = GroupedLinear(
            len(names), width, heads.num_classes, bias=False, std=(2 / max(heads.num_classes, 1)) ** 0.5
        )
        heads.init_norms(self)

        self.global_branches = tuple(map(whole, self.parts))
        local = {branch(n): c * width for n, c in zip(self.parts, self.local_counts) if c}
        self.metric_dims = dict.fromkeys(self.global_branches, width)
        if settings.cluster == "global_local":
            self.metric_dims = {**self.metric_dims, **local}
        self.logit_weight, self.metric_weight = 1 / len(names), 1 / len(self.metric_dims)

    def forward(self, maps: dict[str, torch.Tensor], targets: torch.Tensor | None = None) -> Any:
        """{branch: (N, C, H, W)} -> `BranchOutputs`, or (N, D sum of features) in evaluation."""
        pooled = torch.cat([self.pool_branch(n, x) for n, x in zip(self.parts, maps.values())], dim=1)
        features = self.neck(self.embedding(pooled))
        if not self.training:
            return features.evaluated.flatten(1)
        weight = F.normalize(self.classifiers.weight, dim=2)
        logits = self.scale * torch.einsum("ngd,gkd->gnk", F.normalize(features.classified, dim=2), weight)
        return BranchOutputs(
            dict(zip(self.feature_dims, logits)),
            self.group(features.metric),
            logit_weights=dict.fromkeys(self.feature_dims, self.logit_weight),
            feature_weights=dict.fromkeys(self.metric_dims, self.metric_weight),
        )

    def check_rows(self, rows: int) -> None:
        """See `PartsHead`; a part has a row at least."""
        self.bounds(rows, max(self.parts))

    def pool_branch(self, parts: int, feature_map: torch.Tensor) -> torch.Tensor:
        """Eq. (2): F_n = {f_G, f_LP...}, a branch's features before the embedding.

        Args:
            parts: n.
            feature_map: of the branch, (N, C, H, W).

        Returns:
            (N, 1 + local ones, `pooled_dim`), the global feature first.
        """
        pooled = [self.pool_layer(feature_map).flatten(1)[:, None]]
        if parts > 1:
            blocks = pool_rows(feature_map, self.bounds(feature_map.shape[2], parts), self.pool_layer)
            pooled.append(self.attend(blocks) if self.can.collaborative_attention else blocks)
        return torch.cat(pooled, dim=1)

    def attend(self, blocks: torch.Tensor) -> torch.Tensor:
        """Compute the local features of a branch, (N, n - 1, C), from its pooled blocks (N, n, C)."""
        return collaborate(blocks)

    def group(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Group what metric losses see of all features (N, G, D): {name of `metric_dims`: (N, width)}."""
        groups, first = {}, 0
        for n, count in zip(self.parts, self.local_counts):
            groups[whole(n)] = features[:, first]
            groups[branch(n)] = features[:, first + 1 : first + 1 + count].flatten(1)
            first += 1 + count
        return {name: groups[name] for name in self.metric_dims}


@META_ARCH_REGISTRY.register()
class CAN(PartsBaseline):
    """The Collaborative Attention Network: a ResNet whose last stage every branch has for itself, and `CANHead`."""

    reads = {"settings": CANSettings}

    @classmethod
    def build_backbone(cls, cfg: CfgNode) -> nn.Module:
        """See `PartsBaseline`."""
        branches = [branch(n) for n in CANSettings.from_cfg(cfg).parts]
        return BranchedBackbone(build_parts_backbone(cfg), shared_up_to="layer3", branches=branches)
