"""Part-based person re-identification methods for fast-reid.

Importing this package patches fast-reid for the installed stack (see `fastreid_parts.compat`), adds the plugin's keys
to fast-reid's defaults and registers every meta-architecture, head, dataset and augmentation of the plugin.
"""

from __future__ import annotations

from . import compat
from .version import __version__

compat.apply()

from . import data, heads, methods  # noqa: E402,F401  registration
from .config import add_parts_config, find_config  # noqa: E402
from .engine import PartsTrainer, launch  # noqa: E402
from .parts_baseline import BranchOutputs, PartsBaseline  # noqa: E402

__all__ = [
    "BranchOutputs",
    "PartsBaseline",
    "PartsTrainer",
    "__version__",
    "add_parts_config",
    "find_config",
    "launch",
]
