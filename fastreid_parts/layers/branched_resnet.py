"""A fast-reid ResNet cut after one of its stages and continued by several branches with weights of their own."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

_STAGES = ("layer1", "layer2", "layer3", "layer4")


class ResNetStage(nn.Module):
    """One stage of a fast-reid ResNet: its residual blocks, with the non-local blocks where the host puts them."""

    def __init__(self, blocks: nn.Sequential, non_local: Sequence[nn.Module], after: Sequence[int]) -> None:
        super().__init__()
        self.blocks = blocks
        self.non_local = nn.ModuleDict({str(i): block for i, block in zip(after, non_local)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C_in, H_in, W_in) -> (N, C, H, W)."""
        for i, block in enumerate(self.blocks):
            x = block(x)
            if str(i) in self.non_local:
                x = self.non_local[str(i)](x)
        return x


def out_channels(module: nn.Module) -> int:
    """C of the (N, C, H, W) map that a convolutional `module` gives: the width of its last convolution.

    Raises:
        ValueError: the module has no convolution.
    """
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    if not convolutions:
        raise ValueError(f"{type(module).__name__} has no convolution: its output width cannot be read from it")
    return convolutions[-1].out_channels


class BranchedResNet(nn.Module):
    """A shared front end and branches that continue it with unshared copies of the remaining stages.

    The first branch holds the stages of the ResNet that came in; every other branch starts as a copy of them, so all
    branches start from the pre-trained weights. `shared` and `branches` hold nothing but pre-trained layers.

    Args:
        resnet: a fast-reid ResNet (any depth; IBN, SE and non-local blocks included), or a backbone built like it.
        shared_up_to: the last shared stage, `stem` or `layer1` to `layer3`.
        branches: names of the branches.

    Raises:
        ValueError: the backbone is not built of conv1, bn1, relu, maxpool and layer1 to layer4, or there is no such
            stage to share up to.
    """

    def __init__(self, resnet: nn.Module, shared_up_to: str, branches: Sequence[str]) -> None:
        super().__init__()
        missing = [n for n in ("conv1", "bn1", "relu", "maxpool") + _STAGES if not hasattr(resnet, n)]
        if missing:
            raise ValueError(
                f"a branched model needs a ResNet (MODEL.BACKBONE.NAME build_resnet_backbone); "
                f"{type(resnet).__name__} has no {', '.join(missing)}"
            )
        names = ("stem",) + _STAGES
        if shared_up_to not in names[:-1]:
            raise ValueError(f"stages can be shared up to {', '.join(names[:-1])}, not up to '{shared_up_to}'")
        cut = names.index(shared_up_to) + 1
        stages = {"stem": nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)}
        for number, name in enumerate(_STAGES, start=1):
            blocks = getattr(resnet, name)
            after = [i for i in getattr(resnet, f"NL_{number}_idx", []) if i >= 0]
            stages[name] = ResNetStage(blocks, getattr(resnet, f"NL_{number}", []), after)
        self.shared = nn.ModuleDict({name: stages[name] for name in names[:cut]})
        rest = nn.ModuleDict({name: stages[name] for name in names[cut:]})
        # Copied before the first branch is registered, so that no branch sees another one's weights.
        copies: list[nn.ModuleDict] = [rest] + [copy.deepcopy(rest) for _ in branches[1:]]
        self.branches = nn.ModuleDict(dict(zip(branches, copies)))
        self.out_channels = out_channels(stages["layer4"])

    def forward_shared(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> the map of the last shared stage."""
        x = images
        for stage in self.shared.values():
            x = stage(x)
        return x

    def forward_branch(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Run one branch on the map of the last shared stage.

        Args:
            name: of the branch.
            x: the map.
        """
        for stage in self.branches[name].values():
            x = stage(x)
        return x

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, 3, H, W) -> {branch: (N, C, H, W)}."""
        x = self.forward_shared(images)
        return {name: self.forward_branch(name, x) for name in self.branches}
