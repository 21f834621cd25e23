"""The losses that MODEL.LOSSES.NAME can name, for any method.

A loss is a function from tensors to a scalar. What it is applied to, every branch's logits or every branch's features,
is what its registration says; `PartsBaseline` does the sum over branches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import torch
from fastreid.config import CfgNode

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

__all__ = ["LOSSES", "BranchLoss", "build_losses", "register_loss"]


@dataclass(frozen=True)
class BranchLoss:
    """One term of the objective.

    Attributes:
        term: its name in the log, `loss_<term>`.
        applies_to: `logits`, (N, K), or `features`, (N, D).
        function: (logits or features, targets (N,)) -> scalar.
        weight: factor of the term, the SCALE key of its section.
    """

    term: str
    applies_to: str
    function: LossFunction
    weight: float


LOSSES: dict[str, tuple[str, str, Callable[[CfgNode], tuple[LossFunction, float]]]] = {}


def register_loss(name: str, term: str, applies_to: str) -> Callable:
    """Register a function cfg -> (loss function, weight) under a name of MODEL.LOSSES.NAME.

    Raises:
        ValueError: the name is taken, or `applies_to` is neither `logits` nor `features`.
    """
    if applies_to not in ("logits", "features"):
        raise ValueError(f"a loss applies to 'logits' or to 'features', not to '{applies_to}'")
    if name in LOSSES:
        raise ValueError(f"a loss '{name}' is registered already")

    def register(builder: Callable[[CfgNode], tuple[LossFunction, float]]) -> Callable:
        LOSSES[name] = (term, applies_to, builder)
        return builder

    return register


def build_losses(cfg: CfgNode) -> list[BranchLoss]:
    """The terms that MODEL.LOSSES.NAME lists, in its order.

    Raises:
        ValueError: a name is not registered, or no name is given.
    """
    names = cfg.MODEL.LOSSES.NAME
    names = (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in names if name not in LOSSES]
    if unknown or not names:
        raise ValueError(
            f"MODEL.LOSSES.NAME has {', '.join(map(repr, unknown)) or 'no name'}; known are {', '.join(sorted(LOSSES))}"
        )
    terms = []
    for name in names:
        term, applies_to, builder = LOSSES[name]
        function, weight = builder(cfg)
        terms.append(BranchLoss(term, applies_to, function, weight))
    return terms


from . import cross_entropy, metric  # noqa: E402,F401  registration
