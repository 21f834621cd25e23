#!/usr/bin/env python
"""Parameters and time of inference, one config beside another: python tools/inference_cost.py --help"""

from fastreid_parts.commands.inference_cost import main

if __name__ == "__main__":
    raise SystemExit(main())
