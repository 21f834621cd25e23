"""Which type mixed precision computes in."""

from __future__ import annotations

import pytest
import torch

from fastreid_parts.engine import amp


def test_a_processor_without_instructions_for_it_stays_in_float32_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amp, "_cpu_has_bfloat16", lambda: False)
    messages: list[str] = []
    monkeypatch.setattr(amp, "_log_once", messages.append)
    assert amp.amp_dtype(True, torch.device("cpu")) is None
    assert "float32" in messages[0]
    assert amp.amp_dtype(True, torch.device("cpu"), "bfloat16") is torch.bfloat16
    with pytest.raises(ValueError, match="float8"):
        amp.amp_dtype(True, torch.device("cpu"), "float8")


def test_the_type_by_device_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amp, "_cpu_has_bfloat16", lambda: True)
    for enabled, device, key, expected in (
        (False, "cuda", "auto", None),
        (True, "cuda", "float32", torch.float16),
        (True, "cpu", "auto", torch.bfloat16),
        (True, "cpu", "float32", None),
        (False, "cpu", "bfloat16", None),
    ):
        assert amp.amp_dtype(enabled, torch.device(device), key) is expected
    assert amp.build_grad_scaler(torch.bfloat16) is amp.build_grad_scaler(None) is None
