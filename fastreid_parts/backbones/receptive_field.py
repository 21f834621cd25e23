"""Receptive fields of a ResNet's layers, and what a cut of an inner map leaves of them. RMGL, Sec. III.B.

Fields are counted in rows, the direction in which maps are cut. They are what the layers connect, from kernel, stride,
padding and dilation; how much a row weighs is not in them, nor are the batch's statistics, which batch norm uses in
training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fastreid.layers import Non_local, SELayer
from torch import nn

from .stages import stages_of


@dataclass(frozen=True)
class ReceptiveField:
    """The rows of an input that one row of a layer's output sees.

    Attributes:
        size: r, rows that it sees; infinite after a layer that sees its whole map.
        jump: the product of strides: rows of the input from one output row to the next.
        first: the first row that output row 0 sees; below 0 it lies in the padding.
    """

    size: float = 1
    jump: int = 1
    first: float = 0

    @property
    def center(self) -> float:
        """The middle of what output row 0 sees; not a number after a layer that sees its whole map."""
        return self.first + (self.size - 1) / 2

    def through(self, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> ReceptiveField:
        """Eq. (5) of RMGL: r_{i,j+1} = r_{i,j} + (k_{j,j+1} - 1) prod s, over the strides of the layers before.

        As printed the product ends with the layer's own stride; without that one it gives the paper's 363.

        Args:
            kernel: rows.
            stride: rows.
            padding: rows.
            dilation: rows.
        """
        return ReceptiveField(
            self.size + dilation * (kernel - 1) * self.jump, self.jump * stride, self.first - padding * self.jump
        )

    def through_all(self) -> ReceptiveField:
        """Behind a layer of stride 1 that sees its whole map."""
        return ReceptiveField(math.inf, self.jump, -math.inf)

    def hull(self, other: ReceptiveField) -> ReceptiveField:
        """Of the sum of two maps of one size."""
        first = min(self.first, other.first)
        last = max(self.first + self.size, other.first + other.size)
        return ReceptiveField(last - first if math.isfinite(last) else math.inf, self.jump, first)

    def seen(self, first: int, end: int, height: int) -> tuple[int, int]:
        """Find what some output rows see of the input.

        Args:
            first: the first output row.
            end: the row after the last one.
            height: rows of the input.

        Returns:
            The first row and the row after the last one.
        """
        top = self.first + first * self.jump
        bottom = self.first + (end - 1) * self.jump + self.size
        return int(max(0, top)), int(min(height, bottom))


@dataclass(frozen=True)
class LayerField:
    """A layer with its place in the network.

    Attributes:
        name: the module's, below the backbone.
        kernel: rows of its kernel, the dilation not counted; None where it sees the whole map.
        stride: its own.
        height: rows of its output.
        field: what a row of its output sees of the network's input.
    """

    name: str
    kernel: int | None
    stride: int
    height: int
    field: ReceptiveField


def layer_fields(stages: Mapping[str, nn.Module], height: int) -> list[LayerField]:
    """Eq. (5) through all layers of some stages, in order.

    A residual block's last layer has the field of the sum: the longer of the two ways.

    Args:
        stages: consecutive ones of `stages_of`.
        height: rows of the first one's input, of which the fields are counted.

    Returns:
        The layers that see more than one row or have a stride, and the 1x1 convolutions between them.

    Raises:
        ValueError: a module's geometry is not known here.
    """
    layers: list[LayerField] = []
    field = ReceptiveField()
    for name, stage in stages.items():
        height, field = _trace(stage, name, height, field, layers)
    return layers


def _trace(
    module: nn.Module, name: str, height: int, field: ReceptiveField, layers: list[LayerField]
) -> tuple[int, ReceptiveField]:
    """Rows and field of a module's output; its layers are appended to `layers`."""
    if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
        kernel, stride, padding, dilation = (
            _rows(getattr(module, key, 1)) for key in ("kernel_size", "stride", "padding", "dilation")
        )
        height = _output_rows(height, kernel, stride, padding, dilation, getattr(module, "ceil_mode", False))
        field = field.through(kernel, stride, padding, dilation)
        layers.append(LayerField(name, kernel, stride, height, field))
    elif isinstance(module, (SELayer, Non_local, nn.InstanceNorm2d, nn.GroupNorm)):
        field = field.through_all()
        layers.append(LayerField(name, None, 1, height, field))
    elif hasattr(module, "downsample"):
        shortcut = height, field
        if module.downsample is not None:
            shortcut = _trace(module.downsample, name, height, field, [])
        for child_name, child in module.named_children():
            if child_name != "downsample":
                height, field = _trace(child, f"{name}.{child_name}", height, field, layers)
        if (height, field.jump) != (shortcut[0], shortcut[1].jump):
            raise ValueError(f"{name}: the paths of the block give maps of {height} and {shortcut[0]} rows")
        field = field.hull(shortcut[1])
        layers[-1] = replace(layers[-1], field=field)  # the sum of both ways
    elif hasattr(module, "non_local"):  # a ResNetStage: its non-local blocks stand between the others
        for i, block in enumerate(module.blocks):
            height, field = _trace(block, f"{name}.{i}", height, field, layers)
            if str(i) in module.non_local:
                height, field = _trace(module.non_local[str(i)], f"{name}.non_local{i}", height, field, layers)
    elif isinstance(module, nn.Sequential):
        for child_name, child in module.named_children():
            height, field = _trace(child, f"{name}.{child_name}", height, field, layers)
    elif any(isinstance(child, nn.InstanceNorm2d) for child in module.modules()):  # IBN: half of the channels
        field = field.through_all()
        layers.append(LayerField(name, None, 1, height, field))
    elif any(isinstance(child, nn.Conv2d) for child in module.modules()):
        raise ValueError(f"{name} is a {type(module).__name__}, whose receptive field cannot be read from its layers")
    return height, field


