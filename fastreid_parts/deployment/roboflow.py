"""The folder that Roboflow's package `reid` loads, for the one model of fast-reid's that it builds.

reid 0.1.0rc1 (Apache-2.0, a release candidate) loads `reid_config.json` and `weights.safetensors`. It builds OSNet,
models of timm, and of fast-reid SBS with ResNeSt-50; a method of this plugin has no form there.
"""

from __future__ import annotations

import os

import torch
from fastreid.config import CfgNode
from torch import nn

from ..data.transforms import TransformSettings
from ..extras import optional
from ..files import write_bytes, write_json
from ..parts_baseline import head_of
from .drafts import drafts
from .hub import check_free
from .inference import input_size

CONFIG, WEIGHTS = "reid_config.json", "weights.safetensors"
_ARCHITECTURE = "fastreid_sbs_resnest50"
#: What that model is -> its value; in all else its weights and pixels decide.
_BUILT = {
    "MODEL.BACKBONE.NAME": "build_resnest_backbone",
    "MODEL.BACKBONE.DEPTH": "50x",
    "MODEL.BACKBONE.LAST_STRIDE": 1,
    "MODEL.BACKBONE.WITH_NL": False,
    "MODEL.HEADS.POOL_LAYER": "GeneralizedMeanPoolingP",
    "MODEL.HEADS.WITH_BNNECK": True,
    "MODEL.HEADS.EMBEDDING_DIM": 0,
    "MODEL.HEADS.TEST_FEAT": "after",
    "TEST.FLIP.ENABLED": False,
    "INPUT.CROP.ENABLED": False,
}
# Our names of its tensors -> theirs
_NAMES = {"backbone.": "backbone.", "heads.pool_layer.": "pool.", "heads.bottleneck.0.": "bottleneck."}


def save_for_roboflow(cfg: CfgNode, model: nn.Module, folder: str | os.PathLike, overwrite: bool = False) -> None:
    """Write a folder that `reid.ReIDModel.from_pretrained` loads.

    Args:
        cfg: the model's config.
        model: with its weights: fast-reid's SBS with ResNeSt-50 (`sbs_S50.yml`).
        folder: made where it is not there.
        overwrite: replace the two files where they are there.

    Raises:
        FolderError: one of the files is there already.
        ImportError: safetensors is not installed.
        ValueError: the package cannot build this model, or not as it is tested.
    """
    folder = os.path.abspath(folder)
    check_free(folder, (CONFIG, WEIGHTS), overwrite)
    library = optional("safetensors.torch", "hub", "a file of safetensors")
    if head_of(model) is None:
        raise ValueError(_refusal(f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}"))
    for key, needed in _BUILT.items():
        if (value := _value(cfg, key)) != needed:
            raise ValueError(_refusal(f"{key} {value} where it has {needed}"))
    size, mean, std = input_size(cfg), cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    preprocessing = {
        "input_size": list(size),
        "mean": [value / 255 for value in mean],
        "std": [value / 255 for value in std],
        "interpolation": TransformSettings.from_cfg(cfg).resize,
        "to_rgb": True,
        "resize_mode": "stretch",
    }
    with drafts(folder, CONFIG) as place:
        write_bytes(os.path.join(place, WEIGHTS), library.save(_renamed(model), {"format": "pt"}))
        write_json(os.path.join(place, CONFIG), {"architecture": _ARCHITECTURE, "preprocessing": preprocessing})


def _renamed(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors under their names there; counters of batches are needed, too."""
    return {
        there + name[len(ours) :]: tensor.cpu().contiguous().clone()
        for name, tensor in model.state_dict().items()
        for ours, there in _NAMES.items()
        if name.startswith(ours)
    }


def _value(cfg: CfgNode, key: str) -> object:
    node: object = cfg
    for name in key.split("."):
        node = node[name]  # type: ignore[index]
    return node


def _refusal(what: str) -> str:
    return (
        "of fast-reid's models Roboflow's reid builds SBS with ResNeSt-50 alone (sbs_S50.yml, tested without mirror "
        f"images), and this one has {what}: give other programs an exported file, or features of the Embedder"
    )
