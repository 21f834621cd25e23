#!/usr/bin/env python
"""How the loss is spread over training images: python tools/loss_distribution.py --help"""

from fastreid_parts.commands.loss_distribution import main

if __name__ == "__main__":
    raise SystemExit(main())
