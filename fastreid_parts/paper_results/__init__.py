"""What the five papers report, as data: how each number is reproduced, and the range around it."""

from __future__ import annotations

from .compare import Comparison, check_metrics, compare, markdown_table
from .ledger import Ledger, LedgerError, Row, Variant, load_ledger
from .measured import Measured, ResultError, load_measured
from .tolerances import Range

__all__ = [
    "Comparison",
    "Ledger",
    "LedgerError",
    "Measured",
    "Range",
    "ResultError",
    "Row",
    "Variant",
    "check_metrics",
    "compare",
    "load_ledger",
    "load_measured",
    "markdown_table",
]
