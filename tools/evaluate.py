#!/usr/bin/env python
"""Results of stored features or of a trained model: python tools/evaluate.py --help"""

from fastreid_parts.commands.evaluate import main

if __name__ == "__main__":
    raise SystemExit(main())
