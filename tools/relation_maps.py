#!/usr/bin/env python
"""Where RRID's relation module looks: python tools/relation_maps.py --help"""

from fastreid_parts.commands.relation_maps import main

if __name__ == "__main__":
    raise SystemExit(main())
