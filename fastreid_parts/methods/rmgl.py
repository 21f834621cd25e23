"""RMGL, the receptive multi-granularity representation: every branch twice, once on stripes that do not see each other.

Wang, Yuan, Li, Ge, Zhou: Receptive Multi-granularity Representation for Person Re-Identification, IEEE Transactions on
Image Processing 29, 2020.

Shapes: N images, K identities, C channels of the backbone (2048 for ResNet-50), n stripes of a branch (2, 3), c reduced
channels (256). Each path of a branch has a global feature and n local ones, each c wide.

| paper                    | code                                                                     |
|--------------------------|--------------------------------------------------------------------------|
| Fig. 2, Sec. IV.A        | `RMGLBackbone`: stages to res2 shared, the others a branch               |
| Sec. III.B, Fig. 3       | `partition`, `reassemble`; MODEL.RMGL.PATHS, PARTITION_AT, PARTITIONS    |
| Eq. (1)                  | `RMGLHead.feature_names`                                                 |
| Eq. (2)                  | the classifiers of `RMGLHead`, CrossEntropyLoss                          |
| Eq. (3)                  | `losses.triplet` on the features of a branch side by side                |
| Eq. (4)                  | the sum of all terms                                                     |
| Eq. (8) to (11)          | `layers.balanced_pooling`, MODEL.ABP                                     |

Departures and decisions:
- Activation balanced pooling replaces uniform stripes at test only, by maxima, on the original path; in training they
  are uniform. That is MODEL.ABP.MODE `test`, which the configs set and which is not its default; `always` is in
  training too, ABP.POOL `avg` is Eq. (11) as printed.
- The receptively partitioned path has a global feature as well, of its stripes put together again: 14 features for the
  branches 2 and 3. A branch of one stripe has the original path alone: there is nothing to cut.
- A branch's triplet loss sees the features of both of its paths side by side, not normalised; the minus before Eq. (3)
  is a misprint.
- Reductions are 1x1 convolutions with batch norm and no ReLU, with weights of their own for each feature, and so are
  the classifiers.
- The paths are two passes through the same layers. In training each pass has batch statistics of its own, and both move
  the same running ones. They are no single batch in evaluation either: a map and its stripes differ in height.
  MODEL.RMGL.CHECKPOINT and CHANNELS_LAST save memory and time, and change no result.

Other papers' parts on the paths' global features, each a key, off as far as RMGL goes (configs/*/parts_combined.yml):
- MODEL.RMGL.GLOBAL_POOL `gcp` is RRID's global contrastive pooling. The parts that it contrasts are the stripes of the
  branch on that path. Maxima and contrasts have reductions of their own, as all features here without ReLU; R_g has
  one. What a global feature is made of has no classifier. MODEL.RRID.CONTRAST is honoured.
- MODEL.RMGL.MASK is CMBN's Mask Generator, one for each global feature. W_ID is that feature's classifier, which stays
  the unmasked feature's (L_ID1); another one classifies the masked feature (L_ID2), which metric losses and evaluation
  see. Local features stay as they are: the mask is of a classifier that sees the whole image. MODEL.CMBN.DETACH_MASK
  is honoured. CMBN's Reversal Branch is left out: it would be a fifth pass through the stages behind res2, for a branch
  that evaluation drops, and Alg. 1 would run the other four twice a step.
- CGE's revise works on this head as on any (MODEL.HEADS.NAME CGEHead, MODEL.CGE.HEAD RMGLHead). It revises the logits
  of global features, masked ones included, by the stripes of the first branch's original path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fastreid.config import CfgNode, configurable
from fastreid.modeling.backbones import build_backbone
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from torch import nn

from ..layers import (
    CONTRASTS,
    BalancedStripes,
    BranchedResNet,
    MaskedHead,
    ParallelBlock,
    ParallelLinear,
    build_pooling,
    channel_mask,
    contrast,
    contrastive_feature,
    run_checkpointed,
)
from ..parts_baseline import BranchOutputs, PartsBaseline

__all__ = ["RMGL", "RMGLBackbone", "RMGLHead", "partition", "reassemble"]

_PATHS = ("original", "receptive")
#: The stage whose output is cut, by the name that the paper gives it.
_POSITIONS = {"stem": "stem", "res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}


# ---- receptive partition --------------------------------------------------------------------------------------------


def partition(feature_map: torch.Tensor, stripes: int) -> torch.Tensor:
    """Horizontal stripes as images of their own (Sec. III.B).

    Args:
        feature_map: (N, C, H, W).
        stripes: n; it divides H.

    Returns:
        (n N, C, H / n, W): the top stripes of all images, then the ones below.

    Raises:
        ValueError: n does not divide H.
    """
    height = feature_map.shape[2]
    if height % stripes:
        raise ValueError(
            f"receptive partition into {stripes} stripes needs a map of a height that {stripes} divides, and it has "
            f"{height} rows: change MODEL.RMGL.BRANCHES, PARTITIONS, PARTITION_AT or INPUT.SIZE_TRAIN and SIZE_TEST"
        )
    return torch.cat(feature_map.split(height // stripes, dim=2))


def reassemble(stripes: torch.Tensor, count: int) -> torch.Tensor:
    """The inverse of `partition`: (n N, C, h, W) -> (N, C, n h, W)."""
    return torch.cat(stripes.chunk(count), dim=2)


class RMGLBackbone(BranchedResNet):
    """Stages up to res2 shared, the others once a branch; in each branch an original and a partitioned path.

    Args:
        resnet: a fast-reid ResNet.
        branches: stripes n of each branch.
        paths: `original`, `receptive` or both.
        position: after which stage the receptive path is cut, `stem` or `res2` to `res5`.
        partitions: stripes that the receptive path is cut into; 0: the n of the branch.
        checkpointed: whether stages keep their input alone for the backward pass.
        channels_last: whether maps and weights lie channel by channel in memory (False) or pixel by pixel.

    Raises:
        ValueError: a setting is not one of its choices.
    """

    def __init__(
        self,
        resnet: nn.Module,
        branches: Sequence[int],
        paths: Sequence[str],
        position: str,
        partitions: int = 0,
        checkpointed: bool = False,
        channels_last: bool = False,
    ) -> None:
        check_settings(branches, paths)
        if position not in _POSITIONS:
            raise ValueError(f"MODEL.RMGL.PARTITION_AT is '{position}'; it is one of {', '.join(_POSITIONS)}")
        if partitions < 0:
            raise ValueError(f"MODEL.RMGL.PARTITIONS is {partitions}; it is positive, or 0 for those of the branch")
        super().__init__(resnet, shared_up_to="layer1", branches=[f"part{n}" for n in branches])
        self.granularities, self.paths, self.cut_after = tuple(branches), tuple(paths), _POSITIONS[position]
        self.partitions, self.checkpointed = partitions, checkpointed
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, 3, H, W) -> {`part<n>/<path>`: (N, C, h, w)}, original before receptive path."""
        maps: dict[str, torch.Tensor] = {}
        shared = images.contiguous(memory_format=self.memory_format)
        shared_cut = None  # the map to cut, where a shared stage gives it; no other map is held
        for stage_name, stage in self.shared.items():
            shared = self.run(stage, shared)
            if stage_name == self.cut_after:
                shared_cut = shared
        for n in self.granularities:
            name = f"part{n}"
            wanted = paths_of(n, self.paths)
            stages = {**dict(self.shared.items()), **dict(self.branches[name].items())}
            behind_cut = list(stages)[list(stages).index(self.cut_after) + 1 :]
            x, to_cut = shared, shared_cut
            for stage_name, stage in self.branches[name].items():
                # Without an original path the stages behind the cut are run on stripes alone
                if "original" in wanted or stage_name not in behind_cut:
                    x = self.run(stage, x)
                if stage_name == self.cut_after:
                    to_cut = x
            if "original" in wanted:
                maps[f"{name}/original"] = x
            if "receptive" in wanted:
                count = self.partitions or n
                x = partition(to_cut, count)
                for stage_name in behind_cut:
                    x = self.run(stages[stage_name], x)
                maps[f"{name}/receptive"] = reassemble(x, count)
        return maps

    def run(self, stage: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """A stage's output for its input."""
        return run_checkpointed(stage, x) if self.checkpointed else stage(x)


def paths_of(stripes: int, paths: Sequence[str]) -> list[str]:
    """The paths of a branch: one of a single stripe has the original path alone."""
    return [path for path in _PATHS if path in paths] if stripes > 1 else ["original"]


def check_settings(branches: Sequence[int], paths: Sequence[str]) -> None:
    """Raises: ValueError: no or impossible branches or paths."""
    if not branches or any(n < 1 for n in branches) or len(set(branches)) < len(branches):
        raise ValueError(f"MODEL.RMGL.BRANCHES is {list(branches)}; it lists stripes of branches, each number once")
    if not paths or any(path not in _PATHS for path in paths):
        raise ValueError(f"MODEL.RMGL.PATHS is {list(paths)}; it lists one or both of {', '.join(_PATHS)}")


# ---- head ---------------------------------------------------------------------------------------------------------


@REID_HEADS_REGISTRY.register()
class RMGLHead(MaskedHead):
    """Pooling of maps and stripes, a reduction and a classifier for each feature.

    Branches in training: logits `<path>/part<n>_global` and `<path>/part<n>_local<k>`, with a mask
    `masked/<path>_part<n>_global` as well; features `part<n>`, those of both paths of a branch side by side. In
    evaluation: (N, c sum of features), in the order of `feature_names`.

    Args:
        feat_dim: C.
        reduced_dim: c.
        num_classes: K.
        norm: the norm of the reductions.
        pool_type: a pooling layer of fast-reid's.
        branches: stripes n of each branch.
        paths: `original`, `receptive` or both.
        abp_mode, abp_pool: activation balanced stripes on the original path, see `BalancedStripes`.
        global_pool: what gives global features, the pooling `layer` or global contrastive pooling, `gcp`.
        contrast: its contrastive feature, see `layers.contrast`.
        mask: whether global features are masked.
        detach_mask: cut the mask from the classifier that it is made of.

    Raises:
        ValueError: a setting is not one of its choices.
    """

    @configurable
    def __init__(
        self,
        *,
        feat_dim: int,
        reduced_dim: int,
        num_classes: int,
        norm: str,
        pool_type: str,
        branches: Sequence[int],
        paths: Sequence[str],
        abp_mode: str = "off",
        abp_pool: str = "max",
        global_pool: str = "layer",
        contrast: str = "rest_mean",
        mask: bool = False,
        detach_mask: bool = False,
    ) -> None:
        super().__init__()
        check_settings(branches, paths)
        if reduced_dim <= 0:
            raise ValueError("RMGL reduces its features: MODEL.HEADS.EMBEDDING_DIM must be positive (256)")
        if global_pool not in ("layer", "gcp"):
            raise ValueError(f"MODEL.RMGL.GLOBAL_POOL is '{global_pool}'; it is layer or gcp")
        if contrast not in CONTRASTS:
            raise ValueError(f"MODEL.RRID.CONTRAST is '{contrast}'; it is one of {', '.join(CONTRASTS)}")
        self.gcp, self.contrast, self.detach_mask = global_pool == "gcp", contrast, detach_mask
        if self.gcp and 1 in branches:
            raise ValueError(
                f"MODEL.RMGL.BRANCHES is {list(branches)}: a single stripe has no rest to contrast with. Leave the 1 "
                "out, or set MODEL.RMGL.GLOBAL_POOL layer"
            )
        self.granularities, self.paths = tuple(branches), tuple(paths)
        self.pool_layer = build_pooling(pool_type)
        # Stripes of the receptive path are what they were cut to
        self.stripes = nn.ModuleDict(
            {"original": BalancedStripes(abp_mode, abp_pool), "receptive": BalancedStripes("off", abp_pool)}
        )

        self.feature_names: list[str] = []
        self.feature_dims: dict[str, int] = {}
        for n in branches:
            names = [
                f"{path}/part{n}_{which}"
                for path in paths_of(n, paths)
                for which in ["global", *(f"local{k + 1}" for k in range(n if n > 1 else 0))]
            ]
            self.feature_names += names
            self.feature_dims[f"part{n}"] = reduced_dim * len(names)
        #: Branches whose logits classify the whole image.
        self.global_branches = tuple(name for name in self.feature_names if name.endswith("_global"))
        number = len(self.feature_names)
        self.reduction = ParallelBlock(number, feat_dim, reduced_dim, norm, relu=False)
        self.classifiers = ParallelLinear(number, reduced_dim, num_classes)
        nn.init.normal_(self.classifiers.weight, std=0.001)

        self.global_rows = [self.feature_names.index(name) for name in self.global_branches]
        globals_ = len(self.global_rows)
        if self.gcp:
            self.contrast_reduction = ParallelBlock(globals_, feat_dim, reduced_dim, norm, relu=False)
            self.global_relation = ParallelBlock(globals_, 2 * reduced_dim, reduced_dim, norm)  # R_g
        self.masked_branches: tuple[str, ...] = ()
        if mask:
            self.masked_branches = tuple(f"masked/{name.replace('/', '_')}" for name in self.global_branches)
            self.global_branches += self.masked_branches
            initial = torch.ones(number, reduced_dim)
            initial[self.global_rows] = 0.5
            self.keep_mask(initial, is_current=not num_classes)
            self.masked_classifiers = ParallelLinear(globals_, reduced_dim, num_classes)
            nn.init.normal_(self.masked_classifiers.weight, std=0.001)
            if num_classes:  # without identities, as in evaluation, the mask is the one that is loaded
                self.generators = nn.ModuleList(nn.Linear(num_classes, 1) for _ in self.global_rows)  # W_G

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        heads, rmgl, abp = cfg.MODEL.HEADS, cfg.MODEL.RMGL, cfg.MODEL.ABP
        return {
            "feat_dim": cfg.MODEL.BACKBONE.FEAT_DIM,
            "reduced_dim": heads.EMBEDDING_DIM,
            "num_classes": heads.NUM_CLASSES,
            "norm": heads.NORM,
            "pool_type": heads.POOL_LAYER,
            "branches": rmgl.BRANCHES,
            "paths": rmgl.PATHS,
            "abp_mode": abp.MODE,
            "abp_pool": abp.POOL,
            "global_pool": rmgl.GLOBAL_POOL,
            "contrast": cfg.MODEL.RRID.CONTRAST,
            "mask": rmgl.MASK,
            "detach_mask": cfg.MODEL.CMBN.DETACH_MASK,
        }

    def forward(self, maps: dict[str, torch.Tensor], targets: torch.Tensor | None = None) -> Any:
        """{`part<n>/<path>`: (N, C, h, w)} -> `BranchOutputs`, or (N, c sum of features) in evaluation."""
        features = self.represent(maps)
        if not self.training:
            return (features * self.mask.to(features.dtype) if self.masked_branches else features).flatten(1)
        logits = dict(zip(self.feature_names, self.classifiers(features).unbind(dim=1)))
        if self.masked_branches:
            features = features * self.compute_mask()
            masked = self.masked_classifiers(features[:, self.global_rows])
            logits.update(zip(self.masked_branches, masked.unbind(dim=1)))
            self.mask_is_current = False  # the step that follows moves what it is made of
        width = features.shape[2]
        shares = features.split([dim // width for dim in self.feature_dims.values()], dim=1)
        return BranchOutputs(logits, {name: share.flatten(1) for name, share in zip(self.feature_dims, shares)})

    def represent(self, maps: dict[str, torch.Tensor]) -> torch.Tensor:
        """The reduced features, in the order of `feature_names` and before any mask: (N, number, c)."""
        pairs = [(n, path) for n in self.granularities for path in paths_of(n, self.paths)]
        pooled = [self.pool(maps[f"part{n}/{path}"], n, path) for n, path in pairs]
        features = self.reduction(torch.cat(pooled, dim=1))
        if not self.gcp:
            return features
        contrasts = [self.pool_contrast(maps[f"part{n}/{path}"], n, path) for n, path in pairs]
        reduced = self.contrast_reduction(torch.stack(contrasts, dim=1))
        related = contrastive_feature(self.global_relation, features[:, self.global_rows], reduced)
        by_feature = dict(enumerate(features.unbind(dim=1)))
        by_feature.update(zip(self.global_rows, related.unbind(dim=1)))
        return torch.stack(list(by_feature.values()), dim=1)

    def pool(self, feature_map: torch.Tensor, stripes: int, path: str) -> torch.Tensor:
        """A path's global feature and its local ones before the reduction, (N, 1 + n, C); one for a single stripe."""
        whole = feature_map.amax(dim=(2, 3)) if self.gcp else self.pool_layer(feature_map).flatten(1)
        if stripes == 1:
            return whole[:, None]
        local = self.stripes[path](feature_map, stripes, self.pool_layer)
        return torch.cat([whole[:, None], local], dim=1)

    def pool_contrast(self, feature_map: torch.Tensor, stripes: int, path: str) -> torch.Tensor:
        """The contrastive feature of a path's stripes before the reduction, (N, C)."""
        return contrast(self.stripes[path].maxima(feature_map, stripes), self.contrast)

    def compute_mask(self) -> torch.Tensor:
        """CMBN's Eq. (3) for each global feature, from the present weights; ones for local features: (number, c)."""
        weights = self.classifiers.weight.detach() if self.detach_mask else self.classifiers.weight
        masks = dict.fromkeys(range(len(weights)), torch.ones_like(self.mask[0]))
        for row, generator in zip(self.global_rows, self.generators):
            masks[row] = channel_mask(weights[row], generator.weight, generator.bias)
        return torch.stack(list(masks.values()))


# ---- meta-architecture --------------------------------------------------------------------------------------------


@META_ARCH_REGISTRY.register()
class RMGL(PartsBaseline):
    """The receptive multi-granularity representation: `RMGLBackbone` and `RMGLHead`."""

    training_only = ("heads.classifiers", "heads.masked_classifiers", "heads.generators")

    @classmethod
    def build_backbone(cls, cfg: CfgNode) -> nn.Module:
        rmgl = cfg.MODEL.RMGL
        return RMGLBackbone(
            build_backbone(cfg),
            rmgl.BRANCHES,
            rmgl.PATHS,
            rmgl.PARTITION_AT,
            rmgl.PARTITIONS,
            checkpointed=rmgl.CHECKPOINT,
            channels_last=rmgl.CHANNELS_LAST,
        )

    def feature_map(self, images: torch.Tensor) -> torch.Tensor:
        return next(iter(self.compute_features(self.preprocess_image(images), None).values()))
