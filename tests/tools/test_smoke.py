"""tools/smoke.py: it passes here, and it does catch a training that moves no weight."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "smoke.py"

# The host's silent fault: gradients that the optimizer never sees. Both trainings must be reported as stuck.
WITHOUT_STEPS = """
import runpy, sys
import torch
torch.optim.Adam.step = lambda self, closure=None: None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def smoke(*python: str, output: Path) -> tuple[int, dict]:
    command = [sys.executable, *python, str(TOOL), "--output", str(output)]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=output.parent)
    assert output.is_file(), answer.stderr
    return answer.returncode, json.loads(output.read_text())


def test_this_installation_trains_and_evaluates(tmp_path: Path) -> None:
    code, report = smoke(output=tmp_path / "report.json")
    for training in ("stock", "cmbn"):
        assert report[training]["problem"] is None
        assert report[training]["trains"] and report[training]["evaluates"]
        assert math.isfinite(report[training]["mAP"])
    assert code == 0


def test_weights_that_do_not_move_are_a_failure(tmp_path: Path) -> None:
    code, report = smoke("-c", WITHOUT_STEPS, output=tmp_path / "report.json")
    for training in ("stock", "cmbn"):
        assert not report[training]["trains"]
        assert "did not move" in report[training]["problem"]
    assert code == 1
