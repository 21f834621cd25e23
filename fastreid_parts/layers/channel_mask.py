"""The mask that a classifier's weights give to the channels of its feature. CMBN, Sec. 3.3."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..mechanisms import Mechanism
from ..settings import Settings, key
from .numerics import full_precision, widened


class DetachMaskSettings(Settings, section="MODEL.CMBN"):
    """The mask of whichever head has one."""

    detach_mask: bool = key(False, "keep L_ID2's gradient from W_ID, which it reaches through the mask", "Eq. (3)")


def channel_mask(identity_weight: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Eq. (3) of CMBN: Mask = sigmoid(W_G(W_ID)).

    Args:
        identity_weight: W_ID, (K, D).
        weight: W_G, (1, K).
        bias: the bias of W_G, (1,).

    Returns:
        One weight a channel, (D,), in (0, 1).
    """
    with full_precision(identity_weight):
        return torch.sigmoid(F.linear(widened(identity_weight).t(), widened(weight), widened(bias))).squeeze(1)


def mask_figures(mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Say how much a mask tells channels apart: their standard deviation `std` and `range`, the largest of G masks.

    Args:
        mask: (D,) or (G, D).
    """
    mask = mask.float()
    spread = mask.amax(dim=-1) - mask.amin(dim=-1)
    return {"std": mask.std(dim=-1, correction=0).amax(), "range": spread.amax()}


class MaskedHead(nn.Module):
    """A head that masks its feature: in training by a mask of the present weights, afterwards by the buffer `mask`.

    The static mask is part of the weights. It is brought up to date when training pauses (evaluation, a checkpoint),
    and never from a classifier that was not loaded, as in a model built for evaluation with NUM_CLASSES 0. A subclass
    that masks calls `keep_mask` when it is built, and sets `mask_is_current` False where a step follows.
    """

    mask: torch.Tensor

    mechanisms = {
        "mask": Mechanism(
            "mask_feature",
            {"its mean": lambda _, result, feature, mask: feature * mask.mean(dim=-1, keepdim=True)},
            lambda _, result, feature, mask: mask_figures(mask),
            present=lambda head: hasattr(head, "mask"),
        )
    }

    #: Whether the buffer is that of the present weights
    mask_is_current = True

    def keep_mask(self, initial: torch.Tensor, is_current: bool) -> None:
        """Add the buffer.

        Args:
            initial: its value.
            is_current: whether there is nothing to compute it from, as in evaluation.
        """
        self.register_buffer("mask", initial)
        self.mask_is_current = is_current

    def mask_feature(self, feature: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Multiply features with the mask.

        Args:
            feature: (N, D), or (N, G, D) of G features.
            mask: (D,) or (G, D).
        """
        return feature * mask

    def compute_mask(self) -> torch.Tensor:
        """Compute the mask of the present weights, of the buffer's shape."""
        raise NotImplementedError

    @torch.no_grad()
    def refresh_mask(self) -> None:
        """Write the mask of the present weights into the buffer, unless it is current already."""
        if not self.mask_is_current:
            self.mask.copy_(self.compute_mask())
            self.mask_is_current = True

    def train(self, mode: bool = True) -> MaskedHead:
        """Change the mode, and bring the mask up to date where training pauses."""
        if not mode:
            self.refresh_mask()
        return super().train(mode)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self.refresh_mask()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if prefix + "mask" in state_dict:
            self.mask_is_current = True
