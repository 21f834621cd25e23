"""A page a paper of the ledger: what it reports, table by table, and the range that is held against it."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter

from fastreid_parts.paper_results import Row, load_ledger
from fastreid_parts.paper_results.ledger import CHECKED
from fastreid_parts.paper_results.tolerances import printed

from .markdown import code, table

FOLDER = "results/papers"


def pages() -> dict[str, str]:
    """Make a page a paper."""
    return {f"{FOLDER}/{paper}.md": page(paper) for paper in load_ledger().papers}


def page(paper: str) -> str:
    """Write the page of one paper.

    Args:
        paper: its key in the ledger.
    """
    document = load_ledger().papers[paper]
    rows = load_ledger().select(paper)
    head = [
        f"# {paper.upper()}: reported results\n",
        f"{document['title']}, {document['year']}.",
        f"The recipe counts as {document['recipe']}: {document['recipe_reason']}.",
        " ".join(str(document.get("note", "")).split()),
        f"\n{len(rows)} results, in percent. `fastreid-parts reproduce show VARIANT --paper {paper}` prints config and "
        "overrides of one.\n",
    ]
    tables = [_table(source, list(of_table)) for source, of_table in groupby(rows, key=attrgetter("source"))]
    return "\n".join([*head, *tables])


def _table(source: str, rows: list[Row]) -> str:
    cells = [
        [row.label, code(row.variant.name), row.dataset]
        + [
            f"{printed(row.metrics[name])} ({row.ranges[name].low:.1f} to {row.ranges[name].high:.1f})"
            for name in CHECKED
        ]
        + ["" if row.variant.built else "not built"]
        for row in rows
    ]
    header = ["row", "variant", "dataset", "mAP (range)", "Rank-1 (range)", ""]
    notes = "\n".join(f"- {note}" for note in dict.fromkeys(note for row in rows for note in row.notes))
    return f"## {source}\n\n{table(header, cells)}\n\n{notes}\n"
