"""The host's config: the plugin's keys in its defaults, and errors that say what to write instead."""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from fastreid.config import CfgNode, get_cfg
from fastreid.config.defaults import _C

from ..config import find_config
from ..settings import follow
from .overlay import replace


class ConfigKeyError(KeyError):
    """A key that the config does not have."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError shows its message quoted, as if it were the key


@functools.cache
def apply() -> None:
    """Add the plugin's keys to the host's defaults and patch merging. Calling it again does nothing."""
    follow(_C)
    _patch_bias_decay()
    _patch_unknown_keys()
    _patch_config_path()


def _patch_bias_decay() -> None:
    """config/defaults.py: WEIGHT_DECAY_BIAS is a copy of the default WEIGHT_DECAY, 5e-4 whatever WEIGHT_DECAY becomes.

    None is what the host's optimizer builder takes for "as WEIGHT_DECAY". A config may still set a number.
    """
    if _C.SOLVER.WEIGHT_DECAY_BIAS == _C.SOLVER.WEIGHT_DECAY:
        _C.SOLVER.WEIGHT_DECAY_BIAS = None


def _patch_unknown_keys() -> None:
    """config/config.py: a misspelt key is a bare "Non-existent key", a wrong type a line of Python's type names.

    From a command line it is an AssertionError, which `python -O` drops. Now all three ways of merging name the key in
    full, suggest the closest ones, and say when the plugin was imported too late for its own keys.
    """
    merge_other, merge_list = CfgNode.merge_from_other_cfg, CfgNode.merge_from_list

    @functools.wraps(merge_other)
    def merge_from_other_cfg(self: CfgNode, cfg_other: CfgNode) -> None:
        for key in _unknown_keys(self, cfg_other, self):
            raise ConfigKeyError(_unknown_key_message(self, key))
        try:
            merge_other(self, cfg_other)
        except ValueError as error:
            raise _wrong_type(self, error, lambda key: _value_of(cfg_other, key)) from None

    @functools.wraps(merge_list)
    def merge_from_list(self: CfgNode, cfg_list: Sequence[Any]) -> None:
        if len(cfg_list) % 2:
            raise ValueError(f"config options are pairs KEY VALUE, but {list(cfg_list)} is an odd number of words")
        given = dict(zip(cfg_list[0::2], cfg_list[1::2]))
        for key in given:
            if not _has(self, key) and not self.key_is_deprecated(key) and not self.key_is_renamed(key):
                raise ConfigKeyError(_unknown_key_message(self, key))
        try:
            merge_list(self, cfg_list)
        except ValueError as error:
            raise _wrong_type(self, error, given.get) from None

    replace(CfgNode, "merge_from_other_cfg", merge_from_other_cfg)
    replace(CfgNode, "merge_from_list", merge_from_list)


def _patch_config_path() -> None:
    """config/config.py, `merge_from_file`: the wheel ships no configs, and an error in a file does not name the file.

    A path that does not exist is looked up among the plugin's configs, so that `Market/cmbn.yml` works anywhere.
    """
    original = CfgNode.merge_from_file

    @functools.wraps(original)
    def merge_from_file(self: CfgNode, cfg_filename: str, allow_unsafe: bool = False) -> None:
        path = cfg_filename if "://" in cfg_filename else find_config(os.path.expanduser(cfg_filename))
        try:
            original(self, path, allow_unsafe)
        except ConfigKeyError as error:
            raise ConfigKeyError(f"{path}: {error}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    replace(CfgNode, "merge_from_file", merge_from_file)


def _keys(cfg: CfgNode, prefix: str = "") -> Iterator[str]:
    """Every key of a config in full, sections and leaves."""
    for key, value in cfg.items():
        yield f"{prefix}{key}"
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")


def _value_of(cfg: CfgNode, key: str) -> Any:
    value: Any = cfg
    for part in key.split("."):
        if not isinstance(value, CfgNode) or part not in value:
            return None
        value = value[part]
    return value


def _has(cfg: CfgNode, key: str) -> bool:
    section, _, name = key.rpartition(".")
    parent = _value_of(cfg, section) if section else cfg
    return isinstance(parent, CfgNode) and name in parent


def _unknown_keys(cfg: CfgNode, other: CfgNode, root: CfgNode, prefix: str = "") -> Iterator[str]:
    for name, value in other.items():
        key = f"{prefix}{name}"
        if name not in cfg:
            if not (cfg.is_new_allowed() or root.key_is_deprecated(key) or root.key_is_renamed(key)):
                yield key
        elif isinstance(value, CfgNode) and isinstance(cfg[name], CfgNode):
            yield from _unknown_keys(cfg[name], value, root, f"{key}.")


def _unknown_key_message(cfg: CfgNode, key: str) -> str:
    if _has(get_cfg(), key):
        return (
            f"this config has no key {key}, which is one of fastreid_parts: the config was made before the plugin was "
            "imported. Move `import fastreid_parts` above `get_cfg()`, or call `fastreid_parts.add_parts_config(cfg)` "
            "before merging."
        )
    close = _closest(key, list(_keys(cfg)))
    return f"there is no config key {key}" + (f". Did you mean {' or '.join(close)}?" if close else "")


def _closest(key: str, known: Sequence[str]) -> Sequence[str]:
    """Up to three known keys: the same name in another section first, then similar spellings."""
    name = key.rpartition(".")[2]
    elsewhere = [k for k in known if k.rpartition(".")[2].lower() == name.lower()]
    similar = difflib.get_close_matches(key, known, n=3, cutoff=0.75)
    return list(dict.fromkeys(elsewhere + similar))[:3]


def _wrong_type(cfg: CfgNode, error: ValueError, given_for: Any) -> ValueError:
    """yacs's complaint about a type, in words; any other error as it is."""
    match: re.Match[str] | None = re.search(r"Type mismatch .* for config key: (\S+)$", str(error), re.DOTALL)
    if match is None:
        return error
    key = match.group(1)
    wanted, given = _value_of(cfg, key), given_for(key)
    if isinstance(given, str):
        given = cfg._decode_cfg_value(given)
    if isinstance(wanted, CfgNode):
        return ValueError(f"config key {key} is a section ({', '.join(wanted)}), but it is given {given!r}")
    message = (
        f"config key {key} takes {_article(wanted)}, as in its default {wanted!r}, but it is given "
        f"{_article(given)}: {given!r}"
    )
    if isinstance(wanted, float) and isinstance(given, int):
        message += f". Write {float(given)!r}"
    return ValueError(message)


def _article(value: Any) -> str:
    words = {str: "a string", int: "a whole number", float: "a decimal number", bool: "True or False"}
    words.update({list: "a list", tuple: "a tuple", type(None): "nothing"})
    return words.get(type(value), "a section" if isinstance(value, CfgNode) else type(value).__name__)
