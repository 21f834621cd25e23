"""Write a trained model as a file that other programs run.

The file takes a batch of any size of images resized to INPUT.SIZE_TEST, and gives their features as `extract` stores
them: normalization, TEST.FLIP and TEST.FEATURES are inside, classifiers and the optimizer are left out. The ending of
--output chooses the format: .onnx, .xml (OpenVINO), .torchscript, .pt2 (torch.export), .safetensors (weights alone).

Programs feed different pixels, and a file takes all of them without a word: --for or --input says which ones it will
get. What the file is stands in it and in a JSON beside it.

The file is opened in its own runtime and compared with the checkpoint in batches of 1, 3 and 8 images, of --images, of
the dataset, or drawn ones; where they differ nothing is left. With --dataset the mAP of both is measured.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from fastreid.config import CfgNode
from torch import nn
from torch.utils.data import DataLoader

from ..data.build import build_reid_test_loader
from ..deployment.crops import AnyImage
from ..deployment.description import COLORS, PIXELS, ModelDescription
from ..deployment.export import BATCHES, TARGETS, TOLERANCES, check_places, export
from ..deployment.exported import ExportedModel
from ..deployment.inference import InferenceModel, as_pixels
from ..deployment.runtimes import FORMATS, description_beside, format_of
from ..deployment.sample_images import MOST, check_calibration, find_sample, load_raw, spread
from ..deployment.sources import load_source
from ..deployment.writers import EXPORTERS, WriteOptions
from ..evaluation import evaluate_features, extract
from ._indexes import print_log
from ._models import add_model_source, load_embedder, threshold_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_model_source(parser)
    parser.add_argument("--output", required=True, metavar="FILE", help="the file to write; its ending is the format")
    text = "the format, where the ending of --output does not say it or to be sure"
    parser.add_argument("--format", choices=tuple(FORMATS.values()), help=text)
    fed = parser.add_argument_group("what the file is fed with")
    text = "; ".join(f"{name}: {pixels} {colors}" for name, (pixels, colors) in TARGETS.items())
    fed.add_argument("--for", dest="target", choices=tuple(TARGETS), help=f"the program that will use it ({text})")
    text = "; ".join(f"{name}: {meaning}" for name, meaning in PIXELS.items())
    fed.add_argument("--input", choices=tuple(PIXELS), help=f"range of the pixels (default: raw); {text}")
    fed.add_argument("--colors", choices=COLORS, help="order of the colors (default: RGB)")
    parser.add_argument("--normalize", action="store_true", help="features of unit length")
    made = parser.add_argument_group("how it is made")
    precision = made.add_mutually_exclusive_group()
    precision.add_argument("--half", action="store_true", help="weights of 16 bits: half the size")
    precision.add_argument("--int8", action="store_true", help="weights and maps of 8 bits, calibrated on images")
    text = f"images for --int8, {MOST} of them at most (default: --images, or those of the dataset)"
    made.add_argument("--calibrate", nargs="+", default=[], metavar="PLACE", help=text)
    opsets = "; ".join(f"{name}: {o[0]} to {o[-1]}, by default {usual}" for name, (o, usual) in EXPORTERS.items())
    made.add_argument("--exporter", choices=tuple(EXPORTERS), default="legacy", help="of torch's two to ONNX")
    made.add_argument("--opset", type=int, metavar="N", help=f"version of ONNX's operators ({opsets})")
    made.add_argument("--simplify", action="store_true", help="run onnxsim on the ONNX file")
    checked = parser.add_argument_group("how it is checked")
    text = "images to compare on: files, and folders with those below them (default: those of the dataset, or drawn)"
    checked.add_argument("--images", nargs="+", default=[], metavar="PLACE", help=text)
    text = "a dataset whose mAP is measured with the checkpoint and with the file"
    checked.add_argument("--dataset", default="", metavar="NAME", help=text)
    text = ", ".join(f"{name} {share:g}" for name, share in TOLERANCES.items())
    text = f"how far features may be from the checkpoint's, as a share of their length (default: {text})"
    checked.add_argument("--tolerance", type=float, metavar="SHARE", help=text)
    text = (
        "an index of this model that is calibrated: its threshold goes into the file (default: that of a hub's folder)"
    )
    parser.add_argument("--index", default="", metavar="DIR", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")


def run(args: argparse.Namespace) -> None:
    """Export, and say how the file agrees with the checkpoint.

    Raises:
        ImportError: what writes or runs the file is not installed.
        KeyError: a key does not exist.
        OSError: a config, weights, an image or an index is not there, the file is, or the disk is full.
        ValueError: arguments do not fit together, the weights are another model's, or the file's features differ.
    """
    print_log()
    pixels, colors = _fed(args)
    kind = _format(args)
    precision = "int8" if args.int8 else "float16" if args.half else "float32"
    options = WriteOptions(precision=precision, exporter=args.exporter, opset=args.opset, simplify=args.simplify)
    options.check(kind)  # what cannot be shows before anything is loaded
    check_places(Path(args.output), args.overwrite)
    embedder = load_embedder(args)
    if isinstance(embedder.model, ExportedModel):
        raise ValueError(f"'{args.model}' is an exported file: name the checkpoint that it was made of")
    cfg = embedder.cfg
    test = build_reid_test_loader(cfg, dataset_name=args.dataset) if args.dataset else None
    model = InferenceModel(cfg, embedder.model, pixels=pixels, colors=colors, normalize=args.normalize)
    images, where = find_sample(cfg, args.images, args.dataset)
    if args.int8:
        options = replace(options, calibration=_calibration(args, cfg, model, images, where))
    said = model.describe(threshold_of(args.index, embedder), precision)
    sample = as_pixels(load_raw(cfg, spread(images, sum(BATCHES))), pixels, colors)
    agreement = export(
        model.cpu(),
        args.output,
        sample,
        description=said,
        options=options,
        tolerance=args.tolerance,
        overwrite=args.overwrite,
    )
    print(_summary(args.output, kind, said))
    print(
        f"Compared in batches of {', '.join(map(str, BATCHES))} ({where}): cosine at least {agreement.cosine:.6f}, "
        f"distance at most {agreement.difference:.1e} of a feature's length"
    )
    if test:
        before, after = (_mean_ap(*source, *test) for source in ((cfg, embedder.model), load_source(args.output)))
        lost = f"{before - after:.2f} lost"
        print(f"mAP of {args.dataset}: {before:.2f} with the checkpoint, {after:.2f} with the file, {lost}")


def _fed(args: argparse.Namespace) -> tuple[str, str]:
    """Range of the pixels and order of the colors.

    Raises:
        ValueError: they are said twice.
    """
    if args.target and (args.input or args.colors):
        raise ValueError(f"--for {args.target} says what the pixels are: leave --input and --colors out")
    return TARGETS[args.target] if args.target else (args.input or "raw", args.colors or "RGB")


def _format(args: argparse.Namespace) -> str:
    """The format of the file.

    Raises:
        ValueError: its ending is of none, or of another one; or weights alone are to take other pixels.
    """
    kind = format_of(args.output)
    if args.format and args.format != kind:
        ending = next(end for end, name in FORMATS.items() if name == args.format)
        raise ValueError(f"--output '{args.output}' is a file of {kind}; one of {args.format} ends in {ending}")
    if kind == "safetensors" and (_fed(args) != ("raw", "RGB") or args.normalize):
        raise ValueError(
            "a .safetensors holds weights and no program: it takes raw RGB pixels. Leave --for, --input, --colors and "
            "--normalize out, or choose another format"
        )
    return kind


def _calibration(
    args: argparse.Namespace, cfg: CfgNode, model: InferenceModel, images: Sequence[AnyImage], where: str
) -> np.ndarray:
    """What int8 is calibrated on, as the file takes it."""
    if args.calibrate:
        images, where = find_sample(cfg, args.calibrate)
    check_calibration(images, where)
    return as_pixels(load_raw(cfg, spread(images, MOST)), model.pixels, model.colors).numpy()


def _mean_ap(cfg: CfgNode, model: nn.Module, loader: DataLoader, num_query: int) -> float:
    """In percent, with the keys of TEST that the config has."""
    return evaluate_features(extract(model, loader, cfg.TEST.FLIP.ENABLED), num_query, cfg)["mAP"]


def _summary(path: str, kind: str, said: ModelDescription) -> str:
    """What was written, in two lines."""
    beside = description_beside(path)
    size = os.path.getsize(path) + (os.path.getsize(Path(path).with_suffix(".bin")) if kind == "openvino" else 0)
    height, width = said.size
    return (
        f"{path}: {kind}, {said.precision}, {size / 2**20:.1f} MiB; takes (N, 3, {height}, {width}) {said.colors}, "
        f"{PIXELS[said.pixels]}; gives (N, {said.dimension})\nDescription: {beside}, in the file too"
    )
