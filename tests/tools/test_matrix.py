"""tools/matrix.py: which interpreter a row gets, what the table says, and what becomes of a row that fails."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

THIS_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="module")
def matrix() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "tools" / "matrix.py"
    spec = importlib.util.spec_from_file_location("matrix", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["matrix"] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules["matrix"]


def write_script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def no_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without an interpreter on PATH or under pyenv; the folder that PATH names."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    return tmp_path / "bin"


def test_interpreter_given_by_hand(matrix: ModuleType, no_python: Path) -> None:
    assert matrix.find_interpreter(THIS_PYTHON, ["/nowhere/python", sys.executable]) == sys.executable


def test_interpreter_of_another_version_is_not_taken(matrix: ModuleType, no_python: Path) -> None:
    assert matrix.find_interpreter("2.1", [sys.executable]) is None


def test_shim_that_does_not_run_gives_way_to_pyenv(matrix: ModuleType, no_python: Path, tmp_path: Path) -> None:
    write_script(no_python / f"python{THIS_PYTHON}", "exit 127")
    real = write_script(
        tmp_path / "pyenv" / "versions" / f"{THIS_PYTHON}.0" / "bin" / f"python{THIS_PYTHON}",
        f'exec {shlex.quote(sys.executable)} "$@"',
    )
    assert matrix.find_interpreter(THIS_PYTHON, []) == str(real)


def test_missing_interpreter_is_skipped_and_said(
    matrix: ModuleType, no_python: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert matrix.main(["--only", "3.10"]) == 1, "no row ran: that is no success"
    output = capsys.readouterr()
    assert "Python 3.10: skipped" in output.out
    assert "--python" in output.out
    assert "no row ran" in output.err


def test_failed_installation_is_a_row_of_the_table(
    matrix: ModuleType, no_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{no_python}{os.pathsep}/bin{os.pathsep}/usr/bin")
    write_script(no_python / "make", "echo ERROR: no such torch; echo 'make: *** stop'; exit 2")
    row = matrix.Row("3.10", "a stack", ("torch==0.0",))
    result = matrix.run_row(row, sys.executable, tmp_path)
    assert (tmp_path / "constraints.txt").read_text() == "torch==0.0\n"
    assert result["problem"] == "installation: ERROR: no such torch"
    assert matrix.markdown([result]).splitlines()[-1] == "| 3.10 | - | - | - | no | no | no | - |"


def test_table_and_problem_of_a_smoke_report(
    matrix: ModuleType, no_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment whose smoke test reports that one of the trainings never moved a weight."""
    monkeypatch.setenv("PATH", f"{no_python}{os.pathsep}/bin{os.pathsep}/usr/bin")
    moved = {"trains": True, "evaluates": True, "mAP": 50.0, "problem": None}
    stuck = {"trains": False, "evaluates": True, "mAP": 50.0, "problem": "62 of 62 parameters did not move"}
    versions = {"python": "3.10.13", "torch": "2.6.0", "torchvision": "0.21.0", "numpy": "1.26.4"}
    report = {**versions, "seconds": 12.5, "stock": stuck, "cmbn": moved}
    write_script(tmp_path / "venv" / "bin" / "python", f'echo {shlex.quote(json.dumps(report))} > "$3"')
    write_script(no_python / "make", "exit 0")
    result = matrix.run_row(matrix.Row("3.10", "a stack", ()), sys.executable, tmp_path)
    assert result["problem"] == "stock: 62 of 62 parameters did not move"
    assert matrix.markdown([result]).splitlines() == [
        "| python | torch | torchvision | numpy | imports | trains | evaluates | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| 3.10.13 | 2.6.0 | 0.21.0 | 1.26.4 | yes | no | yes | 12.5 |",
    ]


def test_the_rows_reach_from_the_oldest_to_the_newest_that_is_declared(matrix: ModuleType) -> None:
    declared = (matrix.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pythons = re.findall(r"Python :: (3\.\d+)", declared)
    assert (matrix.ROWS[0].python, matrix.ROWS[-1].python) == (pythons[0], pythons[-1])
    assert f'requires-python = ">={pythons[0]}"' in declared
    assert f"Python {pythons[0]} to {pythons[-1]}" in (matrix.ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_oldest_row_pins_what_is_declared_and_no_tool_of_development(matrix: ModuleType) -> None:
    pins = matrix.lower_bounds(
        '[a]\ndependencies = [\n  "x-y>=1.2",  # why\n  "six",\n]\n[b]\ncpu = ["z>=3"]\ndev = ["w>=1"]\n'
    )
    assert pins == ("x-y==1.2", "z==3")
    assert {"torch==2.6", "torchvision==0.21", "faiss-cpu==1.7.3"} < set(matrix.ROWS[0].constraints)
