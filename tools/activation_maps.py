#!/usr/bin/env python
"""Draw where a trained model looks: python tools/activation_maps.py --help"""

from fastreid_parts.commands.activation_maps import main

if __name__ == "__main__":
    raise SystemExit(main())
