"""The plugin's datasets; importing this registers them with fast-reid."""

from __future__ import annotations

from .cuhk03_np import CUHK03NP, CUHK03NP_detected, CUHK03NP_labeled, CUHK03NP_mixed
from .folder import FolderReID
from .synthetic import SyntheticReID
