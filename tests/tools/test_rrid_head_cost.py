"""tools/rrid_head_cost.py: what is timed, and the table. That both heads agree is in tests/methods/test_rrid.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .load import load_tool

SMALL = ["--channels", "6", "--reduced", "4", "--classes", "3", "--batch", "4", "--map", "6", "2", "--parts", "2", "3"]


def test_times_both_heads_forward_and_with_backward(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = load_tool("rrid_head_cost")
    seen: list[tuple[str, bool]] = []

    def measure(steps: dict[str, Any], rounds: int, device: torch.device) -> list[dict[str, float]]:
        assert rounds == 2 and device.type == "cpu"
        calls = []
        for name, step in steps.items():
            step()
            gradients = [parameter.grad is not None for parameter in step.args[0].parameters()]
            assert all(gradients) or not any(gradients)
            seen.append((name, all(gradients)))
            calls.append({"milliseconds": 10.0 if name == "plain" else 4.0, "ratio": 1.0 if name == "plain" else 0.25})
        return calls

    monkeypatch.setattr(tool, "measure", measure)
    assert tool.main([*SMALL, "--rounds", "2"]) == 0
    assert seen == [("plain", False), ("batched", False), ("plain", True), ("batched", True)]
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].startswith("RRID's head, parts 2 3, 4 maps of 6 channels, 6x2; cpu")
    for row in rows[-2:]:
        assert [cell.strip() for cell in row.split("|")[2:-1]] == ["10.0", "4.0", "0.250", "4.00"]


def test_it_runs(capsys: pytest.CaptureFixture) -> None:
    assert load_tool("rrid_head_cost").main([*SMALL, "--rounds", "1"]) == 0
    assert "forward and backward" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--parts", "1"], ["--parts", "4"], ["--rounds", "0"]])
def test_bad_sizes_are_usage_errors(wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        load_tool("rrid_head_cost").main([*SMALL, *wrong])
