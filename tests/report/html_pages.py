"""Reading an HTML page in tests: strict about what is closed, and with what a test asks for at hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "img", "br"}


@dataclass
class Tag:
    """An element with its attributes, its texts in their order and the elements in it."""

    name: str
    attributes: dict[str, str]
    texts: list[str] = field(default_factory=list)
    children: list[Tag] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, name: str, class_: str = "") -> list[Tag]:
        """Elements below this one, in the order of the page."""
        found = []
        for child in self.children:
            if child.name == name and class_ in child.attributes.get("class", "").split(" ") + [""]:
                found.append(child)
            found.extend(child.all(name, class_))
        return found


class Page(HTMLParser):
    """A page as a tree; an element that is closed out of turn, or not at all, fails the test."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Tag("", {})
        self._open = [self.root]
        self.feed(text)
        self.close()
        assert len(self._open) == 1, f"not closed: {[tag.name for tag in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Tag(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().name == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.texts.append(data)


def read_page(text: str, own_script: bool = False) -> Tag:
    """The page, after checks that hold for every page of the package: nothing from outside, every image described.

    No script, or one that is in the page itself.
    """
    assert text.startswith("<!DOCTYPE html>")
    page = Page(text).root
    assert page.children[0].attributes["lang"]
    identities = [tag.attributes["id"] for tag in every(page) if "id" in tag.attributes]
    assert len(set(identities)) == len(identities)
    for tag in every(page):
        assert tag.name not in ("link", "iframe", "object", "embed", "base", "form")
        assert tag.name != "script" or (own_script and not tag.attributes)
        assert not any(name.startswith("on") for name in tag.attributes)
        for name in ("src", "srcset", "href", "action", "poster", "data", "background"):
            value = tag.attributes.get(name, "#")
            assert value.startswith(("data:image/jpeg;base64,", "data:image/png;base64,")) or value[
                1:
            ] in identities + [""]
        if tag.name == "img":
            assert tag.attributes["alt"].strip() and tag.attributes["src"].startswith("data:")
        if tag.name == "style":
            assert "url(" not in tag.text and "@import" not in tag.text
        if tag.name == "table":
            (head,) = tag.all("thead")
            (caption,) = tag.all("caption")
            columns = head.all("th")
            assert caption.text and all(cell.attributes["scope"] == "col" for cell in columns)
            for row in tag.all("tbody")[0].all("tr"):
                assert [cell.name for cell in row.children] == ["th"] + ["td"] * (len(columns) - 1)
                assert row.children[0].attributes["scope"] == "row"
    return page


def every(tag: Tag) -> list[Tag]:
    return [tag, *(below for child in tag.children for below in every(child))]


def cells(table: Tag) -> list[list[str]]:
    """The texts of a table, the heads of its columns first."""
    return [[cell.text for cell in row.children] for row in table.all("tr")]


def numbers(row: Tag) -> list[float]:
    """The full values of a row's numbers."""
    return [float(data.attributes["value"]) for data in row.all("data")]
