"""Activation maps: where the last feature map of a model's backbone responds, beside and on the image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from fastreid.config import CfgNode
from fastreid.data.data_utils import read_image
from fastreid.data.transforms import build_transforms
from fastreid.evaluation.evaluator import inference_context
from matplotlib import colormaps
from torch import nn

from .style import MUTED, Sheet

__all__ = [
    "activation_maps",
    "activation_panel",
    "activation_panel_size",
    "backbone_map",
    "draw_activation_maps",
    "load_images",
    "map_pictures",
    "normalised_response",
]

# The rainbow of the papers' figures without its false edges
_COLOURS = colormaps["turbo"]
_OPACITY = 0.5

# inches
_IMAGE = (0.56, 1.12)
_PITCH = 0.62
_EXAMPLE_GAP = 0.26
_ROW_GAP = 0.14
_HEADER = 0.42
_MARGIN = 0.14


def load_images(cfg: CfgNode, paths: Sequence[str]) -> tuple[list[np.ndarray], torch.Tensor]:
    """Images for display, and as the model of a config takes them in evaluation.

    Args:
        cfg: its INPUT section gives the test size.
        paths: image files.

    Returns:
        N arrays (H, W, 3) uint8 in RGB, and one tensor (N, 3, H', W') float32 in 0 to 255.

    Raises:
        ValueError: no paths, or a file that is no image; the message names it.
    """
    if not paths:
        raise ValueError("no images given")
    transform = build_transforms(cfg, is_train=False)
    shown, tensors = [], []
    for path in paths:
        try:
            image = read_image(path, format="RGB")
        except OSError as error:
            raise ValueError(f"cannot read '{path}' as an image: {error}") from error
        shown.append(np.asarray(image))
        tensors.append(transform(image).float())
    return shown, torch.stack(tensors)


@torch.no_grad()
def backbone_map(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The feature map that a model pools its representation from, in evaluation mode.

    A model that has a method `feature_map` answers itself; of any other fast-reid model it is the output of
    `backbone`.

    Args:
        model: any fast-reid meta-architecture.
        images: (N, 3, H, W) in 0 to 255.

    Returns:
        (N, C, h, w) float32, on the CPU.

    Raises:
        ValueError: the model has neither, or the backbone's output is no feature map.
    """
    model = getattr(model, "module", model)  # DistributedDataParallel keeps the model inside
    images = images.to(next(model.parameters()).device, copy=True)
    with inference_context(model):
        if callable(getattr(model, "feature_map", None)):
            output = model.feature_map(images)
        elif isinstance(getattr(model, "backbone", None), nn.Module):
            output = _hooked_output(model, model.backbone, images)
        else:
            raise ValueError(
                f"{type(model).__name__} has neither a method 'feature_map' nor a module 'backbone': there "
                "is no feature map to show"
            )
    if not isinstance(output, torch.Tensor) or output.ndim != 4:
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ValueError(f"the backbone of {type(model).__name__} gives no map (N, C, H, W) but {got}")
    return output.float().cpu()


def _hooked_output(model: nn.Module, part: nn.Module, images: torch.Tensor) -> object:
    seen: list[object] = []
    handle = part.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        model({"images": images})
    finally:
        handle.remove()
    return seen[-1] if seen else None


