#!/usr/bin/env python
"""Time and memory of inference or of a training step, one config beside another: python tools/cost.py --help"""

from fastreid_parts.commands.cost import main

if __name__ == "__main__":
    raise SystemExit(main())
