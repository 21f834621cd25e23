"""Questions about images: what they mean, against a loop over images, and what is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastreid_parts.retrieval.columns import KINDS, texts_of, to_time, typed
from fastreid_parts.retrieval.expression import parse

IMAGES = 80
NAMES = {"site": "text", "notes": "text", "height": "number", "organ": "number", "time": "time"}
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b, "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
}  # fmt: skip


def random_columns(seed: int, images: int = IMAGES) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    cells = {
        "text": ["till", "door 2", "it's", "3", ""],
        "number": ["1", "2.5", "-3e1", "0", ""],
        "time": ["2026-05-01", "2026-05-01T14:00:00", "2026-04-30T23:59:59.500000", ""],
    }
    return {name: typed(random.choice(cells[kind], images).tolist(), kind) for name, kind in NAMES.items()}


class Question:
    """An expression, drawn at random, as text and as a function of an image: True, False, or None for unknown."""

    def __init__(self, random: np.random.Generator, depth: int = 3) -> None:
        kind = random.choice(
            ["compare", "in", "known"] if depth == 0 else ["compare", "in", "known", "not", "and", "or"]
        )
        if kind in ("and", "or"):
            parts = [Question(random, depth - 1) for _ in range(random.integers(2, 4))]
            self.text = f" {self.word(random, kind)} ".join(f"({part.text})" for part in parts)
            least = kind == "and"
            self.truth = lambda image: _joined([part.truth(image) for part in parts], least)
            return
        if kind == "not":
            part = Question(random, depth - 1)
            self.text = f"{self.word(random, 'not')} ({part.text})"
            self.truth = lambda image: None if part.truth(image) is None else not part.truth(image)
            return
        name = str(random.choice(list(NAMES)))
        if kind == "known":
            negated = bool(random.integers(2))
            self.text = f"{name} is {'un' * negated}known"
            self.truth = lambda image: (image[name] is None) == negated
            return
        values = [_value(random, NAMES[name]) for _ in range(1 if kind == "compare" else random.integers(1, 4))]
        if kind == "compare":
            sign = str(random.choice(list(_ORDERS)))
            self.text = f"{name} {sign} {values[0][0]}"
            self.truth = lambda image: None if image[name] is None else bool(_ORDERS[sign](image[name], values[0][1]))
            return
        negated = bool(random.integers(2))
        self.text = f"{name} {'not ' * negated}in ({', '.join(text for text, _ in values)})"
        self.truth = lambda image: (
            None if image[name] is None else (image[name] in [value for _, value in values]) != negated
        )

    @staticmethod
    def word(random: np.random.Generator, word: str) -> str:
        return word.upper() if random.integers(2) else word


def _joined(truths: list[bool | None], least: bool) -> bool | None:
    """Of `and` the least, of `or` the greatest of False, unknown, True."""
    order = [False, None, True]
    places = [order.index(truth) for truth in truths]
    return order[min(places) if least else max(places)]


def _value(random: np.random.Generator, kind: str) -> tuple[str, Any]:
    if kind == "number":
        number = float(random.choice([1, 2.5, -30, 0.1]))
        return f"{number:g}", number
    if kind == "time":
        text = str(
            random.choice(["2026-05-01", "2026-05-01 14:00", "2026-05-01T16:00+02:00", "2026-04-30T23:59:59.5Z"])
        )
        return text, to_time(text)
    text = str(random.choice(["till", "door 2", "it's", "3"]))
    quote = "'" if random.integers(2) else '"'
    return quote + text.replace(quote, 2 * quote) + quote, text


def images_of(columns: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    texts = {name: texts_of(column) for name, column in columns.items()}
    lines = range(len(next(iter(columns.values()))))
    return [{name: columns[name][line] if texts[name][line] else None for name in columns} for line in lines]


def test_expressions_against_a_loop_over_images() -> None:
    columns = random_columns(0)
    images = images_of(columns)
    answers = set()
    for seed in range(300):
        question = Question(np.random.default_rng(seed))
        yes, no = parse(question.text).truth(columns.__getitem__)
        expected = [question.truth(image) for image in images]
        assert yes.tolist() == [truth is True for truth in expected], question.text
        assert no.tolist() == [truth is False for truth in expected], question.text
        answers.add(yes.tobytes())
    assert len(answers) > 100


def test_strength_and_words() -> None:
    columns = random_columns(1)

    def where(text: str) -> list[bool]:
        return parse(text).truth(columns.__getitem__)[0].tolist()

    assert where("site == 'till' or height == 1 and organ == 0") == where(
        "site == 'till' or (height == 1 and organ == 0)"
    )
    assert where("not site == 'till' and height == 1") == where("(not site == 'till') and height == 1")
    assert where("site == 3") == where("site == '3'") != where("site != 3")
    assert where("time == '2026-05-01'") == where("time == 2026-05-01")
    assert any(where("organ == 1")) and any(where("notes is known"))  # names that begin as words do


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "site", "site ==", "site == till", "site = 'till'", "== 3", "site == 'till' organ == 1",
        "(site == 'a'", "site == 'a')", "site == 'a' and", "site in 'a'", "site in ()", "site is null",
        "site == 'a'; drop", "site == 'a",
        "__import__('os').remove('x')", "().__class__", "site.upper() == 'A'", "lambda: 0", "1 == 1", "site == {}",
        "site == 'a' || true", "site like 'a%'", "height == 1 + 1", "height == 1e999x", "not", "and == 1",
    ],
)  # fmt: skip
def test_what_is_no_expression(text: str) -> None:
    with pytest.raises(ValueError, match="the expression"):
        parse(text)


@pytest.mark.parametrize("text", ["time == 2026-13-01", "time > 2026-02-30T10:00", "time > '2026'", "time < 'noon'"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="2026|noon"):
        parse(text).truth(random_columns(0).__getitem__)


@pytest.mark.parametrize(
    "text",
    ["height == 'tall'", "height < 2026-05-01", "time < 3", "site < 3", "height in (1, 'x')", "site == 2026-05-01"],
)
def test_values_of_another_kind(text: str) -> None:
    with pytest.raises(ValueError, match="is compared with"):
        parse(text).truth(random_columns(0).__getitem__)


@pytest.mark.parametrize(
    "text", ["(" * 5000 + "a == 1" + ")" * 5000, "not " * 3000 + "a == 1", "a == 1 or " * 2000 + "a == 1"]
)
def test_too_long(text: str) -> None:
    with pytest.raises(ValueError, match="too long"):
        parse(text)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_written_as_they_are_read(kind: str) -> None:
    cells = {
        "text": ["", "a", "ü \n"],
        "number": ["", "0.1", "1e300"],
        "time": ["", "2026-05-01", "1999-01-01T00:00:00.000001"],
    }
    column = typed(cells[kind])
    again = typed(texts_of(column), kind)
    assert column.dtype == again.dtype and texts_of(again) == texts_of(column)
    assert (again[1:] == column[1:]).all()


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-05:00", "0000-01-01T04:59:59.999999+05:00"])
def test_a_time_that_could_not_be_read_again_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="beyond the years 0 to 9999"):
        to_time(text)
    with pytest.raises(ValueError, match="beyond the years"):
        parse(f"time > {text}")
    for edge in ("0000-01-01T05:00+05:00", "9999-12-31T18:59:59.999999-05:00"):
        assert typed(texts_of(typed([edge])), "time") == typed([edge])


def test_zeros_in_front_are_kept_unless_the_column_is_said_to_be_of_numbers() -> None:
    assert typed(["007", "7", "", "07"]).tolist() == ["007", "7", "", "07"] and typed(["-01.5", "2"]).dtype == object
    assert typed(["0", "0.5", "-0", "10"]).dtype == float and typed(["08", "8"], "number").tolist() == [8, 8]
    assert typed(["0026-05-01"]).dtype.kind == "M"
    with pytest.raises(ValueError, match="several kinds"):
        typed(["007", "2026-05-01"])


def test_whole_numbers_that_float64_would_round_are_texts() -> None:
    ids = ["9007199254740993", "-9007199254740993", "9007199254740992", "5", ""]
    assert typed(ids).tolist() == ids
    assert typed(ids[2:]).tolist()[:2] == [2.0**53, 5] and typed(["1e300", "1e23"]).dtype == float
    with pytest.raises(ValueError, match="does not hold exactly"):
        typed(ids, "number")
    for other in ("2026-05-01", "x"):
        with pytest.raises(ValueError, match="several kinds"):
            typed(["5", ids[0], other])
