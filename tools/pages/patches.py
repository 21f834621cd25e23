"""The page of all that is patched in fast-reid, from what stands beside each patch in `compat/`."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fastreid_parts

from .markdown import definition, sentence

PAGE = "host/patches.md"
COMPAT = Path(fastreid_parts.__file__).parent / "compat"
HEAD = """# Every patch

Each entry names the file of fast-reid 1.4.0, what is seen without the patch, and what is done. It stands in
`fastreid_parts/compat/` beside the code that does it, and this page is made from there. No installed file is touched.
"""
#: `layers/batch_norm.py:12: text`, or several files, or a name within one
_PLACE = re.compile(r"(?P<where>[\w*]+(?:/[\w*]+)*\.py\b[^.]*?(?:\.py\b[^.]*?)*?): (?P<text>\S.*)", re.DOTALL)


@dataclass(frozen=True)
class Patch:
    """One patch.

    Attributes:
        module: of `compat`, without its ending.
        where: the file of fast-reid's, with what in it, in Markdown.
        text: symptom, reason and what is done instead, in Markdown.
    """

    module: str
    where: str
    text: str


def pages() -> dict[str, str]:
    """Make the page."""
    found: dict[str, list[Patch]] = {}
    for patch in patches():
        found.setdefault(patch.module, []).append(patch)
    sections = [
        f"## {module}\n\n{_summary(module)}\n\n"
        + "\n".join(definition(patch.where, sentence(patch.text)) for patch in own)
        for module, own in found.items()
    ]
    return {PAGE: "\n".join([HEAD, *sections])}


def patches() -> Iterator[Patch]:
    """List the patches, module by module, in the order of the source."""
    for path in sorted(COMPAT.glob("*.py")):
        for said in _docstrings_and_comments(path.read_text(encoding="utf-8")):
            if found := _PLACE.match(said):
                where = re.sub(r"[\w*/]+\.py(:\d+)?", r"`\g<0>`", found["where"])
                yield Patch(path.stem, where, found["text"])


def _docstrings_and_comments(source: str) -> Iterator[str]:
    """What is said in a module, by functions, classes and blocks of comments, in order."""
    said = {
        node.lineno: inspect.cleandoc(ast.get_docstring(node) or "")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }
    for block in re.finditer(r"(?:^ *# .*\n)+", source, re.MULTILINE):
        text = re.sub(r"^ *# ", "", block[0], flags=re.MULTILINE).strip()
        said[source.count("\n", 0, block.start()) + 1] = text
    return (said[line] for line in sorted(said))


def _summary(module: str) -> str:
    return (ast.get_docstring(ast.parse((COMPAT / f"{module}.py").read_text(encoding="utf-8"))) or "").partition("\n")[
        0
    ]
