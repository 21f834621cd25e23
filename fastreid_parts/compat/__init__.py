"""fast-reid 1.4.0, patched from outside: no file of the installed host is touched.

`apply()` runs once, when `fastreid_parts` is imported. Each patch states its reason beside it and is a no-op where the
host does not need it. Functions are replaced wherever they are bound, and classes are patched in place, so that a
script that imported some of fast-reid earlier gets the patched one too.

| module          | what it patches                                                                    |
|-----------------|------------------------------------------------------------------------------------|
| `imports`       | importing the host on newer Python and torch                                     |
| `config`        | the plugin's keys in the host's defaults; errors about keys                      |
| `data`          | reading images, transforms, samplers, the loader                                 |
| `datasets`      | what datasets say of a file that does not fit                                    |
| `modeling`      | devices, pre-trained weights, in-place normalization, losses that nothing computes |
| `evaluation`    | metrics, re-ranking, query expansion, evaluation mode                            |
| `checkpoint`    | reading and writing checkpoints                                                  |
| `engine`        | optimizer, trainer, hooks, mixed precision, several processes                    |
| `scripts`       | names that the host's scripts import                                             |
"""

from __future__ import annotations

import functools

from .imports import INSTALL_COMMAND, import_host
from .scripts import lend_script_names


@functools.cache
def apply() -> None:
    """Import the host and patch it in place. Calling it again does nothing.

    Raises:
        ImportError: the host is not installed.
    """
    import_host()
    from . import checkpoint, config, data, datasets, engine, evaluation, modeling

    for module in (config, data, datasets, modeling, evaluation, checkpoint, engine):
        module.apply()
