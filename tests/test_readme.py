"""The commands of README, CONTRIBUTING and docker/README: each has arguments that it takes."""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
from pathlib import Path

import pytest

from fastreid_parts.command_line import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
# Prints the words of each command instead of running it
SHELL = "fastreid-parts() { printf '%s\\0' \"$@\"; printf '\\1'; }\npython() { :; }\nmake() { :; }\n"


def commands_of(path: Path) -> list[list[str]]:
    """The words of every `fastreid-parts` command in a page, with the shell's variables filled in."""
    text = path.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = [found.replace("\n", " ") for found in re.findall(r"`(fastreid-parts [^`]+ --[^`]+)`", text)]
    source = SHELL + "\n".join(block.replace(". .venv/bin/activate\n", "") for block in blocks if "docker" not in block)
    printed = subprocess.run(["bash", "-c", "\n".join([source, *inline])], capture_output=True, text=True).stdout
    return [command.split("\0")[:-1] for command in printed.split("\1")[:-1]]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_commands_parse(page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    seen: list[argparse.Namespace] = []
    commands = commands_of(ROOT / page)
    for words in commands:
        if len(words) < 2 or "..." in words or words[0] == "NAME":
            continue  # the name alone, in a sentence
        module = importlib.import_module(f"fastreid_parts.{COMMANDS[words[0]][1]}")
        monkeypatch.setattr(module, "run", seen.append)
        before = len(seen)
        assert main(words) == 0, (words, capsys.readouterr().err)
        assert len(seen) == before + 1
    assert len(seen) >= (35 if page == "README.md" else 3)
