"""`python -m fastreid_parts` is the command line `fastreid-parts`."""

from __future__ import annotations

from .command_line import main

if __name__ == "__main__":
    raise SystemExit(main(program="python -m fastreid_parts"))
