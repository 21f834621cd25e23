"""See the whole path at work, in minutes on two processor cores and without any download.

Images of people are generated, CMBN is trained on them, and it is compared with the same network untrained
and with a plain color histogram. The output folder then holds the result table and figures: people of the
dataset, training curve, rank lists, and maps of the places that a feature depends on. A demo that was interrupted goes
on where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from fastreid.config import CfgNode
from fastreid.data.datasets.bases import ImageDataset
from fastreid.modeling import build_model
from tabulate import tabulate
from torch import nn

from .. import visualization
from ..analysis.trained_models import load_test_images
from ..config import load_config
from ..data.build import load_dataset
from ..data.datasets import SyntheticReID
from ..engine import PartsTrainer
from ..engine.checks import check_training
from ..engine.hooks import ProgressLine
from ..evaluation import Features, color_histogram_features, evaluate_features, extract, rank_lists
from ..files import write_json
from ..folders import ELSEWHERE, FolderError, RunFolder
from ..host import junk_identities
from ..pedestrians import SCALES, contact_sheet
from ..seeding import seed_epoch

Results = Mapping[str, Mapping[str, float]]

HISTOGRAM, UNTRAINED, TRAINED = "color histogram", "untrained network", "trained network"
_COLUMNS = ("mAP", "Rank-1", "Rank-5")
_EVALUATIONS = 5  # points of the curve of mAP over training
_PHASES = 6
_EXAMPLES = 6  # images with maps
_IN_OVERVIEW = 3  # of these


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--output", default="demo_output", help="folder of the results (default: demo_output)")
    parser.add_argument("--config-file", default="Synthetic/cmbn.yml", help="what to train (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="initial weights and order of the images (default: 0)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys to change, at the end")


def run(args: argparse.Namespace) -> None:
    """Run the demo.

    Raises:
        OSError: there is no such config file.
        KeyError: a key does not exist.
        ValueError: settings do not fit together, or the folder holds a demo with others.
    """
    cfg = demo_config(args.config_file, args.seed, args.output, args.opts)
    if foreign := RunFolder(cfg).foreign():
        raise FolderError(f"the folder '{args.output}' holds a demo with other settings ({foreign}): {ELSEWHERE}")
    os.makedirs(args.output, exist_ok=True)
    with quiet_logging(os.path.join(args.output, "log.txt")):
        run_demo(cfg, args.output)


def run_demo(cfg: CfgNode, output: str) -> dict[str, Mapping[str, float]]:
    """Generate, train, evaluate and draw.

    Args:
        cfg: from `demo_config`.
        output: folder for results and figures.

    Returns:
        What the evaluator measured, for the histogram, the untrained and the trained network.
    """
    seconds: dict[str, float] = {}
    with phase("generating people", seconds):
        dataset = load_dataset(cfg.DATASETS.TESTS[0], cfg)
        describe(dataset)
    results: dict[str, Mapping[str, float]] = {}
    with phase("color histogram", seconds):
        histograms = color_histogram_features(dataset.query + dataset.gallery)
        results[HISTOGRAM] = evaluate_features(histograms, len(dataset.query), cfg)
    with phase("untrained network", seconds):
        untrained = initial_model(cfg, dataset.get_num_pids(dataset.train))
        features, num_query = test_features(cfg, untrained)
        results[UNTRAINED] = evaluate_features(features, num_query, cfg)
    with phase(f"training {cfg.MODEL.META_ARCHITECTURE}: {cfg.SOLVER.MAX_EPOCH} epochs", seconds):
        trainer = PartsTrainer(cfg)
        trainer.resume_or_load(resume=True)
        trainer.train()
    with phase("evaluation and search", seconds):
        features, num_query = test_features(cfg, trainer.model)
        results[TRAINED] = evaluate_features(features, num_query, cfg)
        query, gallery = features.split(num_query)
        searched = search_rank1(query, gallery, cfg.TEST.METRIC)
    with phase("figures", seconds):
        if isinstance(dataset, SyntheticReID):
            synthetic = cfg.DATASETS.SYNTHETIC
            sheet = contact_sheet(synthetic.SEED, cameras=SCALES[synthetic.SCALE].cameras)
            cv2.imwrite(os.path.join(output, "contact_sheet.png"), sheet)
        metrics = visualization.read_metrics(os.path.join(cfg.OUTPUT_DIR, "metrics.json"))
        curves = os.path.join(output, "training_curve.png")
        levels = {name: results[name]["mAP"] for name in (HISTOGRAM, UNTRAINED)}
        visualization.draw_training_curves(metrics, curves, trainer.iters_per_epoch, levels, subject(cfg))
        models = {"untrained": untrained, "trained": trainer.model}
        draw_test_set(cfg, output, query, gallery, models, results[TRAINED])
    write_results(output, cfg, results, searched, seconds)
    print(f"\n{result_table(results, 'simple')}\n")
    print(f"Exact search with faiss finds the right person first for {searched:.1f} % of the queries.")
    print(f"{sum(seconds.values()):.0f} s in all. Results and figures: {os.path.abspath(output)}")
    return results


# ---- settings ------------------------------------------------------------------------------------------


def demo_config(config_file: str, seed: int, output: str, opts: list[str]) -> CfgNode:
    """Make the config of a demo: the file's, with its checkpoints below `output` and a few evaluations on the way.

    Args:
        config_file: see `config.load_config`.
        seed: SEED.
        output: folder of the demo.
        opts: KEY, VALUE pairs.

    Raises:
        FileNotFoundError: there is no such config file.
        KeyError: a key does not exist.
        ValueError: settings do not fit together.
    """
    cfg = load_config(config_file, ["SEED", seed, "OUTPUT_DIR", os.path.join(output, "training"), *opts])
    if "TEST.EVAL_PERIOD" not in opts:
        cfg.TEST.EVAL_PERIOD = max(1, cfg.SOLVER.MAX_EPOCH // _EVALUATIONS)
    if "SOLVER.CHECKPOINTS_KEPT" not in opts:
        cfg.SOLVER.CHECKPOINTS_KEPT = 0
    if cfg.SEED < 0:
        raise ValueError(f"the demo repeats exactly by its seed, which must not be negative: got {cfg.SEED}")
    check_training(cfg)
    cfg.freeze()
    return cfg


@contextlib.contextmanager
def quiet_logging(path: str) -> Iterator[None]:
    """Log into a file; on the terminal only warnings and the progress of the training."""
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s"))
    terminal = logging.StreamHandler(sys.stdout)
    terminal.setFormatter(logging.Formatter("      %(message)s"))
    terminal.addFilter(lambda line: line.levelno >= logging.WARNING or line.name == ProgressLine.__module__)
    loggers = [logging.getLogger(name) for name in ("fastreid", "fastreid_parts", "py.warnings")]
    before = [(logger.level, logger.propagate, logger.handlers) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.handlers = [file] if logger.name == "py.warnings" else [file, terminal]
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, (level, propagate, handlers) in zip(loggers, before):
            logger.setLevel(level)
            logger.propagate, logger.handlers = propagate, handlers
        file.close()


# ---- steps ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def phase(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Print a phase's name before, and its duration after.

    Args:
        name: of the phase.
        seconds: of the phases so far, to which this one's are added.
    """
    print(f"[{len(seconds) + 1}/{_PHASES}] {name}", flush=True)
    start = time.monotonic()
    yield
    seconds[name] = time.monotonic() - start
    print(f"      {seconds[name]:.1f} s", flush=True)


