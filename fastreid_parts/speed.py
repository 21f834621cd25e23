"""How a training step is computed, for every method: memory layout, compilation, checkpointing, TF32, the optimizer's
kernels. None of it changes what is computed beyond rounding.

`PartsBaseline` reads the section, so every method has its keys with any trainer; TF32 is PartsTrainer's.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from .backbones import STAGES, stages_of
from .layers import run_checkpointed
from .settings import Settings, choice, key


class SpeedSettings(Settings, section="SPEED", role="procedure"):
    """Time and memory of a training step."""

    channels_last: bool = key(False, "weights and maps pixel by pixel in memory")
    checkpoint: bool = key(
        False, "less memory in training, for a second forward pass of each stage of the backbone (not with COMPILE)"
    )
    compile: str = choice(
        ("off", "inductor", "aot_eager", "eager"),
        "torch.compile of a training step's forward and backward pass, by its backend; iterations whose mechanisms are "
        "logged run without. aot_eager and eager need no compiler, and gain nothing: they are for looking for errors",
    )
    tf32: str = choice(
        ("convolutions", "all", "none"),
        "what an NVIDIA GPU computes in TF32 where the rest is float32; convolutions: torch's own choice; all: "
        "products of matrices too (PartsTrainer)",
    )
    optimizer: str = choice(
        ("auto", "loop", "foreach", "fused"),
        "how the optimizer goes through the parameters; auto: torch's own choice; loop: one by one; foreach: several "
        "in one call; fused: several in one kernel",
    )

    def check(self) -> None:
        """See `Settings`.

        Raises:
            ValueError: compilation and checkpointing are both asked for.
        """
        if self.checkpoint and self.compile != "off":
            raise ValueError(
                f"SPEED.CHECKPOINT does not work with SPEED.COMPILE {self.compile}, which decides itself what the "
                "backward pass computes again: set one of the two"
            )


def checkpoint_stages(backbone: nn.Module) -> None:
    """Have every stage of a backbone keep its input alone in training, and compute the rest again; SPEED.CHECKPOINT.

    Args:
        backbone: of a family that has stages, with branches or without; its forward pass is changed in place.

    Raises:
        ValueError: its stages are not known.
    """
    # Partial functions and no closures, so that a copy of the model runs the copy's stages
    stages = [stage for group in backbone.modules() if _holds_stages(group) for stage in group.children()]
    for stage in stages:
        stage.forward = functools.partial(run_checkpointed, stage, forward=type(stage).forward)  # type: ignore[method-assign]
    if not stages:
        in_turn = tuple(stages_of(backbone).values())
        backbone.forward = functools.partial(_run_in_turn, in_turn)  # type: ignore[method-assign]


def _holds_stages(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleDict) and len(module) > 0 and set(module) <= set(STAGES)


def _run_in_turn(stages: Sequence[nn.Module], images: torch.Tensor) -> torch.Tensor:
    """What a backbone gives that does not call its stages as such."""
    x: Any = images
    for stage in stages:
        x = run_checkpointed(stage, x)
    return x


@contextlib.contextmanager
def float32_products(tf32: str) -> Iterator[None]:
    """Compute float32 products on an NVIDIA GPU as SPEED.TF32 says while the context is open.

    Args:
        tf32: its value.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32, cudnn.allow_tf32 = tf32 == "all", tf32 != "none"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def check_compiler(backend: str, device: torch.device) -> None:
    """Check that a machine has what SPEED.COMPILE needs.

    Args:
        backend: its value.
        device: the model's.

    Raises:
        ValueError: it does not; the message says what to install.
    """
    if backend != "inductor":
        return
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise ValueError("SPEED.COMPILE inductor needs Triton on a GPU: pip install triton, or set it to off")
        return
    compilers = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    if not any(shutil.which(name) for name in compilers if name):
        raise ValueError(
            "SPEED.COMPILE inductor needs a C++ compiler here, and g++, clang++ and the environment's CXX are not "
            "found: install one, or set it to off"
        )
