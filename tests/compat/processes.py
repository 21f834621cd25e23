"""What the tests run in processes of their own: a process imports this module and none of pytest's fixtures."""

from __future__ import annotations

import torch
from torch import nn

from fastreid_parts.compat.evaluation import inference_context


def enter_inference_context(rank: int, world_size: int, folder: str) -> None:
    """Save what a buffer of each process holds before and in evaluation mode, to `folder`/<rank>.pth."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    model = nn.BatchNorm2d(4)
    model.running_mean.fill_(rank)
    model.num_batches_tracked.fill_(rank * 5)
    seen = {"before": model.running_mean.clone()}
    with inference_context(model):
        seen["within"] = model.running_mean.clone()
    seen["count"] = model.num_batches_tracked
    torch.save(seen, f"{folder}/{rank}.pth")
    torch.distributed.destroy_process_group()
