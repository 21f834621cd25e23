"""What all processes of a training hold together."""

from __future__ import annotations

import torch
import torch.distributed as dist


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Gather the rows of every process, in the order of the ranks; in a single process `rows` itself.

    No gradient flows through it.

    Args:
        rows: (N, ...), of the same shape on every rank.

    Returns:
        (ranks N, ...), the same on every rank.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    rows = rows.detach().contiguous()
    shares = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(shares, rows)
    return torch.cat(shares)
