"""What the five papers report, as data: how each number is reproduced, and the range around it."""

from __future__ import annotations

from .compare import Comparison, check_metrics, compare, markdown_table
from .ledger import Ledger, LedgerError, Row, Variant, load_ledger
from .measured import Measured, ResultError, load_measured
from .tolerances import Range
