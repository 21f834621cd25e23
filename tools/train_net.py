#!/usr/bin/env python
"""Train or evaluate a config: python tools/train_net.py --config-file configs/Market/cmbn.yml"""

from fastreid_parts.commands.train import main

if __name__ == "__main__":
    raise SystemExit(main())
