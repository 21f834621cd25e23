#!/usr/bin/env python
"""Features of images in a folder: python tools/extract.py --help"""

from fastreid_parts.commands.extract import main

if __name__ == "__main__":
    raise SystemExit(main())
