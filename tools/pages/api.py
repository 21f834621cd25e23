"""The Python API: a page for the package and one for each package in it, written by Sphinx's autodoc."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

import fastreid_parts

FOLDER = "reference/api"


def pages() -> dict[str, str]:
    """Make a page a package that offers names, and the list of them."""
    packages = [info.name for info in pkgutil.iter_modules(fastreid_parts.__path__, "fastreid_parts.") if info.ispkg]
    modules = [fastreid_parts, *map(importlib.import_module, packages)]
    made = {f"{FOLDER}/{module.__name__}.md": _page(module) for module in modules if offered(module)}
    names = "\n".join(path.removeprefix(f"{FOLDER}/").removesuffix(".md") for path in made)
    head = "# Python\n\nWhat `fastreid_parts` and its packages offer. A name without an underscore is public.\n"
    return {f"{FOLDER}/index.md": f"{head}\n```{{toctree}}\n{names}\n```\n", **made}


def offered(module: ModuleType) -> list[str]:
    """List the functions and classes of the plugin's that a package offers and the whole plugin does not, sorted.

    Args:
        module: the package.
    """
    above = () if module is fastreid_parts else fastreid_parts.__all__
    names = getattr(
        module, "__all__", [name for name in vars(module) if not name.startswith("_") and name not in above]
    )
    values = {name: getattr(module, name) for name in names}
    return sorted(
        name
        for name, value in values.items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__.startswith(module.__name__)
    )


def _page(module: ModuleType) -> str:
    summary = (module.__doc__ or "").strip().partition("\n")[0]
    kinds = {name: "class" if inspect.isclass(getattr(module, name)) else "function" for name in offered(module)}
    entries = [f".. auto{kind}:: {name}\n" for name, kind in kinds.items()]
    body = "\n".join([f".. currentmodule:: {module.__name__}\n", *entries])
    return f"# {module.__name__}\n\n{summary}\n\n```{{eval-rst}}\n{body}```\n"
