"""tools/exporters.py: the cells of its table, and every model through every exporter and runtime."""

from __future__ import annotations

from typing import Any

import pytest

from .load import load_tool

#: What does not work, and why: the table in docs/guides/export.md says the same.
FAILS = {("BagTricks", "OpenVINO, int8"): r"array of shape \(1, 512, 512, 1\) for 1 images"}


@pytest.fixture(scope="module")
def tool() -> Any:
    return load_tool("exporters")


def test_a_cell_is_a_distance_or_a_reason(tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tool.table(["BagTricks"], ["torch.jit.trace"])
    assert "| BagTricks | 0e+00" in page and "Measured with Python" in page

    def fail(*_: Any) -> float:
        raise ValueError("'/tmp/somewhere/model.xml' gives rubbish\nand more")

    monkeypatch.setattr(tool, "difference", fail)
    page = tool.table(["BagTricks", "CMBN"], ["OpenVINO"])
    assert page.count("fails (1)") == 2 and "1. OpenVINO: ValueError: 'model.xml' gives rubbish\n" in page


@pytest.mark.export
@pytest.mark.parametrize("way", load_tool("exporters").WAYS)
@pytest.mark.parametrize("name", load_tool("exporters").MODELS)
def test_every_model_every_way(tool: Any, name: str, way: str) -> None:
    model, cfg = tool.small_model(name)
    if (name, way) in FAILS:
        with pytest.raises(ValueError, match=FAILS[name, way]):
            tool.difference(model, cfg, way)
    else:
        tool.difference(model, cfg, way)
