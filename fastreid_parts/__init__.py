"""Part-based person re-identification methods for fast-reid.

Importing this package mends fast-reid for the installed stack (see `fastreid_parts.compat`), adds the plugin's keys
to fast-reid's defaults and registers every meta-architecture, head, dataset and augmentation of the plugin.
"""

from __future__ import annotations

from . import compat

compat.apply()

__version__ = "0.1.0"
