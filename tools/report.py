#!/usr/bin/env python
"""What trained models retrieve, as one HTML file: python tools/report.py --help"""

from fastreid_parts.commands.report import main

if __name__ == "__main__":
    raise SystemExit(main())
