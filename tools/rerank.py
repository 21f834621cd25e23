#!/usr/bin/env python
"""Stored features with and without re-ranking: python tools/rerank.py --help"""

from fastreid_parts.commands.rerank import main

if __name__ == "__main__":
    raise SystemExit(main())
