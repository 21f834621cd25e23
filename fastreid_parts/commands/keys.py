"""List the plugin's config keys: default, values, meaning, and the paper's symbol.

Every command that reads a config takes them as KEY VALUE; fast-reid's own keys are in its config/defaults.py.
"""

from __future__ import annotations

import argparse

from ..settings import reference


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("part", nargs="?", default="", help="only keys with this in their name, such as RRID")


def run(args: argparse.Namespace) -> None:
    """Print the keys.

    Raises:
        ValueError: no key has the part in its name.
    """
    text = reference(args.part)
    if not text:
        raise ValueError(f"no key of the plugin's has '{args.part}' in its name")
    print(text)
