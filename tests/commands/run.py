"""Run the command line in this process."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from fastreid_parts import command_line


class Answer(NamedTuple):
    code: int
    out: str
    err: str


def run(capsys: pytest.CaptureFixture, *words: object, code: int | None = 0) -> Answer:
    """`fastreid-parts WORDS...`, which is to end with the exit code `code`; None takes any."""
    capsys.readouterr()
    answer = Answer(command_line.main([str(word) for word in words]), *capsys.readouterr())
    assert code is None or answer.code == code, answer
    return answer


def problem(capsys: pytest.CaptureFixture, *words: object) -> str:
    """The message of a user's error: one line on stderr, exit code 2."""
    answer = run(capsys, *words, code=2)
    prefix = f"fastreid-parts {words[0]}: "
    assert answer.err.startswith(prefix) and answer.err.count("\n") == 1, answer
    return answer.err[len(prefix) : -1]
