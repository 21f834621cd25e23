"""Nearest neighbors of a set within itself, in half the matrix product of an exhaustive search.

The similarity of two images is the same from both sides. So only blocks on and above the diagonal of the matrix are
multiplied, and each is read twice: its rows look for neighbors among its columns, its columns among its rows. What is
read is compared with the k-th best score that an image has so far. Few scores pass once an image has met some hundreds
of others; those that do are kept aside and merged now and then. Memory is that of the features, the k neighbors and
what is kept aside, which is bounded.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

# Rows and columns of a block of scores, on the CPU at least and at most, and on a GPU. Threads meet at the end of each
# operation, so that fewer and larger ones are faster; half of a block on the diagonal is computed for nothing
_BLOCK, _BLOCK_MOST, _BLOCK_GPU = 1024, 4096, 8192
_BLOCKS = 20  # along a side, from which on blocks are larger
# Scores that one comparison stands for: their maximum is compared first
_GROUP = 8
# Scores that are kept aside at most, and numbers in a table that merges them, as far as one block allows
_MOST = 4 * 2**20
# Neighbors are merged when an image has met so many times as many others as at the last time
_GROWTH = 1.5
_LOWEST = torch.iinfo(torch.int64).min


def nearest_within(
    features: np.ndarray, k: int, metric: str, device: torch.device | str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest of every image among all, itself first.

    Among equally near images the one of the lower row comes first.

    Args:
        features: (N, D) float32, finite.
        k: how many, at most N.
        metric: `cosine` or `euclidean`.
        device: where to search.

    Returns:
        Distances (N, k) float32, ascending in each row, and row numbers, int64.

    Raises:
        ValueError: features are so large that their squares overflow.
    """
    images = torch.from_numpy(features).to(device)
    left, right = _factors(images, metric)
    larger = len(left) // _BLOCKS // _BLOCK * _BLOCK
    size = _BLOCK_GPU if left.is_cuda else max(_BLOCK, min(_BLOCK_MOST, larger))
    nearest = _Nearest(len(images), k, left.device)
    starts = range(0, len(left), size)
    blocks = [(row, column) for row in starts for column in starts if column >= row]
    buffer = torch.empty(size * size, device=left.device)
    merged = 0
    for row, column in tqdm(blocks, desc="neighbors", unit="block", leave=False, disable=None, delay=2):
        rows, columns = left[row : row + size], right[column : column + size]
        scores = buffer[: len(rows) * len(columns)].view(len(rows), len(columns))
        torch.mm(rows, columns.t(), out=scores)
        scores[len(images) - row :] = scores[:, len(images) - column :] = -torch.inf  # rows that only fill a group
        if row == column:
            scores.fill_diagonal_(torch.inf)
        else:
            nearest.read_columns(scores, row, column)
        nearest.read_rows(scores, row, column)
        met = min(column, row + size)
        if nearest.full or (column == starts[-1] and met >= _GROWTH * merged):
            nearest.merge()
            merged = met
    nearest.merge()
    return _distances(nearest, images, metric)


