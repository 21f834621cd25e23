#!/usr/bin/env python
"""The command `train` under the name of fast-reid's own script: --config-file configs/Market/cmbn.yml"""

import sys

from fastreid_parts.command_line import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("train", sys.argv[1:], "python tools/train_net.py"))
