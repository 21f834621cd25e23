"""Automatic mixed precision on whatever device there is."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch

from ..settings import Settings, choice

logger = logging.getLogger(__name__)


class AMPSettings(Settings, section="SOLVER.AMP"):
    """Mixed precision."""

    dtype: str = choice(
        ("float16", "bfloat16"), "on a GPU; bfloat16 needs no scaling of the loss, and a GPU of 2020 or later"
    )
    cpu_dtype: str = choice(
        ("auto", "bfloat16", "float16", "float32"),
        "without a GPU; auto: bfloat16 where the processor computes it natively",
    )


def amp_dtype(
    enabled: bool, device: torch.device, cpu_dtype: str = "auto", dtype: str = "float16"
) -> torch.dtype | None:
    """Choose the type that autocast computes in, None for float32 throughout.

    Args:
        enabled: SOLVER.AMP.ENABLED.
        device: the model's.
        cpu_dtype: SOLVER.AMP.CPU_DTYPE. `auto` takes bfloat16 only where the processor has instructions for it;
            emulated it is slower than float32.
        dtype: SOLVER.AMP.DTYPE, of a GPU.

    Raises:
        ValueError: a value is not one of its choices, or the GPU has no bfloat16.
    """
    AMPSettings.check_value("cpu_dtype", cpu_dtype)
    AMPSettings.check_value("dtype", dtype)
    if not enabled:
        return None
    if device.type == "cuda":
        if dtype == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ValueError("SOLVER.AMP.DTYPE is bfloat16, which this GPU does not compute: set it to float16")
        return torch.float16 if dtype == "float16" else torch.bfloat16
    if device.type == "mps":
        _log_once("SOLVER.AMP on MPS: training goes on in float32")
        return None
    if cpu_dtype == "bfloat16" or (cpu_dtype == "auto" and _cpu_has_bfloat16()):
        _log_once("SOLVER.AMP without a GPU: autocast to bfloat16, no loss scaling")
        return torch.bfloat16
    if cpu_dtype == "float16":
        _log_once("SOLVER.AMP without a GPU: autocast to float16, with loss scaling")
        return torch.float16
    if cpu_dtype == "auto":
        _log_once(
            "SOLVER.AMP without a GPU: this processor has no bfloat16 instructions, training goes on in float32 "
            "(SOLVER.AMP.CPU_DTYPE bfloat16 forces it)"
        )
    return None


def build_grad_scaler(dtype: torch.dtype | None, device: str = "cuda") -> Any | None:
    """Make a gradient scaler where half precision needs one: float16, never bfloat16.

    Args:
        dtype: of `amp_dtype`.
        device: the type of the model's.
    """
    return torch.amp.GradScaler(device) if dtype is torch.float16 else None


@cache
def _cpu_has_bfloat16() -> bool:
    try:
        with open("/proc/cpuinfo") as cpuinfo:
            flags = next(line for line in cpuinfo if line.startswith(("flags", "Features"))).split()
    except (OSError, StopIteration):
        return False
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))


@cache
def _log_once(message: str) -> None:
    logger.info(message)
