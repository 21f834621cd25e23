#!/usr/bin/env python
"""The papers' results: python tools/reproduce.py list | show | run | check | table"""

from fastreid_parts.commands.reproduce import main

if __name__ == "__main__":
    raise SystemExit(main())
