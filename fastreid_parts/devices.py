"""What MODEL.DEVICE comes to on this machine: CUDA, Apple's MPS, or the CPU where what is asked for is not there.

What torch lacks on MPS, and what is done instead:

- float64, in which features are compared and figures are taken: both run on the CPU.
- Half precision with its scaling: SOLVER.AMP trains in float32.
- Several processes: refused, with the CPU named, on which gloo joins them.
- Single operations: they run on the CPU, since PYTORCH_ENABLE_MPS_FALLBACK is set before torch is loaded (`cpus`).
"""

from __future__ import annotations

import functools
import logging

import torch
import torch.distributed as dist

logger = logging.getLogger(__name__)


def available(device: str | torch.device) -> torch.device:
    """Take the device that is asked for where torch has it, and the CPU otherwise, with one line in the log.

    Args:
        device: as MODEL.DEVICE has it.

    Raises:
        ValueError: torch knows no such device.
    """
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"MODEL.DEVICE is '{device}'; it is cpu, cuda, cuda:NUMBER or mps") from error
    if asked.type == "cuda" and not torch.cuda.is_available():
        return _the_cpu(str(asked), "CUDA")
    if asked.type == "mps" and not torch.backends.mps.is_available():
        return _the_cpu(str(asked), "MPS")
    return asked


def for_comparison(device: str | torch.device) -> str:
    """Choose where features are compared: on the GPU that is asked for if it is CUDA's, else on the CPU.

    Args:
        device: as MODEL.DEVICE has it.

    Raises:
        ValueError: torch knows no such device.
    """
    here = available(device)
    return str(here) if here.type == "cuda" else "cpu"


def refuse_several_processes(device: torch.device) -> None:
    """Refuse devices on which the processes of this job cannot exchange anything.

    Args:
        device: of a model that several processes train.

    Raises:
        ValueError: it is MPS, or the CPU where the processes are joined by NCCL.
    """
    if device.type == "cpu" and dist.is_initialized() and dist.get_backend() == "nccl":
        raise ValueError(
            "MODEL.DEVICE is cpu, and this machine's GPUs join the processes (NCCL): hide these "
            "(CUDA_VISIBLE_DEVICES=), or leave MODEL.DEVICE cuda"
        )
    if device.type == "mps":
        raise ValueError("MODEL.DEVICE mps trains in one process only: leave out --num-gpus, or set MODEL.DEVICE cpu")


@functools.cache  # one line a process
def _the_cpu(device: str, what: str) -> torch.device:
    logger.warning("MODEL.DEVICE is %s, but %s is not available here: using the CPU", device, what)
    return torch.device("cpu")
