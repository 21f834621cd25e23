#!/usr/bin/env python
"""How hard training images are to local classifiers: python tools/hardness.py --help"""

from fastreid_parts.commands.hardness import main

if __name__ == "__main__":
    raise SystemExit(main())
