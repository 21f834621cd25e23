"""What each layer of a ResNet sees of the image, and what receptive partition leaves of it.

The receptive field of RMGL's Eq. (5), in rows of the image, for every layer of a config's backbone; for a config of
RMGL also the rows of the image that each stripe of the partitioned path sees, with Eq. (6) and (7) (Sec. III.B). Any
method on a fast-reid ResNet has the first table.
"""

from __future__ import annotations

import argparse
import math

from fastreid.config import CfgNode
from fastreid.modeling.backbones import build_backbone
from tabulate import tabulate

from ..arguments import add_config_options
from ..backbones import stages_of
from ..backbones.receptive_field import LayerField, Partition, layer_fields
from ..config import load_config
from ..methods.rmgl import RMGL, RMGLBackbone
from ..parts_head import branch


def run(args: argparse.Namespace) -> None:
    """Print the tables of a config.

    Raises:
        OSError, KeyError, ValueError: files, keys, or what the options name do not fit together.
    """
    cfg = load_config(args.config_file, ["MODEL.BACKBONE.PRETRAIN", False, *args.opts])
    backbone = RMGL.build_backbone(cfg) if cfg.MODEL.META_ARCHITECTURE == "RMGL" else build_backbone(cfg)
    height, width = cfg.INPUT.SIZE_TEST
    layers = layer_fields(stages_of(backbone), height)
    backbone_of = f"{cfg.MODEL.META_ARCHITECTURE}, {cfg.MODEL.BACKBONE.DEPTH}"
    print(f"{backbone_of}, images of {height}x{width}; all numbers are rows\n")
    headers = ["layer", "kernel", "stride", "map", "receptive field", "jump", "first center"]
    print(tabulate([_cells(layer) for layer in layers], headers=headers, tablefmt="pipe"))
    last = layers[-1]
    size = _number(last.field.size)
    print(f"\nA row of the last map, which has {last.height}, sees {size} rows; the image has {height}")
    if isinstance(backbone, RMGLBackbone):
        _print_partitions(cfg, backbone, height)


def _print_partitions(cfg: CfgNode, backbone: RMGLBackbone, height: int) -> None:
    rows = []
    for n in backbone.rmgl.branches:
        if "receptive" not in backbone.rmgl.paths_of(n):
            continue
        partition = Partition.of(backbone, height, backbone.cut_after, backbone.rmgl.partitions or n)
        after = f"{_number(partition.behind.size)} of {partition.height // partition.stripes}"
        for stripe in range(partition.stripes):
            first, end = partition.region(stripe)
            image_rows = [f"{first} to {end - 1}", end - first, f"{(end - first) / height:.0%}"]
            restricts = "yes" if partition.restricts else "no"
            rows.append([branch(n), stripe + 1, after, restricts, _number(partition.size), *image_rows])
    if not rows:
        print("\nNo branch has a receptively partitioned path")
        return
    print(f"\nReceptive partition after {cfg.MODEL.RMGL.PARTITION_AT}\n")
    headers = ["branch", "stripe", "field after", "Eq. (7)", "Eq. (6)", "rows of the image", "count", "share"]
    print(tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True))
    print(
        "\nField after: rows of its stripe that a row of the last map could see. Eq. (7) holds where those are as\n"
        "many as the stripe has; otherwise a row of the last map sees less of the image than its stripe.\n"
        "Eq. (6) counts the padding at the edges of the image, the rows of the image do not."
    )


def _cells(layer: LayerField) -> list[str | int]:
    kernel = "all" if layer.kernel is None else layer.kernel
    center = "" if math.isnan(layer.field.center) else f"{layer.field.center:g}"
    return [layer.name, kernel, layer.stride, layer.height, _number(layer.field.size), layer.field.jump, center]


def _number(size: float) -> str:
    return f"{size:g}" if math.isfinite(size) else "all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    add_config_options(parser, weights=False)
