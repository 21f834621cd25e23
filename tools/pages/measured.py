"""Tables of what was measured, from docs/results/*.json, for the directive `measured` of the site.

A file holds {name: {"command": that measured it, "about": what else is to be known, "columns": [...], "rows": [...]}}.
A cell is text, a number, or [mean, standard deviation]. The numbers of a column are written with as many decimals as
the one that has the most.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from .markdown import code, table

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def load() -> dict[str, dict[str, Any]]:
    """Load the tables of all files: {name: table}.

    Raises:
        ValueError: a name is there twice, or a row does not have one cell a column.
    """
    tables: dict[str, dict[str, Any]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        for name, entry in json.loads(path.read_text(encoding="utf-8")).items():
            if name in tables or any(len(row) != len(entry["columns"]) for row in entry["rows"]):
                raise ValueError(f"{path}: '{name}' is there twice, or a row has not {len(entry['columns'])} cells")
            tables[name] = entry
    return tables


def markdown(entry: dict[str, Any]) -> str:
    """Write one table, with what is to be known of it.

    Args:
        entry: as in the files.
    """
    decimals = [max(map(_decimals, column)) for column in zip(*entry["rows"])]
    rows = [[_cell(value, places) for value, places in zip(row, decimals)] for row in entry["rows"]]
    return f"{table(entry['columns'], rows)}\n\n{code(entry['command'])}: {entry['about']}"


class Measured(SphinxDirective):
    """```{measured} NAME```: the table of that name."""

    required_arguments = 1

    def run(self) -> Sequence[nodes.Node]:  # type: ignore[override]
        """Give the nodes of the table.

        Raises:
            Error: there is no table of the name.
        """
        tables = load()
        if self.arguments[0] not in tables:
            raise self.error(f"no table '{self.arguments[0]}' in docs/results/*.json: {', '.join(tables)}")
        for path in RESULTS.glob("*.json"):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(markdown(tables[self.arguments[0]]))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("measured", Measured)
    return {"parallel_read_safe": True}


def _decimals(value: Any) -> int:
    if isinstance(value, list):
        return max(map(_decimals, value))
    return len(str(value).partition(".")[2]) if isinstance(value, float) else 0


def _cell(value: Any, decimals: int) -> str:
    if isinstance(value, list):
        return " ± ".join(_cell(part, decimals) for part in value)
    return value if isinstance(value, str) else f"{value:,.{decimals}f}"
