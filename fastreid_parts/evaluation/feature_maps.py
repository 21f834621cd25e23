"""The last feature map of a model's backbone, whatever the model, and those of its branches."""

from __future__ import annotations

import torch
from fastreid.evaluation.evaluator import inference_context
from torch import nn

from ..backbones import BranchedBackbone
from .features import shape_or_type


@torch.no_grad()
def backbone_map(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Compute the feature map that a model pools its representation from, in evaluation mode.

    A model that has a method `feature_map` answers itself; of any other fast-reid model it is the output of
    `backbone`.

    Args:
        model: any fast-reid meta-architecture.
        images: (N, 3, H, W) in 0 to 255.

    Returns:
        (N, C, h, w) float32, on the device of the model.

    Raises:
        ValueError: the model has neither, or the backbone's output is no feature map.
    """
    model = getattr(model, "module", model)  # DistributedDataParallel keeps the model inside
    images = images.to(next(model.parameters()).device, copy=True)
    with inference_context(model):
        if callable(getattr(model, "feature_map", None)):
            output = model.feature_map(images)
        elif isinstance(getattr(model, "backbone", None), nn.Module):
            seen: list[object] = []
            with model.backbone.register_forward_hook(lambda _module, _inputs, output: seen.append(output)):
                model({"images": images})
            output = seen[-1] if seen else None
        else:
            raise ValueError(
                f"{type(model).__name__} has neither a method 'feature_map' nor a module 'backbone': there "
                "is no feature map to show"
            )
    return _checked_map(model, output)


@torch.no_grad()
def branch_maps(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Compute the last feature map of every branch of a backbone, in evaluation mode.

    Args:
        model: any fast-reid meta-architecture.
        images: (N, 3, H, W) in 0 to 255.

    Returns:
        {branch: (N, C, h, w) float32}: CAN's `part<n>`; CMBN's `backbone` and, where it has one, `reversal`. The only
        branch of a backbone without branches has no name, and its map is `backbone_map`.

    Raises:
        ValueError: as `backbone_map`.
    """
    model = getattr(model, "module", model)
    if not isinstance(getattr(model, "backbone", None), BranchedBackbone):
        return {"": backbone_map(model, images)}
    images = model.preprocess_image(images)
    with inference_context(model):
        # What CMBN's evaluation leaves out, because the representation is not of it
        reversal = {"with_reversal": True} if "reversal" in model.backbone.branches else {}
        maps = model.backbone(images, **reversal)
    return {name: _checked_map(model, output) for name, output in maps.items()}


def _checked_map(model: nn.Module, output: object) -> torch.Tensor:
    if not isinstance(output, torch.Tensor) or output.ndim != 4:
        raise ValueError(
            f"the backbone of {type(model).__name__} gives no map (N, C, H, W) but {shape_or_type(output)}"
        )
    return output.float()
