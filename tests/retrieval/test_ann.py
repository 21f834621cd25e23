"""faiss's indexes: their parameters, and what is computed around their search."""

from __future__ import annotations

import numpy as np
import pytest

from fastreid_parts.retrieval import ann

from .galleries import KINDS


@pytest.mark.parametrize("images", [700, 10_000, 1_000_000, 100_000_000])
@pytest.mark.parametrize("dimensions", [31, 512, 2048])
def test_default_parameters_can_be_built_with_so_many_images(images: int, dimensions: int) -> None:
    for kind in KINDS:
        ann.check_parameters(kind, ann.default_parameters(kind, images, dimensions), dimensions)
    chosen = ann.default_parameters("ivfpq", images, dimensions)
    assert chosen["nprobe"] <= chosen["nlist"]
    assert ann.needed_images("ivfpq", chosen) <= max(images, 39 * 256)
    assert dimensions % chosen["m"] == 0 and chosen["m"] <= 64
    if images == 1_000_000 and dimensions == 512:
        assert (chosen["nlist"], chosen["m"], chosen["nprobe"]) == (4096, 64, 256)
    assert ann.default_parameters("ivfpq", images, dimensions, nlist=512)["nprobe"] == 32


def test_an_index_is_trained_on_a_part_of_many_images() -> None:
    for parameters, wanted in (({"nlist": 4, "nbits": 4}, 64 * 16), ({"nlist": 64, "nbits": 4}, 39 * 64)):
        rows = ann.training_rows(parameters, 5000)
        assert len(rows) == wanted and (np.diff(rows) > 0).all() and rows[0] < 100 and rows[-1] >= 4900
        assert (ann.training_rows(parameters, 5000) == rows).all()
        assert ann.training_rows(parameters, 100).tolist() == list(range(100))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_exact_distances_to_candidates_of_each_query(metric: str) -> None:
    random = np.random.default_rng(0)
    query, stored = random.normal(size=(5, 8)).astype(np.float32), random.normal(size=(20, 8)).astype(np.float16)
    positions = random.integers(0, 20, (5, 3))
    positions[1, 2] = positions[4, 0] = -1
    got = ann.exact_distances(query, stored, positions, metric, block=2)
    for q in range(5):
        for c in range(3):
            candidate = stored[positions[q, c]].astype(np.float32)
            length = np.sqrt(((query[q] - candidate) ** 2).sum())
            expected = length if metric == "euclidean" else 1 - (query[q] * candidate).sum()
            assert got[q, c] == pytest.approx(np.inf if positions[q, c] < 0 else expected, rel=1e-5)


def test_blocks_hold_so_many_values_and_cover_all_rows() -> None:
    assert list(ann.blocks_of(10, 5, values=20)) == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert list(ann.blocks_of(2, 50, values=20)) == [slice(0, 1), slice(1, 2)]
    assert list(ann.blocks_of(0, 5)) == []
