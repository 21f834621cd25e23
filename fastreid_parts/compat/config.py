"""The host's config: the plugin's keys in its defaults, and errors that say what to write instead."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from fastreid.config import CfgNode, get_cfg
from fastreid.config import config as host_config
from fastreid.config.defaults import _C

from ..config import find_config
from ..files import read_yaml
from ..settings import all_keys, follow
from .overlay import Overlay, wrap


class ConfigKeyError(KeyError):
    """A key that the config does not have."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError shows its message quoted, as if it were the key


def apply() -> None:
    """Add the plugin's keys to the host's defaults and patch merging."""
    follow(_C)
    _patch_bias_decay()
    wrap(CfgNode, "merge_from_other_cfg", _merge_from_other_cfg)
    wrap(CfgNode, "merge_from_list", _merge_from_list)
    wrap(CfgNode, "load_yaml_with_base", _load_yaml_with_base)
    # config/config.py: configs are parsed in Python, which takes most of the time of reading them.
    host_config.yaml = Overlay(host_config.yaml, safe_load=read_yaml)
    wrap(CfgNode, "merge_from_file", _merge_from_file)


def _patch_bias_decay() -> None:
    """config/defaults.py: WEIGHT_DECAY_BIAS is a copy of the default WEIGHT_DECAY, 5e-4 whatever WEIGHT_DECAY becomes.

    None is what the host's optimizer builder takes for "as WEIGHT_DECAY". A config may still set a number.
    """
    if _C.SOLVER.WEIGHT_DECAY_BIAS == _C.SOLVER.WEIGHT_DECAY:
        _C.SOLVER.WEIGHT_DECAY_BIAS = None


def _merge_from_other_cfg(original: Callable, self: CfgNode, cfg_other: CfgNode) -> None:
    """config/config.py: a misspelt key is a bare "Non-existent key", a wrong type a line of Python's type names.

    From a command line it is an AssertionError, which `python -O` drops. Now all three ways of merging name the key in
    full, suggest the closest ones, and say when the plugin was imported too late for its own keys.
    """
    for key in _unknown_keys(self, cfg_other, self):
        raise ConfigKeyError(_unknown_key_message(self, key))
    _take_several(self, _entries(cfg_other))
    try:
        original(self, cfg_other)
    except ValueError as error:
        raise _wrong_type(self, error, _entries(cfg_other)) from None


def _merge_from_list(original: Callable, self: CfgNode, cfg_list: Sequence[Any]) -> None:
    """See `_merge_from_other_cfg`."""
    if len(cfg_list) % 2:
        raise ValueError(f"config options are pairs KEY VALUE, but {list(cfg_list)} is an odd number of words")
    given = dict(zip(cfg_list[0::2], cfg_list[1::2]))
    known = _entries(self)
    for key in given:
        if key not in known and not self.key_is_deprecated(key) and not self.key_is_renamed(key):
            raise ConfigKeyError(_unknown_key_message(self, key))
    for one in all_keys():
        value = given.get(one.name)
        # A folder may be called 2024: what a command line gives is the text of one
        if one.several and isinstance(value, str) and not isinstance(self._decode_cfg_value(value), (str, list, tuple)):
            given[one.name] = repr(value)
    _take_several(self, given)
    try:
        original(self, [word for pair in given.items() for word in pair])  # of a key that comes twice, the last
    except ValueError as error:
        raise _wrong_type(self, error, given) from None


def _take_several(cfg: CfgNode, given: Mapping[str, Any]) -> None:
    """Let the keys that are declared so take a list where they hold a string, and the other way round."""
    held = _entries(cfg)
    for one in all_keys():
        if one.several and one.name in given and one.name in held:
            value = cfg._decode_cfg_value(given[one.name])
            if isinstance(value, (str, list, tuple)) and type(value) is not type(held[one.name]):
                held[one.name.rpartition(".")[0]][one.attribute.upper()] = type(value)()


_being_read: list[str] = []  # a file, its _BASE_, the _BASE_ of that ...


def _load_yaml_with_base(original: Callable, filename: str, allow_unsafe: bool = False) -> Any:
    """config/config.py, `load_yaml_with_base`: what is no config is an error of the parser's, or none at all.

    Files that are each other's `_BASE_` recurse until Python stops; broken YAML, an empty file, a list and a section
    that replaces a value end in errors of other kinds, which name no file; and of a section that stands in a file
    twice, the first is dropped in silence. Now each is a ValueError that names the file and the place.
    """
    path = filename if "://" in filename else os.path.realpath(filename)
    if path in _being_read:
        circle = " -> ".join([*_being_read[_being_read.index(path) :], path])
        raise ValueError(f"the files are each other's _BASE_: {circle}. One of them must stand on its own.")
    if _being_read and "://" not in path and not os.path.isfile(path):
        raise FileNotFoundError(f"{_being_read[-1]}: its _BASE_ is {path}, and there is no such file")
    _being_read.append(path)
    try:
        if "://" not in path:
            _check_yaml(path)
        return original(filename, allow_unsafe)
    except yaml.YAMLError as error:
        mark, said = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{path} is not valid YAML{where}: {said}") from error
    except AssertionError as error:
        raise ValueError(f"{path}: {error}") from error
    finally:
        _being_read.pop()


