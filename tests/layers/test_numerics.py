"""Where half precision stops."""

from __future__ import annotations

import torch

from fastreid_parts.layers import full_precision


def test_full_precision_switches_autocast_off() -> None:
    x = torch.randn(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with full_precision(x):
            assert (x @ x).dtype == torch.float32
