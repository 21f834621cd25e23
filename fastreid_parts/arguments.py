"""What arguments of several commands are: numbers, files, the config of a model."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """Read a whole number from 1 on: a `type` of argparse.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got '{text}'")
    return int(text)


def table_file(text: str) -> str:
    """Take the name of a file to write as a table: a `type` of argparse.

    Raises:
        argparse.ArgumentTypeError: it ends in neither .csv nor .json.
    """
    if not text.lower().endswith((".csv", ".json")):
        raise argparse.ArgumentTypeError(f"writes .csv or .json, not '{text}'")
    return text


def add_config_options(
    parser: argparse.ArgumentParser, required: bool = True, weights: bool = True, note: str = ""
) -> None:
    """Give a command --config-file, --weights and --opts.

    Args:
        parser: of the command.
        required: it cannot do without the first two.
        weights: with --weights.
        note: what the first two are where they are not given.
    """
    text = f"config of the model, a path or a name such as Market/cmbn.yml{note}"
    parser.add_argument("--config-file", required=required, default="", metavar="FILE", help=text)
    if weights:
        parser.add_argument("--weights", required=required, default="", metavar="FILE", help=f"its checkpoint{note}")
    add_opts(parser)


def add_opts(parser: argparse.ArgumentParser, where: str = "", name: str = "--opts") -> None:
    """Give a command an option that changes keys of a config.

    Args:
        parser: of the command.
        where: what the help says of it.
        name: of the option.
    """
    text = "config keys to change" + (f", {where}" if where else "")
    parser.add_argument(name, nargs="*", default=[], metavar="KEY VALUE", help=text)
