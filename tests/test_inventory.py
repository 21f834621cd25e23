"""Nothing that a user can name is lost without being told: commands, configs, keys with their defaults, ledger rows.

`inventory.yml` is the list before the settings, heads and commands were declared anew. A name may be added freely. One
that goes has to go from the list as well, with a line in the changelog.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from fastreid.config import get_cfg

from fastreid_parts.command_line import COMMANDS
from fastreid_parts.config import configs_root
from fastreid_parts.paper_results import load_ledger

INVENTORY = yaml.safe_load((Path(__file__).parent / "inventory.yml").read_text(encoding="utf-8"))


def value(key: str) -> object:
    node = get_cfg()
    for part in key.split("."):
        node = node[part]
    return list(node) if isinstance(node, tuple) else node


def present(kind: str) -> set[str]:
    if kind == "configs":
        return {path.relative_to(configs_root()).as_posix() for path in configs_root().rglob("*.yml")}
    if kind == "rows":
        return {row.id for row in load_ledger().rows}
    return set(COMMANDS)


@pytest.mark.parametrize("kind", ["commands", "configs", "rows"])
def test_every_name_is_still_there(kind: str) -> None:
    assert set(INVENTORY[kind]) - present(kind) == set()


def test_every_key_is_still_there_with_its_default() -> None:
    assert {key: value(key) for key in INVENTORY["keys"]} == INVENTORY["keys"]


def test_the_list_is_not_empty() -> None:
    assert {kind: len(names) for kind, names in INVENTORY.items()} == {
        "commands": 22, "configs": 102, "keys": 108, "rows": 265,
    }  # fmt: skip