def normalised_response(features: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """One picture a feature map: mean of the absolute values over the channels, scaled to 0 .. 1, enlarged.

    Args:
        features: (N, C, h, w).
        size: height and width to enlarge to, bilinearly.

    Returns:
        (N, height, width) float32; each map's least response is 0 and its greatest 1. A map that responds
        alike everywhere is 0.
    """
    response = features.abs().mean(dim=1, keepdim=True)  # (N, 1, h, w)
    low = response.amin(dim=(2, 3), keepdim=True)
    high = response.amax(dim=(2, 3), keepdim=True)
    scaled = (response - low) / (high - low).clamp(min=torch.finfo(response.dtype).tiny)
    enlarged = F.interpolate(scaled, size=size, mode="bilinear", align_corners=False)
    return enlarged.squeeze(1).numpy().astype(np.float32)


def activation_maps(model: nn.Module, images: torch.Tensor, batch_size: int = 32) -> np.ndarray:
    """Where a model responds in each image, between 0 and 1, at the size of the images.

    Args:
        model: any fast-reid meta-architecture.
        images: (N, 3, H, W) in 0 to 255.
        batch_size: images that go through the model at once.

    Returns:
        (N, H, W) float32.

    Raises:
        ValueError: as `backbone_map`.
    """
    size = (images.shape[-2], images.shape[-1])
    chunks = [normalised_response(backbone_map(model, chunk), size) for chunk in images.split(batch_size)]
    return np.concatenate(chunks)


def map_pictures(image: np.ndarray, response: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An activation map in colour, alone and laid over its image.

    Args:
        image: (H, W, 3) uint8, RGB.
        response: (h, w) between 0 and 1.

    Returns:
        Two (h, w, 3) uint8 images, RGB.
    """
    height, width = response.shape
    colour = np.round(_COLOURS(response)[..., :3] * 255).astype(np.uint8)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    resized = F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
    blended = (1 - _OPACITY) * resized[0].permute(1, 2, 0).numpy() + _OPACITY * colour
    return colour, np.round(blended).clip(0, 255).astype(np.uint8)


def draw_activation_maps(
    images: Sequence[np.ndarray],
    maps: Mapping[str, np.ndarray],
    path: str | os.PathLike,
    per_row: int = 2,
    title: str = "",
) -> None:
    """Write a picture with each image, and beside it each model's map, alone and laid over the image.

    Args:
        images: N arrays (H, W, 3) uint8, RGB.
        maps: name of a model -> (N, h, w) from `activation_maps`; drawn in this order.
        path: the PNG to write.
        per_row: examples side by side.
        title: a line above the images.

    Raises:
        ValueError: no images or maps, or not as many maps as images.
    """
    width, height = activation_panel_size(images, maps, per_row)
    top = _MARGIN + (0.3 if title else 0)
    sheet = Sheet(width + 2 * _MARGIN, top + height + _MARGIN)
    if title:
        sheet.text(_MARGIN, _MARGIN, title, size=10, align="left", bold=True)
    activation_panel(sheet, _MARGIN, top, images, maps, per_row)
    sheet.save(path)


def activation_panel_size(
    images: Sequence[np.ndarray], maps: Mapping[str, np.ndarray], per_row: int = 2
) -> tuple[float, float]:
    """Width and height in inches that `activation_panel` needs.

    Raises:
        ValueError: no images or maps, or not as many maps as images.
    """
    if not images or not maps:
        raise ValueError("activation maps need at least one image and one model")
    for name, responses in maps.items():
        if len(responses) != len(images):
            raise ValueError(f"{len(images)} images but {len(responses)} activation maps of '{name}'")
    columns, rows = min(per_row, len(images)), -(-len(images) // per_row)
    example = (1 + 2 * len(maps)) * _PITCH
    return columns * example + (columns - 1) * _EXAMPLE_GAP, _HEADER + rows * (_IMAGE[1] + _ROW_GAP)


def activation_panel(
    sheet: Sheet,
    x: float,
    y: float,
    images: Sequence[np.ndarray],
    maps: Mapping[str, np.ndarray],
    per_row: int = 2,
) -> None:
    """Draw images and their maps on a sheet, from the corner (x, y) in inches to the right and down.

    Args:
        sheet: where to draw.
        x: left edge.
        y: upper edge.
        images: as in `draw_activation_maps`.
        maps: as in `draw_activation_maps`.
        per_row: examples side by side.
    """
    example = (1 + 2 * len(maps)) * _PITCH + _EXAMPLE_GAP
    for column in range(min(per_row, len(images))):
        left = x + column * example
        sheet.text(left + _IMAGE[0] / 2, y + _HEADER - 0.07, "image", size=6.5, color=MUTED, vertical="bottom")
        for number, name in enumerate(maps):
            start = left + (1 + 2 * number) * _PITCH
            middle = start + (_PITCH + _IMAGE[0]) / 2
            sheet.text(middle, y + _HEADER - 0.24, name, size=8, vertical="bottom", bold=True)
            for part, head in enumerate(("map", "on image")):
                centre = start + part * _PITCH + _IMAGE[0] / 2
                sheet.text(centre, y + _HEADER - 0.07, head, size=6.5, color=MUTED, vertical="bottom")
    for number, image in enumerate(images):
        left = x + (number % per_row) * example
        top = y + _HEADER + (number // per_row) * (_IMAGE[1] + _ROW_GAP)
        pictures = [image]
        for responses in maps.values():
            pictures.extend(map_pictures(image, responses[number]))
        for place, picture in enumerate(pictures):
            sheet.image(picture, left + place * _PITCH, top, *_IMAGE)
