#!/usr/bin/env python
"""Look at a dataset before training on it: python tools/check_data.py --help"""

from fastreid_parts.commands.check_data import main

if __name__ == "__main__":
    raise SystemExit(main())
