"""CMBN, the Contextual Mutual Boosting Network.

Wang, He, Gao, Shen: Robust Person Re-Identification through Contextual Mutual Boosting, 2020 (arXiv 2009.07491).

Shapes: N images, K identities, C channels of the backbone (2048 for ResNet-50), D dimensions of the compressed
feature (512); the last map of a 384x128 image is (N, C, 24, 8).

| paper           | code                       | key                        | test |
|-----------------|----------------------------|----------------------------|------|
| Eq. (1)         | `reverse_gradient`         | CMBN.GRL_LAMBDA            | `test_eq_1` |
| Eq. (2), Fig. 2 | `reversal_mask`            | CMBN.REVERSAL_BRANCH       | `test_eq_2` |
| Eq. (3)         | `layers.channel_mask`      | CMBN.MASK_GENERATOR        | `test_eq_3` |
| Fig. 1          | `CMBNBackbone`             | CMBN.REVERSAL_BRANCH       | `test_masks_multiply` |
| Alg. 1, line 2  | `CMBNHead.forward`         | CMBN.CHAOS_WEIGHT          | `test_objective_of` |
| Alg. 1, line 3  | `CMBN.compute_features`    | CMBN.CONTEXTUAL_DETACHMENT | `test_second_step` |
| Fig. 3, 4       | `analysis.activation_maps` |                            | `test_two_models_the` |

Departures and decisions:
- The representation is the compressed D-dimensional feature times the mask; the paper does not say which of its two
  layers it means. MODEL.CMBN.FEATURE "pooled" is the other reading: the C-dimensional pooled feature times the mask.
- W_ID classifies the unmasked feature (L_ID1), a classifier of its own the masked one (L_ID2). W_G is a linear layer
  with bias over the identity axis of W_ID: (D, K) -> (D,). Eq. (3) stays attached to W_ID; MODEL.CMBN.DETACH_MASK
  cuts it.
- The reversal block's convolution gives one channel. Its mask is resized bilinearly to the input of each reversal
  stage: twice as large for Conv4_Re, as it is for Conv5_Re. It is not detached, so that the reversal branch reaches
  the backbone branch through it.
- The minus sign of Eq. (1) is the gradient reversal itself: L_CS enters the objective with +beta, its classifier sees
  beta, the reversal convolutions and all below see -lambda beta.
- Alg. 1 is two optimizer steps on one mini-batch, the second on a fresh forward pass that does not touch the reversal
  branch. fast-reid's own trainer can do one step only: under it the model trains jointly (line 2) and says so.
- After training the mask is one fixed vector, the buffer `heads.mask`. MODEL.CMBN.INFERENCE_ONLY builds the model that
  is deployed: neither reversal branch nor generator nor classifiers, at the baseline's cost.
- On other backbones than ResNet, Conv1-3 are the stages `stem` to `layer2` of `backbones.stages`: up to stride 8, or
  half of a ViT's blocks. The reversal mask multiplies the map that enters either of the two stages after them, not a
  ViT's class token.
- MODEL.HEADS.WITH_BNNECK, POOL_LAYER, CLS_LAYER and NECK_FEAT are honored; the paper has none, global max, plain and
  no metric loss.
- The stem pools with a border, MODEL.BACKBONE.STEM.PADDING 1, as the ResNet does that ImageNet's weights are of;
  fast-reid's does not.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fastreid.config import CfgNode, configurable
from fastreid.layers import get_norm
from fastreid.layers.weight_init import weights_init_kaiming
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from torch import nn

from ..backbones import BranchedBackbone, State, build_parts_backbone, map_shape, on_map, spatial
from ..layers import Classifier, DetachMaskSettings, MaskedHead, build_pooling, channel_mask
from ..mechanisms import Mechanism
from ..parts_baseline import PartsBaseline
from ..parts_head import BranchOutputs, HeadSettings, Neck, PartsHead
from ..settings import Settings, choice, key

logger = logging.getLogger(__name__)


class CMBNSettings(Settings, section="MODEL.CMBN"):
    """CMBN, Contextual Mutual Boosting."""

    reversal_branch: bool = key(True, "train with the reversal branch", "RB of Table 4, Sec. 3.2")
    mask_generator: bool = key(True, "mask the feature's channels", "MG of Table 4, Sec. 3.3")
    contextual_detachment: bool = key(
        True, "take the second optimizer step; it needs the reversal branch", "CDS of Table 4, Alg. 1"
    )
    grl_lambda: float = key(0.2, "strength of the gradient reversal", "lambda of Eq. (1)")
    chaos_weight: float = key(0.4, "weight of the reversal branch's loss L_CS", "beta of Alg. 1")
    feature: str = choice(
        ("embedding", "pooled"), "the representation, compressed or as it is pooled", "Sec. 4.2", role="features"
    )
    inference_only: bool = key(False, "build what is deployed: no reversal branch, no generator, no classifiers")


# ---- equations ----------------------------------------------------------------------------------------------------


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, strength: float) -> torch.Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad.neg() * ctx.strength, None


def reverse_gradient(x: torch.Tensor, strength: float) -> torch.Tensor:
    """Eq. (1): E = -lambda sum_i L_y. The identity forwards; backwards the gradient times -lambda.

    Args:
        x: any shape.
        strength: lambda.
    """
    return _ReverseGradient.apply(x, strength)


def reversal_mask(response: torch.Tensor) -> torch.Tensor:
    """Eq. (2): h = 1 - sigmoid(Conv(f_m)).

    Args:
        response: Conv(f_m), (N, 1, H, W).

    Returns:
        The mask h, (N, 1, H, W), in (0, 1), high on the background.
    """
    return 1 - torch.sigmoid(response)


def reversal_figures(mask: torch.Tensor, features: torch.Tensor) -> dict[str, torch.Tensor]:
    """Say how much the reversal mask tells positions apart, and how far it avoids the response.

    Args:
        mask: h, (N, 1, H, W).
        features: f_m, (N, C, H, W).

    Returns:
        `std`, over the positions of an image; `overlap`, the mask averaged by the response |f_m| over its plain mean,
        which is 1 where the two have nothing to do with each other, and below it where the mask is on the background.
    """
    mask, response = mask.float().flatten(1), features.float().abs().sum(dim=1).flatten(1)  # (N, H W)
    weighted = (mask * response).sum(dim=1) / response.sum(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    return {"std": mask.std(dim=1, correction=0).mean(), "overlap": (weighted / mask.mean(dim=1)).mean()}


# ---- blocks -------------------------------------------------------------------------------------------------------


class ReversalBlock(nn.Module):
    """Fig. 2: 1x1 convolution over the channels, batch norm, sigmoid, one minus it. (N, C, H, W) -> (N, 1, H, W)."""

    mechanisms = {
        "reversal_mask": Mechanism(
            "forward",
            {"its mean": lambda _, mask, features: mask.mean(dim=(1, 2, 3), keepdim=True).expand_as(mask)},
            lambda _, mask, features: reversal_figures(mask, features),
        )
    }

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1, bias=False)
        self.norm = get_norm(norm, 1)
        self.apply(weights_init_kaiming)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> the mask (N, 1, H, W)."""
        return reversal_mask(self.norm(self.conv(features)))


