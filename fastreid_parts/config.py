"""Config files and the config: the plugin's keys in it, and its files by name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fastreid.config import CfgNode as CN
from fastreid.config import get_cfg

from .files import read_yaml
from .settings import DECLARED


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
    """Find a config file, given as a path or by its name below the plugin's configs (`Market/cmbn.yml`).

    Args:
        name: a path that exists, or a name relative to the `configs` folder, with or without a leading `configs/`.

    Returns:
        A path that exists.

    Raises:
        FileNotFoundError: neither is there; the message names the nearest of the plugin's configs.
    """
    if os.path.exists(name):
        return name
    below = Path(name)
    if below.parts[:1] == ("configs",):
        below = Path(*below.parts[1:])
    root = configs_root()
    if not below.is_absolute() and (root / below).is_file():
        return str(root / below)
    known = sorted(path.relative_to(root).as_posix() for path in root.glob("**/*.yml"))
    nearest = difflib.get_close_matches(below.as_posix(), known, n=3)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else "`fastreid-parts configs` lists the plugin's own"
    raise FileNotFoundError(f"no config file '{name}': {hint}")


def configs_root() -> Path:
    """Find the folder of the plugin's configs: package data in a wheel, `configs/` in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


# ---- reading configs ---------------------------------------------------------------------------------------------


def load_config(path: str, opts: Sequence[Any] = ()) -> CN:
    """Read a config: fast-reid's and the plugin's defaults, then a file, then single keys.

    Args:
        path: of the file, as `find_config` takes it.
        opts: KEY, VALUE, KEY, VALUE ...

    Raises:
        FileNotFoundError: there is no such config file.
        KeyError: a key does not exist.
        ValueError: a value does not fit its key, or a key has no value.
    """
    cfg = get_cfg()
    cfg.merge_from_file(find_config(path))
    cfg.merge_from_list(list(opts))
    return cfg


def config_of(dumped: str) -> CN:
    """Make a config that was written as YAML a node; fast-reid's and the plugin's defaults where nothing was written.

    No other file is read, and no code is run, whatever the text says.

    Raises:
        KeyError: it has a key that this version does not know.
        ValueError: it is no config.
    """
    cfg = get_cfg()
    if dumped:
        try:
            cfg.merge_from_other_cfg(CN(read_yaml(dumped)))
        except (yaml.YAMLError, TypeError, AttributeError) as error:
            raise ValueError(f"the config that is kept with features or a model cannot be read: {error}") from error
    return cfg


def flat_keys(cfg: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Name every key of a nested config in full: {"SECTION.KEY": value}.

    Args:
        cfg: the config, or the dictionary that its YAML gives.
        above: what stands before the names.
    """
    flat: dict[str, Any] = {}
    for key, value in cfg.items():
        flat.update(flat_keys(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value})
    return flat


def nested_keys(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Put keys that are named in full back into their sections: what `flat_keys` flattened.

    Args:
        flat: {"SECTION.KEY": value}.
    """
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *sections, key = name.split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
        node[key] = value
    return nested


def word_pairs(words: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Pair the words of an option: NAME VALUE NAME VALUE ...

    Raises:
        ValueError: a value is missing.
    """
    if len(words) % 2:
        raise ValueError(
            f"'{words[-1]}' has no value: give pairs of a name and a value, not {' '.join(map(str, words))}"
        )
    return list(zip(words[::2], words[1::2]))
