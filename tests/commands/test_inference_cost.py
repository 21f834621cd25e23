"""The inference benchmark: what it prints for CMBN beside its baseline."""

from __future__ import annotations

from typing import Any, Callable

import pytest

from fastreid_parts.commands.inference_cost import main


def test_cmbn_costs_what_its_baseline_does(cmbn_cfg: Callable, tmp_path: Any, capsys: Any) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(cmbn_cfg("MODEL.CMBN.INFERENCE_ONLY", True).dump())
    versus = ["MODEL.CMBN.REVERSAL_BRANCH", "False", "MODEL.CMBN.MASK_GENERATOR", "False"]
    assert main(["--config-file", str(config), "--batch", "2", "--rounds", "2", "--versus-opts", *versus]) == 0
    rows = [line.split("|")[1:5] for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    assert [row[0].strip() for row in rows] == ["versus", "model"]
    assert rows[0][1].strip() == rows[1][1].strip() != "0"


def test_impossible_rounds(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["--config-file", "Market/cmbn.yml", "--rounds", "0"])
    assert "at least 1" in capsys.readouterr().err
