"""Config files and the config: the plugin's keys in it, and its files by name."""

from __future__ import annotations

import os
from pathlib import Path

from fastreid.config import CfgNode as CN

from .settings import DECLARED

__all__ = ["add_parts_config", "find_config"]


def add_parts_config(cfg: CN) -> CN:
    """Add the plugin's keys, with their defaults, to `cfg`; keys that are there already keep their values.

    Importing `fastreid_parts` does this to fast-reid's defaults, so `get_cfg()` knows the keys afterwards. Call it
    yourself on a config that was made before the import, between `get_cfg()` and `merge_from_file()`.

    Args:
        cfg: a fast-reid config, changed in place.

    Returns:
        The same config.
    """
    for declared in DECLARED:
        declared.add_to(cfg)
    return cfg


def find_config(name: str) -> str:
    """The path of a config file, given as a path or by its name below the plugin's configs (`Market/cmbn.yml`).

    Args:
        name: a path that exists, or a name relative to the `configs` folder, with or without a leading `configs/`.

    Returns:
        A path that exists.

    Raises:
        FileNotFoundError: neither is there; the message lists the plugin's configs.
    """
    if os.path.exists(name):
        return name
    below = Path(name)
    if below.parts[:1] == ("configs",):
        below = Path(*below.parts[1:])
    root = configs_root()
    if not below.is_absolute() and (root / below).is_file():
        return str(root / below)
    known = sorted(str(p.relative_to(root)) for p in root.glob("**/*.yml"))
    raise FileNotFoundError(f"no config file '{name}'. The plugin's own: {', '.join(known)}")


def configs_root() -> Path:
    """The folder of the plugin's configs: package data in a wheel, `configs/` in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"
