"""A method outside of the repository, that of docs/guides/new-method.md: by --import, entry point, in processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import fastreid_parts
from fastreid_parts import plugins

from .commands.run import problem

ROOT = Path(__file__).resolve().parents[1]


def command(*words: object, cwd: Path) -> subprocess.CompletedProcess:
    """Run a command in a process of its own: what is registered stays registered."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = f"{Path(fastreid_parts.__file__).parents[1]}{os.pathsep}{cwd / 'site'}"
    line = [sys.executable, "-m", "fastreid_parts", *map(str, words)]
    answer = subprocess.run(line, capture_output=True, text=True, timeout=300, cwd=cwd, env=environment)
    assert answer.returncode == 0, answer.stdout[-1500:] + answer.stderr[-3000:]
    return answer


@pytest.fixture
def no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in leaves nothing in this process."""
    monkeypatch.setenv("FASTREID_PARTS_IMPORT", "")
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.smallest
def test_a_method_outside_is_trained_in_two_processes_and_evaluated(tiny_cfg: Callable, tmp_path: Path) -> None:
    page = (ROOT / "docs/guides/new-method.md").read_text()
    (code,) = re.findall(r"```python\n(\"\"\"my_stripes.*?)```", page, re.DOTALL)
    (tmp_path / "my_stripes.py").write_text(code)
    losses = ("CrossEntropyLoss", "TripletLoss")
    cfg = tiny_cfg("SOLVER.MAX_EPOCH", 1, "MODEL.LOSSES.NAME", losses, "MODEL.HEADS.WITH_BNNECK", False)
    cfg.MODEL.META_ARCHITECTURE = "PartsBaseline"
    cfg.MODEL.HEADS.NAME = "StripesHead"
    (tmp_path / "config.yml").write_text(cfg.dump() + "\n")
    command(
        "train", "--import", "my_stripes", "--config-file", "config.yml", "--num-gpus", 2, "MODEL.STRIPES.NUMBER", 3,
        cwd=tmp_path,
    )  # fmt: skip
    weights = Path(cfg.OUTPUT_DIR) / "model_final.pth"
    state = torch.load(weights, weights_only=True)["model"]
    assert sum(name.startswith("heads.classifiers.") for name in state) == 6

    # Installed: an entry point in place of --import
    (tmp_path / "site" / "my_stripes-1.dist-info").mkdir(parents=True)
    (tmp_path / "my_stripes.py").rename(tmp_path / "site" / "my_stripes.py")
    (tmp_path / "site" / "my_stripes-1.dist-info" / "METADATA").write_text("Name: my_stripes\nVersion: 1\n")
    entry_points = f"[{plugins.GROUP}]\nstripes = my_stripes\n"
    (tmp_path / "site" / "my_stripes-1.dist-info" / "entry_points.txt").write_text(entry_points)
    stripe = ["MODEL.STRIPES.NUMBER", 3, "TEST.FEATURES", "['part_2_of_3']"]
    config = Path(cfg.OUTPUT_DIR) / "config.yaml"
    command(
        "evaluate", "--config-file", config, "--weights", weights, "--output", "n.json", "--opts", *stripe,
        cwd=tmp_path,
    )  # fmt: skip
    (evaluated,) = json.loads((tmp_path / "n.json").read_text())["evaluated"]
    assert evaluated["query"] == 4 and evaluated["results"]["mAP"] > 0


@pytest.mark.usefixtures("no_trace")
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, "ModuleNotFoundError: No module named 'broken_plugin'"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_plugin_that_fails_is_named(
    code: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    if code is not None:
        (tmp_path / "broken_plugin.py").write_text(code)
    error = problem(capsys, "configs", "--import", "broken_plugin")
    assert error.startswith(f"the plugin 'broken_plugin' cannot be imported: {message}")
    assert os.environ["FASTREID_PARTS_IMPORT"] == ""


@pytest.mark.usefixtures("no_trace")
def test_several_plugins_are_handed_on_to_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("first_plugin", "second_plugin"):
        (tmp_path / f"{name}.py").write_text("seen = []")
    plugins.load(["first_plugin"])
    plugins.load(["second_plugin", "first_plugin"])
    assert os.environ["FASTREID_PARTS_IMPORT"] == "first_plugin second_plugin"
    assert all(sys.modules.pop(name).seen == [] for name in ("first_plugin", "second_plugin"))
    plugins.import_named()
    assert all(sys.modules.pop(name).seen == [] for name in ("first_plugin", "second_plugin"))
