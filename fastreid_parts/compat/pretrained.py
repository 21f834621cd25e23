"""Weights for the host's backbones: found and read safely, or an error that says which file to place where."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import fastreid
import torch
from fastreid.config import CfgNode
from fastreid.modeling import backbones as host_backbones
from fastreid.modeling.backbones import mobilenetv3, osnet, resnest, resnet, resnext
from fastreid.modeling.backbones.regnet import effnet, regnet
from fastreid.utils import comm
from fastreid.utils.checkpoint import Checkpointer

from ..checkpoints import safe_load
from ..pretrained import load_resnet_weights
from .overlay import Overlay, replace, wrap


def apply() -> None:
    """Patch how backbones and checkpoints are read."""
    for module in (resnet, osnet, resnext, regnet, effnet):
        wrap(module, "init_pretrained_weights", _downloaded_weights)
    # These two use torch.hub, which unpickles what it downloads, and fails without a network
    mobilenetv3.load_state_dict_from_url = _load_from_url
    resnest.torch = Overlay(resnest.torch, hub=Overlay(torch.hub, load_state_dict_from_url=_load_from_url))
    wrap(resnet, "build_resnet_backbone", _resnet_of_any_file)
    host_backbones.BACKBONE_REGISTRY._obj_map["build_resnet_backbone"] = resnet.build_resnet_backbone
    _patch_yaml_path()
    _patch_unsafe_load()


def _downloaded_weights(original: Callable, *args: Any, **kwargs: Any) -> Any:
    """backbones/resnet.py and four more: "No module named 'gdown'" even when the weights have been downloaded.

    Without a network the error is that of gdown's, deep inside. Now gdown is needed only for downloading, and every
    failure names the file that is missing, the address that the host knows, and what else can be done.
    """
    key = next(value for value in (*args, *kwargs.values()) if isinstance(value, str))
    module: Any = sys.modules[original.__module__]
    if key not in module.model_urls:
        known = ", ".join(sorted(module.model_urls))
        raise ValueError(
            f"MODEL.BACKBONE.PRETRAIN: the host knows no weights for '{key}'; it knows those of {known}. Name a "
            "file in MODEL.BACKBONE.PRETRAIN_PATH, or set MODEL.BACKBONE.PRETRAIN False."
        )
    url = module.model_urls[key]
    # osnet.py names the file after the key, the others after the address
    file_name = f"{key}_imagenet.pth" if module is osnet else url.split("/")[-1]
    path = os.path.join(_torch_home(), "checkpoints", file_name)
    try:
        with _gdown_if_needed():
            return original(*args, **kwargs)
    except Exception as error:  # no gdown, no network, no permission, a broken file ...
        raise _missing_weights(path, url, error) from error


@contextlib.contextmanager
def _gdown_if_needed() -> Iterator[None]:
    """Lend a `gdown` that cannot download where there is none: the host imports it before it looks for the file."""
    if "gdown" in sys.modules or importlib.util.find_spec("gdown") is not None:
        yield
        return
    stand_in = types.ModuleType("gdown")
    stand_in.download = _no_gdown  # type: ignore[attr-defined]
    sys.modules["gdown"] = stand_in
    try:
        yield
    finally:
        del sys.modules["gdown"]


def _no_gdown(*_: Any, **__: Any) -> None:
    raise ModuleNotFoundError("downloading needs gdown, which is not installed")


def _load_from_url(
    url: str, progress: bool = True, check_hash: bool = False, map_location: str | torch.device = "cpu"
) -> Any:
    """`torch.hub.load_state_dict_from_url` that reads with `safe_load` and says which file is missing."""
    path = os.path.join(torch.hub.get_dir(), "checkpoints", url.split("/")[-1])
    try:
        if not os.path.exists(path) and comm.is_main_process():
            os.makedirs(os.path.dirname(path), exist_ok=True)
            sha256 = path.rsplit("-", 1)[-1].split(".")[0] if check_hash else None
            torch.hub.download_url_to_file(url, path, hash_prefix=sha256, progress=progress)
        comm.synchronize()
        return safe_load(path, map_location)
    except Exception as error:
        raise _missing_weights(path, url, error) from error


def _torch_home() -> str:
    """As the host's backbones find it."""
    cache = os.getenv("XDG_CACHE_HOME", "~/.cache")
    return os.path.expanduser(os.getenv("TORCH_HOME", os.path.join(cache, "torch")))


def _missing_weights(path: str, url: str | None, error: Exception) -> OSError:
    return OSError(
        f"MODEL.BACKBONE.PRETRAIN is True, but its weights cannot be had: {error}. Either place the file of {url} at "
        f"{path}, or name another file in MODEL.BACKBONE.PRETRAIN_PATH, or set MODEL.BACKBONE.PRETRAIN False to start "
        "from random weights."
    )


def _resnet_of_any_file(original: Callable, cfg: CfgNode) -> Any:
    """backbones/resnet.py: whatever PRETRAIN_PATH holds, a name that fits nothing is skipped with a line in the log.

    A MoCo checkpoint, whose names all have a prefix, so trains from random weights. Now it is read as what it is, and
    a file that does not fit is an error.
    """
    if not (cfg.MODEL.BACKBONE.PRETRAIN and cfg.MODEL.BACKBONE.PRETRAIN_PATH):
        return original(cfg)
    untrained = cfg.clone()
    untrained.defrost()
    untrained.MODEL.BACKBONE.PRETRAIN = False
    model = original(untrained)
    load_resnet_weights(model, cfg.MODEL.BACKBONE.PRETRAIN_PATH)
    return model


def _patch_yaml_path() -> None:
    """backbones/regnet/regnet.py:568, effnet.py:253: yaml files looked up relative to the working directory.

    They lie beside the modules that ask for them, in a checkout and in the wheel.
    """
    # The paths start with fastreid/, so they are relative to the folder that holds the package
    above = os.path.dirname(os.path.dirname(os.path.abspath(fastreid.__file__)))

    def merging(cfg: Any) -> Callable[[str], None]:
        return lambda path: cfg.merge_from_file(os.path.join(above, path))

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
    below = f"{host_backbones.__name__}."
    modules: list[Any] = [module for name, module in sys.modules.items() if name.startswith(below)]
    for module in modules:
        if hasattr(module, "torch"):
            module.torch = Overlay(module.torch, load=safe_load)
