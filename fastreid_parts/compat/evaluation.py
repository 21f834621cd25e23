"""What the host gets wrong between features and numbers, patched in place. The protocols are in `ranking.py`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import faiss
import fastreid.evaluation as host_evaluation
import fastreid.evaluation.evaluator as host_evaluator
import fastreid.evaluation.query_expansion as host_query_expansion
import fastreid.evaluation.rank as host_rank
import fastreid.evaluation.reid_evaluation as host_reid_evaluation
import fastreid.evaluation.roc as host_roc
import fastreid.utils.compute_dist as host_compute_dist
import numpy as np
import torch
from fastreid.config import CfgNode
from fastreid.evaluation.reid_evaluation import ReidEvaluator
from fastreid.utils import comm
from fastreid.utils.visualizer import Visualizer
from torch import nn

from ..evaluation.evaluator import check_test_metric
from . import ranking
from .overlay import Overlay, replace, wrap

_CHUNK_ROWS = 256  # of the distance matrix in float64 at once: 39 MiB for a gallery of 20,000
_CPU_SEARCH = 3


def apply() -> None:
    """Patch distances, metrics and the evaluation mode."""
    # evaluation/evaluator.py: leaving evaluation puts every layer into training mode, frozen batch norm included. An
    # exception leaves the model in evaluation mode. With several processes (broadcast_buffers=False) each rank
    # evaluates its share of the images with batch-norm statistics of its own, a different model for each part.
    replace(host_evaluator, "inference_context", inference_context)
    # utils/compute_dist.py: METRIC euclidean is the squared distance. Rank lists agree, but thresholds and the mixture
    # with re-ranked distances do not. It also calls `addmm_` in an order of arguments that torch deprecated years ago.
    replace(host_compute_dist, "compute_euclidean_distance", euclidean_distance)
    wrap(host_compute_dist, "compute_jaccard_distance", _jaccard_distance)
    wrap(host_query_expansion, "aqe", _expand_by_what_is_there)
    wrap(ReidEvaluator, "__init__", _init_evaluator)
    replace(ReidEvaluator, "_compile_dependencies", _compile_nothing)
    _patch_ranking()
    _patch_roc()


def _compile_nothing(self: ReidEvaluator) -> None:
    """evaluation/reid_evaluation.py: the first evaluation runs make in site-packages and exits without Cython.

    Nothing is compiled any more: the ranking is vectorized NumPy. The barrier that the host has there stays.
    """
    comm.synchronize()


def _gpu_search_works() -> bool:
    """Whether the host's own GPU search finds what it calls: a device, and a faiss with GPU code and the old casts."""
    names = ("StandardGpuResources", "bruteForceKnn", "cast_integer_to_float_ptr", "cast_integer_to_long_ptr")
    return torch.cuda.is_available() and all(hasattr(faiss, name) for name in names)


def _jaccard_distance(
    original: Callable, features: torch.Tensor, k1: int = 20, k2: int = 6, search_option: int = 0, fp16: bool = False
) -> np.ndarray:
    """utils/compute_dist.py, `compute_jaccard_distance`: "no NVIDIA driver", or faiss-cpu has no StandardGpuResources.

    Without both, the neighbors are searched on the CPU, which the function can already do and its only caller never
    asks for. With fewer images than k1, faiss answers -1, which the function takes for the last image: k1 and k2 are
    cut to the number of images.
    """
    if search_option < _CPU_SEARCH and not _gpu_search_works():
        search_option = _CPU_SEARCH
        features = features.cpu()
    k1, k2 = min(k1, len(features)), min(k2, len(features))
    return original(features, k1=k1, k2=k2, search_option=search_option, fp16=fp16)


def _patch_ranking() -> None:
    """evaluation/rank.py: np.bool is gone, eval_cuhk03 returns two of three values, small galleries fail.

    With fewer than 10 gallery images the evaluator reads past the CMC's end (IndexError), and with fewer than 50 left
    after the removal of same-camera images the curves have different lengths. `evaluate_rank` is also exported where
    the host's own demo/visualize_result.py imports it from.
    """
    for name in ("eval_market1501", "eval_cuhk03", "evaluate_rank"):
        replace(host_rank, name, getattr(ranking, name))
    host_evaluation.evaluate_rank = ranking.evaluate_rank


