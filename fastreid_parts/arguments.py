"""What arguments of several commands are: numbers, files, the config of a model."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence


def positive(text: str) -> int:
    """Read a whole number from 1 on: a `type` of argparse.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got '{text}'")
    return int(text)


def not_negative(text: str) -> int:
    """Read a whole number from 0 on: a `type` of argparse.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be at least 0, got '{text}'")
    return int(text)


def output_file(text: str) -> str:
    """Take the name of a file to write, which is refused before long work where it cannot be: a `type` of argparse.

    Raises:
        argparse.ArgumentTypeError: it is a folder, or in something that is none or that is not to be written to.
    """
    if not text or os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"'{text}' is a folder: name the file to write")
    folder = os.path.dirname(os.path.abspath(text))
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise argparse.ArgumentTypeError(f"'{text}' cannot be written: '{folder}' is no folder")
    if not os.access(text if os.path.exists(text) else folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"'{text}' cannot be written: you may not write there")
    return text


def _ending_in(text: str, *endings: str) -> str:
    if not text.lower().endswith(endings):
        raise argparse.ArgumentTypeError(f"writes {' or '.join(endings)}, not '{text}'")
    return output_file(text)


def table_file(text: str) -> str:
    """Take the name of a file to write as a table, .csv or .json: a `type` of argparse.

    Raises:
        argparse.ArgumentTypeError: it ends in neither, or cannot be written.
    """
    return _ending_in(text, ".csv", ".json")


def json_file(text: str) -> str:
    """Take the name of a .json file to write: a `type` of argparse.

    Raises:
        argparse.ArgumentTypeError: it ends otherwise, or cannot be written.
    """
    return _ending_in(text, ".json")


def png_file(text: str) -> str:
    """Take the name of a .png file to write: a `type` of argparse.

    Raises:
        argparse.ArgumentTypeError: it ends otherwise, or cannot be written.
    """
    return _ending_in(text, ".png")


def check_without_effect(
    args: argparse.Namespace, declare: Callable[[argparse.ArgumentParser], object], names: Sequence[str], why: str
) -> None:
    """Refuse options that are given and would have no effect.

    Args:
        args: as they were given.
        declare: gives a parser these options.
        names: of the options, as in `args`.
        why: they have none, for the message.

    Raises:
        ValueError: one of them is not as by default.
    """
    parser = argparse.ArgumentParser()
    declare(parser)
    given = [name for name in names if getattr(args, name) != parser.get_default(name)]
    if given:
        raise ValueError(f"{', '.join('--' + name.replace('_', '-') for name in given)}: {why}; leave it out")


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
