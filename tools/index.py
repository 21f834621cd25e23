#!/usr/bin/env python
"""Build, change and calibrate an index over a gallery: python tools/index.py --help"""

from fastreid_parts.commands.index import main

if __name__ == "__main__":
    raise SystemExit(main())
