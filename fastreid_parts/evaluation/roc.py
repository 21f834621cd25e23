"""How well a single threshold tells pairs of one person from pairs of two, over all pairs of query and gallery."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from .ranks import Relevance

Blocks = Callable[[], Iterable[tuple[slice, torch.Tensor]]]


def tpr_at_fpr(blocks: Blocks, relevance: Relevance, rates: Sequence[float] = (1e-4, 1e-3, 1e-2)) -> dict[float, float]:
    """True positive rates at false positive rates, of all pairs that count.

    As in fast-reid: of the ROC curve's corners, the one whose false positive rate is nearest, and among equal ones the
    highest true positive rate. The scores are computed twice, and held for one block at a time.

    Args:
        blocks: gives the scores of all queries anew, each time it is called, as `ranks.count_ranks` takes them.
        relevance: which pairs show one person, and which do not count.
        rates: the false positive rates.

    Returns:
        {false positive rate: true positive rate}, both between 0 and 1.

    Raises:
        ValueError: a score is not finite, or there are no pairs of one person, or none of two.
    """
    right = [relevance.take(rows, scores)[2].cpu().numpy() for rows, scores in blocks()]
    positives = np.sort(np.concatenate(right)) if right else np.zeros(0, dtype=np.float32)
    negatives = int(relevance.candidates.sum()) - len(positives)
    if not len(positives) or not negatives:
        raise ValueError(
            f"a ROC curve needs pairs of the same person and of different people; query and gallery "
            f"have {len(positives)} and {negatives}"
        )
    thresholds = np.unique(positives)
    as_high = np.zeros(len(thresholds), dtype=np.int64)
    higher = np.zeros(len(thresholds), dtype=np.int64)
    for rows, scores in blocks():
        relevance.take(rows, scores)
        wrong = scores.flatten().sort().values.cpu().numpy() if scores.is_cuda else np.sort(scores.numpy(), axis=None)
        as_high += len(wrong) - np.searchsorted(wrong, thresholds, side="left")
        higher += len(wrong) - np.searchsorted(wrong, thresholds, side="right")
    # Corners of the curve: at each positive's score, and just above it
    false = np.concatenate(([0, negatives], as_high, higher))
    at_least = len(positives) - np.searchsorted(positives, thresholds, side="left")
    above = len(positives) - np.searchsorted(positives, thresholds, side="right")
    true = np.concatenate(([0, len(positives)], at_least, above))
    result = {}
    for rate in rates:
        away = np.abs(false / negatives - rate)
        nearest = false[np.argmin(away)]
        result[rate] = float(true[false == nearest].max() / len(positives))
    return result
