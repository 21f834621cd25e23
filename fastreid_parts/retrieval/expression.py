"""Questions about images: `camera != 'till' and time >= 2026-05-01`, parsed, never run as code.

    comparison   name == value; also !=, <, <=, >, >=
    list         name in ('till', 'door'), name not in (3, 4)
    known        name is known, name is unknown
    together     not, and, or, in this order of strength; parentheses
    value        'text' or "text" (a quote in it twice), 12.5, 2026-05-01, 2026-05-01T14:30, with a zone or in UTC

What is unknown of an image makes a comparison neither true nor false, and so the whole as far as it matters, as in SQL:
`camera != 'till'` and `not camera == 'till'` both leave out the images without a camera.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import lark
import numpy as np

from .columns import is_known, kind_of, to_time

Truth = tuple[np.ndarray, np.ndarray]  # where it is true, and where it is false
Columns = Callable[[str], np.ndarray]

_GRAMMAR = r"""
    ?start: either
    ?either: both (_OR both)*
    ?both: one (_AND one)*
    ?one: _NOT one -> negation
        | "(" either ")"
        | NAME OPERATOR value -> comparison
        | NAME _IN "(" value ("," value)* ")" -> within
        | NAME _NOT _IN "(" value ("," value)* ")" -> without
        | NAME _IS KNOWN -> known
    ?value: TEXT | TIME | NUMBER

    _OR: /or\b/i
    _AND: /and\b/i
    _NOT: /not\b/i
    _IN: /in\b/i
    _IS: /is\b/i
    KNOWN: /(un)?known\b/i
    NAME: /(?!(?:or|and|not|in|is)\b)[^\W\d]\w*/i
    OPERATOR: "==" | "!=" | "<=" | ">=" | "<" | ">"
    TEXT: /'(?:[^']|'')*'|"(?:[^"]|"")*"/
    TIME.2: /\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d:\d\d)?)?/
    NUMBER: /[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?/i
    %ignore /\s+/
"""
#: Sign of a comparison -> what it asks.
OPERATORS = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge
}  # fmt: skip
_LONGEST = 10_000  # characters; and so deep that Python's own stack is enough
_DEEPEST = 100


class Expression(Protocol):
    """A parsed question."""

    def truth(self, columns: Columns) -> Truth:
        """Answer it for N images.

        Args:
            columns: gives the column of a name, (N,); see `fastreid_parts.retrieval.columns`.

        Returns:
            (N,) bool where it is true, and (N,) bool where it is false; neither where a value is unknown.

        Raises:
            ValueError: there is no such column, or it is of another kind than what it is compared with.
        """
        ...


@dataclass(frozen=True)
class Comparison:
    """`name operator value`."""

    name: str
    operator: str
    value: Any

    def value_of(self, kind: str) -> Any:
        """Give the value, as one of the column's kind.

        Args:
            kind: one of `KINDS`.

        Raises:
            ValueError: it is of another kind.
        """
        return _of_kind(self.value, kind, self.name, self.operator not in ("==", "!="))

    def truth(self, columns: Columns) -> Truth:
        """See `Expression`."""
        column = columns(self.name)
        value = self.value_of(kind_of(column))
        known = is_known(column)
        holds = np.asarray(OPERATORS[self.operator](column, value), bool)
        return known & holds, known & ~holds


@dataclass(frozen=True)
class Known:
    """`name is known`."""

    name: str

    def truth(self, columns: Columns) -> Truth:
        """See `Expression`."""
        known = is_known(columns(self.name))
        return known, ~known


@dataclass(frozen=True)
class Either:
    """`part or part ...`."""

    parts: Sequence[Expression]

    def truth(self, columns: Columns) -> Truth:
        """See `Expression`."""
        yes, no = zip(*(part.truth(columns) for part in self.parts))
        return np.logical_or.reduce(yes), np.logical_and.reduce(no)


@dataclass(frozen=True)
class Negation:
    """`not part`."""

    part: Expression

    def truth(self, columns: Columns) -> Truth:
        """See `Expression`."""
        yes, no = self.part.truth(columns)
        return no, yes


def parse(text: str) -> Expression:
    """Parse a question.

    Raises:
        ValueError: it is none; the message says where it stops being one.
    """
    if len(text) > _LONGEST or text.count("(") > _DEEPEST or text.lower().count("not") > _DEEPEST:
        raise ValueError(f"the expression is too long: at most {_LONGEST} characters, {_DEEPEST} parentheses and nots")
    try:
        return _parser().parse(text)  # type: ignore[return-value]
    except lark.exceptions.VisitError as error:
        raise ValueError(f"'{text}': {error.orig_exc}") from error
    except lark.exceptions.UnexpectedInput as error:
        ended = isinstance(error, lark.exceptions.UnexpectedToken) and error.token.type == "$END"
        where = "ends too early" if ended else f"is not understood at '{text[error.pos_in_stream :][:20]}'"
        raise ValueError(
            f"the expression '{text}' {where}: compare columns with values, as in camera != 'till' and "
            "time >= 2026-05-01T14:00"
        ) from error


class _Builder(lark.Transformer):
    """Turns lark's tree into expressions."""

    def NAME(self, token: str) -> str:
        return str(token)

    def TEXT(self, token: str) -> str:
        return token[1:-1].replace(token[0] * 2, token[0])

    def TIME(self, token: str) -> np.datetime64:
        return to_time(str(token))

    def NUMBER(self, token: str) -> _Number:
        return _Number(token)

    def comparison(self, parts: list[Any]) -> Expression:
        return Comparison(parts[0], str(parts[1]), parts[2])

    def within(self, parts: list[Any]) -> Expression:
        return Either([Comparison(parts[0], "==", value) for value in parts[1:]])

    def without(self, parts: list[Any]) -> Expression:
        return Negation(self.within(parts))

    def known(self, parts: list[Any]) -> Expression:
        known = Known(parts[0])
        return known if parts[1].lower() == "known" else Negation(known)

    def negation(self, parts: list[Any]) -> Expression:
        return Negation(parts[0])

    def either(self, parts: list[Any]) -> Expression:
        return Either(parts)

    def both(self, parts: list[Any]) -> Expression:
        return Negation(Either([Negation(part) for part in parts]))


class _Number(float):
    """A number that remembers how it was written: the camera 3 is a name."""

    text: str

    def __new__(cls, token: str) -> _Number:
        number = super().__new__(cls, token)
        number.text = str(token)
        return number


@functools.cache
def _parser() -> lark.Lark:
    return lark.Lark(_GRAMMAR, parser="lalr", transformer=_Builder())


def _of_kind(value: Any, kind: str, name: str, ordered: bool) -> Any:
    if kind == "time" and isinstance(value, str):
        value = to_time(value)
    if kind == "text" and isinstance(value, _Number) and not ordered:
        return value.text
    given = "number" if isinstance(value, float) else "time" if isinstance(value, np.datetime64) else "text"
    if given != kind:
        raise ValueError(f"the column {name} is {kind}, and is compared with {given} ({value})")
    return float(value) if given == "number" else value
