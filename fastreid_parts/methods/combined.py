"""A model that none of the papers has: RMGL's branches and paths with parts of three others on their global features.

Shapes: N images, K identities, C channels of the backbone, n stripes of a branch, c reduced channels.

| paper         | code                        | key              | test |
|---------------|-----------------------------|------------------|------|
| RRID, Eq. (2) | `CombinedHead.represent`    | RMGL.GLOBAL_POOL | `test_contrastive_global` |
| CMBN, Eq. (3) | `CombinedHead.compute_mask` | RMGL.MASK        | `test_the_masked_features` |
| CGE, Eq. (3)  | `methods.revise_logits`      | CGE.HEAD         | `test_cge_revises` |

Departures and decisions:
- MODEL.RMGL.GLOBAL_POOL `gcp` is RRID's global contrastive pooling. The parts that it contrasts are the stripes of the
  branch on that path. Maxima and contrasts have reductions of their own, as all features here without ReLU; R_g has
  one. What a global feature is made of has no classifier. MODEL.RRID.CONTRAST is honored.
- MODEL.RMGL.MASK is CMBN's Mask Generator, one for each global feature. W_ID is that feature's classifier, which stays
  the unmasked feature's (L_ID1); another one classifies the masked feature (L_ID2), which metric losses and evaluation
  see. Local features stay as they are: the mask is of a classifier that sees the whole image. MODEL.CMBN.DETACH_MASK
  is honored. CMBN's Reversal Branch is left out: it would be a fifth pass through the stages after res2, for a branch
  that evaluation drops, and Alg. 1 would run the other four twice a step.
- CGE's revise works on this head as on any (MODEL.HEADS.NAME CGEHead, MODEL.CGE.HEAD CombinedHead). It revises the
  logits of global features, masked ones included, by the stripes of the first branch's original path.
- With both keys off it is RMGL.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from fastreid.config import configurable
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from torch import nn

from ..layers import (
    ContrastSettings,
    DetachMaskSettings,
    GroupedBlock,
    GroupedLinear,
    MaskedHead,
    channel_mask,
    contrast,
    contrastive_feature,
)
from ..mechanisms import Mechanism
from ..parts_head import HeadSettings, branch
from ..settings import Settings, choice, key
from .rmgl import RMGLHead, RMGLSettings


class CombinedSettings(Settings, section="MODEL.RMGL", role="features"):
    """Other papers' parts on RMGL's global features (CombinedHead)."""

    global_pool: str = choice(
        ("layer", "gcp"), "global features: pooled, or contrastive (MODEL.RRID.CONTRAST)", "RRID, Eq. (2)"
    )
    mask: bool = key(False, "mask global features, with MODEL.CMBN.DETACH_MASK", "CMBN, Eq. (3)", role="features")


@REID_HEADS_REGISTRY.register()
class CombinedHead(MaskedHead, RMGLHead):
    """`RMGLHead` with contrastive pooling and a mask of its global features, each behind its key.

    With a mask there are the logits `masked/<path>_global_of_<n>` as well, and metric losses and evaluation see masked
    features.

    Args:
        feat_dim: C.
        heads: see `RMGLHead`.
        settings: see `RMGLSettings`.
        combined: see `CombinedSettings`.
        pooling: of contrastive pooling.
        detach: whether the mask is cut from the classifier that it is made of.
        **kwargs: see `RMGLHead`.

    Raises:
        ValueError: as `RMGLHead`, or a single stripe is to be contrasted.
    """

    reads = {"combined": CombinedSettings, "pooling": ContrastSettings, "detach": DetachMaskSettings}
    training_only: ClassVar[Sequence[str]] = ("masked_classifiers", "generators")
    mechanisms = {
        "contrast": Mechanism(
            "relate_whole",
            {"no contrast": lambda head, result, highest, contrasts: highest},
            present=lambda head: head.gcp,
        )
    }

    @configurable
    def __init__(
        self,
        *,
        feat_dim: int,
        heads: HeadSettings,
        settings: RMGLSettings,
        combined: CombinedSettings,
        pooling: ContrastSettings,
        detach: DetachMaskSettings,
        **kwargs: Any,
    ) -> None:
        gcp = combined.global_pool == "gcp"
        if gcp and 1 in settings.branches:
            raise ValueError(
                f"MODEL.RMGL.BRANCHES is {list(settings.branches)}: a single stripe has no rest to contrast with. "
                "Leave the 1 out, or set MODEL.RMGL.GLOBAL_POOL layer"
            )
        super().__init__(feat_dim=feat_dim, heads=heads, settings=settings, **kwargs)
        self.gcp = gcp
        self.settings = (*self.settings, combined, *([pooling] if gcp else []))
        self.contrast, self.detach_mask = pooling.contrast, detach.detach_mask
        width, names = heads.embedding_dim, self.feature_names
        self.global_rows = [names.index(name) for name in self.global_branches]
        if gcp:
            self.contrast_reduction = GroupedBlock(len(self.global_rows), feat_dim, width, heads.norm, relu=False)
            self.global_relation = GroupedBlock(len(self.global_rows), 2 * width, width, heads.norm)  # R_g
            heads.init_norms(self)
        self.masked_branches: tuple[str, ...] = ()
        if combined.mask:
            self.masked_branches = tuple(f"masked/{name.replace('/', '_')}" for name in self.global_branches)
            self.global_branches = (*self.global_branches, *self.masked_branches)
            initial = torch.ones(len(names), width)
            initial[self.global_rows] = 0.5
            self.keep_mask(initial, is_current=not heads.num_classes)
            self.masked_classifiers = GroupedLinear(len(self.global_rows), width, heads.num_classes, std=0.001)
            if heads.num_classes:  # without identities, as in evaluation, the mask is the one that is loaded
                self.generators = nn.ModuleList(nn.Linear(heads.num_classes, 1) for _ in self.global_rows)  # W_G

    def forward(self, maps: dict[str, torch.Tensor], targets: torch.Tensor | None = None) -> Any:
        """{`<path>/parts_of_<n>`: (N, C, h, w)} -> `BranchOutputs`, or (N, c sum of features) in evaluation."""
        features = self.through_neck(self.represent(maps))
        if not self.training:
            evaluated = features.evaluated
            masked = self.mask_feature(evaluated, self.mask.to(evaluated.dtype)) if self.masked_branches else evaluated
            return masked.flatten(1)
        outputs = self.outputs(features)
        if not self.masked_branches:
            return outputs
        mask = self.compute_mask()
        self.mask_is_current = False  # the step that follows moves what it is made of
        masked = self.masked_classifiers(self.mask_feature(features.classified, mask)[:, self.global_rows])
        logits = {**outputs.logits, **dict(zip(self.masked_branches, masked.unbind(dim=1)))}
        return dataclasses.replace(
            outputs, logits=logits, features=self.group(self.mask_feature(features.metric, mask))
        )

    def represent(self, maps: dict[str, torch.Tensor]) -> torch.Tensor:
        """Eq. (2) of RRID for global features, RMGL's reductions for the others, before any mask: (N, number, c)."""
        features = super().represent(maps)
        if not self.gcp:
            return features
        contrasts = [
            contrast(self.stripes[path].maxima(maps[f"{path}/{branch(n)}"], n), self.contrast)
            for n, path in self.pairs()
        ]
        reduced = self.contrast_reduction(torch.stack(contrasts, dim=1))
        related = self.relate_whole(features[:, self.global_rows], reduced)
        by_feature = dict(enumerate(features.unbind(dim=1)))
        by_feature.update(zip(self.global_rows, related.unbind(dim=1)))
        return torch.stack(list(by_feature.values()), dim=1)

    def relate_whole(self, highest: torch.Tensor, contrasts: torch.Tensor) -> torch.Tensor:
        """Eq. (2) of RRID for all global features, see `contrastive_feature`.

        Args:
            highest: (N, G, c).
            contrasts: (N, G, c).
        """
        return contrastive_feature(self.global_relation, highest, contrasts)

    def pool_whole(self, feature_map: torch.Tensor) -> torch.Tensor:
        """See `RMGLHead`; contrastive pooling starts from the maximum."""
        return feature_map.amax(dim=(2, 3), keepdim=True) if self.gcp else super().pool_whole(feature_map)

    def compute_mask(self) -> torch.Tensor:
        """Eq. (3) of CMBN for each global feature, from the present weights; ones for local features: (number, c)."""
        weights = self.classifiers.weight.detach() if self.detach_mask else self.classifiers.weight
        masks = dict.fromkeys(range(len(weights)), torch.ones_like(self.mask[0]))
        for row, generator in zip(self.global_rows, self.generators):
            masks[row] = channel_mask(weights[row], generator.weight, generator.bias)
        return torch.stack(list(masks.values()))
