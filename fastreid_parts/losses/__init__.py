"""The losses that MODEL.LOSSES.NAME can name, for any method.

A loss is a function from tensors to a scalar. What it is applied to, every branch's logits or every branch's features,
is what its registration says; `PartsBaseline` does the sum over branches. A loss with parameters of its own is a
module, one for each branch of features.

| name             | term        | applied to | source                                           | module          |
|------------------|-------------|------------|--------------------------------------------------|-----------------|
| CrossEntropyLoss | cls         | logits     | CGE, Eq. (4), (5)                                | `cross_entropy` |
| FocalLoss        | cls         | logits     | Lin et al., ICCV 2017; CGE, Sec. 4.2.1           | `focal`         |
| TripletLoss      | triplet     | features   | Hermans et al., 2017; CGE, Eq. (6); the host's   | `triplet`       |
| WRTLoss          | wrt         | features   | Ye et al. (AGW), 2021; CGE, Eq. (7), (8)         | `triplet`       |
| CircleLoss       | circle      | features   | Sun et al., CVPR 2020                            | `pairwise`      |
| Cosface          | cosface     | features   | the host's pairwise form                         | `pairwise`      |
| CenterLoss       | center      | features   | Wen et al., ECCV 2016; CAN, Eq. (9)              | `center`        |
| SphereLoss       | sphere      | features   | Liu et al., CVPR 2017; parameters of its own     | `library`       |
| LiftedLoss       | lifted      | features   | Song et al., CVPR 2016; Hermans et al., 2017     | `library`       |
| InstanceLoss     | instance    | features   | Zheng et al., TOMM 2020                          | `library`       |
| ContrastiveLoss  | contrastive | features   | Hadsell et al., CVPR 2006                        | `library`       |

Where no paper is named, numbers of equations are those of CGE (Xi et al., Pattern Recognition 134, 2023), whose Table 5
compares most of these losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from fastreid.config import CfgNode
from torch import nn

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
ModuleBuilder = Callable[[int], nn.Module]
Builder = Callable[[CfgNode], tuple[Callable, float]]  # a LossFunction or a ModuleBuilder, and the weight


class BranchModules(nn.ModuleDict):
    """A loss with parameters of its own: one module (features, targets) -> scalar for each branch of features.

    Its keys are `branch_<name>`, and `branch` for the one without a name: a module's key can be neither empty nor a
    name that modules have themselves, as `half`.

    Args:
        build: D -> the module of a branch of that width.
        metric_dims: {branch: D}.
    """

    def __init__(self, build: ModuleBuilder, metric_dims: Mapping[str, int]) -> None:
        super().__init__({self.key(branch): build(width) for branch, width in metric_dims.items()})
        self.metric_dims = dict(metric_dims)

    @staticmethod
    def key(branch: str) -> str:
        """Make the key of a branch's module."""
        return f"branch_{branch}" if branch else "branch"

    def forward(self, features: torch.Tensor, targets: torch.Tensor, branch: str) -> torch.Tensor:
        """The branch's module on its features (N, D).

        Raises:
            ValueError: the branch has another width than was declared, or was not declared.
        """
        if self.metric_dims.get(branch) != features.shape[1]:
            raise ValueError(
                f"a loss with parameters was built for features {self.metric_dims}, and the head gives branch "
                f"'{branch}' with {features.shape[1]}; declare it as the head's `metric_dims`"
            )
        return self[self.key(branch)](features, targets)


@dataclass(frozen=True)
class BranchLoss:
    """One term of the objective.

    Attributes:
        term: its name in the log, `loss_<term>`.
        applies_to: `logits`, (N, K), or `features`, (N, D).
        function: (logits or features, targets (N,)) -> scalar, the same for all branches, or `BranchModules`.
        weight: factor of the term, the SCALE key of its section.
    """

    term: str
    applies_to: str
    function: LossFunction | BranchModules
    weight: float

    def __call__(self, tensor: torch.Tensor, targets: torch.Tensor, branch: str = "") -> torch.Tensor:
        """The value for one branch, without the weight."""
        if isinstance(self.function, BranchModules):
            return self.function(tensor, targets, branch)
        return self.function(tensor, targets)


@dataclass(frozen=True)
class Registration:
    """What `register_loss` was told about a name; see there."""

    term: str
    applies_to: str
    per_branch: bool
    averages: bool
    builder: Builder


LOSSES: dict[str, Registration] = {}


def register_loss(
    name: str, term: str, applies_to: str, per_branch: bool = False, averages: bool = False
) -> Callable[[Builder], Builder]:
    """Register a function cfg -> (loss function, weight) under a name of MODEL.LOSSES.NAME.

    Args:
        name: the name.
        term: the name in the log, `loss_<term>`, and of the parameters, `loss_modules.<term>`.
        applies_to: `logits` or `features`.
        per_branch: the loss has parameters of its own. The function then gives (D -> module, weight), and a module is
            built for each branch of features, with that branch's width D.
        averages: the loss is the mean over images of what each gives by itself, so that a batch may be split.

    Raises:
        ValueError: the name is taken, `applies_to` is neither of the two, or a loss over logits has parameters.
    """
    if applies_to not in ("logits", "features"):
        raise ValueError(f"a loss applies to 'logits' or to 'features', not to '{applies_to}'")
    if per_branch and applies_to != "features":
        raise ValueError(f"loss '{name}': only a loss over features is built for each branch")
    if name in LOSSES:
        raise ValueError(f"a loss '{name}' is registered already")

    def register(builder: Builder) -> Builder:
        LOSSES[name] = Registration(term, applies_to, per_branch, averages, builder)
        return builder

    return register


def build_losses(cfg: CfgNode, metric_dims: Mapping[str, int] | None = None) -> list[BranchLoss]:
    """Build the terms that MODEL.LOSSES.NAME lists, in its order.

    Args:
        cfg: the config.
        metric_dims: {branch: D} of the head's features, for losses with parameters; None: those of fast-reid's own
            heads, a single branch without a name.

    Raises:
        ValueError: a name is not registered, no name is given, or two names stand for the same term.
    """
    names = cfg.MODEL.LOSSES.NAME
    names = (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in names if name not in LOSSES]
    if unknown or not names:
        raise ValueError(
            f"MODEL.LOSSES.NAME has {', '.join(map(repr, unknown)) or 'no name'}; known are {', '.join(sorted(LOSSES))}"
        )
    if metric_dims is None:
        reduced = cfg.MODEL.HEADS.EMBEDDING_DIM if cfg.MODEL.HEADS.NECK_FEAT == "after" else 0
        metric_dims = {"": reduced or cfg.MODEL.BACKBONE.FEAT_DIM}
    terms: dict[str, BranchLoss] = {}
    for name in names:
        registered = LOSSES[name]
        if registered.term in terms:
            same = [other for other in names if LOSSES[other].term == registered.term]
            raise ValueError(
                f"MODEL.LOSSES.NAME has {' and '.join(same)}: both are the term 'loss_{registered.term}', list one"
            )
        function, weight = registered.builder(cfg)
        if registered.per_branch:
            function = BranchModules(function, metric_dims)
        terms[registered.term] = BranchLoss(registered.term, registered.applies_to, function, weight)
    return list(terms.values())


from . import center, cross_entropy, focal, library, pairwise, triplet  # noqa: E402,F401  registration
