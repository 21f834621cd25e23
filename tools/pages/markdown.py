"""Markdown from Python values."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

from tabulate import tabulate


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table; a bar within a cell stays one.

    Args:
        header: of the columns.
        rows: of cells.
    """
    cells = [[str(cell).replace("|", r"\|").replace("\n", " ") for cell in row] for row in rows]
    return tabulate(cells, header, tablefmt="github", disable_numparse=True)


def code(text: object) -> str:
    """Write text as code within a line, in one line."""
    words = " ".join(str(text).split())
    fence = "``" if "`" in words else "`"
    return f"{fence}{words}{fence}"


def sentence(text: str) -> str:
    """Begin text with a capital and end it with a full stop."""
    text = text[:1].upper() + text[1:].rstrip()
    return text if text.endswith((".", ":", "?", "!")) or not text else text + "."


def definition(term: str, text: str, anchor: str = "") -> str:
    """Write a term and what it means, as a list of definitions has it.

    Args:
        term: in Markdown, one line.
        text: in Markdown, of any number of paragraphs.
        anchor: a name that pages can refer to.
    """
    target = f"({anchor})=\n" if anchor else ""
    return f"{target}{term}\n: {textwrap.indent(text.strip(), '  ').strip()}\n"


def prose(docstring: str, language: str = "sh") -> str:
    """Turn a docstring into Markdown: what is indented there is a block of code.

    Args:
        docstring: without the indentation of its function.
        language: of the blocks.
    """
    blocks = re.split(r"\n\n(?=\S)", docstring.strip())
    return "\n\n".join(_fenced(block, language) for block in blocks)


def _fenced(block: str, language: str) -> str:
    text, _, indented = block.partition("\n\n")
    if not indented:
        return block
    return f"{text}\n\n```{language}\n{textwrap.dedent(indented).rstrip()}\n```"
