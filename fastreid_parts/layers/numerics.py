"""Where half precision must stop."""

from __future__ import annotations

import torch


def full_precision(like: torch.Tensor) -> torch.autocast:
    """Open a context without autocast on the device of `like`: losses, masks and memories are computed in float32.

    Args:
        like: any tensor of the computation; its device decides which autocast is switched off.
    """
    return torch.autocast(device_type=like.device.type, enabled=False)
