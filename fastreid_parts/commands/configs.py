"""List the plugin's config files, under the names that --config-file takes.

`Base-*.yml` hold what the leaves of a method have in common: its recipe without a dataset.
"""

from __future__ import annotations

import argparse

from ..config import configs_root


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no arguments."""


def run(args: argparse.Namespace) -> None:
    """Print the names, one a line."""
    root = configs_root()
    print("\n".join(sorted(path.relative_to(root).as_posix() for path in root.glob("**/*.yml"))))
