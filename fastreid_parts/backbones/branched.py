"""A backbone cut after one of its stages and continued by several branches with weights of their own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .stages import STAGES, State, adapter, spatial, stages_of


class BranchedBackbone(nn.Module):
    """A shared front end and branches that continue it with unshared copies of the remaining stages.

    The first branch holds the stages of the backbone that came in; every other branch starts as a copy of them, so all
    branches start from the pre-trained weights. `shared` and `branches` hold nothing but pre-trained layers.

    Args:
        backbone: of any family that `stages_of` knows.
        shared_up_to: the last shared stage, of `STAGES` but for the last.
        branches: names of the branches.

    Raises:
        ValueError: the backbone is of another family, or there is no such stage to share up to.
    """

    def __init__(self, backbone: nn.Module, shared_up_to: str, branches: Sequence[str]) -> None:
        super().__init__()
        stages = stages_of(backbone)
        if shared_up_to not in STAGES[:-1]:
            raise ValueError(f"stages can be shared up to {', '.join(STAGES[:-1])}, not up to '{shared_up_to}'")
        cut = STAGES.index(shared_up_to) + 1
        self.shared = nn.ModuleDict({name: stages[name] for name in STAGES[:cut]})
        rest = nn.ModuleDict({name: stages[name] for name in STAGES[cut:]})
        # Copied before the first branch is registered, so that no branch sees another one's weights.
        copies: list[nn.ModuleDict] = [rest] + [copy.deepcopy(rest) for _ in branches[1:]]
        self.branches = nn.ModuleDict(dict(zip(branches, copies)))

    def forward_shared(self, images: torch.Tensor) -> State:
        """(N, 3, H, W) -> what the last shared stage gives."""
        x: Any = images
        for stage in self.shared.values():
            x = stage(x)
        return x

    def forward_branch(self, name: str, x: State) -> torch.Tensor:
        """Run one branch to its last map (N, C, h, w).

        Args:
            name: of the branch.
            x: what the last shared stage gave.
        """
        for stage in self.branches[name].values():
            x = stage(x)
        return spatial(x)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, 3, H, W) -> {branch: (N, C, H, W)}."""
        x = self.forward_shared(images)
        return {name: self.forward_branch(name, x) for name in self.branches}


@adapter(BranchedBackbone)
def _first_branch(net: BranchedBackbone) -> dict[str, nn.Module]:
    return {**dict(net.shared.items()), **dict(next(iter(net.branches.values())).items())}
