"""The folder for Roboflow's reid: one model of fast-reid's, and nothing else; loaded where the package is installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from safetensors.torch import load_file

from fastreid_parts import Embedder
from fastreid_parts.deployment.roboflow import save_for_roboflow
from fastreid_parts.folders import FolderError
from fastreid_parts.retrieval import list_images

from .models import MODELS, build

S50 = (
    "MODEL.BACKBONE.NAME", "build_resnest_backbone",
    "MODEL.BACKBONE.DEPTH", "50x",
    "MODEL.BACKBONE.LAST_STRIDE", 1,
    "MODEL.BACKBONE.FEAT_DIM", 2048,
    "MODEL.HEADS.POOL_LAYER", "GeneralizedMeanPoolingP",
    "MODEL.HEADS.NUM_CLASSES", 2,
    "INPUT.SIZE_TEST", [64, 32],
)  # fmt: skip


def sbs(tiny_cfg: Callable[..., CfgNode], *overrides: object) -> tuple[CfgNode, torch.nn.Module]:
    torch.manual_seed(0)
    cfg = tiny_cfg(*S50, *overrides)
    return cfg, build_model(cfg).eval()


def test_the_folder_of_sbs_s50(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    cfg, model = sbs(tiny_cfg, "INPUT.RESIZE", "bilinear")
    save_for_roboflow(cfg, model, tmp_path / "new")
    said = json.loads((tmp_path / "new" / "reid_config.json").read_text())
    assert said["architecture"] == "fastreid_sbs_resnest50"
    assert said["preprocessing"]["input_size"] == [64, 32] and said["preprocessing"]["interpolation"] == "bilinear"
    assert said["preprocessing"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    with pytest.raises(FolderError, match=r"holds reid_config\.json, weights\.safetensors already"):
        save_for_roboflow(cfg, model, tmp_path / "new")
    names = load_file(tmp_path / "new" / "weights.safetensors").keys()
    assert names >= {"pool.p", "bottleneck.running_mean", "bottleneck.num_batches_tracked", "backbone.conv1.0.weight"}
    assert not any(name.startswith("heads") for name in names)


def test_reid_loads_it(tiny_cfg: Callable[..., CfgNode], tmp_path: Path, market_folder: Path) -> None:
    reid = pytest.importorskip("reid")
    cfg, model = sbs(tiny_cfg)
    save_for_roboflow(cfg, model, tmp_path / "new")
    images = list_images(market_folder / "query")
    theirs = reid.ReIDModel.from_pretrained(str(tmp_path / "new"), device="cpu").extract_embeddings_from_paths(images)
    ours = Embedder(cfg, model)(images)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5 * np.abs(ours).max())


@pytest.mark.parametrize("name", MODELS)
def test_other_models_are_refused(tiny_cfg: Callable[..., CfgNode], tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="builds SBS with ResNeSt-50 alone .* and this one has MODEL"):
        save_for_roboflow(*build(tiny_cfg, name), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_it_cannot_do_is_refused(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    cfg, model = sbs(tiny_cfg)
    cfg.TEST.FLIP.ENABLED = True
    with pytest.raises(ValueError, match="this one has TEST.FLIP.ENABLED True where it has False"):
        save_for_roboflow(cfg, model, tmp_path)
