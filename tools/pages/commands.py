"""A page a command, from its parser: what `--help` prints, in the site's form."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

import fastreid_parts  # noqa: F401  what a command needs to have loaded
from fastreid_parts.command_line import COMMANDS, make_parser, summary

from .markdown import code, definition, prose, sentence, table

FOLDER = "reference/commands"


def pages() -> dict[str, str]:
    """Make a page a command, and the list of them."""
    os.environ["NO_COLOR"] = "1"  # Python 3.14 colors what argparse writes
    made = {f"{FOLDER}/{name}.md": page(name) for name in COMMANDS}
    return {f"{FOLDER}.md": _list(), **made}  # one command is called index


def page(name: str) -> str:
    """Write the page of one command.

    Args:
        name: one of `COMMANDS`.
    """
    parser = make_parser(name, f"fastreid-parts {name}")
    return "\n".join([f"# {name}\n", *_described(parser, level=2)])


def _list() -> str:
    rows = [[f"[{name}](commands/{name}.md)", summary(name), group] for name, (group, _) in COMMANDS.items()]
    names = "\n".join(f"commands/{name}" for name in COMMANDS)
    toctree = f"```{{toctree}}\n:hidden:\n\n{names}\n```\n"
    return "\n\n".join(
        ["# Commands", "What `--help` of each command prints.", table(["command", "", ""], rows), toctree]
    )


def _described(parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    yield from (f"{prose(sentence(parser.description or ''))}\n", f"```text\n{usage}\n```\n")
    of_formatter = parser._get_formatter()
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if not _is_help(action)]
        if nested := [action for action in actions if isinstance(action, argparse._SubParsersAction)]:
            for name, sub in nested[0].choices.items():
                yield f"{'#' * level} {parser.prog.partition(' ')[2]} {name}\n"
                yield from _described(sub, level + 1)
        elif actions:
            yield f"**{(group.title or 'Arguments').capitalize()}**\n"
            for action in actions:
                text = of_formatter._expand_help(action) if action.help else ""
                yield definition(code(of_formatter._format_action_invocation(action)), sentence(text))


def _is_help(action: argparse.Action) -> bool:
    return isinstance(action, argparse._HelpAction)
