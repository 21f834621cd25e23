"""CGE, the Comprehensive Global Embedding: local classifiers without parameters revise the global logits.

Xi, Huang, Zheng, Zhou, Schiele, Hua, Sun: Learning Comprehensive Global Features in Person Re-Identification: Ensuring
Discriminativeness of More Local Regions, Pattern Recognition 134, 2023.

Shapes: N images, K identities, C channels of the feature map, n stripes (3).

| paper          | code                                  | key                     | test |
|----------------|---------------------------------------|-------------------------|------|
| Eq. (1)        | `update_memory`                       | CGE.ALPHA               | `test_eq_1_with` |
| Eq. (2)        | `local_weights`                       | CGE.DETACH_LOCAL        | `test_eq_2` |
| Eq. (3)        | `revise_logits`                       | CGE.REVISE, BRANCHES    | `test_eq_3` |
| Eq. (4), (5)   | `losses.cross_entropy`                | LOSSES.CE.EPSILON       | `test_as_a_loop` |
| Eq. (6)        | `losses.batch_hard_triplet`           | LOSSES.TRI.FORM, MARGIN | `test_eq_6` |
| Eq. (7), (8)   | `losses.weighted_regularized_triplet` | LOSSES.NAME             | `test_eq_7_and_8` |
| Eq. (9), (10)  | `PartsBaseline.losses`                | LOSSES.CE.SCALE         | `test_each_loss_over_each` |
| Eq. (11), (12) | `memory_momentum`                         | CGE.ALPHA               | `test_eq_11_and_12` |
| Fig. 1, 7      | `analysis.activation_maps`            |                         | `test_several_models_with` |
| Fig. 2         | `LogitsRevise`                        | CGE.HEAD, NUM_STRIPES   | `test_under_the_stock` |
| Fig. 3         | `revise_logits`                       |                         | `test_an_easy` |
| Fig. 4         | `analysis.hardness`                   |                         | `test_a_table_of` |
| Fig. 5         | `analysis.loss_distribution`          |                         | `test_table_figure` |
| Fig. 6         | `visualization.draw_training_curves`  | CGE.NUM_STRIPES         | `test_draws` |
| Table 6        | `ClassMapHead`                        | CGE.HEAD                | `test_table_6_class_maps` |

CGE is training only: MODEL.HEADS.NAME CGEHead builds the head that MODEL.CGE.HEAD names and hangs a module `revise` on
it, which multiplies the logits on their way to the loss. In evaluation nothing is left of it. All parameters keep the
names that they have without CGE, so a checkpoint that was trained with it is one of the plain head. It works under
fast-reid's own `Baseline`, under `PartsBaseline` and on top of other methods: MODEL.CGE.HEAD CMBNHead is CGE on CMBN.

Departures and decisions:
- An empty slot has cosine 0 with everything, so its weight is one half. While every slot is empty, as in the first
  iteration, all logits are halved alike.
- The forward pass reads the memory of the steps before, then writes; no gradient reaches the memory. It does reach the
  local features through the weights; MODEL.CGE.DETACH_LOCAL cuts it.
- An identity's instances are averaged as they are pooled, then normalized, then enter Eq. (1). Over several processes
  the instances of all of them are averaged, so that every rank holds the same memory.
- alpha counts epochs from 0 to E - 1: in the first epoch of Eq. (11) a slot is overwritten. Outside a trainer it is the
  first epoch. Eq. (12) prints (1 - t) / E, so that alpha falls: 0.9997, 0.299 and 0.008 in epochs 0, 60 and 119 of 120.
  "exponential" is the equation as printed, "ramp_up" has 1 - t / E in its place and rises.
- There is no temperature: the sigmoid of a cosine lies in [0.27, 0.73]. Negative logits are multiplied like positive
  ones, as Eq. (3) prints it, although a larger weight makes them smaller then.
- Table 6's feature-level revise multiplies class map k by w_k and averages it afterwards. The average is linear, so
  this equals revising the averaged class map, and CGE on `ClassMapHead` is that model.
- "m is set to 0" is read as the soft margin, log(1 + exp(D_p - D_n)): the paper builds on a fast-reid whose triplet
  loss is that where MARGIN is 0, as in its AGW and MGN (its BOT has 0.3), and the general form of Eq. (6) does not say
  which branch of a code ran. The hinge at m = 0 stops as soon as pairs are in order, and is 0 for features that are all
  alike. TRI.FORM `hinge` is Eq. (6) to the letter; the ledger has both.
- With CMBN's two optimizer steps a mini-batch is written in both.
- The feature at test is the one before BNNeck, as Table 8 has it: `heads.GlobalHead`, MODEL.HEADS.TEST_FEAT. That
  fast-reid gives the one after it, by cosine; docs/methods/cge.md says more. The ledger has both.
- The stem pools with a border, MODEL.BACKBONE.STEM.PADDING 1, as the ResNet does that ImageNet's and LUPerson's
  weights are of; fast-reid's does not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fastreid.config import CfgNode, configurable
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.heads.embedding_head import EmbeddingHead
from torch import nn

from ..host import current_storage, log_scalar, register_as, registered_names
from ..layers import build_pooling, full_precision, gather_rows, pool_stripes
from ..mechanisms import Mechanism
from ..parts_head import BranchOutputs, HeadSettings, PartsHead, first_map
from ..settings import Declares, Settings, choice, key


class CGESettings(Settings, section="MODEL.CGE"):
    """CGE, the Comprehensive Global Embedding: a head whose logits are revised in training (CGEHead)."""

    head: str = key("GlobalHead", "the head whose logits are revised")
    num_stripes: int = key(3, "local regions", "n, Sec. 3.1", low=1)
    revise: bool = key(True, "revise; False: memories without GLR", "Table 2")
    alpha: str = choice(
        ("linear", "exponential", "ramp_up", "constant"),
        "the memory's rate; ramp_up: (12) with 1 - t / E",
        "Eq. (11), (12)",
    )
    alpha_value: float = key(0.01, "the constant rate", "Table 4", low=0, high=1)
    detach_local: bool = key(False, "no gradient through the weights", "Eq. (2)")
    branches: tuple = key((), "branches of logits to revise; empty: those that the head declares as global")


# ---- equations ----------------------------------------------------------------------------------------------------


def update_memory(slots: torch.Tensor, features: torch.Tensor, alpha: float | torch.Tensor) -> torch.Tensor:
    """Eq. (1): M <- alpha M + (1 - alpha) f / |f|, normalized afterwards.

    Args:
        slots: what the memory holds of each identity, (..., C), of unit length or zero.
        features: mean local features of the same identities, (..., C).
        alpha: how much of the old slot stays, 0 to 1.

    Returns:
        The new slots, (..., C).
    """
    return F.normalize(alpha * slots + (1 - alpha) * F.normalize(features, dim=-1), dim=-1)


def local_cosines(local: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """Cosines between local features and the memory of their stripe (Sec. 3.2, "Read Operation").

    Args:
        local: (N, n, C).
        memory: (n, K, C), of unit length or zero.

    Returns:
        (N, n, K); 0 for an empty slot.
    """
    return torch.einsum("bnc,nkc->bnk", F.normalize(local, dim=-1), memory)


def local_weights(cosines: torch.Tensor) -> torch.Tensor:
    """Eq. (2) with the n-th root: the geometric mean over stripes of sigmoid(cosine).

    Args:
        cosines: (N, n, K).

    Returns:
        w, (N, K), between 0.27 and 0.73.
    """
    return F.logsigmoid(cosines).mean(dim=1).exp()


def revise_logits(logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Eq. (3): p <- p w.

    Args:
        logits: p, (N, K).
        weights: w of Eq. (2), (N, K).
    """
    return logits * weights


