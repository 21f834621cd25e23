"""Where half precision must stop."""

from __future__ import annotations

import torch


def widened(x: torch.Tensor) -> torch.Tensor:
    """x in float32 where its precision is below that, and as it is in float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(like: torch.Tensor) -> torch.autocast:
    """Open a context without autocast on the device of `like`: losses, masks and memories need float32 at least.

    Args:
        like: any tensor of the computation; its device decides which autocast is switched off.
    """
    return torch.autocast(device_type=like.device.type, enabled=False)