def describe(dataset: ImageDataset) -> None:
    """Print how many people and images each split has."""
    for name in ("train", "query", "gallery"):
        items = getattr(dataset, name)
        people = {item[1] for item in items}.difference(junk_identities(dataset))  # distractors
        cameras = {item[2] for item in items}
        print(f"      {name:<8}{len(items):>6} images of {len(people):>4} people from {len(cameras)} cameras")


def initial_model(cfg: CfgNode, num_classes: int) -> nn.Module:
    """Build the network with the weights that training starts from.

    Args:
        cfg: the config.
        num_classes: identities.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.HEADS.NUM_CLASSES = num_classes
    seed_epoch(cfg.SEED, -1)
    return build_model(cfg)


def test_features(cfg: CfgNode, model: nn.Module) -> tuple[Features, int]:
    """Take features of the test set, and count the queries among them.

    Args:
        cfg: the config.
        model: trained or not.
    """
    loader, num_query, _ = load_test_images(cfg)
    return extract(model, loader, flip=cfg.TEST.FLIP.ENABLED), num_query


def search_rank1(query: Features, gallery: Features, metric: str) -> float:
    """Compute Rank-1 in percent by exact search: how often the first hit is a match.

    Args:
        query: the query images.
        gallery: the gallery images.
        metric: TEST.METRIC.
    """
    lists = rank_lists(query, gallery, 1, metric)
    matches = (gallery.pids == query.pids[:, None]) & (gallery.camids != query.camids[:, None])  # (Q, G)
    return 100 * float(np.mean([found.correct[0] for found in lists if matches[found.query].any()]))


# ---- figures -------------------------------------------------------------------------------------------


def draw_test_set(
    cfg: CfgNode,
    output: str,
    query: Features,
    gallery: Features,
    models: Mapping[str, nn.Module],
    scores: Mapping[str, float],
) -> None:
    """Draw rank_lists.png, occlusion_maps.png, and overview.png with a part of both.

    Args:
        cfg: of the demo.
        output: folder to write to.
        query: features of the trained network.
        gallery: features of the trained network.
        models: whose maps to show.
        scores: what the evaluator measured of the trained network.
    """
    measured = f"mAP {scores['mAP']:.1f} %, Rank-1 {scores['Rank-1']:.1f} %"
    metric = cfg.TEST.METRIC
    examples = visualization.rank_examples(query, gallery, metric, each=3)
    visualization.draw_rank_lists(examples, os.path.join(output, "rank_lists.png"), f"{subject(cfg)}: {measured}")

    rows = np.linspace(0, len(query) - 1, min(_EXAMPLES, len(query))).round().astype(int)
    shown, images = visualization.load_images(cfg, [query.paths[row] for row in rows])
    # The last map of so small an image has four rows and shows nobody
    maps = {name: visualization.dependence_maps(model, images) for name, model in models.items()}
    heading = f"What {cfg.MODEL.META_ARCHITECTURE} looks at: how far its feature moves where a place is covered"
    visualization.draw_activation_maps(shown, maps, os.path.join(output, "occlusion_maps.png"), title=heading)

    people = visualization.strip_of_people(query, gallery)
    visualization.draw_overview(
        os.path.join(output, "overview.png"),
        people,
        visualization.rank_examples(query, gallery, metric, each=1),
        shown[:_IN_OVERVIEW],
        {name: responses[:_IN_OVERVIEW] for name, responses in maps.items()},
        [
            f"{cfg.DATASETS.TESTS[0]}: {len(people)} people, each seen by several cameras",
            f"Rank lists of {cfg.MODEL.META_ARCHITECTURE} after training: {measured}",
            heading,
        ],
    )


def subject(cfg: CfgNode) -> str:
    """Name the model and the test set."""
    return f"{cfg.MODEL.META_ARCHITECTURE} on {cfg.DATASETS.TESTS[0]}"


# ---- output --------------------------------------------------------------------------------------------


def result_table(results: Results, style: str) -> str:
    """Write mAP, Rank-1 and Rank-5 in percent, one row a way to make features.

    Args:
        results: by name.
        style: a format of tabulate.
    """
    rows = [[name, *(values[column] for column in _COLUMNS)] for name, values in results.items()]
    return tabulate(rows, headers=["[%]", *_COLUMNS], tablefmt=style, floatfmt=".1f")


def write_results(output: str, cfg: CfgNode, results: Results, searched: float, seconds: Mapping[str, float]) -> None:
    """Write results.json and results.md.

    Args:
        output: the folder.
        cfg: the config.
        results: by name.
        searched: Rank-1 by exact search.
        seconds: of each phase.
    """
    data: dict[str, Any] = {
        "architecture": cfg.MODEL.META_ARCHITECTURE,
        "dataset": cfg.DATASETS.TESTS[0],
        "seed": cfg.SEED,
        "epochs": cfg.SOLVER.MAX_EPOCH,
        "results": {name: {key: float(v) for key, v in values.items()} for name, values in results.items()},
        "rank1_by_exact_search": searched,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
    write_json(os.path.join(output, "results.json"), data)
    times = tabulate(seconds.items(), headers=["phase", "seconds"], tablefmt="github", floatfmt=".1f")
    text = (
        f"# {data['architecture']} on {data['dataset']}, seed {cfg.SEED}\n\n"
        f"{result_table(results, 'github')}\n\n"
        f"Exact search with faiss: Rank-1 {searched:.1f} %.\n\n{times}\n"
    )
    Path(output, "results.md").write_text(text, encoding="utf-8")
