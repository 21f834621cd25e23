"""Maps of where a model looks, beside and on the image: responses of its last feature map, or what covering changes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from fastreid.config import CfgNode
from fastreid.data.data_utils import read_image
from fastreid.data.transforms import build_transforms
from matplotlib import colormaps
from torch import nn

from ..evaluation.feature_maps import backbone_map, branch_maps
from ..evaluation.occlusion import occlusion_maps
from .style import MUTED, Sheet, fitting_size

# The rainbow of the papers' figures without its false edges
_COLORS = colormaps["turbo"]
_OPACITY = 0.5

#: How the channels of a feature map become one response: by the mean of absolute values, or by the maximum, as the
#: saliency maps of CGE (Xi et al., Pattern Recognition 134, 2023, Fig. 1 and 7) are made.
REDUCTIONS = ("mean", "max")

#: What stands beside an image for each model: its map alone, the map laid over the image, or both.
PANELS = {"both": ("map", "on image"), "map": ("map",), "overlay": ("on image",)}

# inches
_IMAGE = (0.56, 1.12)
_PITCH = 0.62
_EXAMPLE_GAP = 0.26
_ROW_GAP = 0.14
_HEADER = 0.42
_MARGIN = 0.14


def load_images(cfg: CfgNode, paths: Sequence[str]) -> tuple[list[np.ndarray], torch.Tensor]:
    """Load images for display, and as the model of a config takes them in evaluation.

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


def scaled_response(features: torch.Tensor, size: tuple[int, int], reduce: str = "mean") -> np.ndarray:
    """Reduce each feature map to its response over the channels, scaled to 0 .. 1, enlarged.

    Args:
        features: (N, C, h, w).
        size: height and width to enlarge to, bilinearly.
        reduce: one of `REDUCTIONS`: mean of the absolute values, or maximum.

    Returns:
        (N, height, width) float32; each map's least response is 0 and its greatest 1. A map that responds
        alike everywhere is 0.

    Raises:
        ValueError: there is no such reduction.
    """
    if reduce not in REDUCTIONS:
        raise ValueError(f"a map is reduced by {' or '.join(REDUCTIONS)}, not by '{reduce}'")
    response = features.abs().mean(dim=1, keepdim=True) if reduce == "mean" else features.amax(dim=1, keepdim=True)
    low = response.amin(dim=(2, 3), keepdim=True)  # (N, 1, 1, 1)
    high = response.amax(dim=(2, 3), keepdim=True)
    scaled = (response - low) / (high - low).clamp(min=torch.finfo(response.dtype).tiny)
    enlarged = F.interpolate(scaled, size=size, mode="bilinear", align_corners=False)
    return enlarged.squeeze(1).cpu().numpy().astype(np.float32)


def activation_maps(model: nn.Module, images: torch.Tensor, batch_size: int = 32, reduce: str = "mean") -> np.ndarray:
    """Show where a model responds in each image, between 0 and 1, at the size of the images.

    Args:
        model: any fast-reid meta-architecture.
        images: (N, 3, H, W) in 0 to 255.
        batch_size: images that go through the model at once.
        reduce: see `scaled_response`.

    Returns:
        (N, H, W) float32.

    Raises:
        ValueError: as `backbone_map` and `scaled_response`.
    """
    return _in_chunks(images, batch_size, reduce, lambda chunk: {"": backbone_map(model, chunk)})[""]


def branch_activation_maps(
    model: nn.Module, images: torch.Tensor, batch_size: int = 32, reduce: str = "mean"
) -> dict[str, np.ndarray]:
    """Show where each branch of a model's backbone responds, as in Fig. 4 of the CAN paper (Li et al., 2020).

    Args:
        model, images, batch_size, reduce: as in `activation_maps`.

    Returns:
        {branch: (N, H, W) float32 between 0 and 1}; the branches of `branch_maps`.

    Raises:
        ValueError: as `branch_maps` and `scaled_response`.
    """
    return _in_chunks(images, batch_size, reduce, lambda chunk: branch_maps(model, chunk))


def dependence_maps(model: nn.Module, images: torch.Tensor) -> np.ndarray:
    """Show which places the feature of each image depends on, between 0 and 1, at the size of the images.

    Args:
        model: any fast-reid meta-architecture.
        images: (N, 3, H, W) in 0 to 255.

    Returns:
        (N, H, W) float32: `occlusion_maps`, each scaled as `scaled_response` does.

    Raises:
        ValueError: as `occlusion_maps`.
    """
    return scaled_response(occlusion_maps(model, images)[:, None], (images.shape[-2], images.shape[-1]))


