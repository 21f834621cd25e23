"""Public functions say what they do, what they take and what they raise; counted from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastreid_parts

PACKAGE = Path(fastreid_parts.__file__).parent
#: Words that a sentence about a thing begins with, where one about an act begins with a verb.
NO_VERBS = ("the", "a", "an", "what", "how", "which", "whether", "where", "by", "who", "those", "all", "each", "every")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions() -> Iterator[tuple[str, Function, bool]]:
    """Path and name, node, and whether it is a property, of each function that a user may call.

    Functions inside functions are not, nor `forward`, whose class says what goes in, nor what a name with an underscore
    holds.
    """
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        holders: list[tuple[str, ast.Module | ast.ClassDef]] = [("", tree)]
        holders += [(f"{n.name}.", n) for n in tree.body if isinstance(n, ast.ClassDef) and n.name[0] != "_"]
        for prefix, holder in holders:
            for node in holder.body:
                if isinstance(node, Function) and node.name[0] != "_":
                    decorators = {ast.unparse(d).partition("(")[0] for d in node.decorator_list}
                    if not decorators & {"overload", "typing.overload"}:
                        name = f"{path.relative_to(PACKAGE).as_posix()}:{prefix}{node.name}"
                        yield (
                            name,
                            node,
                            bool(decorators & {"property", "cached_property", "functools.cached_property"}),
                        )


def parameters(node: Function) -> list[str]:
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    names += [f"*{a.arg}" for a in (node.args.vararg, node.args.kwarg) if a is not None]
    return [name for name in names if name not in ("self", "cls")]


def raised(node: Function) -> set[str]:
    """Names of the exceptions that the function's own statements raise."""
    names = set()
    inner = [n for n in ast.walk(node) if isinstance(n, (Function, ast.Lambda)) and n is not node]
    skipped = {id(x) for n in inner for x in ast.walk(n)}
    for n in ast.walk(node):
        if isinstance(n, ast.Raise) and n.exc is not None and id(n) not in skipped:
            exc = n.exc.func if isinstance(n.exc, ast.Call) else n.exc
            name = ast.unparse(exc)
            if name[0].isupper() and name not in ("NotImplementedError", "AssertionError"):
                names.add(name)
    return names


FUNCTIONS = list(public_functions())
OVERRIDES = ("forward", "train", "run", "add_arguments", "from_config")


def said_elsewhere(node: Function) -> bool:
    """A method of an interface, whose docstring names the class that says what it takes and raises."""
    return (ast.get_docstring(node) or "").startswith("See `")


def test_there_are_many() -> None:
    assert len(FUNCTIONS) > 400


def test_none_is_without_docstring() -> None:
    assert [name for name, node, _ in FUNCTIONS if not ast.get_docstring(node)] == []


def test_a_docstring_begins_with_a_verb() -> None:
    wrong = []
    for name, node, is_property in FUNCTIONS:
        first = (ast.get_docstring(node) or "").split(" ")[0].lower().rstrip(",.:")
        if not is_property and node.name not in OVERRIDES and first in NO_VERBS:
            wrong.append(name)
    assert wrong == []


def test_two_parameters_and_more_are_named() -> None:
    wrong = []
    for name, node, _ in FUNCTIONS:
        text = ast.get_docstring(node) or ""
        if len(parameters(node)) > 1 and not (node.name in OVERRIDES or said_elsewhere(node) or "Args:" in text):
            wrong.append(name)
    assert wrong == []


def test_named_parameters_exist() -> None:
    wrong = []
    for name, node, _ in FUNCTIONS:
        _, _, after = (ast.get_docstring(node) or "").partition("Args:\n")
        for line in after.splitlines():
            if not line.strip() or not line.startswith("    "):
                break
            if line[4] != " ":
                for one in line.partition(":")[0].split(","):
                    if one.strip().lstrip("*") not in [p.lstrip("*") for p in parameters(node)]:
                        wrong.append(f"{name}: {one.strip()}")
    assert wrong == []


def test_what_is_raised_is_said() -> None:
    wrong = []
    for name, node, _ in FUNCTIONS:
        text = ast.get_docstring(node) or ""
        if raised(node) and "Raises:" not in text and node.name not in ("forward",):
            wrong.append(f"{name}: {', '.join(sorted(raised(node)))}")
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "names", "errors"),
    [
        ("def f(self, a, *, b=1, **c):\n    raise ValueError('x')", ["a", "b", "**c"], {"ValueError"}),
        ("def f(a):\n    def g():\n        raise KeyError(1)\n    raise NotImplementedError", ["a"], set()),
        ("def f():\n    try:\n        pass\n    except OSError as error:\n        raise error", [], set()),
    ],
)
def test_the_count_itself(source: str, names: list[str], errors: set[str]) -> None:
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef)
    assert [name.replace("*", "") for name in parameters(node)] == [name.replace("*", "") for name in names]
    assert raised(node) == errors
