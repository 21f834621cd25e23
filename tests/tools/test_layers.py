"""tools/layers.py: the order of the modules and the host's private names, here and in a package that breaks both."""

from __future__ import annotations

from pathlib import Path

import pytest

from .load import load_tool

layers = load_tool("layers")
ORDER = ("low", "mid", "__init__", "high")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name in ("low/__init__.py", "low/deep.py", "mid.py", "high.py", "__init__.py"):
        (tmp_path / "toy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "toy" / name).write_text("")
    return tmp_path / "toy"


def broken(package: Path, name: str, source: str) -> list[str]:
    (package / name).write_text(source)
    return [problem.replace(f"{package}/", "") for problem in layers.problems(package, ORDER)]


def test_this_package_keeps_both_rules() -> None:
    assert list(layers.problems(layers.Path(layers.__file__).parent.parent / "fastreid_parts")) == []


@pytest.mark.parametrize(
    ("name", "source", "imported"),
    [
        ("mid.py", "from .high import x", "high"),
        ("mid.py", "from . import low, high", "high"),
        ("mid.py", "import toy.high", "high"),
        ("mid.py", "from toy.high.x import y", "high"),
        ("mid.py", "def f():\n    from .high import x", "high"),
        ("mid.py", "if TYPE_CHECKING:\n    from .high import x", "high"),
        ("mid.py", "from . import __version__", "__init__"),
        ("low/deep.py", "from ..mid import x", "mid"),
        ("low/__init__.py", "from ..mid import x", "mid"),
        ("low/deep.py", "from .. import mid", "mid"),
    ],
)
def test_an_import_from_above(package: Path, name: str, source: str, imported: str) -> None:
    line = source.count("\n") + 1
    who = name.partition("/")[0].removesuffix(".py")
    assert broken(package, name, source) == [f"{name}:{line}: {who} imports {imported}, which stands after it"]


@pytest.mark.parametrize(
    "source",
    ["from . import mid, x", "from .low.deep import y", "from . import deep", "import torch.high"],
)
def test_imports_from_below_and_from_elsewhere(package: Path, source: str) -> None:
    assert broken(package, "high.py", source) == []


def test_a_module_without_a_place(package: Path) -> None:
    assert broken(package, "new.py", "") == ["new.py: give 'new' its place in ORDER of tools/layers.py"]


@pytest.mark.parametrize(
    "source",
    ["from fastreid.config.defaults import _C", "comm._GROUP = 1", "len(registry._obj_map)", "a.b()._c", "x.self._y"],
)
def test_private_names_of_others(package: Path, source: str) -> None:
    (problem,) = broken(package, "mid.py", source)
    assert problem.startswith("mid.py:1: _") and "function of host.py" in problem


def test_private_names_of_its_own(package: Path) -> None:
    source = "from torch.nn import _Norm\nself._x\ncls._x\nsuper()._x\ny.__dict__\ny._replace(a=1)\ndef _f(): y._f"
    assert broken(package, "mid.py", source) == []
