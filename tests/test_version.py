"""Versions: the commit of a checkout and of an installation."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path

import pytest

from fastreid_parts import version


def test_the_commit_of_a_checkout_and_of_an_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    for folder in ("fastreid_parts", "docs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "some").write_text("x")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "x"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    monkeypatch.setattr(version, "_PACKAGE", tmp_path / "fastreid_parts")
    assert len(version._commit()) >= 7 and head.startswith(version._commit())
    (tmp_path / "docs/some").write_text("results that were written meanwhile")
    assert head.startswith(version._commit())
    (tmp_path / "fastreid_parts/some").write_text("other code")
    assert version._commit().endswith("-dirty") and head.startswith(version._commit()[:-6])

    class Installed:
        def read_text(self, name: str) -> str | None:
            return '{"vcs_info": {"commit_id": "0123456789abcdef"}}' if name == "direct_url.json" else None

    monkeypatch.setattr(version, "_PACKAGE", tmp_path / "elsewhere" / "fastreid_parts")
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed())
    assert version._commit() == "0123456789ab"
