"""Evaluation as a config asks for it, and the evaluator that takes the place of fast-reid's."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from fastreid.config import CfgNode
from fastreid.evaluation.evaluator import DatasetEvaluator
from fastreid.utils import comm
from torch.nn import functional as F

from ..devices import for_comparison
from ..settings import Settings, choice, key
from .centralization import CentralizationSettings, centralize
from .descriptions import describe_reranking
from .exact import METRICS, Similarity
from .features import Features
from .graph import GraphReranking, GraphSettings
from .neighborhoods import Neighborhoods, find_neighborhoods
from .query_expansion import expand_queries
from .ranks import MatchRanks, Relevance, count_ranks
from .reranker import Reranker
from .reranking import KReciprocal, check_distance_share, check_neighbor_counts
from .roc import tpr_at_fpr

logger = logging.getLogger(__name__)


class EvaluatorSettings(Settings, section="TEST", role="procedure"):
    """How features are compared."""

    evaluator: str = choice(
        ("blocked", "host"), "blocked: some queries at a time, in the features' memory; host: fast-reid's evaluator"
    )
    block_rows: int = key(0, "queries that are compared at once; 0: chosen for the device", low=0)
    half: bool = key(False, "keep features in float16", role="procedure")
    queries: str = choice(
        ("together", "alone"),
        "together: query expansion, centralization and re-ranking use the other queries too; alone: a query sees the "
        "gallery and itself",
    )


class RerankSettings(Settings, section="TEST.RERANK", role="procedure"):
    """How lists are re-ranked where TEST.RERANK.ENABLED says so; LAMBDA is the share of the distance itself in each."""

    method: str = choice(
        ("k-reciprocal", "gnn"), "k-reciprocal: Zhong et al., by TEST.RERANK.K1 and K2; gnn: by TEST.RERANK.GNN"
    )


class PartsEvaluator(DatasetEvaluator):
    """fast-reid's `ReidEvaluator` without its matrices: the same keys, the same numbers, under the same names.

    Distances are formed for some queries at a time and the gallery is not sorted, so memory is that of the features. It
    honors TEST.METRIC, TEST.AQE, TEST.RERANK, TEST.ROC, and of the plugin TEST.NFC, TEST.RERANK.METHOD, TEST.QUERIES,
    TEST.HALF and TEST.BLOCK_ROWS. Queries without a match under another camera are not scored, as in fast-reid, and
    their number is logged.

    Args:
        cfg: its TEST section says how to evaluate, MODEL.DEVICE where.
        num_query: how many of the images are queries; they come first.
        output_dir: accepted for fast-reid's callers.

    Raises:
        ValueError: a key of TEST has a value that cannot be evaluated.
    """

    def __init__(self, cfg: CfgNode, num_query: int, output_dir: str | None = None) -> None:
        check_test_keys(cfg)
        self.cfg = cfg
        self._num_query = num_query
        self._dtype = torch.float16 if cfg.TEST.HALF else torch.float32
        self.reset()

    def reset(self) -> None:
        """Forget what was processed."""
        self._batches: list[Features] = []

    def process(self, inputs: dict[str, Any], outputs: torch.Tensor) -> None:
        """Keep the features `outputs` (N, D) of a batch with its `targets` and `camids`.

        Args:
            inputs: the batch.
            outputs: the features.
        """
        features = outputs.detach().to("cpu", self._dtype).numpy()
        pids, camids = (inputs[name].cpu().numpy().astype(np.int64) for name in ("targets", "camids"))
        self._batches.append(Features(features, pids, camids, [""] * len(features)))

    def evaluate(self) -> OrderedDict[str, float] | dict[str, float]:
        """Give the results of all images that were processed, on the main process; nothing on others.

        Raises:
            ValueError: nothing was processed, or as `evaluate_features`.
        """
        comm.synchronize()
        batches = [batch for batches in comm.gather(self._batches, dst=0) for batch in batches]
        if not comm.is_main_process():
            return {}
        if not batches:
            raise ValueError("nothing was processed: the test loader gave no batch")
        images = Features.concatenate(batches)
        images = replace(images, features=images.features.astype(np.float32, copy=False))
        return evaluate_features(images, self._num_query, self.cfg)


def check_test_metric(cfg: CfgNode) -> None:
    """Refuse a TEST.METRIC that features cannot be compared by.

    Raises:
        ValueError: the message lists the choices.
    """
    if cfg.TEST.METRIC not in METRICS:
        jaccard = cfg.TEST.METRIC == "jaccard"
        hint = " The Jaccard distance is that of re-ranking: TEST.RERANK.ENABLED True." if jaccard else ""
        raise ValueError(f"TEST.METRIC is '{cfg.TEST.METRIC}'; it is {' or '.join(METRICS)}.{hint}")


def check_test_keys(cfg: CfgNode) -> None:
    """Check the keys of TEST that say how features are evaluated.

    Raises:
        ValueError: the message names the key and what it takes.
    """
    check_test_metric(cfg)
    for declared in (EvaluatorSettings, RerankSettings, GraphSettings, CentralizationSettings):
        declared.from_cfg(cfg)
    if cfg.TEST.RERANK.ENABLED:
        check_neighbor_counts(cfg.TEST.RERANK.K1, cfg.TEST.RERANK.K2)
        check_distance_share(cfg.TEST.RERANK.LAMBDA)
    if cfg.TEST.AQE.ENABLED and (cfg.TEST.AQE.QE_K < 1 or cfg.TEST.AQE.QE_TIME < 1):
        raise ValueError("TEST.AQE.QE_K and TEST.AQE.QE_TIME must be at least 1")


def rank_features(features: Features, num_query: int, cfg: CfgNode) -> MatchRanks:
    """Rank the gallery for every query as a config says, by exhaustive comparison.

    Args:
        features: query images first, then the gallery.
        num_query: how many of them are queries.
        cfg: TEST.METRIC, TEST.NFC, TEST.AQE, TEST.RERANK, TEST.QUERIES, TEST.HALF and TEST.BLOCK_ROWS say how,
            MODEL.DEVICE where.

    Raises:
        ValueError: query or gallery is empty, features are not finite, or a key of TEST has a value that cannot be.
    """
    return Ranking(features, num_query, cfg).ranks()


def evaluate_features(features: Features, num_query: int, cfg: CfgNode) -> OrderedDict[str, float]:
    """Results of features that are there already, however they were made.

    Args:
        features: query images first, then the gallery.
        num_query: how many of them are queries.
        cfg: as for `rank_features`, and TEST.ROC.

    Returns:
        `Rank-1`, `Rank-5`, `Rank-10`, `mAP`, `mINP` and `metric`, in percent, and with TEST.ROC `TPR@FPR=1e-04` and so
        on, between 0 and 1, as from fast-reid.

    Raises:
        ValueError: as `rank_features`, or no query has a match.
    """
    ranking = Ranking(features, num_query, cfg)
    return ranking.results(ranking.ranks())


class Ranking:
    """Query and gallery as a config compares them: features by TEST.NFC and TEST.AQE, lists by TEST.RERANK.

    Args:
        features: query images first, then the gallery.
        num_query: how many of them are queries.
        cfg: as for `rank_features`.

    Attributes:
        query: the query images, with the features that are compared.
        gallery: the gallery images, likewise.
        relevance: which gallery images are right for each query.
        similarity: scores by TEST.METRIC, without re-ranking.

    Raises:
        ValueError: as `rank_features`.
    """

    def __init__(self, features: Features, num_query: int, cfg: CfgNode) -> None:
        check_test_keys(cfg)
        self._device = for_comparison(cfg.MODEL.DEVICE)
        self._test = cfg.TEST
        self._newcomers = num_query if cfg.TEST.QUERIES == "alone" else 0
        query, gallery = features.split(num_query)
        self._features = self._improved(features.features, num_query)
        self.query = replace(query, features=self._features[:num_query])
        self.gallery = replace(gallery, features=self._features[num_query:])
        self.relevance = Relevance(query.pids, gallery.pids, query.camids, gallery.camids)
        self.similarity = Similarity(
            self.query.features, self.gallery.features, cfg.TEST.METRIC, self._device, cfg.TEST.HALF
        )
        self._reranking = self._reranker(cfg) if cfg.TEST.RERANK.ENABLED else None

    def _improved(self, features: np.ndarray, num_query: int) -> np.ndarray:
        """(N, D) features as they are compared."""
        aqe, nfc, device = self._test.AQE, self._test.NFC, self._device
        if nfc.ENABLED:
            logger.info("Neighbor feature centralization: k1 %d, k2 %d", nfc.K1, nfc.K2)
            features = centralize(self._compared(features), num_query, nfc.K1, nfc.K2, device, self._newcomers > 0)
        if aqe.ENABLED:
            logger.info("Query expansion: %d neighbors", aqe.QE_K)
            features = expand_queries(features, aqe.QE_TIME, aqe.QE_K, aqe.ALPHA, device, self._newcomers)
        return features

    def _reranker(self, cfg: CfgNode) -> Reranker:
        rerank = cfg.TEST.RERANK
        logger.info("Re-ranking: %s", describe_reranking(rerank))
        if rerank.METHOD == "k-reciprocal":
            return self.k_reciprocal(rerank.K1, rerank.K2)
        graph = GraphSettings.from_cfg(cfg)
        return GraphReranking(self._features, len(self.query), graph, self._device, self._newcomers > 0)

    def blocks(self, across_queries: bool = False) -> Iterator[tuple[slice, torch.Tensor]]:
        """Scores of all queries as `count_ranks` takes them; called again, they are made again.

        Args:
            across_queries: scores of different queries are to be compared.
        """
        if self._reranking is None:
            return self.similarity.blocks(self._test.BLOCK_ROWS, across_queries)
        return self._reranking.blocks(self.similarity, self._test.RERANK.LAMBDA, self._test.BLOCK_ROWS)

    def ranks(self) -> MatchRanks:
        """Count where the matches of each query stand."""
        return count_ranks(self.blocks(), self.relevance)

    def results(self, ranks: MatchRanks) -> OrderedDict[str, float]:
        """Give what `evaluate_features` returns, from `ranks()`; queries that are not scored are logged.

        Raises:
            ValueError: no query has a match.
        """
        results = ranks.results()
        left_out = int((~ranks.matched).sum())
        if left_out:
            logger.warning(
                f"{left_out} of {len(ranks)} queries have no match under another camera of the gallery and are not "
                "scored"
            )
        if self._test.ROC.ENABLED:
            for rate, share in tpr_at_fpr(lambda: self.blocks(across_queries=True), self.relevance).items():
                results[f"TPR@FPR={rate:.0e}"] = share
        return results

    def distances(self, rows: Sequence[int]) -> np.ndarray:
        """Compute the distances that `ranks` ranks by, of some queries only: for lists that a person looks at.

        Args:
            rows: of the queries.

        Returns:
            (len(rows), G) float32; with re-ranking, the weighted sum of the distance and that of the method.
        """
        distances = self.similarity.distances(rows).cpu().numpy()
        if self._reranking is not None and len(rows):
            near = np.concatenate([self._reranking.distances(slice(row, row + 1)) for row in rows])
            distances = self._test.RERANK.LAMBDA * distances + (1 - self._test.RERANK.LAMBDA) * near
        return distances.astype(np.float32, copy=False)

    def neighbors(self, k: int) -> Neighborhoods:
        """Find the k nearest of every image among all, for several calls of `k_reciprocal`."""
        return find_neighborhoods(self._compared(self._features), k, "euclidean", self._device, self._newcomers)

    def k_reciprocal(self, k1: int, k2: int, neighbors: Neighborhoods | None = None) -> KReciprocal:
        """Prepare Jaccard distances between the queries and the gallery, see `KReciprocal`.

        Args:
            k1: see there.
            k2: see there.
            neighbors: from `neighbors`; searched for otherwise.
        """
        compared = self._compared(self._features)
        return KReciprocal(compared, len(self.query), k1, k2, self._device, neighbors, self._newcomers > 0)

    def _compared(self, features: np.ndarray) -> np.ndarray:
        """(N, D), of unit length where the metric is the cosine, as in fast-reid."""
        unit = self._test.METRIC == "cosine"
        return F.normalize(torch.from_numpy(features)).numpy() if unit else features
