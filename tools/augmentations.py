#!/usr/bin/env python
"""Draw what a config's training augmentation does to images: python tools/augmentations.py --help"""

from fastreid_parts.commands.augmentations import main

if __name__ == "__main__":
    raise SystemExit(main())
