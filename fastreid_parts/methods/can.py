"""CAN, the Collaborative Attention Network: adjacent parts of several granularities, together.

Li, Sun, Wang, Xu, Yang, Cui: Collaborative Attention Network for Person Re-identification, 2019 (arXiv 1911.13008).

Shapes: N images, K identities, C channels of the backbone (2048 for ResNet-50), n parts of a branch (1, 3, 5, 7),
D dimensions of an embedded feature (256). Branch n has a global feature and, but for n = 1, n - 1 local ones.

| paper                           | code                                                            |
|---------------------------------|-----------------------------------------------------------------|
| Sec. 3.2, "Base Model"          | `CAN.build_backbone`: stages to 4 shared, the last one a branch |
| Eq. (1)                         | `layers.window_bounds`, MODEL.CAN.WINDOWS                       |
| Sec. 3.2, max and average       | `layers.ConcatPool`                                             |
| Sec. 3.2, Collaborative Att.    | `collaborate`, MODEL.CAN.COLLABORATIVE_ATTENTION                |
| Eq. (2) to (4), Embedding Layer | `Embedding`, MODEL.CAN.EMBEDDING                                |
| Eq. (5)                         | MODEL.LOSSES.NAME, MODEL.LOSSES.CENTER.SCALE (lambda)           |
| Eq. (6), Sec. 4.6, "FC"         | `CANHead`, cosines times MODEL.HEADS.SCALE                      |
| Eq. (7), (8)                    | `losses.triplet`, MODEL.LOSSES.TRI.SQUARED                      |
| Eq. (9)                         | `losses.center`                                                 |
| Tables 2, 3                     | MODEL.CAN.PARTS, COLLABORATIVE_ATTENTION                        |
| Table 4                         | MODEL.LOSSES.NAME, MODEL.CAN.CLUSTER                            |

Departures and decisions:
- Eq. (1)'s windows overlap for 5, 7 and 9 parts of 24 rows, against the text's "evenly divided". WINDOWS `adaptive` are
  PyTorch's, which overlap by a row at most.
- Two adjacent 1x1 blocks, one above the other and max-pooled, are their elementwise maximum. Branch n has n - 1 local
  features then, the paper's twelve; without collaborative attention it has n.
- One embedding serves all features of all branches. EMBEDDING `normalized` is the authors' later code: batch norm
  without a shift before and after the convolution, then PReLU, with the statistics of all features together; `conv` is
  the text's convolution alone.
- The classifiers, one a feature, take cosines. They need a scale: with 751 identities cross-entropy over bare cosines
  cannot fall below 4.6. It is 14, as in that later code, and so is the triplet margin, 1.3.
- Cross-entropy is averaged over the features; triplet and centre loss over seven groups: the four global features, and
  the local ones of a branch side by side. CLUSTER `global` is the first four alone. Distances of Eq. (7) are squared.
- Eq. (9) lost the square of the norm. Centres are state of the model; see `losses.center`.
- The representation is all features side by side, compared by cosine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fastreid.config import CfgNode, configurable
from fastreid.layers import get_norm
from fastreid.layers.weight_init import weights_init_kaiming
from fastreid.modeling.backbones import build_backbone
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from torch import nn

from ..layers import BranchedResNet, ConcatPool, ParallelLinear, build_pooling, pool_rows, stripe_bounds, window_bounds
from ..parts_baseline import BranchOutputs, PartsBaseline

__all__ = ["CAN", "CANHead", "Embedding", "collaborate"]

_WINDOWS = {"equation": window_bounds, "adaptive": stripe_bounds}


def collaborate(blocks: torch.Tensor) -> torch.Tensor:
    """Collaborative attention (Sec. 3.2): the maximum of each block and the one below it.

    Args:
        blocks: (N, n, C), from the top to the bottom.

    Returns:
        (N, n - 1, C).
    """
    return torch.maximum(blocks[:, :-1], blocks[:, 1:])


class Embedding(nn.Module):
    """Eq. (3): one 1x1 convolution for the features of all branches, (N, G, C) -> (N, G, D).

    Args:
        in_features: C.
        out_features: D.
        norm: a norm of fast-reid's; "" is the bare convolution of the text.
    """

    def __init__(self, in_features: int, out_features: int, norm: str) -> None:
        super().__init__()
        conv = nn.Conv2d(in_features, out_features, 1, bias=False)
        layers = [conv]
        if norm:
            before, after = (get_norm(norm, width, bias_freeze=True) for width in (in_features, out_features))
            layers = [before, conv, after, nn.PReLU()]
        self.layers = nn.Sequential(*layers)
        self.layers.apply(weights_init_kaiming)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers(features.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)


@REID_HEADS_REGISTRY.register()
class CANHead(nn.Module):
    """Pooling of each branch, collaborative attention, the shared embedding and a cosine classifier a feature.

    Branches in training: logits `id/<name>` of each feature, with weights that average them; features `global/part<n>`
    and, with `cluster` "global_local", `local/part<n>`, the local ones of a branch side by side, averaged too. In
    evaluation: (N, D sum of features), in the order of `feature_names`.

    Args:
        feat_dim: C.
        embedding_dim: D.
        num_classes: K.
        scale: factor on the cosines.
        norm: the norm of the embedding and of BNNeck.
        parts: n of each branch.
        pool: what a window is pooled by, `concat` or the name of a pooling layer of fast-reid's.
        windows: `equation`, Eq. (1), or `adaptive`.
        collaborative_attention: whether local features are of two adjacent blocks.
        embedding: `normalized` or `conv`.
        cluster: features of the metric losses, `global_local` or `global`.
        with_bnneck: a batch norm on each feature before its classifier.
        neck_feat, test_feat: metric losses and evaluation see a feature `before` or `after` it.

    Raises:
        ValueError: a setting is not one of its choices.
    """

    @configurable
    def __init__(
        self,
        *,
        feat_dim: int,
        embedding_dim: int,
        num_classes: int,
        scale: float,
        norm: str,
        parts: Sequence[int],
        pool: str,
        windows: str,
        collaborative_attention: bool,
        embedding: str,
        cluster: str,
        with_bnneck: bool,
        neck_feat: str,
        test_feat: str,
    ) -> None:
        super().__init__()
        for key, value, known in (
            ("MODEL.CAN.WINDOWS", windows, tuple(_WINDOWS)),
            ("MODEL.CAN.EMBEDDING", embedding, ("normalized", "conv")),
            ("MODEL.CAN.CLUSTER", cluster, ("global_local", "global")),
            ("MODEL.HEADS.NECK_FEAT", neck_feat, ("before", "after")),
            ("MODEL.HEADS.TEST_FEAT", test_feat, ("before", "after")),
        ):
            if value not in known:
                raise ValueError(f"{key} is '{value}'; it is one of {', '.join(known)}")
        _check_parts(parts)
        if embedding_dim <= 0:
            raise ValueError("CAN embeds its features: MODEL.HEADS.EMBEDDING_DIM must be positive (256)")
        self.parts, self.scale, self.collaborative_attention = tuple(parts), scale, collaborative_attention
        self.bounds, self.cluster = _WINDOWS[windows], cluster
        self.neck_feat, self.test_feat = neck_feat, test_feat

        concat = pool == "concat"
        #: Global pooling of a map, which CGE pools its stripes with, and the width of what it gives.
        self.pool_layer = ConcatPool() if concat else build_pooling(pool)
        self.pooled_dim = 2 * feat_dim if concat else feat_dim
        #: Local features of each branch.
        self.local_counts = [0 if n == 1 else n - 1 if collaborative_attention else n for n in parts]
        self.feature_names = []
        for n, count in zip(parts, self.local_counts):
            self.feature_names += [f"part{n}_global", *(f"part{n}_local{i + 1}" for i in range(count))]
        number = len(self.feature_names)

        self.embedding = Embedding(self.pooled_dim, embedding_dim, norm if embedding == "normalized" else "")
        self.neck = get_norm(norm, number * embedding_dim, bias_freeze=True) if with_bnneck else nn.Identity()
        self.neck.apply(weights_init_kaiming)
        self.classifiers = ParallelLinear(number, embedding_dim, num_classes, bias=False)

        #: Branches whose logits classify the whole image.
        self.global_branches = tuple(f"id/part{n}_global" for n in parts)
        self.feature_dims = {f"global/part{n}": embedding_dim for n in parts}
        if cluster == "global_local":
            self.feature_dims.update(
                {f"local/part{n}": count * embedding_dim for n, count in zip(parts, self.local_counts) if count}
            )
        self.weights = {
            **{f"id/{name}": 1 / number for name in self.feature_names},
            **{name: 1 / len(self.feature_dims) for name in self.feature_dims},
        }

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        heads, can = cfg.MODEL.HEADS, cfg.MODEL.CAN
        return {
            "feat_dim": cfg.MODEL.BACKBONE.FEAT_DIM,
            "embedding_dim": heads.EMBEDDING_DIM,
            "num_classes": heads.NUM_CLASSES,
            "scale": heads.SCALE,
            "norm": heads.NORM,
            "parts": can.PARTS,
            "pool": can.POOL,
            "windows": can.WINDOWS,
            "collaborative_attention": can.COLLABORATIVE_ATTENTION,
            "embedding": can.EMBEDDING,
            "cluster": can.CLUSTER,
            "with_bnneck": heads.WITH_BNNECK,
            "neck_feat": heads.NECK_FEAT,
            "test_feat": heads.TEST_FEAT,
        }

    def forward(self, maps: dict[str, torch.Tensor], targets: torch.Tensor | None = None) -> Any:
        """{branch: (N, C, H, W)} -> `BranchOutputs`, or (N, D sum of features) in evaluation."""
        before = self.embedding(torch.cat([self.pool_branch(n, x) for n, x in zip(self.parts, maps.values())], dim=1))
        after = self.neck(before.flatten(1)[..., None, None]).view_as(before)
        if not self.training:
            return (before if self.test_feat == "before" else after).flatten(1)
        weight = F.normalize(self.classifiers.weight, dim=2)
        logits = self.scale * torch.einsum("ngd,gkd->gnk", F.normalize(after, dim=2), weight)
        names = [f"id/{name}" for name in self.feature_names]
        metric = self.group(before if self.neck_feat == "before" else after)
        return BranchOutputs(dict(zip(names, logits)), metric, self.weights)

    def pool_branch(self, parts: int, feature_map: torch.Tensor) -> torch.Tensor:
        """Global and local features of a branch before the embedding, (N, 1 + local ones, `pooled_dim`)."""
        pooled = [self.pool_layer(feature_map).flatten(1)[:, None]]
        if parts > 1:
            blocks = pool_rows(feature_map, self.bounds(feature_map.shape[2], parts), self.pool_layer)
            pooled.append(collaborate(blocks) if self.collaborative_attention else blocks)
        return torch.cat(pooled, dim=1)

    def group(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """What metric losses see of all features (N, G, D): {`global/part<n>`, `local/part<n>`: (N, width)}."""
        groups, first = {}, 0
        for n, count in zip(self.parts, self.local_counts):
            groups[f"global/part{n}"] = features[:, first]
            if count and self.cluster == "global_local":
                groups[f"local/part{n}"] = features[:, first + 1 : first + 1 + count].flatten(1)
            first += 1 + count
        return groups


def _check_parts(parts: Sequence[int]) -> None:
    if not parts or any(n < 1 for n in parts) or len(set(parts)) < len(parts):
        raise ValueError(f"MODEL.CAN.PARTS is {list(parts)}; it lists the parts of each branch, each number once")


@META_ARCH_REGISTRY.register()
class CAN(PartsBaseline):
    """The Collaborative Attention Network: a ResNet whose last stage every branch has for itself, and `CANHead`."""

    training_only = ("heads.classifiers",)

    @classmethod
    def build_backbone(cls, cfg: CfgNode) -> nn.Module:
        _check_parts(cfg.MODEL.CAN.PARTS)
        branches = [f"part{n}" for n in cfg.MODEL.CAN.PARTS]
        return BranchedResNet(build_backbone(cfg), shared_up_to="layer3", branches=branches)

    def feature_map(self, images: torch.Tensor) -> torch.Tensor:
        return next(iter(self.compute_features(self.preprocess_image(images), None).values()))
