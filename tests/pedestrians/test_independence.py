"""The generator of people stands alone: it imports nothing of the plugin, and writes its files by itself."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from fastreid_parts import pedestrians
from fastreid_parts.pedestrians.folder import write_file

FILES = sorted(Path(pedestrians.__file__).parent.glob("**/*.py"))


def imported_from_above(source: str) -> list[str]:
    """What a module of the package imports of the plugin outside the package, or of the host."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.level > 1 or (node.module or "").startswith("fastreid")):
            found.append("." * node.level + (node.module or ""))
        elif isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names if alias.name.startswith("fastreid"))
    return found


def test_imports_nothing_of_the_plugin() -> None:
    assert len(FILES) > 10
    assert {path.name: imported_from_above(path.read_text(encoding="utf-8")) for path in FILES} == {
        path.name: [] for path in FILES
    }
    assert imported_from_above("from ..files import a\nimport fastreid_parts.x\ndef f():\n from fastreid import b") == [
        "..files", "fastreid_parts.x", "fastreid",
    ]  # fmt: skip


def test_another_process_may_complete_the_dataset_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It clears what it takes for leftovers; a file that is there has the same bytes, one that is not was lost."""
    path, replace = tmp_path / "a.jpg", os.replace

    def cleared(source: Path, target: Path) -> None:
        os.unlink(source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", cleared)
    with pytest.raises(FileNotFoundError):
        write_file(path, b"image")
    path.write_bytes(b"image")
    write_file(path, b"image")
    assert [file.name for file in tmp_path.iterdir()] == ["a.jpg"] and path.read_bytes() == b"image"