def _in_chunks(
    images: torch.Tensor, batch_size: int, reduce: str, maps_of: Callable[[torch.Tensor], Mapping[str, torch.Tensor]]
) -> dict[str, np.ndarray]:
    size = (images.shape[-2], images.shape[-1])
    chunks: dict[str, list[np.ndarray]] = {}
    for chunk in images.split(batch_size):
        for branch, features in maps_of(chunk).items():
            chunks.setdefault(branch, []).append(scaled_response(features, size, reduce))
    return {branch: np.concatenate(parts) for branch, parts in chunks.items()}


def map_images(image: np.ndarray, response: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Color an activation map, alone and laid over its image.

    Args:
        image: (H, W, 3) uint8, RGB.
        response: (h, w) between 0 and 1.

    Returns:
        Two (h, w, 3) uint8 images, RGB.
    """
    height, width = response.shape
    color = np.round(_COLORS(response)[..., :3] * 255).astype(np.uint8)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    resized = F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
    blended = (1 - _OPACITY) * resized[0].permute(1, 2, 0).numpy() + _OPACITY * color
    return color, np.round(blended).clip(0, 255).astype(np.uint8)


def draw_activation_maps(
    images: Sequence[np.ndarray],
    maps: Mapping[str, np.ndarray],
    path: str | os.PathLike,
    per_row: int = 2,
    title: str = "",
    show: str = "both",
) -> None:
    """Draw each image, and beside it each model's map, alone, laid over the image, or both.

    Args:
        images: N arrays (H, W, 3) uint8, RGB.
        maps: name of a model -> (N, h, w) from `activation_maps`; drawn in this order.
        path: the PNG to write.
        per_row: examples beside each other.
        title: a line above the images.
        show: what to draw of each map, one of `PANELS`.

    Raises:
        ValueError: no images or maps, not as many maps as images, or `show` is none of `PANELS`.
    """
    width, height = activation_panel_size(images, maps, per_row, show)
    sheet, top = Sheet.titled(width, height, title, _MARGIN)
    activation_panel(sheet, _MARGIN, top, images, maps, per_row, show)
    sheet.save(path)


def activation_panel_size(
    images: Sequence[np.ndarray], maps: Mapping[str, np.ndarray], per_row: int = 2, show: str = "both"
) -> tuple[float, float]:
    """Give width and height in inches that `activation_panel` needs.

    Args:
        images, maps, per_row, show: as in `draw_activation_maps`.

    Raises:
        ValueError: no images or maps, not as many maps as images, or `show` is none of `PANELS`.
    """
    if show not in PANELS:
        raise ValueError(f"maps are drawn as {', '.join(PANELS)}, not as '{show}'")
    if not images or not maps:
        raise ValueError("activation maps need at least one image and one model")
    for name, responses in maps.items():
        if len(responses) != len(images):
            raise ValueError(f"{len(images)} images but {len(responses)} activation maps of '{name}'")
    columns, rows = min(per_row, len(images)), -(-len(images) // per_row)
    example = (1 + len(PANELS[show]) * len(maps)) * _PITCH
    return columns * example + (columns - 1) * _EXAMPLE_GAP, _HEADER + rows * (_IMAGE[1] + _ROW_GAP)


def activation_panel(
    sheet: Sheet,
    x: float,
    y: float,
    images: Sequence[np.ndarray],
    maps: Mapping[str, np.ndarray],
    per_row: int = 2,
    show: str = "both",
) -> None:
    """Draw images and their maps on a sheet, from the corner (x, y) in inches to the right and down.

    Args:
        sheet: where to draw.
        x: left edge.
        y: upper edge.
        images, maps, per_row, show: as in `draw_activation_maps`.
    """
    heads = PANELS[show]
    block = len(heads) * _PITCH  # of one model
    example = _PITCH + block * len(maps) + _EXAMPLE_GAP
    for column in range(min(per_row, len(images))):
        left = x + column * example
        for place, head in enumerate(["image", *heads * len(maps)]):
            center = left + place * _PITCH + _IMAGE[0] / 2
            sheet.text(center, y + _HEADER - 0.07, head, size=6.5, color=MUTED, va="bottom")
        for number, name in enumerate(maps):
            middle = left + _PITCH + number * block + (block - _PITCH + _IMAGE[0]) / 2
            size = fitting_size(name, block - 0.04, 8)
            sheet.text(middle, y + _HEADER - 0.24, name, size=size, va="bottom", weight="bold")
    for number, image in enumerate(images):
        left = x + (number % per_row) * example
        top = y + _HEADER + (number // per_row) * (_IMAGE[1] + _ROW_GAP)
        row = [image]
        for responses in maps.values():
            drawn = dict(zip(PANELS["both"], map_images(image, responses[number])))
            row.extend(drawn[head] for head in heads)
        for place, pixels in enumerate(row):
            sheet.image(pixels, left + place * _PITCH, top, *_IMAGE)
