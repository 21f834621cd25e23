"""The reference of keys, from `Settings`: the plugin's, and fast-reid's where they are read or changed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import attrgetter
from typing import Any

from fastreid.config import get_cfg

import fastreid_parts  # noqa: F401  declares the keys
from fastreid_parts.settings import DECLARED, ROLE_WORDS, Key

from .markdown import code, definition, sentence, table

PAGE = "reference/keys.md"
HEAD = """# Keys

Every command that reads a config takes keys as `KEY VALUE` after its options; `fastreid-parts keys RRID` prints this
list for the keys with RRID in their name. fast-reid's other keys are described in its `config/defaults.py`.

Each key says what it matters to. A key of *training and features* is part of a model. One of *training alone* may
differ between a model and its index. One of *features, not training* may change at test without another training.
"""
OF_HOST = """
## Keys of fast-reid's that are checked

Their defaults are fast-reid's. The plugin checks them where a config is read and says what they may be.
"""
CHANGED = """
## Defaults that are not fast-reid's

"""


def pages() -> dict[str, str]:
    """Make the page of all keys."""
    ordered = sorted(DECLARED, key=attrgetter("section"))  # stable: classes of one section stay in their order
    sections = [_section(name, list(classes)) for name, classes in groupby(ordered, key=attrgetter("section"))]
    of_host = sorted(
        {one.name: one for declared in DECLARED for one in declared.declared_keys() if one.of_host}.items()
    )
    described = [definition(code(name), _meaning(one, value_of(get_cfg(), name))) for name, one in of_host]
    changed = list(changed_defaults())
    rows = table(["key", "fast-reid", "here"], ([code(n), code(repr(a)), code(repr(b))] for n, a, b in changed))
    return {PAGE: "\n".join([HEAD, *sections, OF_HOST, *described, CHANGED + (rows if changed else "None."), ""])}


def changed_defaults() -> Iterator[tuple[str, Any, Any]]:
    """List key, fast-reid's default and the default here, where the two differ."""
    spec = importlib.util.find_spec("fastreid.config.defaults")
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(stock := importlib.util.module_from_spec(spec))  # a copy of its own, which nothing patched
    here = get_cfg()
    for name, default in _leaves(stock._C):
        if value_of(here, name) != default:
            yield name, default, value_of(here, name)


def value_of(cfg: Any, name: str) -> Any:
    """Look up a key by its full name."""
    for part in name.split("."):
        cfg = cfg[part]
    return cfg


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _section(name: str, classes: list[Any]) -> str:
    lines = []
    for declared in classes:
        own = [one for one in declared.declared_keys() if not one.of_host]
        if own:
            lines += [" ".join((declared.__doc__ or "").split()), ""]
            lines += [definition(code(one.name), _meaning(one, one.default), anchor=one.name) for one in own]
    title = f"## {name or 'Outside of any section'}\n"
    return "\n".join([title, *lines]) if lines else ""


def _meaning(one: Key, default: Any) -> str:
    values = f"One of {', '.join(code(value) for value in one.known)}." if one.known else ""
    bounds = [("above", one.above), ("at least", one.low), ("at most", one.high)]
    within = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
    about = [
        sentence(one.help),
        f"[{one.source}]" if one.source else "",
        values,
        f"A number {within}." if within else "",
    ]
    shown = repr(list(default) if isinstance(default, tuple) else default)
    return " ".join(filter(None, about)) + f"\n\nDefault {code(shown)}; matters to {ROLE_WORDS[one.role]}."
