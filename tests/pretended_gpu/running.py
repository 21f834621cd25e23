"""A training and an evaluation pass of a config on the pretended GPU."""

from __future__ import annotations

from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from torch import nn

from fastreid_parts.engine.step import update_steps
from fastreid_parts.mechanisms import mechanisms_of, neutral_form, watching

from .fake_device import CUDA, half_precision, pretended

IMAGES = 8
IDENTITIES = 4


def batch(cfg: CfgNode) -> dict[str, Any]:
    """Images on the GPU, two of each identity; inside of `pretended`."""
    return {
        "images": torch.rand(IMAGES, 3, *cfg.INPUT.SIZE_TRAIN, device=CUDA) * 255,
        "targets": torch.arange(IMAGES, device=CUDA) // 2,
        "camids": torch.zeros(IMAGES, dtype=torch.long, device=CUDA),
    }


def losses_of(model: nn.Module, inputs: dict[str, Any]) -> list[torch.Tensor]:
    """Of the forward passes of an iteration."""
    names = update_steps(model)
    passes = [model(inputs) if step is None else model(inputs, step=step) for step in names]
    return [loss for losses in passes for loss in losses.values()]


def run_everything(cfg: CfgNode, dtype: torch.dtype = torch.float16, forms: bool = False) -> None:
    """Training, watched and in half precision, and evaluation; with `forms` with each mechanism taken out as well.

    A ResNet is an 18 where that has all that the config asks for, and a ViT one of two blocks: backbones have a test of
    their own.
    """
    if cfg.MODEL.BACKBONE.NAME == "build_resnet_backbone" and not cfg.MODEL.BACKBONE.WITH_NL:
        cfg.merge_from_list(["MODEL.BACKBONE.DEPTH", "18x", "MODEL.BACKBONE.FEAT_DIM", 512])
    if cfg.MODEL.BACKBONE.TIMM.startswith("vit_"):
        cfg.merge_from_list(["MODEL.BACKBONE.TIMM", "test_vit", "MODEL.BACKBONE.FEAT_DIM", 64])
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.PRETRAIN", False, "MODEL.HEADS.NUM_CLASSES", IDENTITIES]
    )
    with pretended(build_model(cfg)) as model:
        inputs = batch(cfg)
        with watching(model) as seen, half_precision(dtype):
            losses = losses_of(model, inputs)
        figures = [value for mechanism in seen.values() for values in mechanism.values() for value in values]
        assert all(one.device == CUDA and one.numel() == 1 for one in (*losses, *figures))
        with torch.no_grad():
            features = [model.eval()(inputs)]
            for name, placed in mechanisms_of(model).items() if forms else ():
                for form in placed.mechanism.neutral:
                    with neutral_form(model, name, form):
                        features.append(model(inputs))
        assert all(one.device == CUDA and len(one) == IMAGES for one in features)