class CMBNBackbone(BranchedBackbone):
    """Conv1-3 shared, Conv4-5 as the Backbone Branch and, in training, Conv4_Re-5_Re as the Reversal Branch.

    Args:
        backbone: of a family that has stages.
        channels: C, of its last map.
        norm: MODEL.BACKBONE.NORM.
        reversal_branch: whether there is a Reversal Branch.
    """

    def __init__(self, backbone: nn.Module, channels: int, norm: str, reversal_branch: bool) -> None:
        branches = ("backbone", "reversal") if reversal_branch else ("backbone",)
        super().__init__(backbone, shared_up_to="layer2", branches=branches)
        self.reversal_block = ReversalBlock(channels, norm) if reversal_branch else None

    def forward(self, images: torch.Tensor, with_reversal: bool = False) -> dict[str, torch.Tensor]:
        """(N, 3, H, W) -> {"backbone": (N, C, h, w)} and, if asked for, "reversal" of the same shape."""
        shared = self.forward_shared(images)
        maps = {"backbone": self.forward_branch("backbone", shared)}
        if with_reversal:
            if self.reversal_block is None:
                raise ValueError("this model was built with MODEL.CMBN.REVERSAL_BRANCH False")
            mask = self.reversal_block(maps["backbone"])
            x: State = shared
            for stage in self.branches["reversal"].values():
                x = stage(on_map(x, lambda inner: inner * _resize(mask, inner.shape[-2:])))
            maps["reversal"] = spatial(x)
        return maps


