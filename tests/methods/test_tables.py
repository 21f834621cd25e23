"""The table of each method's module: all that its paper numbers, with code, key and test, none of them made up."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastreid.config import get_cfg

import fastreid_parts

#: Numbered equations, figures and algorithms of each paper.
PAPERS = {"cmbn": (3, 4, 1), "cge": (12, 7, 0), "rrid": (6, 6, 0), "can": (9, 4, 0), "rmgl": (11, 11, 0)}
MODULES = [*PAPERS, "combined"]
TESTS = Path(__file__).parents[1]


def rows(name: str) -> list[dict[str, str]]:
    """The table in the docstring of a method's module."""
    lines = [line for line in (module(name).__doc__ or "").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["paper", "code", "key", "test"] and set("".join(cells[1])) == {"-"}
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def module(name: str) -> ModuleType:
    return importlib.import_module(f"fastreid_parts.methods.{name}")


def numbers(rows: list[dict[str, str]], kind: str) -> set[int]:
    """What a table has of `Eq.`, `Fig.` or `Alg.`: `Eq. (4), (5)` and `Fig. 3, 4` are two each."""
    found = re.findall(rf"{kind} (\(?\d+\)?(?:, \(?\d+\)?)*)", " ; ".join(row["paper"] for row in rows))
    return {int(number) for numbers in found for number in re.findall(r"\d+", numbers)}


def resolve(name: str, own: ModuleType) -> Any:
    """The object of a name: of the method's module, or of a package of the plugin, whichever file of it holds it."""
    head, _, rest = name.partition(".")
    if hasattr(own, head):
        return _attribute(getattr(own, head), rest)
    if hasattr(fastreid_parts, head) and not isinstance(getattr(fastreid_parts, head), ModuleType):
        return _attribute(getattr(fastreid_parts, head), rest)
    package = importlib.import_module(f"fastreid_parts.{head}")
    first, inside = rest.partition(".")[0], [info.name for info in pkgutil.iter_modules(package.__path__)]
    for name_inside in inside:
        inner = importlib.import_module(f"{package.__name__}.{name_inside}")
        if getattr(vars(inner).get(first), "__module__", "") == inner.__name__:
            return _attribute(inner, rest)
    if rest in inside:
        return importlib.import_module(f"{package.__name__}.{rest}")
    raise AssertionError(f"{own.__name__} names {name}, which is nowhere")


def _attribute(thing: Any, path: str) -> Any:
    for part in path.split(".") if path else ():
        thing = inspect.getattr_static(thing, part)
    return thing


def all_tests() -> set[str]:
    """Names of all test functions."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in TESTS.rglob("test_*.py"))
    return {
        n.name for tree in trees for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name[:5] == "test_"
    }


@pytest.mark.parametrize("name", PAPERS)
def test_everything_that_the_paper_numbers_is_there(name: str) -> None:
    there = rows(name)
    for kind, last in zip((r"Eq\.", r"Fig\.", r"Alg\."), PAPERS[name], strict=True):
        assert numbers(there, kind) == set(range(1, last + 1)), kind


@pytest.mark.parametrize("name", MODULES)
def test_every_piece_of_code_exists_and_names_its_equation(name: str) -> None:
    for row in rows(name):
        named = re.findall(r"`([\w.]+)`", row["code"])
        assert named, row
        documents = []
        for one in named:
            found = resolve(one, module(name))
            found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
            documents.append(found.__doc__ or "")
        for number in numbers([row], r"Eq\."):
            assert any(re.search(rf"Eq\.[^:.]*\({number}\)", text) for text in documents), (row, number)


@pytest.mark.parametrize("name", MODULES)
def test_every_key_exists(name: str) -> None:
    for row in rows(name):
        section = ""
        for key in filter(None, row["key"].split(", ")):
            section = key.rpartition(".")[0] or section
            path = f"{section}.{key.rpartition('.')[2]}"
            node: Any = get_cfg()
            if path.partition(".")[0] not in node:
                node = node.MODEL
            for part in path.split("."):
                assert part in node, (row, path)
                node = node[part]


@pytest.mark.parametrize("name", MODULES)
def test_every_test_exists(name: str) -> None:
    known = all_tests()
    for row in rows(name):
        named = re.findall(r"`(test_\w+)`", row["test"])
        assert named and all(any(test.startswith(start) for test in known) for start in named), row
