"""The site: built without a warning, with a page for everything that can be named, and no dead link in it."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import fastreid_parts
from fastreid_parts.command_line import COMMANDS, make_parser
from fastreid_parts.paper_results import load_ledger
from fastreid_parts.settings import all_keys
from tools.pages import measured, pages, papers, patches
from tools.pages.api import offered

from .blocks import ROOT, check, words_of

METHODS = {"can", "cge", "cmbn", "rmgl", "rrid"}
BY_HAND = ("README.md", "CONTRIBUTING.md", "docker/README.md")


class Links:
    """The addresses that a page refers to, and the places in it that can be referred to: a parser takes a minute."""

    def __init__(self, text: str) -> None:
        self.to: set[str] = set()
        self.places: set[str] = set()
        for name, _, value in re.findall(r"\s(href|src|id|name)=([\"'])(.+?)\2", text):
            (self.to if name in ("href", "src") else self.places).add(unescape(value))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-d", str(folder / "doctrees")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    built = subprocess.run([*words, "docs", str(folder / "html")], cwd=ROOT, env=environment, text=True,
                           capture_output=True, check=False)  # fmt: skip
    assert built.returncode == 0, built.stderr
    return folder / "html"


def test_no_link_is_dead(site: Path) -> None:
    found = {path: Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    dead = []
    for page, links in found.items():
        for address in links.to:
            split = urlsplit(address)
            if split.scheme or split.netloc:
                continue
            target = Path(os.path.normpath(page.parent / unquote(split.path))) if split.path else page
            places = found[target].places | {"", "#"} if target in found else {split.fragment}
            if not target.exists() or unquote(split.fragment) not in places:
                dead.append(f"{page.relative_to(site)}: {address}")
    assert not dead
    assert len(found) > 100 and sum(len(links.to) for links in found.values()) > 1000


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loads = re.compile(r"<(?:script|link|img)[^>]+(?:src|href)=\"(?:https?:)?//", re.IGNORECASE)
    assert not [path for path in site.rglob("*.html") if loads.search(path.read_text(encoding="utf-8"))]


def test_every_name_has_a_page(site: Path) -> None:
    keys = Links((site / "reference/keys.html").read_text(encoding="utf-8")).places
    names = {one.name for one in all_keys()}
    assert len(names) >= 112
    assert not {name for name in names if re.sub(r"[._]", "-", name.lower()) not in keys}
    assert {path.stem for path in (site / "reference/commands").glob("*.html")} == set(COMMANDS)
    assert {path.stem for path in (site / "results/papers").glob("*.html")} == set(load_ledger().papers) == METHODS
    assert {path.stem for path in (site / "methods").glob("*.html")} >= METHODS


def test_every_option_of_a_command_says_what_it_is() -> None:
    silent = re.compile(r"^`.*`\n: *$", re.MULTILINE)
    pages_of_commands = {path: text for path, text in pages().items() if path.startswith("reference/commands/")}
    assert not {path: silent.findall(text) for path, text in pages_of_commands.items() if silent.search(text)}
    for name in COMMANDS:
        for option in make_parser(name, name)._option_string_actions:
            assert f"{option}" in pages_of_commands[f"reference/commands/{name}.md"] or option in ("-h", "--help")


def test_every_result_is_listed() -> None:
    made = "\n".join(papers.pages().values())
    rows = [line for line in made.splitlines() if line.startswith("| ") and "mAP (range)" not in line]
    assert len(rows) == len(load_ledger().rows) >= 265
    assert not {row.id for row in load_ledger().rows if f"`{row.variant.name}`" not in made}


def test_every_patch_is_listed() -> None:
    """A call that puts something into fast-reid has a reason of its own beside it, or in the function around it."""
    listed = list(patches.patches())
    assert len(listed) >= 60 and all(len(patch.text) > 20 for patch in listed)
    text = (patches.COMPAT / "engine.py").read_text(encoding="utf-8")
    wrappers = {
        node.args[2].id
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("wrap", "replace") and len(node.args) == 3
        and isinstance(node.args[2], ast.Name)
    }  # fmt: skip
    said = {node.name: ast.get_docstring(node) or "" for node in ast.parse(text).body if hasattr(node, "body")}
    assert wrappers and not {name for name in wrappers if not re.match(r"[\w/]+\.py", said[name])}


def test_measured_tables_are_whole_and_their_commands_exist() -> None:
    tables = measured.load()
    assert len(tables) >= 16
    for entry in tables.values():
        check(words_of(entry["command"])[0])
    text = measured.markdown(
        {"command": "x", "about": "y.", "columns": ["", "a"], "rows": [["b", [43.0, 0.75]], ["c", 7]]}
    )
    assert "43.00 ± 0.75" in text and "7.00" in text and text.endswith("`x`: y.")


def test_every_measured_table_is_shown() -> None:
    shown = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    assert not {name for name in measured.load() if f"{{measured}} {name}\n" not in shown}


def test_every_exported_name_is_documented(site: Path) -> None:
    for path in (site / "reference/api").glob("fastreid_parts*.html"):
        module = importlib.import_module(path.stem)
        places = Links(path.read_text(encoding="utf-8")).places
        assert offered(module) and not {name for name in offered(module) if f"{path.stem}.{name}" not in places}
    assert set(fastreid_parts.__all__) - {"__version__"} <= set(offered(fastreid_parts))


@pytest.mark.parametrize("page", BY_HAND)
def test_links_of_the_repository(page: str) -> None:
    """Relative links of the pages outside of the site: the file is there, and so is the heading."""
    path = ROOT / page
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"(`+).*?\1", "", text, flags=re.DOTALL)
    for address in re.findall(r"\]\(([^)\s]+)\)", text):
        split = urlsplit(address)
        if split.scheme:
            continue
        target = (path.parent / split.path).resolve() if split.path else path
        assert target.exists(), address
        if split.fragment:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert split.fragment in slugs, address
