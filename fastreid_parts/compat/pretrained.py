"""The host's backbones: built, and then loaded in one place; files of weights are read safely."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import fastreid
from fastreid.config import CfgNode
from fastreid.modeling import backbones as host_backbones
from fastreid.modeling.backbones.regnet import effnet, regnet
from fastreid.modeling.backbones.resnet import ResNet
from fastreid.utils.checkpoint import Checkpointer
from torch import nn

from ..checkpoints import safe_load
from ..layers.stem import PaddedStemPool, StemSettings
from ..pretrained import load_pretrained
from .overlay import Overlay, replace, wrap


def apply() -> None:
    """Patch how backbones and checkpoints are read."""
    builders = host_backbones.BACKBONE_REGISTRY._obj_map
    for module in _host_modules():
        for name in [name for name, build in builders.items() if vars(module).get(name) is build]:
            wrap(module, name, _built_and_loaded)
            builders[name] = getattr(module, name)
    _patch_yaml_path()
    _patch_unsafe_load()


def _built_and_loaded(original: Callable[[CfgNode], nn.Module], cfg: CfgNode) -> nn.Module:
    """backbones/*.py: each builder has a loader of its own, and a name that fits nothing is skipped in silence.

    MobileNetV2, OSNet, RepVGG and others so train from random weights whatever file PRETRAIN_PATH names, and a ResNet
    does with a MoCo checkpoint. A download for OSNet covers up what it lacks, and three addresses are of another model
    or of none; "No module named 'gdown'" even where weights have been downloaded. Now a builder builds, and what it
    built is loaded by `fastreid_parts.pretrained`. ResNet's stem pools as MODEL.BACKBONE.STEM.PADDING says.
    """
    untrained = cfg.clone()
    untrained.defrost()
    untrained.MODEL.BACKBONE.PRETRAIN = False
    model = original(untrained)
    # A config that was made before the plugin was imported lacks the section; the other stems have their border
    padding = StemSettings.from_cfg(cfg).padding if "STEM" in cfg.MODEL.BACKBONE else 0
    if padding and isinstance(model, ResNet):
        model.maxpool = PaddedStemPool()
    load_pretrained(model, cfg)
    return model


def _host_modules() -> list[Any]:
    below = f"{host_backbones.__name__}."
    return [module for name, module in list(sys.modules.items()) if name.startswith(below)]


def _patch_yaml_path() -> None:
    """backbones/regnet/regnet.py:568, effnet.py:253: yaml files looked up relative to the working directory.

    They lie beside the modules that ask for them, in a checkout and in the wheel. And all are merged into one config of
    the process: a RegNetX that is built after a RegNetY has its squeeze and excitation. Now each starts afresh.
    """
    # The paths start with fastreid/, so they are relative to the folder that holds the package
    above = os.path.dirname(os.path.dirname(os.path.abspath(fastreid.__file__)))

    def merging(cfg: Any) -> Callable[[str], None]:
        defaults = cfg.clone()

        def merge_from_file(path: str) -> None:
            cfg.merge_from_other_cfg(defaults)
            cfg.merge_from_file(os.path.join(above, path))

        return merge_from_file

    regnet.regnet_cfg = Overlay(regnet.regnet_cfg, merge_from_file=merging(regnet.regnet_cfg))
    effnet.effnet_cfg = Overlay(effnet.effnet_cfg, merge_from_file=merging(effnet.effnet_cfg))


def _patch_unsafe_load() -> None:
    """utils/checkpoint.py and every backbone: torch.load runs whatever code the file's pickle asks for.

    With torch 2.6 and newer they fail instead, on some harmless files too. All read with `safe_load` now; torch.load
    itself, and what anything else does with it, stays as it is.
    """

    def _load_file(self: Checkpointer, f: str) -> Any:
        return safe_load(f)

    replace(Checkpointer, "_load_file", _load_file)
    for module in _host_modules():
        if hasattr(module, "torch"):
            module.torch = Overlay(module.torch, load=safe_load)
