"""The blocks of code in the documents, found by sybil: Python is run, and a shell's commands are checked or run.

A block of `sh` holds commands of this project, one a line or continued by a backslash; its variables are kept for the
blocks after it. Output, and what other programs are told, is `text` or `console`. `<!-- skip: next "reason" -->` before
a block leaves it out.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import SkipTest

import yaml
from fastreid.config import get_cfg
from sybil import Document, Example
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser, SkipParser

from fastreid_parts.command_line import COMMANDS, make_parser
from fastreid_parts.config import configs_root

try:
    import tomllib
except ImportError:  # Python 3.10, where pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
#: Programs that a block may call beside this project's
OTHERS = {"cd", "docker", "git", "id", "mkdir", "pip", "python", "python3", "torchrun"}
#: Prints the words of each command, each ended by a zero byte, and a byte 1 with another, instead of running it
RECORD = "exec 3>&1 1>/dev/null\ncommand_not_found_handle() { printf '%s\\0' \"$@\" $'\\1' >&3; }\n"
MARK = "END_OF_EARLIER_BLOCKS"

Command = list[str]


def documents() -> list[Path]:
    """List the documents that are written by hand."""
    made = re.compile("_build/|host/patches|reference/(api|commands|keys)|results/papers")
    docs = ROOT / "docs"
    pages = [page for page in sorted(docs.rglob("*.md")) if not made.match(page.relative_to(docs).as_posix())]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docker" / "README.md", *pages]


def words_of(source: str, earlier: str = "") -> list[Command]:
    """Read the commands of a shell's source, with its variables filled in.

    Args:
        source: of one block.
        earlier: of the blocks before it, whose variables it may use.
    """
    script = "\n".join([RECORD, earlier, MARK, source]).replace(". .venv/bin/activate", "")
    shell = [shutil.which("bash") or "bash", "-c", script]
    with tempfile.TemporaryDirectory() as folder:  # where a block that writes into a file does so
        answer = subprocess.run(shell, capture_output=True, text=True, env={"PATH": "/nowhere"}, cwd=folder)
    commands = [command.split("\0")[:-1] for command in answer.stdout.split("\1\0")[:-1]]
    return commands[commands.index([MARK]) + 1 :]


def inline_commands(page: Path) -> list[Command]:
    """Read the commands with options that stand within sentences of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = [found.replace("\n", " ") for found in re.findall(r"`(fastreid-parts [^`]+ --[^`]+)`", text)]
    return [words for words in words_of("\n".join(found)) if "..." not in words]


def check(words: Command) -> argparse.Namespace | None:
    """Check one command: it exists, it takes these arguments, and the keys and configs that it names are there.

    Raises:
        ValueError: an argument does not fit.
        AssertionError: something that it names is not there.
    """
    program = words[0]
    if program in ("python", "python3") and words[1:2] == ["-m"] and words[2] == "fastreid_parts":
        program, words = "fastreid-parts", words[2:]
    if program == "make":
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        assert {word for word in words[1:] if "=" not in word} <= targets, words
        return None
    if program != "fastreid-parts":
        assert program in OTHERS, f"{program}: a block that is not of this project's commands is `console`"
        tools = [number for number, word in enumerate(words) if re.match(r"tools/\S+\.py$", word)]
        assert all((ROOT / words[number]).is_file() for number in tools), words
        return parsed_by_tool(ROOT / words[1], words[2:]) if program.startswith("python") and tools[:1] == [1] else None
    if len(words) == 1 or words[1].endswith(".py") or words[1].startswith("--"):
        return None
    assert words[1] in COMMANDS, words
    args = make_parser(words[1], f"fastreid-parts {words[1]}").parse_args(words[2:])
    for name in ("opts", "versus_opts"):
        if (keys := getattr(args, name, None)) and not args.imports:  # a module of the reader's may have more keys
            get_cfg().merge_from_list(keys)
    config = str(getattr(args, "config_file", "") or "")
    if config.startswith("configs/") or (configs_root() / config.partition("/")[0]).is_dir() and config:
        assert (configs_root() / config.removeprefix("configs/")).is_file(), words
    return args


def parsed_by_tool(script: Path, words: Command) -> argparse.Namespace:
    """Have a script parse its arguments, and do no more.

    Raises:
        ValueError: an argument does not fit.
    """
    parse, argv, path = argparse.ArgumentParser.parse_args, sys.argv, sys.path

    def stop(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        raise _Parsed(parse(self, args, namespace))

    argparse.ArgumentParser.parse_args, sys.argv = stop, [str(script), *words]  # type: ignore[method-assign, assignment]
    sys.path = [str(script.parent), *path]  # as where it is started
    try:
        runpy.run_path(str(script), run_name="__main__")
    except _Parsed as parsed:
        return parsed.args[0]
    except SystemExit as error:
        raise ValueError(f"{script.name} does not take {' '.join(words)}") from error
    finally:
        argparse.ArgumentParser.parse_args, sys.argv = parse, argv  # type: ignore[method-assign]
        sys.path = path
    raise ValueError(f"{script.name} parsed no arguments")


class _Parsed(Exception):
    """What was parsed."""


class Shell:
    """Evaluate the blocks of `sh` of one page.

    Args:
        do: what is done with each command.
    """

    def __init__(self, do: Callable[[Command], object]) -> None:
        self.do = do
        self.earlier = ""
        self.count = 0

    def __call__(self, example: Example) -> None:
        source = str(example.parsed)
        for words in words_of(source, self.earlier):
            self.do(words)
            self.count += 1
        self.earlier += source


def evaluate(page: Path, shell: Shell, python: bool) -> Iterator[tuple[int, str]]:
    """Evaluate the blocks of a page in order, and say for each that is skipped in which line and why.

    Args:
        page: the document.
        shell: for blocks of `sh`.
        python: blocks of `python` are run; otherwise they are compiled.
    """
    parsers = [CodeBlockParser("sh", shell), SkipParser()]
    parsers += [CodeBlockParser(language, _evaluator(read)) for language, read in DATA.items()]
    parsers += [PythonCodeBlockParser()] if python else [CodeBlockParser("python", _evaluator(_compiles))]
    for example in Document.parse(str(page), *parsers).examples():
        try:
            example.evaluate()
        except SkipTest as reason:
            yield example.line, str(reason)


def _compiles(text: str) -> None:
    compile(text, "block", "exec")


#: Languages whose blocks must be readable
DATA: dict[str, Callable[[str], object]] = {
    "csv": lambda text: list(csv.reader(io.StringIO(text), strict=True)),
    "json": json.loads,
    "toml": tomllib.loads,
    "yaml": yaml.safe_load,
}


def _evaluator(read: Callable[[str], object]) -> Callable[[Example], None]:
    def evaluate(example: Example) -> None:
        read(str(example.parsed))

    return evaluate


def languages(page: Path) -> set[str]:
    """List the languages of a page's blocks; one without is empty."""
    fences = re.findall(r"^[ \t]*```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {fence.strip() for fence in fences[::2]}


def environment(sandbox: Path) -> dict[str, str]:
    """Give the variables with which blocks are run."""
    return {"FASTREID_DATASETS": str(sandbox / "datasets"), "CUDA_VISIBLE_DEVICES": "", "HOME": os.fspath(sandbox)}
