"""The model of a command, named by --model, or by --config-file and --weights."""

from __future__ import annotations

import argparse

from ..arguments import add_config_options
from ..deployment import Embedder
from ..deployment.loading import check_weights, inference_config
from ..deployment.sources import takes_config
from ..retrieval import Gallery, GalleryIndex


def add_model_source(parser: argparse.ArgumentParser, note: str = "") -> None:
    """Give a command --model, --config-file, --weights and --opts.

    Args:
        parser: of the command.
        note: what the model is where none of these is given.
    """
    text = f"the folder of a training, a folder that `hub save` wrote, a checkpoint or an exported file{note}"
    parser.add_argument("--model", default="", metavar="PLACE", help=text)
    add_config_options(parser, required=False, note=note or " (in place of --model)")


def load_embedder(args: argparse.Namespace, index: Gallery | None = None) -> Embedder:
    """Load the model that a command names, or the index's own.

    Args:
        args: with the options of `add_model_source`.
        index: or None.

    Raises:
        FileNotFoundError: there is no such model, config or weights file.
        ImportError: what reads the file is not installed.
        KeyError: a key does not exist.
        ValueError: nothing names the model, it is named twice, is damaged, or is not the index's.
    """
    if args.model and (args.config_file or args.weights):
        raise ValueError("name the model once: --model, or --config-file and --weights")
    if args.model:
        embedder = Embedder.load(args.model, opts=args.opts)
    else:
        if args.config_file:
            cfg = inference_config(args.config_file, args.opts)
        elif index is not None and index.config:
            cfg = index.to_cfg()
        else:
            raise ValueError("name the model: --config-file and --weights, or --model")
        weights = args.weights or (cfg.MODEL.WEIGHTS if index is not None else "")
        if not weights:
            raise ValueError("name the checkpoint of the model with --weights")
        check_weights(weights)
        embedder = Embedder.load(weights, cfg if args.config_file or takes_config(weights) else "", args.opts)
    if index is not None:
        index.check_model(embedder.fingerprint)
    return embedder


def threshold_of(index: str, embedder: Embedder) -> float | None:
    """Take the threshold that an index of a model is calibrated to.

    Args:
        index: its folder, or empty.
        embedder: the model.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no index of this model, or none that is calibrated, or one of another metric.
    """
    if not index:
        return None
    there = GalleryIndex.load(index)
    there.check_model(embedder.fingerprint)
    metric = embedder.cfg.TEST.METRIC
    if there.calibration is None:
        raise ValueError(f"'{index}' is not calibrated: `fastreid-parts index calibrate` chooses a threshold")
    if there.calibration.metric != metric:
        raise ValueError(
            f"the threshold of '{index}' is of the {there.calibration.metric} distance, and TEST.METRIC is {metric}: "
            f"add --opts TEST.METRIC {there.calibration.metric}"
        )
    return there.calibration.threshold
