"""Look at a dataset before training on it; `--help` lists the options."""

from fastreid_parts.commands.check_data import main

if __name__ == "__main__":
    raise SystemExit(main())