def revise_figures(logits: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """Say what revising does to the logits.

    Args:
        logits: p, (N, K).
        weights: w, (N, K).

    Returns:
        `spread`, the standard deviation of w over the classes; `reordered`, 1 - Spearman's correlation between p and
        p w: 0 where the classes stay in their order. Both are means over images.
    """
    plain, after = (x.float().argsort(dim=1).argsort(dim=1).float() for x in (logits, revise_logits(logits, weights)))
    classes = logits.shape[1]
    correlation = 1 - 6 * (plain - after).square().sum(dim=1) / max(classes * (classes**2 - 1), 1)
    return {"spread": weights.float().std(dim=1, correction=0).mean(), "reordered": 1 - correlation.mean()}


def memory_momentum(schedule: str, epoch: int, max_epoch: int, constant: float) -> float:
    """Eq. (11): alpha = t / E, or Eq. (12): alpha = exp(-5 ((1 - t) / E)^2), in an epoch.

    Args:
        schedule: `linear`, Eq. (11); `exponential`, Eq. (12) as printed; `ramp_up`, exp(-5 (1 - t / E)^2); `constant`.
        epoch: t, from 0.
        max_epoch: E.
        constant: the value of `constant`.
    """
    if schedule == "linear":
        return epoch / max_epoch
    if schedule == "exponential":
        return math.exp(-5 * ((1 - epoch) / max_epoch) ** 2)
    if schedule == "ramp_up":
        return math.exp(-5 * (1 - epoch / max_epoch) ** 2)
    return constant


# ---- modules ------------------------------------------------------------------------------------------------------


class LocalClassifiers(nn.Module):
    """The Non-parameterized Local Classifier (Sec. 3.2): one memory a stripe, with a slot for each identity.

    The memory is a buffer: saved in checkpoints, moved with the model, float32 whatever the model computes in.

    Args:
        stripes: n.
        num_classes: K.
        channels: C.
    """

    memory: torch.Tensor

    def __init__(self, stripes: int, num_classes: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("memory", torch.zeros(stripes, num_classes, channels))

    def read(self, local: torch.Tensor) -> torch.Tensor:
        """Cosines of local features (N, n, C) with all identities, (N, n, K)."""
        with full_precision(local):
            # A copy: autograd keeps what it multiplies with until the backward pass, and `write` comes before that.
            return local_cosines(local.to(self.memory.dtype), self.memory.clone())

    @torch.no_grad()
    def write(self, local: torch.Tensor, targets: torch.Tensor, alpha: float | torch.Tensor) -> None:
        """Eq. (1) for the identities of a batch, with the mean over each one's instances on all processes.

        Args:
            local: (N, n, C).
            targets: (N,).
            alpha: see `update_memory`.
        """
        with full_precision(local):
            local, targets = gather_rows(local.detach().to(self.memory.dtype)), gather_rows(targets)
            same = targets[:, None] == targets
            shares = same.to(local.dtype) / same.sum(dim=1, keepdim=True)
            means = torch.einsum("ab,bnc->anc", shares, local)
            # Every instance of an identity gets the row of its first one: they are written in any order.
            means = means[same.int().argmax(dim=1)]
            self.memory[:, targets] = update_memory(self.memory[:, targets], means.transpose(0, 1), alpha)


class LogitsRevise(Declares, nn.Module):
    """Global Logits Revise (Sec. 3.3) with the local classifiers that it takes its weights from.

    Args:
        num_classes: K.
        channels: C.
        max_epoch: E.
        settings: see `CGESettings`.
    """

    reads = {"settings": CGESettings}
    training_only = ("local_classifiers",)
    of_whole_batch = "the memories of CGE, which are read before a batch and written after it"
    mechanisms = {
        "weights": Mechanism(
            "revised",
            {"their mean": lambda _, result, logits, weights: logits * weights.mean()},
            lambda _, result, logits, weights: revise_figures(logits, weights),
            present=lambda revise: revise.cge.revise,
        )
    }

    def __init__(self, num_classes: int, channels: int, max_epoch: int, settings: CGESettings) -> None:
        super().__init__()
        self.cge, self.max_epoch = settings, max_epoch
        self.local_classifiers = LocalClassifiers(settings.num_stripes, num_classes, channels)
        self.register_buffer("momentum", torch.zeros(()), persistent=False)  # of a compiled pass

    def before_compiled_pass(self) -> None:
        """See `Declares`; the momentum is another one each epoch."""
        self.momentum.fill_(self.current_momentum())

    def forward(self, feature_map: torch.Tensor, pool: nn.Module, targets: torch.Tensor) -> torch.Tensor | None:
        """Read, then write.

        Args:
            feature_map: (N, C, H, W).
            pool: the global pooling layer of the head.
            targets: (N,).

        Returns:
            w of Eq. (2), (N, K), or None without `revise`.

        Raises:
            ValueError: the pooled map has another number of channels, or the map fewer rows than there are stripes.
        """
        rows = feature_map.shape[2]
        if rows < self.cge.num_stripes:
            raise ValueError(
                f"a feature map of {rows} rows cannot be cut into {self.cge.num_stripes} stripes: set "
                f"MODEL.CGE.NUM_STRIPES to {rows} at most, or a larger INPUT.SIZE_TRAIN"
            )
        local = pool_stripes(feature_map, self.cge.num_stripes, pool)
        if self.cge.detach_local or not self.cge.revise:
            local = local.detach()
        channels = self.local_classifiers.memory.shape[2]
        if local.shape[2] != channels:
            raise ValueError(
                f"the feature map is pooled to {local.shape[2]} channels and the memory has {channels}: "
                "set MODEL.BACKBONE.FEAT_DIM to the width of the backbone"
            )
        cosines = self.local_classifiers.read(local)
        # Passes without gradients re-estimate batch-norm statistics or look at the training set.
        if torch.is_grad_enabled():
            compiling = torch.compiler.is_compiling()
            self.local_classifiers.write(local, targets, self.momentum if compiling else self.current_momentum())
        log_scalar("local_accuracy", (cosines.detach().argmax(dim=2) == targets[:, None]).float().mean())
        return local_weights(cosines) if self.cge.revise else None

    def revised(self, logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Revise the logits of one branch.

        Args:
            logits: (N, K).
            weights: w, (N, K).
        """
        return revise_logits(logits, weights)

    def current_momentum(self) -> float:
        """Give alpha of Eq. (1) in the trainer's present epoch."""
        epoch = getattr(current_storage(), "epoch", 0)  # a trainer sets it
        return memory_momentum(self.cge.alpha, epoch, self.max_epoch, self.cge.alpha_value)


# ---- heads --------------------------------------------------------------------------------------------------------


def build_cge_head(cfg: CfgNode) -> nn.Module:
    """Build the head that MODEL.CGE.HEAD names, with its logits revised in training: MODEL.HEADS.NAME CGEHead.

    Raises:
        ValueError: MODEL.CGE.HEAD is no head, or one that CGE does not work on, or MODEL.CGE.BRANCHES does not fit it.
    """
    settings = CGESettings.from_cfg(cfg)
    known = [name for name in registered_names(REID_HEADS_REGISTRY) if name != "CGEHead"]
    if settings.head not in known:
        raise ValueError(f"MODEL.CGE.HEAD is '{settings.head}'; it is one of {', '.join(known)}")
    head = REID_HEADS_REGISTRY.get(settings.head)(cfg)
    if not isinstance(head, (PartsHead, EmbeddingHead)):
        raise ValueError(
            f"CGE pools stripes as the head pools its feature, and {settings.head} does not say how it does"
        )
    declared = head.global_branches if isinstance(head, PartsHead) else ("",)
    if tuple(declared) == ("",):
        _check_unnamed(settings.branches)
    if not declared and not settings.branches:
        raise ValueError(
            f"{settings.head} as it is configured has no global feature whose logits CGE could revise: name the "
            "branches in MODEL.CGE.BRANCHES"
        )
    # Concat pooling is wider than the map
    channels = head.pooled_dim if isinstance(head, PartsHead) else cfg.MODEL.BACKBONE.FEAT_DIM
    head.revise = LogitsRevise(cfg.MODEL.HEADS.NUM_CLASSES, channels, cfg.SOLVER.MAX_EPOCH, settings)
    head.register_forward_hook(_revise_outputs)
    return head


register_as(REID_HEADS_REGISTRY, "CGEHead", build_cge_head)


def _check_unnamed(branches: Sequence[str]) -> None:
    """Refuse names where the logits are a single branch that has none."""
    if any(branches):
        raise ValueError(
            f"MODEL.CGE.BRANCHES has {', '.join(filter(None, branches))}; the only branch of this head has no name: "
            "leave it at []"
        )


def _revise_outputs(head: nn.Module, inputs: tuple, outputs: Any) -> Any:
    """Eq. (3) on what a head returns in training; a forward hook, so None leaves the output as it is."""
    if not head.training:
        return None
    features, targets = inputs
    weights = head.revise(first_map(features), head.pool_layer, targets)
    if weights is None:
        return None
    if isinstance(outputs, dict):
        _check_unnamed(head.revise.cge.branches)
        return {**outputs, "cls_outputs": head.revise.revised(outputs["cls_outputs"], weights)}
    return dataclasses.replace(outputs, logits=_revised(head, outputs, weights))


def _revised(head: PartsHead, outputs: BranchOutputs, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    named = head.revise.cge.branches
    missing = [name for name in named if name not in outputs.logits]
    if missing:
        raise ValueError(
            f"MODEL.CGE.BRANCHES has {', '.join(missing)}; this head's branches are {', '.join(outputs.logits)}"
        )
    wanted = named or head.global_branches
    return {
        name: head.revise.revised(logits, weights) if name in wanted else logits
        for name, logits in outputs.logits.items()
    }


@REID_HEADS_REGISTRY.register()
class ClassMapHead(PartsHead):
    """Table 6's host of the feature-level revise (Sec. 4.2.4): a 1x1 convolution to one map a class, averaged.

    There is no BNNeck. The representation, for metric losses and evaluation, is the pooled feature map.

    Args:
        feat_dim: C.
        heads: see `honors`.
    """

    honors = ("POOL_LAYER",)
    training_only = ("class_maps",)

    @configurable
    def __init__(self, *, feat_dim: int, heads: HeadSettings) -> None:
        super().__init__()
        self.settings = (heads,)
        self.pool_layer, self.pooled_dim = build_pooling(heads.pool_layer), feat_dim
        # The host's dictionary has one branch without a name
        self.feature_dims, self.metric_dims, self.global_branches = {"global": feat_dim}, {"": feat_dim}, ("",)
        self.class_maps = nn.Conv2d(feat_dim, heads.num_classes, 1)

    def forward(self, features: torch.Tensor, targets: torch.Tensor | None = None) -> Any:
        """(N, C, H, W) -> the host's dictionary in training, (N, C) in evaluation."""
        representation = self.pool_layer(features)[..., 0, 0]
        if not self.training:
            return representation
        logits = self.class_maps(features).mean(dim=(2, 3))
        return {"cls_outputs": logits, "pred_class_logits": logits.detach(), "features": representation}
