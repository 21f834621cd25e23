"""Questions about images in Milvus's own expression language.

Milvus and SQL do not agree about what is unknown under `not` and `!=`, and Milvus's versions do not agree with each
other. So no `not` is left over comparisons: it is pushed inwards, and each comparison says itself that its column is
known. Values are written by this module alone, numbers as numbers and texts quoted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .columns import kind_among
from .expression import OPERATORS, Comparison, Either, Expression, Known, Negation

_NOT = {"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_ALWAYS, _NEVER = "row >= 0", "row < 0"
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def condition(expression: Expression, kinds: Mapping[str, str]) -> str:
    """Write a question as Milvus asks it, true of the images of which the expression is true.

    Args:
        expression: of `fastreid_parts.retrieval.expression.parse`.
        kinds: name -> kind of the user's columns.

    Raises:
        ValueError: there is no such column, or it is of another kind than what it is compared with.
    """
    return _where(expression, True, kinds)


def _where(node: Expression, truth: bool, kinds: Mapping[str, str]) -> str:
    """Where a part is true, or where it is false."""
    if isinstance(node, Negation):
        return _where(node.part, not truth, kinds)
    if isinstance(node, Either):
        return joined((_where(part, truth, kinds) for part in node.parts), "or" if truth else "and")
    if isinstance(node, Known):
        known, unknown = _known(node.name, kinds)
        return known if truth else unknown
    assert isinstance(node, Comparison)
    known, _ = _known(node.name, kinds)
    kind = kind_among(node.name, kinds)
    return f"{known} and {_comparison(node, kind, node.operator if truth else _NOT[node.operator], kinds)}"


def _comparison(node: Comparison, kind: str, sign: str, kinds: Mapping[str, str]) -> str:
    value, field = node.value_of(kind), _field(node.name, kinds)
    if kind == "number" and math.isinf(value):  # 1e999
        return _ALWAYS if OPERATORS[sign](0.0, value) else _NEVER
    if node.name == "row" and sign in ("==", "!=") and value != round(value):
        return _ALWAYS if sign == "!=" else _NEVER
    if node.name == "row":  # whole numbers are compared with whole numbers; beyond int64 there are none
        value = math.floor(value) if sign in (">", "<=") else math.ceil(value)
        value = min(max(value, -(2**62)), 2**62)
    return f"{field} {sign} {literal(value)}"


def _field(name: str, kinds: Mapping[str, str]) -> str:
    return f'$meta["{name}"]' if name in kinds else name


def _known(name: str, kinds: Mapping[str, str]) -> tuple[str, str]:
    """Where a column is known, and where not."""
    kind_among(name, kinds)
    if name == "row":
        return _ALWAYS, _NEVER
    field = _field(name, kinds)
    return (f"exists {field}", f"not (exists {field})") if name in kinds else (f'{field} != ""', f'{field} == ""')


def joined(parts: Iterable[str], word: str = "and") -> str:
    """Join conditions by `and` or `or`; those that are empty are left out.

    Args:
        parts: conditions.
        word: `and` or `or`.
    """
    return f" {word} ".join(f"({part})" for part in parts if part)


def among(field: str, values: Iterable[Any]) -> str:
    """Write that a field has one of some values.

    Args:
        field: its name.
        values: texts or whole numbers.
    """
    return f"{field} in [{', '.join(map(literal, values))}]"


def literal(value: Any) -> str:
    """Write a text, a number or a time, the last as microseconds since 1970.

    Raises:
        ValueError: a text that is no UTF-8.
    """
    if isinstance(value, np.datetime64):
        value = microseconds(value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"Milvus keeps texts in UTF-8 alone, which {ascii(value)} is not: rename it") from None
        return f'"{value.translate(_ESCAPES)}"'
    return repr(value)


def microseconds(value: Any) -> Any:
    """Count a time, (N,) or one, since 1970, as Milvus keeps it."""
    return np.asarray(value, "datetime64[us]").astype(np.int64).tolist()
