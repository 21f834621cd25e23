"""The figures of the demo."""

from __future__ import annotations

import os
from collections.abc import Mapping

import cv2
import numpy as np
from fastreid.config import CfgNode
from torch import nn

from .. import visualization
from ..evaluation import Features
from ..pedestrians import SCALES, contact_sheet

_EXAMPLES = 6  # images with activation maps
_IN_OVERVIEW = 3  # of these


def draw_people(cfg: CfgNode, output: str) -> None:
    """Draw contact_sheet.png: people of the generated test set through all cameras.

    Args:
        cfg: of the demo.
        output: folder to write to.
    """
    synthetic = cfg.DATASETS.SYNTHETIC
    sheet = contact_sheet(synthetic.SEED, cameras=SCALES[synthetic.SCALE].cameras)
    cv2.imwrite(os.path.join(output, "contact_sheet.png"), sheet)


def draw_training(cfg: CfgNode, output: str, iters_per_epoch: int, references: Mapping[str, float]) -> None:
    """Draw training_curve.png.

    Args:
        cfg: of the demo.
        output: folder to write to.
        iters_per_epoch: of the training.
        references: mAP in percent of ways without training.
    """
    metrics = visualization.read_metrics(os.path.join(cfg.OUTPUT_DIR, "metrics.json"))
    path = os.path.join(output, "training_curve.png")
    visualization.draw_training_curves(metrics, path, iters_per_epoch, references, _subject(cfg))


def draw_test_set(
    cfg: CfgNode,
    output: str,
    query: Features,
    gallery: Features,
    models: Mapping[str, nn.Module],
    scores: Mapping[str, float],
) -> None:
    """Draw rank_lists.png, activation_maps.png, and overview.png with a part of both.

    Args:
        cfg: of the demo.
        output: folder to write to.
        query: features of the trained network.
        gallery: features of the trained network.
        models: whose activation maps to show.
        scores: what the evaluator measured of the trained network.
    """
    measured = f"mAP {scores['mAP']:.1f} %, Rank-1 {scores['Rank-1']:.1f} %"
    metric = cfg.TEST.METRIC
    examples = visualization.rank_examples(query, gallery, metric, each=3)
    visualization.draw_rank_lists(examples, os.path.join(output, "rank_lists.png"), f"{_subject(cfg)}: {measured}")

    rows = np.linspace(0, len(query) - 1, min(_EXAMPLES, len(query))).round().astype(int)
    shown, images = visualization.load_images(cfg, [query.paths[row] for row in rows])
    maps = {name: visualization.activation_maps(model, images) for name, model in models.items()}
    heading = f"Where {cfg.MODEL.META_ARCHITECTURE} looks: activation maps of its last feature map"
    visualization.draw_activation_maps(shown, maps, os.path.join(output, "activation_maps.png"), title=heading)

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


def _subject(cfg: CfgNode) -> str:
    return f"{cfg.MODEL.META_ARCHITECTURE} on {cfg.DATASETS.TESTS[0]}"
