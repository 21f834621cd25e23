"""Two rules that ruff does not know, held by `make lint`; prints what breaks them.

1. No module of the package imports one that stands after it in `ORDER`, wherever in its source the import is.
2. Only `host` and `compat` know names of fast-reid that begin with an underscore. Elsewhere such a name is used on
   `self`, `cls` and `super()`, or is defined in the module that uses it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

# From the bottom to the top: modules and packages directly below fastreid_parts.
ORDER = (
    *("version", "cpus", "pedestrians", "words", "settings", "host", "devices", "extras", "files", "arguments"),
    *("measuring", "checkpoints", "seeding", "config", "folders", "mechanisms"),
    *("layers", "losses", "pretrained", "backbones", "speed", "parts_head", "parts_baseline", "heads", "methods"),
    *("data", "evaluation", "engine", "retrieval"),
    *("visualization", "report", "deployment", "identification", "analysis", "paper_results", "compat", "plugins"),
    *("__init__", "scripts", "_spawned_main", "command_line", "commands", "__main__"),
)
KNOW_THE_HOST = ("host", "compat")
OF_NAMED_TUPLES = ("_replace", "_asdict")


def problems(package: Path, order: tuple[str, ...] = ORDER) -> Iterator[str]:
    """Find what breaks a rule, as `path:line: what`.

    Args:
        package: folder of the package.
        order: names directly below it, from the bottom to the top.
    """
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[0] not in order:
            yield f"{path}: give '{parts[0]}' its place in ORDER of tools/layers.py"
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for line, imported in sorted(set(imports(tree, (package.name, *parts[:-1]), order))):
            if order.index(imported) > order.index(parts[0]):
                yield f"{path}:{line}: {parts[0]} imports {imported}, which stands after it"
        if parts[0] not in KNOW_THE_HOST:
            for line, name in private_names(tree):
                yield f"{path}:{line}: {name} is a private name of another's; use or add a function of host.py"


def imports(tree: ast.Module, inside: tuple[str, ...], order: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """List line and name, directly below the package, of each of the package's modules that a module imports.

    Args:
        tree: the module.
        inside: the packages that it is in, from the outermost.
        order: names directly below the outermost.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = inside[: len(inside) + 1 - node.level] if node.level else ()
            start = [*above, *node.module.split(".")] if node.module else above
            targets = [[*start, alias.name] for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == inside[0]:
                yield node.lineno, next((name for name in target[1:2] if name in order), "__init__")


def private_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """List line and name where a module uses a name with an underscore that is not its own."""
    nodes = list(ast.walk(tree))
    own = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))} | {*OF_NAMED_TUPLES}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("fastreid."):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls", "super()"):
            names = [node.attr]
        else:
            continue
        for name in names:
            if name.startswith("_") and not name.endswith("__") and name not in own:
                yield node.lineno, name


if __name__ == "__main__":
    found = list(problems(Path(__file__).resolve().parent.parent / "fastreid_parts"))
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(bool(found))