def _rows(value: int | tuple[int, int]) -> int:
    return value[0] if isinstance(value, tuple) else value


def _output_rows(height: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    space = height + 2 * padding - dilation * (kernel - 1) - 1
    if space < 0:
        raise ValueError(f"a map of {height} rows is too small for a kernel of {kernel}: use larger images")
    rows = (-(-space // stride) if ceil_mode else space // stride) + 1
    # PyTorch drops a window that would start after the map
    return rows - 1 if ceil_mode and (rows - 1) * stride >= height + padding else rows


@dataclass(frozen=True)
class Partition:
    """An inner map that is cut into stripes which the layers after it cannot leave.

    Attributes:
        before: what a row of the map sees of the image.
        behind: what a row of the last map sees of its stripe.
        height: h_j, rows of the map.
        stripes: n_s.
        image_height: rows of the image.
    """

    before: ReceptiveField
    behind: ReceptiveField
    height: int
    stripes: int
    image_height: int

    @classmethod
    def of(cls, backbone: nn.Module, image_height: int, cut_after: str, stripes: int) -> Partition:
        """Of a ResNet that is cut after the stage `cut_after`, `stem` or `layer1` to `layer4`.

        Args:
            backbone: see `stages_of`.
            image_height: rows of the image.
            cut_after: the stage whose map is cut.
            stripes: their number.

        Raises:
            ValueError: there is no such stage, or the stripes do not divide its map.
        """
        stages = stages_of(backbone)
        names = list(stages)
        if cut_after not in names:
            raise ValueError(f"a ResNet has the stages {', '.join(names)}, and none named '{cut_after}'")
        cut = names.index(cut_after) + 1
        last = layer_fields({name: stages[name] for name in names[:cut]}, image_height)[-1]
        if stripes < 1 or last.height % stripes:
            raise ValueError(f"the map after {cut_after} has {last.height} rows, which {stripes} stripes do not divide")
        rest = layer_fields({name: stages[name] for name in names[cut:]}, last.height // stripes)
        behind = rest[-1].field if rest else ReceptiveField()
        return cls(last.field, behind, last.height, stripes, image_height)

    @property
    def size(self) -> float:
        """Eq. (6) of RMGL: R_j^p = r_{0,j} + (h_j / n_s - 1) prod s, rows of the image that a stripe sees.

        At the edges of the image a part of them is padding, which `region` leaves out.
        """
        return self.before.size + (self.height // self.stripes - 1) * self.before.jump

    @property
    def restricts(self) -> bool:
        """Eq. (7) of RMGL: r_{j,N} >= h_j / n_s, where a row of the last map could see its whole stripe and more."""
        return self.behind.size >= self.height // self.stripes

    def region(self, stripe: int) -> tuple[int, int]:
        """Find the first row of the image that a stripe sees, from 0, and the row after the last one."""
        rows = self.height // self.stripes
        return self.before.seen(stripe * rows, (stripe + 1) * rows, self.image_height)

    def seen(self, stripe: int, row: int) -> tuple[int, int]:
        """Find what one row of a stripe's last map sees of the image: the first row, and the row after the last one.

        Args:
            stripe: from 0.
            row: of the stripe's last map.
        """
        rows = self.height // self.stripes
        first, end = self.behind.seen(row, row + 1, rows)
        return self.before.seen(stripe * rows + first, stripe * rows + end, self.image_height)
