"""Files that are replaced together: whenever it is interrupted, no model has another one's companions."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastreid.config import CfgNode

from fastreid_parts import Embedder
from fastreid_parts.deployment.drafts import drafts
from fastreid_parts.files import LEFTOVER_AGE

from .models import build


class Killed(BaseException):
    """In place of a kill -9, which runs nothing; what it leaves is looked at, but for the folder of drafts."""


def write(folder: Path, text: str) -> None:
    with drafts(folder, "main") as place:
        for name in ("a", "main", "z"):
            Path(place, name).write_text(text)


def killed_at(monkeypatch: pytest.MonkeyPatch, folder: Path, step: int, work: Callable[[], Any]) -> bool:
    """Whether the work was killed before its step-th change of the folder."""
    steps = iter(range(step))

    def patched(function: Callable) -> Callable:
        def call(*paths: Any, **options: Any) -> Any:
            if Path(paths[-1]).parent == folder and next(steps, None) is None:
                raise Killed
            return function(*paths, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "remove"):
            patch.setattr(os, name, patched(getattr(os, name)))
        try:
            work()
        except Killed:
            return True
    return False


def test_old_new_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, step = tmp_path / "new", 0
    while True:
        write(folder, "old")
        if not killed_at(monkeypatch, folder, step, lambda: write(folder, "new")):
            break
        texts = {path.name: path.read_text() for path in folder.iterdir()}
        assert "main" not in texts or set(texts.values()) == {"old"}
        step += 1
    assert step == 4 and {path.read_text() for path in folder.iterdir()} == {"new"}


def test_what_a_killed_one_left_goes(tmp_path: Path) -> None:
    old, young, mine = (tmp_path / f".main.{name}" for name in ("abc.drafts", "def.drafts", "mine"))
    for place in (old, young, mine):
        place.mkdir()
        (place / "main").touch()
    for place in (old, mine):
        os.utime(place, (0, os.path.getmtime(place) - LEFTOVER_AGE - 1))
    write(tmp_path, "new")
    assert not old.exists() and young.exists() and mine.exists()
    with pytest.raises(OSError, match="no space"), drafts(tmp_path, "main"):
        raise OSError("no space")
    assert (tmp_path / "main").read_text() == "new"


def test_a_folder_of_a_hub(tiny_cfg: Callable[..., CfgNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (Embedder(*build(tiny_cfg, "BagTricks", *keys)) for keys in ((), ("TEST.FLIP.ENABLED", True)))
    for step in range(5):
        old.save_pretrained(tmp_path, threshold=0.3, overwrite=True)
        assert killed_at(monkeypatch, tmp_path, step, lambda: new.save_pretrained(tmp_path, overwrite=True))
        if step == 0:
            assert Embedder.load(tmp_path).fingerprint == old.fingerprint
        else:
            with pytest.raises(FileNotFoundError, match="model.safetensors"):
                Embedder.load(tmp_path)
    old.save_pretrained(tmp_path, overwrite=True)
    before = (tmp_path / "model.json").read_bytes()
    new.save_pretrained(tmp_path, overwrite=True)
    (tmp_path / "model.json").write_bytes(before)
    with pytest.raises(ValueError, match=r"model\.json' describes another model than model\.safetensors holds"):
        Embedder.from_pretrained(tmp_path)
    (tmp_path / "model.json").write_text('["of something else"]')
    assert Embedder.from_pretrained(tmp_path).fingerprint == new.fingerprint
