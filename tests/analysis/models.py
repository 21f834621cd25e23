"""Keys of the models that the tests of figures look at, and their commands run to the numbers beside the figure."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from tests.commands.run import problem, run

__all__ = ["CAN", "RRID", "numbers_of", "refused"]

PARTS = ("MODEL.HEADS.EMBEDDING_DIM", 8, "MODEL.HEADS.WITH_BNNECK", False, "MODEL.BACKBONE.LAST_STRIDE", 1)
# 48 rows of an image are three of the map
RRID = (*PARTS, "MODEL.META_ARCHITECTURE", "RRID", "MODEL.HEADS.NAME", "RRIDHead", "MODEL.RRID.PARTS", [3])
CAN = (*PARTS, "MODEL.META_ARCHITECTURE", "CAN", "MODEL.HEADS.NAME", "CANHead", "MODEL.CAN.PARTS", [1, 2])


def numbers_of(capsys: pytest.CaptureFixture, command: str, output: Path, *words: object) -> tuple[dict, str]:
    """What stands beside the figure, which is there, and what was printed."""
    printed = run(capsys, command, *words, "--output", output).out
    assert cv2.imread(str(output)) is not None
    numbers = json.loads(output.with_suffix(".json").read_text())
    assert numbers.pop("command") == command
    return numbers, printed


def refused(capsys: pytest.CaptureFixture, command: str, output: Path, *words: object) -> str:
    """The message of a user's error, without a figure or numbers."""
    message = problem(capsys, command, *words, "--output", output)
    assert not output.exists() and not output.with_suffix(".json").exists()
    return message
