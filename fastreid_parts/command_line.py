"""The command line: `fastreid-parts COMMAND`, or `python -m fastreid_parts COMMAND`.

A command is a module with `add_arguments(parser)` and `run(args) -> int | None`. Its docstring is the description, the
docstring's first line the line in the list of commands. It raises what goes wrong: a user's error (`USER_ERRORS`) is
one line on stderr and exit code 2, and the traceback is shown with --debug only.

Nothing heavy is imported before a command is known, so this module needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import io
import itertools
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .version import versions

#: Name -> group and module below this package. Groups and commands are listed in this order.
COMMANDS = {
    "train": ("train", "commands.train"),
    "reproduce": ("train", "commands.reproduce"),
    "demo": ("train", "commands.demo"),
    "cost": ("train", "commands.cost"),
    "benchmark": ("train", "commands.benchmark"),
    "configs": ("train", "commands.configs"),
    "keys": ("train", "commands.keys"),
    "weights": ("train", "commands.weights"),
    "check-data": ("data", "commands.check_data"),
    "synthesize": ("data", "commands.synthesize"),
    "extract": ("evaluate and search", "commands.extract"),
    "evaluate": ("evaluate and search", "commands.evaluate"),
    "rerank": ("evaluate and search", "commands.rerank"),
    "index": ("evaluate and search", "commands.index"),
    "search": ("evaluate and search", "commands.search"),
    "identify": ("evaluate and search", "commands.identify"),
    "export": ("deploy", "commands.export"),
    "hub": ("deploy", "commands.hub"),
    "report": ("figures", "commands.report"),
    "activation-maps": ("figures", "analysis.activation_maps"),
    "augmentations": ("figures", "analysis.augmentations"),
    "hardness": ("figures", "analysis.hardness"),
    "loss-distribution": ("figures", "analysis.loss_distribution"),
    "mechanisms": ("figures", "analysis.mechanisms"),
    "rank-lists": ("figures", "analysis.rank_lists"),
    "receptive-fields": ("figures", "analysis.receptive_fields"),
    "relation-maps": ("figures", "analysis.relation_maps"),
    "robustness": ("figures", "analysis.robustness"),
    "single-features": ("figures", "analysis.single_features"),
}
#: What a command raises where a file, a key, a value or a module does not fit, or a training diverges.
USER_ERRORS = (OSError, ValueError, KeyError, ImportError, FloatingPointError)

#: Commands whose work several processes share; others would do the same in each.
SHARED_BY_PROCESSES = ("train", "extract")

_PACKAGE = Path(__file__).resolve().parent


def main(argv: Sequence[str] | None = None, program: str = "fastreid-parts") -> int:
    """Run a command, or a script of fast-reid's with the plugin loaded.

    Args:
        argv: the arguments, those of the process by default.
        program: what was typed before them.

    Returns:
        The exit code: 0; 1 where a command's answer is no; 2 after a user's error; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name that the terminal cannot show ends no command
        sys.stdout.reconfigure(errors="backslashreplace")
    if not words or words[0] in ("-h", "--help"):
        print(_usage(program))
        return 0 if words else 2
    if words[0] == "--version":
        print(", ".join(f"{name} {version}" for name, version in versions().items()))
        return 0
    if words[0].replace("_", "-") in COMMANDS:
        name = words[0].replace("_", "-")
        return run_command(name, words[1:], f"{program} {name}")
    if os.path.isfile(words[0]):
        _load_package()
        from .scripts import run_script

        run_script(words[0], words[1:])
        return 0
    nearest = difflib.get_close_matches(words[0], COMMANDS, n=3)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"`{program} --help` lists the commands"
    return _complain(program, f"'{words[0]}' is neither a command nor a file: {hint}")


def run_command(name: str, words: Sequence[str], prog: str) -> int:
    """Run one command.

    Args:
        name: one of `COMMANDS`.
        words: its arguments.
        prog: what was typed before them.

    Returns:
        The exit code, as `main` does.
    """
    debug = "--debug" in words
    # Pillow's, of images that are refused by name (`data.checks.check_size`)
    warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")
    try:
        own, rest = _options_of_all(prog).parse_known_args(words)  # first: the rest may be a command's own
        _load_package()
        from . import plugins

        plugins.load(own.imports)
        args = make_parser(name, prog).parse_args(rest)
        _refuse_several_processes(name)
        return _module(name).run(args) or 0
    except KeyboardInterrupt:
        _complain(prog, "interrupted")
        return 130
    except USER_ERRORS as error:
        if debug:
            raise
        return _complain(prog, str(error.args[0] if isinstance(error, KeyError) and error.args else error))


def _refuse_several_processes(name: str) -> None:
    """Keep processes of one torchrun from doing the same work, and writing the same files, each by itself."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if name in SHARED_BY_PROCESSES or processes == "1" or "RANK" not in os.environ:
        return
    raise ValueError(
        f"this is one of {processes} processes (WORLD_SIZE and RANK, as torchrun sets them), and {name} is done by "
        f"one: call it without torchrun. {' and '.join(SHARED_BY_PROCESSES)} share their work; features that `extract` "
        "stored are taken by --features"
    )


def make_parser(name: str, prog: str) -> argparse.ArgumentParser:
    """Make the parser of a command, whose module is imported for it.

    Args:
        name: one of `COMMANDS`.
        prog: what is typed before the arguments.
    """
    command, layout = _module(name), argparse.RawDescriptionHelpFormatter
    every = [_options_of_all(prog)]
    parser = _Parser(prog=prog, description=command.__doc__, formatter_class=layout, parents=every)
    command.add_arguments(parser)
    return parser


def summary(name: str) -> str:
    """Read the first line of a command's docstring without importing it.

    Args:
        name: one of `COMMANDS`.
    """
    source = _PACKAGE.joinpath(*COMMANDS[name][1].split(".")).with_suffix(".py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


class _Parser(argparse.ArgumentParser):
    """A wrong argument is a user's error like others: one line, without the usage."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise ValueError(f"{message} (`{self.prog} --help` lists what it takes)")


def _options_of_all(prog: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=prog, add_help=False, allow_abbrev=False)
    group = parser.add_argument_group("of every command")
    text = "a module of yours that registers methods, losses or datasets; give the option once for each"
    group.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE", help=text)
    group.add_argument("--debug", action="store_true", help="show where an error comes from")
    return parser


def _module(name: str) -> Any:
    return importlib.import_module(f".{COMMANDS[name][1]}", __package__)


def _load_package() -> None:
    """Do what importing the package does elsewhere (see `__init__`)."""
    package = sys.modules[str(__package__)]
    if not hasattr(package, "PartsTrainer"):
        importlib.reload(package)


def _complain(prog: str, message: str) -> int:
    lines = re.sub(r"(?<=[.,:;?!])\s*\n\s*", " ", message.strip())
    print(f"{prog}: " + re.sub(r"\s*\n\s*", "; ", lines), file=sys.stderr)
    return 2


def _usage(program: str) -> str:
    lines = [
        f"usage: {program} COMMAND ARGS...      each command takes --help",
        f"       {program} SCRIPT.py ARGS...    a script of fast-reid's, unmodified, with the plugin loaded",
        f"       {program} --version",
    ]
    width = max(map(len, COMMANDS)) + 4
    for group, names in itertools.groupby(COMMANDS, key=lambda name: COMMANDS[name][0]):
        lines += ["", f"{group}:"]
        for name in names:
            lines.append(f"  {name:<{width - 2}}{textwrap.shorten(summary(name), 118 - width, placeholder=' ...')}")
    return "\n".join(lines)
