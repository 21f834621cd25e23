"""GNN re-ranking (Zhang et al., arXiv 2012.07620), as its authors' code computes it, in sparse matrices.

The paper reads re-ranking as a graph network without weights. Its nodes are the images; the feature of one is its row
of the adjacency matrix of the k1-nearest-neighbor graph. A layer adds to each feature the transposed one, so that links
of one direction count half of mutual ones, and replaces it by the sum over the k2 nearest, itself included, weighted
with the cosine to the power of alpha; the result is brought to unit length. Queries and gallery are compared by the
cosine of the features after the last layer.

The released code (layumi/Person_reID_baseline_pytorch, GPU-Re-Ranking) fills N x N matrices on a GPU by kernels of its
own, and mixes the cosine with that of the images' features, lambda 0.3; its first version did not mix. Here the
features are sparse, and those after the last layer are never all there: with B the matrix before it and w the weights,
the product of a query's feature h and of that of gallery image g is the sum over the neighbors j of g of w_gj (B h)_j.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy import sparse
from scipy.sparse import csr_matrix
from torch.nn import functional as F
from tqdm import tqdm

from ..settings import Settings, key
from .exact import Matrix, Similarity, check_features
from .neighborhoods import find_neighborhoods
from .query_expansion import power
from .reranker import QUERIES, Reranker, check_division

# Rows that are multiplied at once where only their lengths are asked for
_ROWS = 4096


class GraphSettings(Settings, section="TEST.RERANK.GNN", role="procedure"):
    """GNN re-ranking, where TEST.RERANK.METHOD is gnn."""

    k1: int = key(26, "neighbors in an image's first feature, itself included", "k1", low=1)
    k2: int = key(7, "neighbors that a layer sums over, itself included; 1: none passes anything on", "k2", low=1)
    layers: int = key(2, "how often; memory grows with each", "L", low=1, high=3)
    alpha: float = key(2.0, "a neighbor's weight is its cosine to this power", "alpha", low=0)

    def check(self) -> None:
        """Check that the neighbors that are summed over are among those that are found.

        Raises:
            ValueError: they are not.
        """
        if self.k2 > self.k1:
            raise ValueError(
                f"GNN re-ranking needs k2 <= k1, got k1 {self.k1} and k2 {self.k2} (TEST.RERANK.GNN.K1, "
                "TEST.RERANK.GNN.K2): features are summed over the first k2 of the k1 neighbors"
            )


class GraphReranking(Reranker):
    """1 minus the cosine between graph features of queries and gallery, which are never negative.

    Args:
        features: (N, D), queries first.
        num_query: how many of them are queries.
        settings: of the graph; with fewer images, k1 and k2 are their number.
        device: where neighbors are searched and queries are compared with the gallery.
        alone: a query sees the gallery alone, and the gallery no query. Features then have an entry for every gallery
            image and none for a query, and those of the gallery are of its own graph. A query is linked with its
            neighbors and with the images that are nearer to it than to their own k1-th; what a transposed feature
            gives it is passed on among the gallery as it is for all.

    Raises:
        ValueError: no query or no gallery, or features that are not finite.
    """

    def __init__(
        self,
        features: Matrix,
        num_query: int,
        settings: GraphSettings,
        device: torch.device | str = "cpu",
        alone: bool = False,
    ) -> None:
        features = check_features(features, "query and gallery", "cosine")
        check_division(len(features), num_query)
        newcomers = num_query if alone else 0
        own, nodes = slice(newcomers), slice(newcomers, None)  # the nodes are what a feature has an entry for
        found = find_neighborhoods(features, settings.k1, "cosine", device, newcomers)
        nearest = found.nearest - newcomers
        k2 = min(settings.k2, nearest.shape[1])
        weights = power(1 - found.distances[:, :k2], settings.alpha)
        count = len(features) - newcomers

        linked = _rows(nearest[nodes], np.ones_like(found.distances[nodes]), count)
        passing = _rows(nearest[nodes, :k2], weights[nodes], count)
        layers = list(_layers(linked, passing, settings.layers if k2 > 1 else 0))
        before, lengths = layers[-1] if layers else (linked, _lengths_of_product(passing, linked))
        if alone:
            links = _rows(nearest[own, 1:], np.ones_like(found.distances[own, 1:]), count)
            similarity = Similarity(features[own], features[nodes], "cosine", device)
            chosen = _choosing(similarity, found.distances[nodes, -1])
            query = _joining(links, chosen, _rows(nearest[own, 1:k2], weights[own, 1:], count), passing, layers)
        else:
            query = passing[:num_query] @ before
        self._query = _divided(query, _lengths(query))
        self._before = before.T.tocsr()
        gallery = slice(num_query - newcomers, None)
        self._members = torch.from_numpy(nearest[nodes, :k2][gallery].astype(np.int64)).to(device)
        self._weights = torch.from_numpy((weights[nodes] / lengths[:, None])[gallery]).to(device)

    def __len__(self) -> int:
        """Number of queries."""
        return self._query.shape[0]

    def distances(self, rows: slice) -> np.ndarray:
        """(B, G) float32 between 0 and 1, the distances of some queries to the gallery."""
        start, stop, _ = rows.indices(len(self))
        result = np.empty((max(0, stop - start), len(self._members)), dtype=np.float32)
        for first in range(start, stop, QUERIES):
            chunk = slice(first, min(first + QUERIES, stop))
            shared = torch.from_numpy((self._query[chunk] @ self._before).toarray()).to(self._weights.device)
            columns = shared.T.contiguous()
            cosines = F.embedding_bag(self._members, columns, per_sample_weights=self._weights, mode="sum")
            near = cosines.neg_().add_(1).clamp_(min=0).T.contiguous()  # copied here: NumPy is slow at it
            result[chunk.start - start : chunk.stop - start] = near.cpu().numpy()
        return result


def _layers(linked: csr_matrix, passing: csr_matrix, number: int) -> Iterator[tuple[csr_matrix, np.ndarray]]:
    """For each layer what it passes on, (M, M), and the lengths of what comes out, (M,).

    Args:
        linked: (M, M), the adjacency matrix.
        passing: (M, M), what a layer multiplies with.
        number: of layers.
    """
    for layer in range(number):
        before = linked + linked.T
        if layer == number - 1:
            yield before, _lengths_of_product(passing, before)
            return
        linked = passing @ before
        lengths = _lengths(linked)
        linked = _divided(linked, lengths)
        yield before, lengths


def _joining(
    query: csr_matrix,
    chosen: csr_matrix,
    passing: csr_matrix,
    among_gallery: csr_matrix,
    layers: list[tuple[csr_matrix, np.ndarray]],
) -> csr_matrix:
    """(Q, G): features of queries that have joined a gallery's graph without changing it.

    Args:
        query: (Q, G), their neighbors.
        chosen: (Q, G), the gallery images that they are neighbors of: what the transposed matrix has for them.
        passing: (Q, G), weights of their neighbors beside themselves, whose weight is 1.
        among_gallery: (G, G), weights of the gallery's.
        layers: of the gallery.
    """
    for before, lengths in layers:
        joined = query + chosen
        query = joined + passing @ before
        query = _divided(query, _lengths(query))
        chosen = (joined @ among_gallery.T @ sparse.diags_array(1 / lengths)).tocsr()
    return query


def _choosing(similarity: Similarity, farthest: np.ndarray) -> csr_matrix:
    """(Q, G) with 1 where a query is not farther from a gallery image than `farthest` (G,), by the cosine."""
    least = torch.from_numpy(1 - farthest).to(similarity.device)
    found = [torch.nonzero(scores >= least).cpu().numpy() + [rows.start, 0] for rows, scores in similarity.blocks()]
    lines, images = np.concatenate(found).T
    ones = np.ones(len(lines), dtype=np.float32)
    return csr_matrix((ones, (lines, images)), shape=(len(similarity), len(farthest)))


def _rows(columns: np.ndarray, values: np.ndarray, width: int) -> csr_matrix:
    """(N, width) with given values (N, k) in given columns (N, k) of each row."""
    offsets = np.arange(0, columns.size + 1, max(1, columns.shape[1])) if columns.size else np.zeros(len(columns) + 1)
    shape = (len(columns), width)
    return csr_matrix((values.ravel(), columns.ravel().astype(np.int32), offsets.astype(np.int32)), shape=shape)


def _lengths(rows: csr_matrix) -> np.ndarray:
    """(N,) float32 Euclidean lengths; that of a row of zeros is 1, so that it can be divided by."""
    squares = csr_matrix((np.square(rows.data), rows.indices, rows.indptr), shape=rows.shape)
    lengths = np.sqrt(np.asarray(squares.sum(axis=1), dtype=np.float32).ravel())
    return np.where(lengths == 0, np.float32(1), lengths)


def _lengths_of_product(left: csr_matrix, right: csr_matrix) -> np.ndarray:
    """(N,) lengths of the rows of a product that is not kept."""
    starts = tqdm(range(0, left.shape[0], _ROWS), desc="graph", unit="block", leave=False, disable=None, delay=2)
    return np.concatenate([_lengths(left[start : start + _ROWS] @ right) for start in starts])


def _divided(rows: csr_matrix, lengths: np.ndarray) -> csr_matrix:
    """Divide each row by a number."""
    values = rows.data / np.repeat(lengths, np.diff(rows.indptr))
    return csr_matrix((values, rows.indices, rows.indptr), shape=rows.shape)
