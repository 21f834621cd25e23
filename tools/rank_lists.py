#!/usr/bin/env python
"""What trained models find, side by side: python tools/rank_lists.py --help"""

from fastreid_parts.commands.rank_lists import main

if __name__ == "__main__":
    raise SystemExit(main())
