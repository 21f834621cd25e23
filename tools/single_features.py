#!/usr/bin/env python
"""Retrieval with each single feature of a trained model: python tools/single_features.py --help"""

from fastreid_parts.commands.single_features import main

if __name__ == "__main__":
    raise SystemExit(main())
