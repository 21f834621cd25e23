"""fast-reid 1.4.0, mended from outside: no file of the installed host is touched.

`apply()` runs once, when `fastreid_parts` is imported. Each mend states its reason beside it and is a no-op where the
host does not need it. Functions are replaced wherever they are bound, and classes are mended in place, so that a
script that imported some of fast-reid earlier gets the mended one too.

| module          | what it mends                                                                    |
|-----------------|----------------------------------------------------------------------------------|
| `imports`       | importing the host on newer Python and torch                                     |
| `config`        | the plugin's keys in the host's defaults; errors about keys                      |
| `data`          | reading images, transforms, samplers, the loader                                 |
| `modeling`      | devices, pre-trained weights, in-place normalisation, losses that nothing computes |
| `evaluation`    | metrics, re-ranking, query expansion, evaluation mode                            |
| `checkpoint`    | reading and writing checkpoints                                                  |
| `engine`        | optimizer, trainer, hooks, mixed precision, several processes                    |
| `scripts`       | names that the host's scripts import                                             |
"""

from __future__ import annotations

from .imports import INSTALL_COMMAND, import_host
from .scripts import lend_script_names

__all__ = ["INSTALL_COMMAND", "apply", "lend_script_names"]

_applied = False


def apply() -> None:
    """Import the host and mend it in place. Calling it again does nothing.

    Raises:
        ImportError: the host is not installed.
    """
    global _applied
    if _applied:
        return
    import_host()
    from . import checkpoint, config, data, engine, evaluation, modeling

    for module in (config, data, modeling, evaluation, checkpoint, engine):
        module.apply()
    _applied = True
