"""Parts of an HTML page that stands alone: escaped elements, tables, and images that are inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TypeAlias
from xml.etree import ElementTree

import numpy as np
from fastreid.data.data_utils import read_image
from PIL import Image

__all__ = ["Node", "data_uri", "document", "element", "figure", "image_uri", "number", "section", "table"]

# Longer sides of embedded images in pixels: twice what the style sheet shows, for screens of high density
_LONGEST = 256
_QUALITY = 88

Node = ElementTree.Element
Content: TypeAlias = str | ElementTree.Element


def element(tag: str, *contents: Content, **attributes: str) -> Node:
    """An HTML element; texts and the values of attributes are escaped when the document is written.

    Args:
        tag: its name.
        *contents: texts and elements, in their order.
        **attributes: a `_` in a name stands for `-`, and one at its end is dropped: `class_`, `aria_label`.
    """
    node = ElementTree.Element(tag, {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()})
    for content in contents:
        if not isinstance(content, str):
            node.append(content)
        elif len(node):
            node[-1].tail = (node[-1].tail or "") + content
        else:
            node.text = (node.text or "") + content
    return node


def document(root: Node) -> str:
    """An `html` element as the text of a file."""
    return "<!DOCTYPE html>\n" + ElementTree.tostring(root, encoding="unicode", method="html") + "\n"


def section(identity: str, heading: str, *contents: Content) -> Node:
    """A section of the page under a heading, to which `#identity` leads."""
    title = element("h2", heading, id=f"{identity}-heading")
    return element("section", title, *contents, id=identity, aria_labelledby=f"{identity}-heading")


def number(value: float, decimals: int = 1) -> Node:
    """A number as it is read, rounded, with its full value for programs."""
    return element("data", f"{value:,.{decimals}f}", value=repr(float(value)))


def table(
    caption: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[Content]],
    numbers: int = 0,
    ascending: int | None = None,
) -> Node:
    """A table that scrolls by itself where it is wider than the page.

    Args:
        caption: what it shows.
        heads: of the columns.
        rows: their cells; the first of each is the row's head.
        numbers: so many columns at the end hold numbers.
        ascending: the column by which the rows are sorted.
    """
    first = len(heads) - numbers
    kinds = [{"class_": "number"} if column >= first else {} for column in range(len(heads))]
    sorting = [{"aria_sort": "ascending"} if column == ascending else {} for column in range(len(heads))]
    head = [element("th", text, scope="col", **kind, **order) for text, kind, order in zip(heads, kinds, sorting)]
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell, **kind) for cell, kind in zip(row[1:], kinds[1:])),
        )
        for row in rows
    ]
    whole = element(
        "table", element("caption", caption), element("thead", element("tr", *head)), element("tbody", *body)
    )
    # A keyboard can scroll what has the focus
    return element("div", whole, class_="wide", tabindex="0", role="region", aria_label=caption)


def data_uri(content: bytes, kind: str) -> str:
    """A file as an address that holds it; `kind` is `png` or `jpeg`."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def image_uri(image: str | np.ndarray) -> tuple[str, int, int]:
    """An image as a JPEG in a data URI, made smaller if it is large.

    Args:
        image: a file, or (H, W, 3) uint8 RGB.

    Returns:
        The URI; width and height in pixels.

    Raises:
        OSError: the file cannot be read.
    """
    picture = read_image(image, format="RGB") if isinstance(image, str) else image
    picture = Image.fromarray(np.ascontiguousarray(picture))
    picture.thumbnail((_LONGEST, _LONGEST), Image.LANCZOS)
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=_QUALITY)
    return data_uri(content.getvalue(), "jpeg"), *picture.size


def figure(image: str | np.ndarray, alt: str, class_: str, *caption: Content) -> Node:
    """An image with a caption below it.

    Args:
        image: as in `image_uri`.
        alt: what a reader who does not see the image is told.
        class_: of the style sheet.
        *caption: contents of the caption; none without.

    Raises:
        OSError: the file cannot be read.
    """
    uri, width, height = image_uri(image)
    picture = element("img", src=uri, alt=alt, width=str(width), height=str(height), decoding="async")
    return element("figure", picture, *([element("figcaption", *caption)] if caption else []), class_=class_)
