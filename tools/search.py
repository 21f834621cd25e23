#!/usr/bin/env python
"""Search an index with images: python tools/search.py --help"""

from fastreid_parts.commands.search import main

if __name__ == "__main__":
    raise SystemExit(main())
