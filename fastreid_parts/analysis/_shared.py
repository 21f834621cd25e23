"""What the commands of several figures share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ..files import write_numbers


def add_figure_options(parser: argparse.ArgumentParser, title: str = "a line above the figure") -> None:
    """Give a command --output and --title.

    Args:
        parser: of the command.
        title: help of --title.
    """
    parser.add_argument("--output", required=True, help="the PNG to write; the numbers stand beside it as .json")
    parser.add_argument("--title", default="", help=title)


def finish(figure: str, numbers: Mapping[str, Any], table: str) -> None:
    """Write numbers beside a figure, and print its table and where both are.

    Args:
        figure: its PNG.
        numbers: what it shows.
        table: to print.
    """
    print(f"\n{table}\n\nFigure: {figure}, numbers: {write_numbers(figure, numbers)}")
