"""`python -m fastreid_parts SCRIPT ARGS...` runs a script of fast-reid, unmodified, with the plugin loaded.

`python -m fastreid_parts COMMAND ARGS...` runs one of the plugin's own commands; without arguments they are listed.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys

from . import commands
from .scripts import run_script


def main(argv: list[str] | None = None) -> int:
    """Run a command or a script.

    Args:
        argv: the arguments, those of the process by default.

    Returns:
        The exit code.
    """
    argv = sys.argv[1:] if argv is None else argv
    names = sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(commands.__path__) if m.name[0] != "_")
    usage = (
        "usage: python -m fastreid_parts COMMAND ARGS...\n"
        "       python -m fastreid_parts SCRIPT.py ARGS...   a script of fast-reid's, unmodified\n\n"
        f"commands: {', '.join(names)} (each takes --help)"
    )
    if not argv or argv[0] in ("-h", "--help"):
        print(usage)
        return 0 if argv else 2
    target, rest = argv[0], argv[1:]
    if target.replace("_", "-") in names:
        command = importlib.import_module(f"{commands.__name__}.{target.replace('-', '_')}")
        return command.main(rest) or 0
    if not os.path.isfile(target):
        print(f"'{target}' is neither a command nor a file\n\n{usage}", file=sys.stderr)
        return 2
    run_script(target, rest)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
