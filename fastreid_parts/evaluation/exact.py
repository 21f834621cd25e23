"""Exact evaluation of features: every query against every gallery image, some queries at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch
from tqdm import tqdm

from .features import Features
from .ranks import MatchRanks, Relevance, count_ranks

logger = logging.getLogger(__name__)

METRICS = ("cosine", "euclidean")

Matrix: TypeAlias = np.ndarray | torch.Tensor

# Bytes of one block of scores. Every product reads the whole gallery again, so it takes many queries at once
_BLOCK_BYTES = 128 * 2**20
_BLOCK_BYTES_GPU = 2**30
_FEWEST_ROWS, _MOST_ROWS = 64, 1024
# Float16 features become float32 so many at a time
_HALF_ROWS = 8192


def check_metric(metric: str) -> None:
    """Refuse a metric that distances cannot be computed in.

    Raises:
        ValueError: the message lists the choices.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric '{metric}', choose one of: {', '.join(METRICS)}")


def match_ranks(
    query: Features,
    gallery: Features,
    metric: str = "euclidean",
    device: torch.device | str = "cpu",
    half: bool = False,
    block_rows: int = 0,
) -> MatchRanks:
    """Rank the gallery for every query by exhaustive comparison, without ever holding the matrix of distances.

    See `ranks` for the protocol and for ties.

    Args:
        query: the query images.
        gallery: the gallery images.
        metric: `euclidean` or `cosine`.
        device: where the comparison is made.
        half: keep the features in float16 on the device; scores are float32 still.
        block_rows: queries that are compared at once; 0 chooses for the device.

    Raises:
        ValueError: unknown metric, empty gallery, different numbers of dimensions, or features that are not finite.
    """
    relevance = Relevance(query.pids, gallery.pids, query.camids, gallery.camids)
    similarity = Similarity(query.features, gallery.features, metric, device, half)
    return count_ranks(similarity.blocks(block_rows), relevance)


