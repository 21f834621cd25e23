"""tools/trackers.py: an environment is made once, from what it is to hold, and one that failed is made again."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools import trackers


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "constraints.txt").write_text("tabulate==1\ntorch==2.11.0\ntorchvision==0.26.0\ntorchaudio==9\n")
    (tmp_path / "pyproject.toml").write_text("dependencies = []")
    return tmp_path


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, root: Path) -> list[list[str]]:
    """What is run instead of uv: nothing, except that a new environment gets its folder."""
    run: list[list[str]] = []

    def note(command: list[str], check: bool) -> None:
        run.append(command)
        if "venv" in command:
            Path(command[-1]).mkdir(exist_ok=True)

    monkeypatch.setattr(subprocess, "run", note)
    monkeypatch.setattr(sys, "version_info", (3, 11, 7))
    return run


@pytest.mark.parametrize("name", trackers.ENVIRONMENTS)
def test_it_is_made_once(name: str, root: Path, commands: list[list[str]]) -> None:
    assert trackers.interpreter(name, root) is None
    assert trackers.make(name, root)
    created, installed, *host = commands
    assert str(root / f".venv-{name}") in created
    assert {"torch==2.11.0", "torchvision==0.26.0", trackers.OPENCV} < {*installed}
    assert not {"torchaudio==9", "tabulate==1"} & {*installed}
    project = trackers.ENVIRONMENTS[name].project
    assert [words[-2:] for words in host] == ([["--no-deps", "fastreid==1.4.0"]] if project else [])
    assert (f"{root}[cpu,export]" in installed) == project
    commands.clear()
    assert not trackers.make(name, root) and not commands
    assert trackers.interpreter(name, root) == root / f".venv-{name}" / "bin" / "python"


def test_other_dependencies_of_the_project_make_it_anew(root: Path, commands: list) -> None:
    made = [trackers.make(name, root) for name in trackers.ENVIRONMENTS]
    (root / "pyproject.toml").write_text("dependencies = ['lark']")
    again = {name: trackers.make(name, root) for name in trackers.ENVIRONMENTS}
    assert all(made) and again == {name: one.project for name, one in trackers.ENVIRONMENTS.items()}


def test_other_packages_make_it_anew(root: Path, commands: list[list[str]]) -> None:
    trackers.make("boxmot", root)
    (root / "constraints.txt").write_text("torch==2.12.0\ntorchvision==0.27.0\n")
    assert trackers.interpreter("boxmot", root) is None
    assert trackers.make("boxmot", root) and "--clear" in commands[-2] and "torch==2.12.0" in commands[-1]


def test_one_that_failed_is_not_taken_for_made(root: Path, commands: list, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], check: bool) -> Any:
        raise subprocess.CalledProcessError(1, command)

    with monkeypatch.context() as patch, pytest.raises(subprocess.CalledProcessError):
        patch.setattr(subprocess, "run", fail)
        trackers.make("boxmot", root)
    assert trackers.interpreter("boxmot", root) is None and trackers.make("boxmot", root)


def test_a_python_that_is_too_new_is_refused(root: Path, commands: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    with pytest.raises(ValueError, match=r"numpy==1\.26\.4.* want Python 3\.12 or older"):
        trackers.make("trackers", root)
    assert not commands


def test_every_package_has_its_version() -> None:
    for environment in trackers.ENVIRONMENTS.values():
        assert all(re.fullmatch(r"[\w-]+==[\d.]+", one) for one in environment.packages)


def test_a_name_that_does_not_exist(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        trackers.main(["boxmott"])
    assert stopped.value.code == 2
    assert "there is no environment boxmott; there are boxmot, ultralytics, trackers" in capsys.readouterr().err