def _factors(images: torch.Tensor, metric: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Two matrices of which the product is symmetric, higher for nearer; rows of zeros fill the last group.

    For the Euclidean distance it is half its square, negated: x y - x x / 2 - y y / 2.
    """
    centered = images if metric == "cosine" else images - images.mean(dim=0, dtype=torch.float64).float()
    squares = centered.square().sum(dim=1, keepdim=True)
    if not bool(torch.isfinite(squares).all()):
        raise ValueError("features are so large that their squares overflow: check the model's weights")
    if metric == "cosine":
        left = right = F.normalize(images)
    else:
        halves, ones = squares / -2, torch.ones_like(squares)
        left, right = torch.cat((centered, halves, ones), dim=1), torch.cat((centered, ones, halves), dim=1)
    missing = -len(images) % _GROUP
    padded = [F.pad(factor, (0, 0, 0, missing)) for factor in (left, right)] if missing else [left, right]
    return padded[0], padded[1]


def _distances(nearest: _Nearest, images: torch.Tensor, metric: str) -> tuple[np.ndarray, np.ndarray]:
    scores, rows = nearest.scores_and_rows()
    own = rows == torch.arange(len(rows), device=rows.device)[:, None]
    if metric == "cosine":
        zero = (images == 0).all(dim=1, keepdim=True).float()  # of no direction, so at distance 1 of itself as well
        distances = torch.where(own, zero, 1 - scores)
    else:
        distances = torch.where(own, 0, scores.mul(-2).clamp_(min=0).sqrt_())
    return distances.cpu().numpy(), rows.cpu().numpy()


class _Nearest:
    """The k nearest that each of N images has met, and candidates that are not yet among them.

    A neighbor is one number, its score above its row, negated: the greatest number is the best score, and of equal ones
    the lowest row.
    """

    def __init__(self, images: int, k: int, device: torch.device) -> None:
        self._k = k
        self._keys = torch.full((images, k), _LOWEST, device=device)
        # Of the k-th nearest; nothing passes that of a row that only fills a group
        self._bounds = torch.full((images + -images % _GROUP,), torch.inf, device=device)
        self._bounds[:images] = -torch.inf
        self._aside: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._number = 0

    @property
    def full(self) -> bool:
        """Whether candidates have to be merged before there are more."""
        return self._number > _MOST

    def read_rows(self, scores: torch.Tensor, row: int, column: int) -> None:
        """Take candidates for the images of a block's rows; the block begins at `row` and `column`."""
        groups = scores.view(len(scores), _GROUP, -1)
        bounds = self._bounds[row : row + len(scores), None]
        line, member, group, found = self._passing(scores, groups, bounds, dim=1)
        self._keep(line + row, member * groups.shape[2] + group + column, found)

    def read_columns(self, scores: torch.Tensor, row: int, column: int) -> None:
        """Take candidates for the images of its columns."""
        groups = scores.view(-1, _GROUP, scores.shape[1])
        bounds = self._bounds[None, column : column + scores.shape[1]]
        group, member, line, found = self._passing(scores, groups, bounds, dim=0)
        self._keep(line + column, group * _GROUP + member + row, found)

    def _passing(
        self, scores: torch.Tensor, groups: torch.Tensor, bounds: torch.Tensor, dim: int
    ) -> tuple[torch.Tensor, ...]:
        """Places in `groups`, and scores, of what passes the bounds; an image's candidates lie along `dim`."""
        highest = groups.amax(dim=1)
        passed = highest > bounds
        those = highest if highest.shape[dim] >= self._k else scores
        if those.shape[dim] >= self._k and int(passed.sum()) > 2 * self._k * bounds.numel():
            # The k-th highest is a bound as well, and what equals it may be among the k
            kth = those.topk(self._k, dim=dim).values.narrow(dim, -1, 1)
            bounds = torch.maximum(bounds, torch.nextafter(kth, torch.full_like(kth, -torch.inf)))
            passed = highest > bounds
        first, last = passed.nonzero(as_tuple=True)
        values = groups[first, :, last]
        chosen, member = (values > bounds.expand_as(highest)[first, last, None]).nonzero(as_tuple=True)
        return first[chosen], member, last[chosen], values[chosen, member]

    def _keep(self, images: torch.Tensor, others: torch.Tensor, scores: torch.Tensor) -> None:
        bits = (scores + 0.0).view(torch.int32)  # -0.0 becomes 0.0
        ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()  # in the order of the scores, negative ones too
        self._aside.append((images.int(), (ordered << 32) - others))
        self._number += len(images)

    def scores_and_rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, k) scores, descending, and rows of the neighbors."""
        rows = -self._keys & 0xFFFFFFFF
        return _score(self._keys + rows), rows

    def merge(self) -> None:
        """Put the candidates among the nearest."""
        images, keys = (torch.cat(parts) for parts in zip(*self._aside)) if self._aside else (None, None)
        if images is None or keys is None:
            return
        self._aside, self._number = [], 0
        images, order = images.sort()
        keys = keys[order]
        touched, counts = images.unique_consecutive(return_counts=True)
        ends = counts.cumsum(0)
        # The images with most candidates first, so that a table has lines of about one length
        counts, order = counts.sort(descending=True)
        touched, starts = touched[order].long(), ends[order] - counts
        first = 0
        while first < len(touched):
            width = self._k + int(counts[first])
            last = first + max(1, _MOST // width)
            self._merge_some(touched[first:last], starts[first:last], counts[first:last], keys, width)
            first = last

    def _merge_some(
        self, images: torch.Tensor, starts: torch.Tensor, counts: torch.Tensor, keys: torch.Tensor, width: int
    ) -> None:
        """The same for some images, whose candidates are `counts` of `keys` from `starts` on."""
        places = torch.arange(width - self._k, device=keys.device)
        candidates = keys[(starts[:, None] + places).clamp_(max=len(keys) - 1)]
        candidates.masked_fill_(places >= counts[:, None], _LOWEST)
        merged = torch.cat((self._keys[images], candidates), dim=1).topk(self._k, dim=1).values
        self._keys[images] = merged
        kth = merged[:, -1]
        self._bounds[images] = torch.where(kth == _LOWEST, -torch.inf, _score(kth + (-kth & 0xFFFFFFFF)))


def _score(shifted: torch.Tensor) -> torch.Tensor:
    ordered = (shifted >> 32).int()
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
