"""Draw a synthetic dataset or a contact sheet; `--help` lists the options."""

from fastreid_parts.commands.synthesize import main

if __name__ == "__main__":
    raise SystemExit(main())
