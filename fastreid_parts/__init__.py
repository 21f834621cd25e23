"""Part-based person re-identification methods for fast-reid.

Importing this package patches fast-reid for the installed stack (see `fastreid_parts.compat`), adds the plugin's keys
to fast-reid's defaults and registers every meta-architecture, head, dataset and augmentation of the plugin.

There is one exception. Python imports a package before anything inside it, so `fastreid-parts --help` would wait for
torch. Where the process was started as the command line, all of that is left to `command_line`, which reloads this
module as soon as a command is known. A start that is not recognized here costs seconds and is right all the same.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from .cpus import set_thread_defaults
from .version import __version__

__all__ = [
    "BranchOutputs",
    "Embedder",
    "Mechanism",
    "PartsBaseline",
    "PartsHead",
    "PartsTrainer",
    "Settings",
    "__version__",
    "add_parts_config",
    "choice",
    "find_config",
    "host_key",
    "key",
    "launch",
]


def _is_command_line(words: list[str]) -> bool:
    """Whether the interpreter was started with `-m fastreid_parts` or the script `fastreid-parts`."""
    script = os.path.splitext(os.path.basename(words[1]))[0] if len(words) > 1 else ""
    return words[1:3] == ["-m", "fastreid_parts"] or script == "fastreid-parts"


set_thread_defaults()  # before anything below loads torch
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # `devices` says why
if f"{__name__}.command_line" in sys.modules or not _is_command_line(sys.orig_argv):
    from . import compat

    compat.apply()

    from . import data, heads, methods, plugins  # noqa: F401  registration
    from .config import add_parts_config, find_config
    from .engine import PartsTrainer, launch
    from .mechanisms import Mechanism
    from .parts_baseline import PartsBaseline
    from .parts_head import BranchOutputs, PartsHead
    from .settings import Settings, choice, host_key, key

    plugins.import_named()


def __getattr__(name: str) -> Any:
    """What few programs need is imported when it is asked for."""
    if name == "Embedder":
        return importlib.import_module(".deployment", __name__).Embedder
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