@contextlib.contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode for a `with` block; afterwards every submodule is in the mode that it was in.

    With several processes, the floating-point buffers of process 0 (running statistics of batch norm) are sent to all
    others first, so that all of them evaluate the same model. Every process must enter.

    Args:
        model: the network, wrapped for several processes or not.
    """
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                torch.distributed.broadcast(buffer, 0)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        model.train(modes[0][1])  # for modules whose train() does more than setting the flag
        for module, training in modes:
            module.training = training


def _expand_by_what_is_there(
    original: Callable,
    query_feat: torch.Tensor,
    gallery_feat: torch.Tensor,
    qe_times: int = 1,
    qe_k: int = 10,
    alpha: float = 3.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """evaluation/query_expansion.py: AQE with no more images than QE_K partitions past the end (ValueError)."""
    images = len(query_feat) + len(gallery_feat)
    return original(query_feat, gallery_feat, qe_times, min(qe_k, images - 1), alpha)


@torch.no_grad()
def euclidean_distance(features: torch.Tensor, others: torch.Tensor) -> np.ndarray:
    """Compute Euclidean distances between all rows of two matrices.

    The square of a small distance is the difference of large numbers, so it is formed in float64, some rows at a time:
    equal features are at most 1e-5 of their length apart, and never NaN.

    Args:
        features: (Q, D).
        others: (G, D), on the same device.

    Returns:
        (Q, G) float32.
    """
    others = others.double()
    squares = others.square().sum(dim=1)
    rows = []
    for chunk in features.split(_CHUNK_ROWS):
        chunk = chunk.double()
        squared = torch.addmm(squares, chunk, others.t(), alpha=-2) + chunk.square().sum(dim=1, keepdim=True)
        rows.append(squared.clamp_(min=0).sqrt_().float().cpu())
    return torch.cat(rows).numpy()


def _init_evaluator(
    original: Callable, self: ReidEvaluator, cfg: CfgNode, num_query: int, output_dir: Any = None
) -> None:
    """evaluation/reid_evaluation.py: an unknown TEST.METRIC fails only when all features have been computed.

    "jaccard" passes the host's own check and then lacks its parameters. Both are refused when the evaluator is made.
    """
    check_test_metric(cfg)
    original(self, cfg, num_query, output_dir)


def _patch_roc() -> None:
    """evaluation/roc.py and utils/visualizer.py: label 1 marks pairs of different people, scores are distances.

    TPR@FPR then tells how well different people are found, with the two error rates exchanged. Both users call
    `roc_curve(labels, scores)`, whose positive class is 1. Of the points with equal false positive rates the evaluator
    takes the first, the lowest: 0 for a model that makes no mistake. It is given the last of them only.
    """
    replace(host_roc, "evaluate_roc", ranking.evaluate_roc)
    host_reid_evaluation.metrics = Overlay(host_reid_evaluation.metrics, roc_curve=_highest_roc_curve)
    replace(Visualizer, "vis_roc_curve", _vis_roc_curve)


def _highest_roc_curve(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """sklearn's `roc_curve`, one point for each false positive rate: the one of the highest true positive rate."""
    from sklearn import metrics

    fpr, tpr, thresholds = metrics.roc_curve(labels, scores)
    last = np.append(fpr[1:] > fpr[:-1], True)
    return fpr[last], tpr[last], thresholds[last]


def _vis_roc_curve(self: Any, output: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw the ROC curve into `output`/roc.jpg; false and true positive rates, distances of equal and other pairs."""
    from matplotlib import pyplot as plt
    from sklearn import metrics

    os.makedirs(output, exist_ok=True)
    scores, labels = ranking.evaluate_roc(self.dist, self.q_pids, self.g_pids, self.q_camids, self.g_camids)
    fpr, tpr, _ = metrics.roc_curve(labels, scores)
    self.plot_roc_curve(fpr, tpr)
    plt.savefig(os.path.join(output, "roc.jpg"))
    return fpr, tpr, -scores[labels == 1], -scores[labels == 0]
