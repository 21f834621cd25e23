"""How a config evaluates features, in words."""

from __future__ import annotations

from fastreid.config import CfgNode


def describe_settings(cfg: CfgNode) -> str:
    """Say how a config evaluates features, in a line."""
    test = cfg.TEST
    words = [f"TEST.METRIC {test.METRIC}"]
    if test.FLIP.ENABLED:
        words.append("flip")
    if test.NFC.ENABLED:
        words.append(f"neighbor feature centralization (k1 {test.NFC.K1}, k2 {test.NFC.K2})")
    if test.AQE.ENABLED:
        words.append(f"query expansion (k {test.AQE.QE_K}, {test.AQE.QE_TIME} times, alpha {test.AQE.ALPHA:g})")
    if test.RERANK.ENABLED:
        words.append(describe_reranking(test.RERANK))
    if test.QUERIES == "alone" and len(words) > 1 + test.FLIP.ENABLED:
        words.append("each query with the gallery alone")
    return ", ".join(words)


def describe_reranking(rerank: CfgNode) -> str:
    """Say how TEST.RERANK re-ranks."""
    if rerank.METHOD == "gnn":
        graph = rerank.GNN
        shape = f"k1 {graph.K1}, k2 {graph.K2}, {graph.LAYERS} layers, alpha {graph.ALPHA:g}"
        return f"GNN re-ranking ({shape}, lambda {rerank.LAMBDA:g})"
    return f"re-ranking (k1 {rerank.K1}, k2 {rerank.K2}, lambda {rerank.LAMBDA:g})"
