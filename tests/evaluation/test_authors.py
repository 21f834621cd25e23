"""GNN re-ranking and neighbor feature centralization against numbers of their authors' code: `parity/SOURCE.md`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastreid_parts.evaluation import GraphReranking, GraphSettings, centralize
from fastreid_parts.evaluation.exact import Similarity

AUTHORS = json.loads((Path(__file__).parent / "parity" / "authors.json").read_text(encoding="utf-8"))
FEATURES = np.array(AUTHORS["features"], dtype=np.float32)
QUERIES = AUTHORS["queries"]


def named(case: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in case.items() if not isinstance(value, list))


@pytest.mark.parametrize("case", AUTHORS["gnn"], ids=named)
def test_gnn_reranking(case: dict[str, Any]) -> None:
    settings = GraphSettings(k1=case["k1"], k2=case["k2"], layers=2, alpha=2.0)
    reranking = GraphReranking(FEATURES, QUERIES, settings)
    similarity = Similarity(FEATURES[:QUERIES], FEATURES[QUERIES:], "cosine")
    ((_, scores),) = reranking.blocks(similarity, case["lambda"])
    expected = np.array(case["similarity"])
    if case["k2"] == 1:
        expected /= case["k1"]  # they count shared neighbors where nothing is passed on
    np.testing.assert_allclose(1 + scores.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("case", AUTHORS["nfc"], ids=named)
def test_centralization(case: dict[str, Any]) -> None:
    """Their function takes one set; ours divides queries and gallery, as their evaluation does before it calls it."""
    twice = np.concatenate((FEATURES, FEATURES))
    got = centralize(twice, len(FEATURES), case["k1"], case["k2"])
    np.testing.assert_allclose(got, np.concatenate(2 * [np.array(case["features"])]), atol=2e-6)
