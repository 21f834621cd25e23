"""RMGL, the receptive multi-granularity representation: every branch twice, once on stripes that do not see each other.

Wang, Yuan, Li, Ge, Zhou: Receptive Multi-granularity Representation for Person Re-Identification, IEEE Transactions on
Image Processing 29, 2020.

Shapes: N images, K identities, C channels of the backbone (2048 for ResNet-50), n stripes of a branch (2, 3), c reduced
channels (256). Each path of a branch has a global feature and n local ones, each c wide.

| paper            | code                            | key                           | test |
|------------------|---------------------------------|-------------------------------|------|
| Eq. (1)          | `RMGLHead.forward`              | RMGL.BRANCHES, PATHS          | `test_features_and_groups` |
| Eq. (2)          | `losses.cross_entropy`          | LOSSES.CE.SCALE               | `test_eq_2_to_4` |
| Eq. (3)          | `losses.batch_hard_triplet`     | LOSSES.TRI.FORM, MARGIN       | `test_eq_2_to_4` |
| Eq. (4)          | `PartsBaseline.losses`          | LOSSES.NAME                   | `test_eq_2_to_4` |
| Eq. (5)          | `backbones.ReceptiveField.through` |                               | `test_363_rows` |
| Eq. (6)          | `backbones.Partition.size`         | RMGL.PARTITIONS               | `test_equations_6_and_7` |
| Eq. (7)          | `backbones.Partition.restricts`    | RMGL.PARTITION_AT             | `test_equations_6_and_7` |
| Eq. (8), (9)     | `layers.maxima_per_row`         | ABP.MODE                      | `test_eq_8_9` |
| Eq. (10)         | `layers.balanced_bounds`        | ABP.MODE                      | `test_eq_10` |
| Eq. (11), Fig. 5 | `layers.pool_balanced`          | ABP.POOL                      | `test_eq_11` |
| Fig. 1, 3        | `partition`, `reassemble`       | RMGL.PATHS                    | `test_stripes_of_the_receptive` |
| Fig. 2           | `RMGLBackbone`, `RMGLHead`      | RMGL.BRANCHES                 | `test_both_paths_hold` |
| Fig. 4           | `analysis.activation_maps`      |                               | `test_branches` |
| Fig. 6, 7        | `data.RandomShifting`           | INPUT.RSA.CROP_PROB, CROP_MIN | `test_every_ratio_and_place` |
| Fig. 8           | `RMGLBackbone`                  | RMGL.PARTITIONS               | `test_keys_of_the_partition` |
| Fig. 9           | `RMGLBackbone`                  | RMGL.PARTITION_AT             | `test_the_partition_points` |
| Fig. 10          | `losses.batch_hard_triplet`     | LOSSES.TRI.MARGIN, FORM       | `test_soft_margin_as_a_loop` |
| Fig. 11          | `engine.parameter_groups`       | SOLVER.WEIGHT_DECAY           | `test_bias_settings` |

Departures and decisions:
- Activation balanced pooling replaces uniform stripes at test only, by maxima, on the original path; in training they
  are uniform. That is MODEL.ABP.MODE `test`, which the configs set and which is not its default; `always` is in
  training too, ABP.POOL `avg` is Eq. (11) as printed.
- The receptively partitioned path has a global feature as well, of its stripes put together again: 14 features for the
  branches 2 and 3. A branch of one stripe has the original path alone: there is nothing to cut.
- A branch's triplet loss sees the features of both of its paths, concatenated and not normalized; the minus before
  Eq. (3) is a misprint.
- Random shifting is applied with probability 0.5 and crops the height alone; `data.shifting` says why.
- Reductions are 1x1 convolutions with batch norm and no ReLU, with weights of their own for each feature, and so are
  the classifiers.
- On other backbones than ResNet, res2 to res5 are `layer1` to `layer4` of `backbones.stages`. A ViT's stripes are
  sequences of their own after the cut, each with a copy of the class token, and attention does not cross them; neither
  do Swin's windows. Layers that see a whole map, such as squeeze-and-excitation, see a stripe.
- The paths are two passes through the same layers. In training each pass has batch statistics of its own, and both move
  the same running ones; with STATISTICS `separate` each path keeps its own, and evaluation normalizes it by them. They
  are no single batch in evaluation either: a map and its stripes differ in height.
  SPEED.CHECKPOINT and CHANNELS_LAST save memory and time, and change no result.
- The stem pools with a border, MODEL.BACKBONE.STEM.PADDING 1, as the ResNet does that ImageNet's weights are of;
  fast-reid's does not.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from fastreid.config import CfgNode, configurable
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from torch import nn

from ..backbones import BranchedBackbone, State, build_parts_backbone, on_map, output_shape, spatial
from ..layers import (
    ABPSettings,
    BalancedStripes,
    GroupedBlock,
    GroupedLinear,
    build_pooling,
    stripe_bounds,
)
from ..mechanisms import Mechanism
from ..parts_baseline import PartsBaseline
from ..parts_head import BranchOutputs, HeadSettings, Neck, Necked, PartsHead, branch, part, whole
from ..settings import Settings, choice, key

_PATHS = ("original", "receptive")
#: The stage whose output is cut, by the name that the paper gives it.
_POSITIONS = {"stem": "stem", "res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}


class RMGLSettings(Settings, section="MODEL.RMGL", role="features"):
    """RMGL, the receptive multi-granularity representation."""

    branches: tuple = key((2, 3), "stripes of each branch", "Table V, M9", low=1)
    paths: tuple = key(
        _PATHS, "paths of each branch; one of them alone is the baseline or only RP", "RP of Table V", _PATHS
    )
    partition_at: str = key("res2", "after which stage stripes are cut", "Fig. 9", tuple(_POSITIONS))
    partitions: int = key(0, "stripes that the receptive path is cut into; 0: those of the branch", "Fig. 8", low=0)
    statistics: str = choice(
        ("shared", "separate"), "running statistics of batch norms after the cut: of both paths, or of each its own"
    )
    checkpoint: bool = key(False, "SPEED.CHECKPOINT, by its name before other methods had it", role="procedure")
    channels_last: bool = key(False, "SPEED.CHANNELS_LAST, by its name before other methods had it", role="procedure")

    def check(self) -> None:
        """See `Settings`.

        Raises:
            ValueError: no branch, or one twice.
        """
        if not self.branches or len(set(self.branches)) < len(self.branches):
            raise ValueError(
                f"MODEL.RMGL.BRANCHES is {list(self.branches)}; it lists stripes of branches, each number once"
            )

    def paths_of(self, stripes: int) -> list[str]:
        """List the paths of a branch: one of a single stripe has the original path alone."""
        return [path for path in _PATHS if path in self.paths] if stripes > 1 else ["original"]

    def feature_settings(self) -> dict[str, Any]:
        """See `Settings`; a receptive path that is not there is cut nowhere."""
        paths = {n: self.paths_of(n) for n in self.branches}
        settings: dict[str, Any] = {"MODEL.RMGL.BRANCHES": self.branches, "MODEL.RMGL.PATHS": list(paths.values())}
        cut = {n: self.partitions or n for n, those in paths.items() if "receptive" in those}
        if cut:
            settings.update({"MODEL.RMGL.PARTITION_AT": self.partition_at, "MODEL.RMGL.PARTITIONS": cut})
            settings["MODEL.RMGL.STATISTICS"] = self.statistics
        return settings


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
    return torch.cat(feature_map.split(_stripe_height(feature_map.shape[2], stripes), dim=2))


def _stripe_height(height: int, stripes: int) -> int:
    if height % stripes:
        raise ValueError(
            f"receptive partition into {stripes} stripes needs a map of a height that {stripes} divides, and it has "
            f"{height} rows: change MODEL.RMGL.BRANCHES, PARTITIONS, PARTITION_AT or INPUT.SIZE_TRAIN and SIZE_TEST"
        )
    return height // stripes


def reassemble(stripes: torch.Tensor, count: int) -> torch.Tensor:
    """Undo `partition`.

    Args:
        stripes: (n N, C, h, W).
        count: n.

    Returns:
        (N, C, n h, W).
    """
    cut = stripes.unflatten(0, (count, -1))
    return torch.cat([cut[k] for k in range(count)], dim=2)  # OpenVINO fails on `unbind` before `cat`


class RMGLBackbone(BranchedBackbone):
    """Stages up to res2 shared, the others once a branch; in each branch an original and a partitioned path.

    Args:
        backbone: of a family that has stages.
        settings: see `RMGLSettings`.
    """

    def __init__(self, backbone: nn.Module, settings: RMGLSettings) -> None:
        super().__init__(backbone, shared_up_to="layer1", branches=[branch(n) for n in settings.branches])
        self.rmgl, self.cut_after = settings, _POSITIONS[settings.partition_at]
        self.receptive = nn.ModuleDict()  # the stages after the cut once more: the same parameters, other statistics
        for n in settings.branches if settings.statistics == "separate" else ():
            if "receptive" in settings.paths_of(n):
                after = {name: _with_own_buffers(stage) for name, stage in self.after_cut(n).items()}
                self.receptive[branch(n)] = nn.ModuleDict(after)

    def after_cut(self, stripes: int) -> dict[str, nn.Module]:
        """Find the stages of a branch, by its number of stripes, that come after the cut, shared ones included."""
        stages = {**dict(self.shared.items()), **dict(self.branches[branch(stripes)].items())}
        return dict(list(stages.items())[list(stages).index(self.cut_after) + 1 :])

    def forward(self, images: State) -> dict[str, torch.Tensor]:
        """(N, 3, H, W) -> {`<path>/parts_of_<n>`: (N, C, h, w)}, original before receptive path."""
        maps: dict[str, torch.Tensor] = {}
        shared = images
        shared_cut: State | None = None  # the map to cut, where a shared stage gives it; no other map is held
        for stage_name, stage in self.shared.items():
            shared = stage(shared)
            if stage_name == self.cut_after:
                shared_cut = shared
                if not any("original" in self.rmgl.paths_of(n) for n in self.rmgl.branches):
                    break  # as below: further stages would move their running statistics for nothing
        for n in self.rmgl.branches:
            name, wanted = branch(n), self.rmgl.paths_of(n)
            after_cut = self.after_cut(n)
            x, to_cut = shared, shared_cut
            for stage_name, stage in self.branches[name].items():
                # Without an original path the stages after the cut are run on stripes alone
                if "original" in wanted or stage_name not in after_cut:
                    x = stage(x)
                if stage_name == self.cut_after:
                    to_cut = x
            if "original" in wanted:
                maps[f"original/{name}"] = spatial(x)
            if "receptive" in wanted:
                count = self.rmgl.partitions or n
                x = on_map(to_cut, functools.partial(partition, stripes=count), copies=count)
                stages = self.receptive[name] if name in self.receptive else after_cut  # noqa: SIM401  it has no `get`
                for stage in stages.values():
                    x = stage(x)
                maps[f"receptive/{name}"] = reassemble(spatial(x), count)
        return maps


class _FirstStripe(nn.Module):
    """The top stripe of a receptive path, (N, 3, H, W) -> (N, C, h, w), from which the size of all follows.

    Joining stripes without content would load torch's decompositions, which takes longer than building a model.
    """

    def __init__(self, backbone: RMGLBackbone, stripes: int) -> None:
        super().__init__()
        self.backbone, self.stripes = backbone, stripes

    def forward(self, images: State) -> torch.Tensor:
        x, count = images, self.backbone.rmgl.partitions or self.stripes
        stages = {**dict(self.backbone.shared.items()), **dict(self.backbone.branches[branch(self.stripes)].items())}
        for name, stage in stages.items():
            x = stage(x)
            if name == self.backbone.cut_after:
                x = on_map(x, lambda whole_map: whole_map[:, :, : _stripe_height(whole_map.shape[2], count)])
        return spatial(x)


def _with_own_buffers(stage: nn.Module) -> nn.Module:
    """A copy with the same parameters."""
    return copy.deepcopy(stage, {id(parameter): parameter for parameter in stage.parameters()})


# ---- the two paths, watched ---------------------------------------------------------------------------------------


def keep_path(head: RMGLHead, necked: Necked, features: torch.Tensor, path: str) -> Necked:
    """Set the features of the other path to zero.

    Args:
        head: whose features they are.
        necked: of (N, number, c) each.
        features: the same before BNNeck.
        path: the one that is kept.
    """
    kept = [name.startswith(f"{path}/") for name in head.feature_names]
    keep = torch.tensor(kept, device=features.device)[:, None]
    return Necked(*(x * keep for x in necked))


def paired_rows(names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Find what both paths give of the same stripes: rows of the original path, and those of the receptive one.

    Args:
        names: of all features.
    """
    originals = [name for name in names if name.startswith(_PATHS[0]) and name.replace(*_PATHS) in names]
    return [names.index(name) for name in originals], [names.index(name.replace(*_PATHS)) for name in originals]