class Similarity:
    """Scores of Q queries against G gallery images, higher for more similar, computed some queries at a time.

    The score is the cosine, or for `euclidean` half the squared distance, negated, up to a constant of the query. It is
    float32. For `euclidean` both sets are shifted to the gallery's mean first, which no distance sees: features far
    from the origin would lose their differences in the squares.

    Args:
        query: (Q, D) features.
        gallery: (G, D) features.
        metric: `euclidean` or `cosine`.
        device: where to compute.
        half: keep the features in float16.

    Raises:
        ValueError: unknown metric, not matrices, different numbers of columns, an empty gallery, or a value that is not
            finite.
    """

    def __init__(
        self, query: Matrix, gallery: Matrix, metric: str, device: torch.device | str = "cpu", half: bool = False
    ) -> None:
        check_metric(metric)
        query, gallery = _as_matrix(query, "query"), _as_matrix(gallery, "gallery")
        check_dimensions(query, gallery)
        self._metric = metric
        queries, images = torch.from_numpy(query).to(device), torch.from_numpy(gallery).to(device)
        lengths, own_lengths = _lengths(images, gallery, "gallery"), _lengths(queries, query, "query")
        if metric == "cosine":
            note_without_direction(own_lengths.cpu().numpy(), "query")
            note_without_direction(lengths.cpu().numpy(), "gallery")
        lengths, own_lengths = lengths.clamp_(min=1e-12), own_lengths.clamp_(min=1e-12)
        # What the product of a gallery image is multiplied by, or half of what is taken off it
        self._factors = self._squares = None
        if metric == "cosine":
            queries = queries / own_lengths[:, None]
            if half:  # before a long feature becomes infinite
                chunks = zip(images.split(_HALF_ROWS), lengths.split(_HALF_ROWS))
                images = torch.cat([(chunk / length[:, None]).half() for chunk, length in chunks])
            else:
                self._factors = 1 / lengths  # and no second gallery in memory
        else:
            center = images.mean(dim=0, dtype=torch.float64).float()
            queries, images = queries - center, images - center
        if half:
            queries, images = queries.half(), images.half()
        self._query, self._gallery = queries, images
        if metric == "euclidean":
            self._squares = torch.cat([chunk.float().square().sum(dim=1) for chunk in images.split(_HALF_ROWS)])

    def __len__(self) -> int:
        return len(self._query)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._gallery.device

    def blocks(self, rows: int = 0, across_queries: bool = False) -> Iterator[tuple[slice, torch.Tensor]]:
        """Scores of all queries, with a progress bar on a terminal where it takes long.

        Args:
            rows: queries of a block; 0 chooses for the device.
            across_queries: scores of different queries are to be compared, so the constants of the queries matter.

        Yields:
            Rows of the queries, and their scores (B, G) in a buffer that the next block overwrites.
        """
        images = len(self._gallery)
        if rows <= 0:
            size = _BLOCK_BYTES_GPU if self._gallery.is_cuda else _BLOCK_BYTES
            rows = min(max(_FEWEST_ROWS, size // (4 * images)), _MOST_ROWS)
        rows = min(rows, max(1, len(self)))
        buffer = torch.empty(rows, images, device=self._gallery.device)
        for start in tqdm(range(0, len(self), rows), desc="ranking", unit="block", leave=False, disable=None, delay=2):
            chunk = slice(start, min(start + rows, len(self)))
            scores = buffer[: chunk.stop - chunk.start]
            self._product(chunk, scores)
            if across_queries and self._metric == "euclidean":
                scores -= self._query[chunk].float().square().sum(dim=1, keepdim=True) / 2
            yield chunk, scores

    def distances(self, rows: slice | Sequence[int]) -> torch.Tensor:
        """(B, G) float32 distances of some queries: Euclidean, or 1 minus the cosine."""
        chosen = rows if isinstance(rows, slice) else torch.as_tensor(rows, dtype=torch.long)
        scores = torch.empty(len(self._query[chosen]), len(self._gallery), device=self._gallery.device)
        self._product(chosen, scores)
        return self.as_distances(chosen, scores)

    def as_distances(self, rows: slice | torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Distances from scores (B, K) of some queries; the scores are overwritten.

        Args:
            rows: of the queries.
            scores: of `blocks`.
        """
        if self._metric == "cosine":
            return scores.neg_().add_(1)
        squares = self._query[rows].float().square().sum(dim=1, keepdim=True)
        return scores.mul_(-2).add_(squares).clamp_(min=0).sqrt_()

    def _product(self, rows: slice | torch.Tensor, out: torch.Tensor) -> None:
        query = self._query[rows].float()
        # Without float16 storage the whole gallery is one chunk, and float() returns it as it is
        step = _HALF_ROWS if self._gallery.dtype == torch.float16 else len(self._gallery)
        for start in range(0, len(self._gallery), step):
            columns = slice(start, start + step)
            images = self._gallery[columns].float()
            if self._squares is not None:
                torch.addmm(self._squares[columns], query, images.t(), beta=-0.5, out=out[:, columns])
            else:
                torch.mm(query, images.t(), out=out[:, columns])
        if self._factors is not None:
            out *= self._factors


def _lengths(features: torch.Tensor, matrix: np.ndarray, name: str) -> torch.Tensor:
    """(N,) lengths of the features; they are finite only if all features are.

    Raises:
        ValueError: they are not; the message names `name`.
    """
    lengths = torch.linalg.vector_norm(features, dim=1)
    if not bool(torch.isfinite(lengths).all()):
        check_features(matrix, name)  # says which
        raise ValueError(f"{name} features are so large that their length overflows: check the model's weights")
    return lengths


def _as_matrix(features: Matrix, name: str) -> np.ndarray:
    if isinstance(features, torch.Tensor):
        features = features.detach().cpu().numpy()
    if features.ndim != 2:
        raise ValueError(f"{name} features must be a matrix (N, D), not of shape {tuple(features.shape)}")
    if features.shape[1] == 0:
        raise ValueError(f"{name} features have no dimension: they are of shape {tuple(features.shape)}")
    return np.ascontiguousarray(features, dtype=np.float32)


def check_features(features: Matrix, name: str, metric: str = "euclidean") -> np.ndarray:
    """(N, D) float32 features as a NumPy array.

    Args:
        features: (N, D).
        name: what to call them.
        metric: that they are to be compared in; for the cosine, features that are zero are logged.

    Raises:
        ValueError: not a matrix, of no dimension, or a value that is not finite; the message names `name`.
    """
    features = _as_matrix(features, name)
    # In blocks, which a matrix in a mapped file is read by once. A sum is finite if all its terms are (unless it
    # overflows), and takes no mask of the matrix's size
    sums, squares = np.empty(len(features), np.float32), np.empty(len(features), np.float32)
    step = max(1, _BLOCK_BYTES // (4 * features.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(features), step):
            block = features[start : start + step]
            block.sum(axis=1, out=sums[start : start + step])
            if metric == "cosine":
                np.einsum("nd,nd->n", block, block, out=squares[start : start + step])
    if not np.isfinite(sums).all():
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(bad):
            raise ValueError(
                f"{len(bad)} of {len(features)} {name} features hold NaN or infinite values, first in row "
                f"{bad[0]}: check the model's weights"
            )
    if metric == "cosine":
        note_without_direction(squares, name)
    return features


def note_without_direction(lengths: np.ndarray, name: str) -> None:
    """Log how many features are zero: their cosine with every other counts as 0, so their distance says nothing.

    Args:
        lengths: (N,), of the features.
        name: what to call them.
    """
    zero = np.flatnonzero(lengths == 0)
    if len(zero):
        logger.warning(
            "%d of %d %s features are zero, first in row %d, and at distance 1 from everything by cosine: check the "
            "images and the model's weights, or compare by the metric euclidean",
            len(zero), len(lengths), name, zero[0],
        )  # fmt: skip


def check_dimensions(query: np.ndarray, gallery: np.ndarray) -> None:
    """Check that features can be compared.

    Args:
        query: (Q, D).
        gallery: (G, D).

    Raises:
        ValueError: they have different numbers of columns, or the gallery is empty.
    """
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"query features have {query.shape[1]} dimensions and gallery features {gallery.shape[1]}: "
            "take both with the same model"
        )
    if len(gallery) == 0:
        raise ValueError("the gallery is empty: there is nothing to search")
