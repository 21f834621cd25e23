"""The description of a model: what it holds comes back, and what it does not know is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastreid_parts.deployment import ModelDescription

SAID: dict[str, Any] = {
    "fingerprint": "ab" * 32,
    "versions": {"fastreid_parts": "0.1.0 (abc)", "torch": "2.6"},
    "method": "CMBN, CMBNHead",
    "size": (384, 128),
    "resized": (384, 128),
    "resize": "bilinear",
    "pixels": "raw",
    "colors": "RGB",
    "dimension": 512,
    "features": {"global": (0, 512)},
    "metric": "cosine",
    "normalized": False,
    "flip": True,
    "precision": "float16",
    "threshold": 0.25,
    "config": "MODEL:\n  DEVICE: cpu\n",
}


@pytest.mark.parametrize("changes", [{}, {"threshold": None, "resized": (), "config": "", "features": {}}])
def test_it_comes_back_from_json_and_from_a_map_of_strings(changes: dict) -> None:
    description = ModelDescription(**{**SAID, **changes})
    assert ModelDescription.from_dict(json.loads(json.dumps(description.to_dict()))) == description
    strings = description.to_map()
    assert all(isinstance(text, str) for pair in strings.items() for text in pair)
    assert strings["fastreid_parts.pixels"] == "raw" and strings["fastreid_parts.size"] == "[384, 128]"
    assert ModelDescription.from_map({**strings, "onnx.infer": "x", "pixels": "unit"}) == description


WRONG = {
    "fingerprint": 3, "versions": ["0.1"], "method": None, "size": (384,), "resized": (1, 2, 3), "resize": "nearest",
    "pixels": "0..255", "colors": "rgb", "dimension": 0, "features": {"global": (0, 513)}, "metric": "manhattan",
    "normalized": "yes", "flip": 1, "precision": "float64", "threshold": float("nan"), "config": {},
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_a_value_that_cannot_be_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"the description's {name} .*export the model again"):
        ModelDescription(**{**SAID, name: WRONG[name]})


def test_what_is_no_description_of_this_version_is_refused() -> None:
    there = ModelDescription(**SAID).to_dict()
    lacking = {name: value for name, value in there.items() if name not in ("size", "metric")}
    for said, message in (
        ([], "describes no model"),
        ({}, "describes no model"),
        ({**there, "format": 2}, "is of format 2, this version reads 1"),
        ({**there, "new": 1, "newer": 2}, "that this version does not know .new, newer"),
        (lacking, "that are missing .metric, size|that are missing .size, metric"),
        ({**there, "size": 384}, "size is a height and a width, not 384"),
        ({**there, "features": {"global": 1}}, "features"),
    ):
        with pytest.raises(ValueError, match=message):
            ModelDescription.from_dict(said)
    with pytest.raises(ValueError, match="describes no model"):
        ModelDescription.from_map({"producer": "torch"})
    with pytest.raises(ValueError, match="cannot be read"):
        ModelDescription.from_map({**ModelDescription(**SAID).to_map(), "fastreid_parts.size": "[384, "})