def without_partition(head: RMGLHead, pooled: torch.Tensor, maps: dict[str, torch.Tensor]) -> torch.Tensor:
    """Give the receptive path what the same layers see of the map that is not cut, which is the original path.

    Args:
        head: whose features they are.
        pooled: (N, number, C).
        maps: of which they were pooled.
    """
    original, receptive = paired_rows(head.feature_names)
    return pooled.index_copy(1, torch.tensor(receptive, device=pooled.device), pooled[:, original])


def path_distance(pooled: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """Average 1 - cosine of what the two paths pool of the same stripes, a scalar.

    Args:
        pooled: (N, number, C), before the reductions, which have no channel in common.
        names: of the features.
    """
    original, receptive = (pooled[:, rows].float() for rows in paired_rows(names))
    return 1 - F.cosine_similarity(original, receptive, dim=2).mean()


def receptive_share(features: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """Compute the receptive path's share of the squared length that all features have together, a scalar.

    Args:
        features: (N, number, c).
        names: of the features.
    """
    energy = features.float().square().sum(dim=(0, 2))
    receptive = [number for number, name in enumerate(names) if name.startswith(_PATHS[1])]
    return energy[receptive].sum() / energy.sum().clamp(min=torch.finfo(torch.float32).tiny)


# ---- head ---------------------------------------------------------------------------------------------------------


@REID_HEADS_REGISTRY.register()
class RMGLHead(PartsHead):
    """Pooling of maps and stripes, a reduction and a classifier for each feature.

    Branches in training: logits `<path>/global_of_<n>` and `<path>/part_<k>_of_<n>`; features `all_of_<n>`, those of
    both paths of a branch concatenated. In evaluation: (N, c sum of features), in the order of `feature_dims`.

    Args:
        feat_dim: C.
        heads: see `honors`; EMBEDDING_DIM is c.
        settings: see `RMGLSettings`.
        abp: activation balanced stripes on the original path, see `BalancedStripes`.

    Raises:
        ValueError: MODEL.HEADS.EMBEDDING_DIM is not positive.
    """

    reads = {"settings": RMGLSettings, "abp": ABPSettings}
    honors = ("POOL_LAYER", "EMBEDDING_DIM", "NORM", "WITH_BNNECK", "NECK_FEAT", "TEST_FEAT", "NORM_INIT")
    training_only: ClassVar[Sequence[str]] = ("classifiers",)
    mechanisms = {
        "partition": Mechanism(
            "pool_paths",
            {"no partition": without_partition},
            lambda head, pooled, maps: {"distance": path_distance(pooled, head.feature_names)},
            present=lambda head: head.has_both_paths,
        ),
        "paths": Mechanism(
            "through_neck",
            {f"{path} path alone": functools.partial(keep_path, path=path) for path in _PATHS},
            lambda head, necked, features: {"receptive": receptive_share(necked.evaluated, head.feature_names)},
            present=lambda head: head.has_both_paths,
        ),
    }

    @configurable
    def __init__(self, *, feat_dim: int, heads: HeadSettings, settings: RMGLSettings, abp: ABPSettings) -> None:
        super().__init__()
        width, norm = heads.width("RMGL", usual=256), heads.norm
        self.settings, self.rmgl = (heads, settings, abp), settings
        self.pool_layer, self.pooled_dim = build_pooling(heads.pool_layer), feat_dim
        # Stripes of the receptive path are what they were cut to
        self.stripes = nn.ModuleDict(
            {"original": BalancedStripes(abp), "receptive": BalancedStripes(ABPSettings(mode="off", pool="max"))}
        )

        by_branch = {
            n: [
                f"{path}/{name}"
                for path in settings.paths_of(n)
                for name in [whole(n), *(part(k + 1, n) for k in range(n if n > 1 else 0))]
            ]
            for n in settings.branches
        }
        names = [name for those in by_branch.values() for name in those]
        self.feature_dims = dict.fromkeys(names, width)
        self.metric_dims = {f"all_of_{n}": width * len(those) for n, those in by_branch.items()}
        self.global_branches = tuple(name for name in names if "/global_" in name)
        self.reduction = GroupedBlock(len(names), feat_dim, width, norm, relu=False)
        self.neck = Neck(heads, width * len(names), len(names))
        self.classifiers = GroupedLinear(len(names), width, heads.num_classes, std=0.001)
        heads.init_norms(self)

    def forward(self, maps: dict[str, torch.Tensor], targets: torch.Tensor | None = None) -> Any:
        """Eq. (1): concatenate the features of all paths.

        Args:
            maps: {`<path>/parts_of_<n>`: (N, C, h, w)}.
            targets: identities (N,), in training.

        Returns:
            `BranchOutputs`, or (N, c sum of features) in evaluation.
        """
        features = self.through_neck(self.represent(maps))
        if not self.training:
            return features.evaluated.flatten(1)
        return self.outputs(features)

    def check_rows(self, rows: int) -> None:
        """See `PartsHead`, of the original path's map; a stripe has a row at least."""
        for n, path in self.pairs():
            if path == "original":
                stripe_bounds(rows, n)

    def through_neck(self, features: torch.Tensor) -> Necked:
        """Pass the features of all paths, (N, number, c), through BNNeck."""
        return self.neck(features)

    def outputs(self, features: Necked) -> BranchOutputs:
        """Give what training sees of the features."""
        logits = self.classifiers(features.classified).unbind(dim=1)
        return BranchOutputs(dict(zip(self.feature_dims, logits)), self.group(features.metric))

    def represent(self, maps: dict[str, torch.Tensor]) -> torch.Tensor:
        """Reduce the features of all maps, in the order of `feature_dims`: (N, number, c)."""
        return self.reduction(self.pool_paths(maps))

    def pool_paths(self, maps: dict[str, torch.Tensor]) -> torch.Tensor:
        """Pool the features of all maps, in the order of `feature_dims`: (N, number, C)."""
        return torch.cat([self.pool(maps[f"{path}/{branch(n)}"], n, path) for n, path in self.pairs()], dim=1)

    @property
    def has_both_paths(self) -> bool:
        """Whether a branch has an original and a receptive path."""
        return any(len(self.rmgl.paths_of(n)) > 1 for n in self.rmgl.branches)

    def pairs(self) -> list[tuple[int, str]]:
        """List the stripes of each branch with each of its paths."""
        return [(n, path) for n in self.rmgl.branches for path in self.rmgl.paths_of(n)]

    def pool(self, feature_map: torch.Tensor, stripes: int, path: str) -> torch.Tensor:
        """Pool a path's global feature and its local ones, before the reduction.

        Args:
            feature_map: of the path, (N, C, h, w).
            stripes: n of its branch.
            path: its name.

        Returns:
            (N, 1 + n, C), the global feature first and, for a single stripe, alone.
        """
        pooled = self.pool_whole(feature_map).flatten(1)[:, None]
        if stripes == 1:
            return pooled
        return torch.cat([pooled, self.stripes[path](feature_map, stripes, self.pool_layer)], dim=1)

    def pool_whole(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Pool what a path's global feature is reduced from, (N, C, 1, 1)."""
        return self.pool_layer(feature_map)

    def group(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Group what metric losses see of all features (N, number, c): {`all_of_<n>`: (N, width)}."""
        counts = [width // features.shape[2] for width in self.metric_dims.values()]
        return {name: x.flatten(1) for name, x in zip(self.metric_dims, features.split(counts, dim=1))}


# ---- meta-architecture --------------------------------------------------------------------------------------------


@META_ARCH_REGISTRY.register()
class RMGL(PartsBaseline):
    """The receptive multi-granularity representation: `RMGLBackbone` and `RMGLHead`."""

    reads = {"settings": RMGLSettings}

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """See `PartsBaseline`."""
        arguments, old = super().from_config(cfg), RMGLSettings.from_cfg(cfg)
        speed = arguments["speed"]
        speed = dataclasses.replace(
            speed,
            checkpoint=speed.checkpoint or old.checkpoint,
            channels_last=speed.channels_last or old.channels_last,
        )
        return {**arguments, "speed": speed}

    @classmethod
    def build_backbone(cls, cfg: CfgNode) -> nn.Module:
        """See `PartsBaseline`."""
        return RMGLBackbone(build_parts_backbone(cfg), RMGLSettings.from_cfg(cfg))

    @classmethod
    def check_size(cls, backbone: nn.Module, heads: nn.Module, size: Sequence[int]) -> None:
        """See `PartsBaseline`; the receptive path is cut inside the backbone."""
        super().check_size(backbone, heads, size)
        settings = backbone.rmgl
        for n in settings.branches:
            if "receptive" in settings.paths_of(n):
                rows = output_shape(_FirstStripe(backbone, n), size)[1] * (settings.partitions or n)
                stripe_bounds(rows, n)
