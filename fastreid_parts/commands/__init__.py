"""Commands: `python -m fastreid_parts NAME` or, in a checkout, `python tools/NAME.py`."""
