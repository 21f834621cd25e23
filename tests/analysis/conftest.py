from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model


@pytest.fixture
def save(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> Callable[..., list[str]]:
    """A function that writes a model as config file and weights, and gives the words of --model."""

    def save(
        name: str, *overrides: Any, identities: int = 6, change: Callable[[dict], object] = lambda state: None
    ) -> list[str]:
        torch.manual_seed(0)
        cfg = tiny_cfg("MODEL.HEADS.NUM_CLASSES", identities, *overrides)
        state = dict(build_model(cfg).state_dict())
        change(state)
        torch.save({"model": state}, tmp_path / f"{name}.pth")
        cfg.MODEL.HEADS.NUM_CLASSES = 0  # as in a config that takes the number from its dataset
        (tmp_path / f"{name}.yml").write_text(cfg.dump())
        return ["--model", name, str(tmp_path / f"{name}.yml"), str(tmp_path / f"{name}.pth")]

    return save