def _check_yaml(path: str) -> None:
    with open(path, encoding="utf-8") as file:
        top = read_yaml(file, yaml.compose)
    if not isinstance(top, yaml.MappingNode):
        raise ValueError(f"{path} holds no keys: a config is lines such as 'SOLVER:' and, indented, '  BASE_LR: 0.01'")
    for key, value in top.value:
        if key.value == "_BASE_" and value.tag != "tag:yaml.org,2002:str":
            raise ValueError(f"{path}: _BASE_ is the path of one file")
    _check_once(path, top)


def _check_once(path: str, section: yaml.MappingNode, above: str = "") -> None:
    """Refuse a key that stands twice in a section: YAML would let the second replace the first."""
    lines: dict[str, int] = {}
    for key, value in section.value:
        name, line = f"{above}{key.value}", key.start_mark.line + 1
        if name in lines:
            raise ValueError(
                f"{path}: {name} stands in line {lines[name]} and again in line {line}, where it would replace what "
                "came first: write it once"
            )
        lines[name] = line
        if isinstance(value, yaml.MappingNode):
            _check_once(path, value, f"{name}.")


def _merge_from_file(original: Callable, self: CfgNode, cfg_filename: str, allow_unsafe: bool = False) -> None:
    """config/config.py, `merge_from_file`: the wheel ships no configs, and an error in a file does not name the file.

    A path that does not exist is looked up among the plugin's configs, so that `Market/cmbn.yml` works anywhere.
    """
    path = cfg_filename if "://" in cfg_filename else find_config(os.path.expanduser(cfg_filename))
    try:
        original(self, path, allow_unsafe)
    except ConfigKeyError as error:
        raise ConfigKeyError(f"{path}: {error}") from None
    except (ValueError, AssertionError) as error:  # yacs asserts that a value is of a type it knows
        named = os.path.realpath(path) in str(error)
        raise ValueError(str(error) if named else f"{path}: {error}") from None


def _entries(cfg: CfgNode, prefix: str = "") -> dict[str, Any]:
    """Every section and leaf of a config by its name in full."""
    entries = {}
    for name, value in cfg.items():
        entries[f"{prefix}{name}"] = value
        if isinstance(value, CfgNode):
            entries.update(_entries(value, f"{prefix}{name}."))
    return entries


def _unknown_keys(cfg: CfgNode, other: CfgNode, root: CfgNode, prefix: str = "") -> Iterator[str]:
    for name, value in other.items():
        key = f"{prefix}{name}"
        if name not in cfg:
            if not (cfg.is_new_allowed() or root.key_is_deprecated(key) or root.key_is_renamed(key)):
                yield key
        elif isinstance(value, CfgNode) and isinstance(cfg[name], CfgNode):
            yield from _unknown_keys(cfg[name], value, root, f"{key}.")


def _unknown_key_message(cfg: CfgNode, key: str) -> str:
    if key in _entries(get_cfg()):
        return (
            f"this config has no key {key}, which is one of fastreid_parts: the config was made before the plugin was "
            "imported. Move `import fastreid_parts` above `get_cfg()`, or call `fastreid_parts.add_parts_config(cfg)` "
            "before merging."
        )
    close = _closest(key, list(_entries(cfg)))
    return f"there is no config key {key}" + (f". Did you mean {' or '.join(close)}?" if close else "")


def _closest(key: str, known: Sequence[str]) -> Sequence[str]:
    """Up to three known keys: the same name in another section first, then similar spellings."""
    name = key.rpartition(".")[2]
    elsewhere = [k for k in known if k.rpartition(".")[2].lower() == name.lower()]
    similar = difflib.get_close_matches(key, known, n=3, cutoff=0.75)
    return list(dict.fromkeys(elsewhere + similar))[:3]


def _wrong_type(cfg: CfgNode, error: ValueError, values: Mapping[str, Any]) -> ValueError:
    """yacs's complaint about a type, in words; any other error as it is."""
    match: re.Match[str] | None = re.search(r"Type mismatch .* for config key: (\S+)$", str(error), re.DOTALL)
    if match is None:
        return error
    key = match.group(1)
    wanted, given = _entries(cfg).get(key), values.get(key)
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
