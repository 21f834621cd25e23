#!/usr/bin/env python
"""Generate people, train CMBN on them and look at the results: python tools/demo.py"""

from fastreid_parts.commands.demo import main

if __name__ == "__main__":
    raise SystemExit(main())
