"""fast-reid 1.4.0, mended from outside: no file of the installed host is touched.

`apply()` runs once, when `fastreid_parts` is imported. Each mend states its reason and is a no-op where the host
does not need it.
"""

from __future__ import annotations

from .imports import INSTALL_COMMAND, import_host

__all__ = ["INSTALL_COMMAND", "apply"]

_applied = False


def apply() -> None:
    """Import the host and mend it in place. Calling it again does nothing."""
    global _applied
    if _applied:
        return
    import_host()
    _applied = True
