"""The recipe for Ray Data in the guide, with a stand-in for Ray that works in this process."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model

from fastreid_parts import Embedder
from fastreid_parts.retrieval import extract_images, list_images, load_feature_set

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "distributed.md"


class Rows:
    """A dataset of Ray's, as far as the recipe uses it; blocks come back in another order, as a cluster's do."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def map_batches(self, work: type, fn_constructor_args: tuple, batch_size: int, **resources: int) -> Rows:
        worker, done = work(*fn_constructor_args), Rows([])
        for batch in self.iter_batches(batch_size):
            out = worker(batch)
            done.rows[:0] = [dict(zip(out, values)) for values in zip(*out.values())]
        return done

    def iter_batches(self, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        for at in range(0, len(self.rows), batch_size):
            rows = self.rows[at : at + batch_size]
            columns = {key: [row[key] for row in rows] for key in rows[0]}
            yield {key: np.array(values, object if key == "feature" else None) for key, values in columns.items()}


def test_the_recipe_takes_the_features_of_extract(
    tiny_cfg: Callable[..., CfgNode], market_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = tiny_cfg("MODEL.HEADS.NUM_CLASSES", 6)
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    (tmp_path / "shop").symlink_to(market_folder / "bounding_box_test")
    ray = ModuleType("ray")
    ray.data = ModuleType("ray.data")  # type: ignore[attr-defined]
    ray.data.from_items = Rows  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.chdir(tmp_path)
    source = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[-1]
    source = source.replace('"logs/Market/cmbn"', '"model.pth"').replace("batch_size=32", "batch_size=8")
    exec(compile(source, str(PAGE), "exec"), {})
    stored, embedder = load_feature_set("shop_features"), Embedder.load("model.pth")
    expected = extract_images(embedder.cfg, embedder.model, list_images("shop"))
    np.testing.assert_allclose(stored.features.features, expected.features, rtol=1e-5, atol=1e-5)
    assert stored.fingerprint == embedder.fingerprint and list(stored.features.paths) == list(expected.paths)
