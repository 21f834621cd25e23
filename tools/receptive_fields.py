#!/usr/bin/env python
"""What each layer sees of the image, and what receptive partition leaves: python tools/receptive_fields.py --help"""

from fastreid_parts.commands.receptive_fields import main

if __name__ == "__main__":
    raise SystemExit(main())
