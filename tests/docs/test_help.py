"""The pages of help and formats are of this code: every message that is quoted, every file and key that is named."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import fastreid_parts
from fastreid_parts.identification import results
from fastreid_parts.retrieval import index_files, manifest, store

from .blocks import ROOT

PACKAGE = Path(fastreid_parts.__file__).parent
MESSAGES = re.findall(r"^`(.+)`\n: ", (ROOT / "docs/help/troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
FORMATS = (ROOT / "docs/reference/formats.md").read_text(encoding="utf-8")


def texts() -> str:
    """All strings of the package, one a line; a byte 0 stands for what is filled in."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[sdr]", "\0", node.value))
    return "\n".join(text.replace("\n", " ") for text in found)


SAID = texts()


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_is_said(message: str) -> None:
    pattern = "[^\n]*".join(re.escape(part) for part in message.split("..."))
    assert re.search(pattern, SAID), message


def test_messages_are_found() -> None:
    assert len(MESSAGES) > 25
    assert not re.search("no such message [^\n]* of this package", SAID)


@pytest.mark.parametrize("kind", [store._KIND, index_files.INDEX_FOLDER, results.FOLDER], ids=lambda kind: kind.name)
def test_every_key_of_a_manifest_is_described(kind: manifest.FolderKind) -> None:
    assert not {key for key in (*kind.keys, "format", "sha256") if f"`{key}`" not in FORMATS}
    assert f"| `format` | {manifest.FORMAT}:" in FORMATS


def test_every_file_is_described() -> None:
    named = {store._FEATURES, store._IMAGES, manifest.MANIFEST, "run.json", "metrics.json"}
    patterns = re.findall(r"^    (\w+)\.<n>\.(\w+)", index_files.__doc__ or "", re.MULTILINE)
    named |= {f"{name}.n.{ending}" for name, ending in patterns}
    named |= {results.IDENTITIES, results.JOINS, results.PAGE, results.STATE, results.CORRECTIONS}
    assert len(named) > 8
    assert not {name for name in named if f"`{name}`" not in FORMATS}