def _resize(mask: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    if mask.shape[-2:] == tuple(size):
        return mask
    return F.interpolate(mask, size=tuple(size), mode="bilinear", align_corners=False)


class _Compression(nn.Sequential):
    """The first of the two FC layers, "for feature compression" (Sec. 4.2): (N, C) -> (N, D)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(nn.Linear(in_features, out_features))
        self.apply(weights_init_kaiming)


# ---- head ---------------------------------------------------------------------------------------------------------


@REID_HEADS_REGISTRY.register()
class CMBNHead(MaskedHead, PartsHead):
    """Pooling, compression, the Mask Generator and the classifiers of L_ID1, L_ID2 and L_CS.

    Branches of logits in training: `global` (L_ID1 on the unmasked feature; the only one without a generator),
    `masked/global` (L_ID2) and `reversal/global` (L_CS, with weight beta). In evaluation: (N, D), the feature times the
    static mask.

    Args:
        feat_dim: C.
        heads: see `honors`.
        settings: see `CMBNSettings`.
        detach: whether Eq. (3) is cut from W_ID.

    Raises:
        ValueError: MODEL.HEADS.EMBEDDING_DIM is not positive.
    """

    reads = {"settings": CMBNSettings, "detach": DetachMaskSettings}
    honors = (
        "POOL_LAYER", "EMBEDDING_DIM", "CLS_LAYER", "SCALE", "MARGIN", "WITH_BNNECK", "NORM", "NECK_FEAT", "TEST_FEAT",
    )  # fmt: skip
    training_only = ("classifiers", "generator", "chaos_compression")

    @configurable
    def __init__(
        self, *, feat_dim: int, heads: HeadSettings, settings: CMBNSettings, detach: DetachMaskSettings
    ) -> None:
        super().__init__()
        embedding_dim = heads.width("CMBN", usual=512)
        self.settings = (heads, settings)
        self.cmbn, self.detach_mask = settings, detach.detach_mask
        self.pool_layer, self.pooled_dim = build_pooling(heads.pool_layer), feat_dim
        # With the pooled representation the compression is a layer of the classifier, not of the feature.
        if settings.feature == "embedding" or not settings.inference_only:
            self.compression = _Compression(feat_dim, embedding_dim)
        width = embedding_dim if settings.feature == "embedding" else feat_dim
        name = "masked/global" if settings.mask_generator else "global"
        self.feature_dims = self.metric_dims = {name: width}
        self.neck = Neck(heads, width)
        if settings.mask_generator:
            self.keep_mask(torch.full((width,), 0.5), is_current=settings.inference_only or not heads.num_classes)
        self.global_branches = ("global", "masked/global") if settings.mask_generator else ("global",)

        self.classifiers = nn.ModuleDict()
        if settings.inference_only:
            return

        def classifier(in_features: int) -> Classifier:
            return Classifier(in_features, heads.num_classes, heads.cls_layer, heads.scale, heads.margin)

        self.classifiers["identity"] = classifier(width if settings.mask_generator else embedding_dim)
        if settings.mask_generator:
            self.classifiers["masked"] = classifier(embedding_dim)
            if heads.num_classes:  # without identities, as in evaluation, the mask is the one that is loaded
                self.generator = nn.Linear(heads.num_classes, 1)  # W_G
        if settings.reversal_branch:
            self.chaos_compression = _Compression(feat_dim, embedding_dim)
            self.classifiers["chaos"] = classifier(embedding_dim)

    def forward(self, maps: dict[str, torch.Tensor], targets: torch.Tensor | None = None) -> Any:
        """{"backbone": (N, C, h, w), "reversal": the same, optional} -> `BranchOutputs`, or (N, D) in evaluation."""
        pooled = self._pool(maps["backbone"])
        feature = self.neck(self.compression(pooled) if self.cmbn.feature == "embedding" else pooled)
        if not self.training:
            evaluated = feature.evaluated
            return (
                self.mask_feature(evaluated, self.mask.to(evaluated.dtype)) if self.cmbn.mask_generator else evaluated
            )

        if not self.classifiers:
            raise ValueError("a model built with MODEL.CMBN.INFERENCE_ONLY True has no classifiers to train")
        mask = self.compute_mask() if self.cmbn.mask_generator else None
        self.mask_is_current = mask is None  # the step that follows moves W_ID and W_G
        # W_ID is a classifier of the representation itself: its columns are the channels that Eq. (3) weighs.
        identity_input = feature.classified if mask is not None else self._compress_pooled(feature.classified)
        logits = {"global": self.classifiers["identity"](identity_input, targets)}
        scores = self.classifiers["identity"].scores(identity_input, logits["global"])
        if mask is not None:
            masked = self._compress_pooled(self.mask_feature(feature.classified, mask))
            logits["masked/global"] = self.classifiers["masked"](masked, targets)
        if "reversal" in maps:
            background = self._pool(reverse_gradient(maps["reversal"], self.cmbn.grl_lambda))
            logits["reversal/global"] = self.classifiers["chaos"](self.chaos_compression(background), targets)
        metric = feature.metric if mask is None else self.mask_feature(feature.metric, mask)
        features, weights = dict.fromkeys(self.metric_dims, metric), {"reversal/global": self.cmbn.chaos_weight}
        return BranchOutputs(logits, features, weights, scores=scores)

    def compute_mask(self) -> torch.Tensor:
        """Compute the channel mask of Eq. (3) from the present W_ID and W_G, (D,)."""
        identity_weight = self.classifiers["identity"].weight
        if self.detach_mask:
            identity_weight = identity_weight.detach()
        return channel_mask(identity_weight, self.generator.weight, self.generator.bias)

    def _pool(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool_layer(x)[..., 0, 0]  # (N, C, h, w) -> (N, C)

    def _compress_pooled(self, feature: torch.Tensor) -> torch.Tensor:
        """What a classifier of two FC layers sees: the pooled representation is still to be compressed."""
        return self.compression(feature) if self.cmbn.feature == "pooled" else feature


# ---- meta-architecture --------------------------------------------------------------------------------------------


@META_ARCH_REGISTRY.register()
class CMBN(PartsBaseline):
    """The Contextual Mutual Boosting Network.

    Args:
        contextual_detachment: whether Alg. 1 is used; it needs a reversal branch to detach.
        **kwargs: see `PartsBaseline`.
    """

    reads = {"settings": CMBNSettings}
    training_only = ("backbone.branches.reversal", "backbone.reversal_block")

    @configurable
    def __init__(self, *, contextual_detachment: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.has_reversal = "reversal" in self.backbone.branches
        if contextual_detachment and self.has_reversal:
            self.update_steps = ("joint", "detached")
        self._warned_about_steps = False

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """See `PartsBaseline`."""
        detachment = CMBNSettings.from_cfg(cfg).contextual_detachment
        return {**super().from_config(cfg), "contextual_detachment": detachment}

    @classmethod
    def build_backbone(cls, cfg: CfgNode) -> nn.Module:
        """See `PartsBaseline`."""
        settings = CMBNSettings.from_cfg(cfg)
        reversal = settings.reversal_branch and not settings.inference_only
        backbone = build_parts_backbone(cfg)
        channels = map_shape(backbone, cfg.INPUT.SIZE_TRAIN)[0]
        return CMBNBackbone(backbone, channels, cfg.MODEL.BACKBONE.NORM, reversal)

    def compute_features(self, images: torch.Tensor, step: str | None) -> dict[str, torch.Tensor]:
        """Alg. 1: run the reversal branch in the joint step (line 2), and leave it out in the detached one (line 3).

        Args:
            images: normalized, (N, 3, H, W).
            step: see `PartsBaseline.forward`.
        """
        # Passes without gradients take no step: they re-estimate batch-norm statistics
        trains = self.training and torch.is_grad_enabled()
        if trains and step is None and len(self.update_steps) > 1 and not self._warned_about_steps:
            self._warned_about_steps = True
            logger.warning(
                "CMBN trains jointly (Alg. 1, line 2 only): this trainer takes one optimizer step an iteration. "
                "The contextual-detachment strategy needs fastreid_parts.engine.PartsTrainer."
            )
        with_reversal = self.training and self.has_reversal and step != "detached"
        return self.backbone(images, with_reversal=with_reversal)
