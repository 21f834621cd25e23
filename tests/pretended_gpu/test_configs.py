"""On a GPU, on a machine without one: every method by its configs, and with the keys of speed, see `fake_device`."""

from __future__ import annotations

import pytest
import torch

from fastreid_parts.config import configs_root, load_config

from .running import run_everything

#: Configs of other datasets have the models of these, a ViT-B the steps of a ViT-S, and LUPerson's is a ResNet
CONFIGS = [
    f"Market/{path.name}"
    for path in sorted((configs_root() / "Market").iterdir())
    if not path.stem.endswith(("_vit_base", "_fast")) and "_upt_" not in path.stem
]
FAST = [f"Synthetic/{path.name}" for path in sorted((configs_root() / "Synthetic").glob("*_fast.yml"))]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config(name: str) -> None:
    run_everything(load_config(name, []))


@pytest.mark.parametrize("name", FAST)
def test_every_method_with_the_keys_of_speed(name: str) -> None:
    """Pixel by pixel in memory, in bfloat16, and with stages that are computed again; and without its mechanisms."""
    run_everything(load_config(name, ["SPEED.CHECKPOINT", True]), torch.bfloat16, forms=True)
