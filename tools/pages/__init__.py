"""Pages of the site that follow from the sources: docs/conf.py writes them before each build, and git ignores them.

Each module gives {path below docs/: Markdown} for one kind, without Sphinx, so that the tests count what is there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import api, commands, evidence, keys, papers, patches, proofs

KINDS: tuple[Callable[[], dict[str, str]], ...] = (
    api.pages,
    commands.pages,
    evidence.pages,
    keys.pages,
    papers.pages,
    patches.pages,
    proofs.pages,
)


def pages() -> dict[str, str]:
    """Make all pages: {path below docs/: Markdown}."""
    return {path: text for kind in KINDS for path, text in kind().items()}


def write(docs: Path) -> None:
    """Write all pages; one that is as it was keeps its time, and one that is no longer made goes.

    Args:
        docs: the folder of the site's sources.
    """
    made = {docs / path: text for path, text in pages().items()}
    for folder in {path.parent for path in made} - {docs / "reference", docs / "host"}:
        for path in set(folder.glob("*.md")) - set(made):
            path.unlink()
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
