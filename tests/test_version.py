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
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    monkeypatch.setattr(version, "_PACKAGE", tmp_path / "fastreid_parts")
    assert len(version._commit()) >= 7 and head.startswith(version._commit())

    class Installed:
        def read_text(self, name: str) -> str | None:
            return '{"vcs_info": {"commit_id": "0123456789abcdef"}}' if name == "direct_url.json" else None

    monkeypatch.setattr(version, "_PACKAGE", tmp_path / "elsewhere" / "fastreid_parts")
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed())
    assert version._commit() == "0123456789ab"
