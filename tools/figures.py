"""Draw the figures of docs/figures: each `<name>.yml` there becomes `<name>.svg`.

A figure is a column of rows, from the top to the bottom, of 360 units' width, so that it can be read on a telephone.
A file has

- `title`: what the figure shows, for those who cannot see it;
- `rows`: lists of boxes, each with `text` (lines), a `kind` of `KINDS`, and
  `at: [first, number]`, the columns of twelve that it takes;
  `id`, by which arrows name it;
  `stripes: n`, a map of so many stripes above the text; `pairs: true` takes each two neighbors together, `apart: true`
  leaves a gap between stripes;
  `training: module`, where training alone needs that module of the model: its border is dashed;
- `arrows`: `from -> to`, or `from -> to: label`.

    python tools/figures.py            # writes all of them; `make figures`
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape, quoteattr

import yaml

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "figures"

#: kind -> (fill, border, color of the text, its line in the legend)
KINDS = {
    "data": ("#f1f3f5", "#868e96", "#1f2933", "input, files"),
    "shared": ("#dbeafe", "#3b6fb6", "#12305c", "backbone"),
    "layer": ("#e6f4ea", "#4b8f5f", "#173d24", "head"),
    "idea": ("#fff0d6", "#c77700", "#5a3600", "the method's own"),
    "loss": ("#fbe3e4", "#c2444b", "#6b1318", "loss"),
    "output": ("#1f3a5f", "#1f3a5f", "#ffffff", "feature at test"),
}
_SHOWN = 460  # pixels where there is room; a narrow page shrinks it
WIDTH, _MARGIN, _COLUMNS, _GUTTER = 360, 8, 12, 14
_LINE, _PAD, _GAP, _SIZE = 13, 7, 22, 10.5
_MAP = (24, 42)  # width and height of a map with stripes
_TINTS = ("#9ec1ea", "#cfe0f5")
_INK, _PAPER = "#52606d", "#ffffff"


class Box(NamedTuple):
    """A box where it is drawn: its description and its left, top, width and height."""

    spec: Mapping[str, Any]
    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """Give the middle of its width."""
        return self.x + self.width / 2


def draw(figure: Mapping[str, Any]) -> str:
    """Draw a figure.

    Args:
        figure: what its file says.

    Returns:
        The SVG file.

    Raises:
        ValueError: an arrow names a box that is not there.
        KeyError: a box lacks `text`, `kind` or `at`, or has an unknown kind.
    """
    boxes, bottom = _place(figure["rows"])
    parts = [_arrow(boxes, arrow) for arrow in figure.get("arrows", [])]
    parts += [_box(box) for box in boxes.values()]
    legend, height = _legend([box.spec for box in boxes.values()], bottom)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_SHOWN}" viewBox="0 0 {WIDTH} {height:g}" role="img"'
        f" aria-label={quoteattr(figure['title'])} font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\""
        f' font-size="{_SIZE}" text-anchor="middle">\n<title>{escape(figure["title"])}</title>\n'
        f'<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{_INK}"/></marker></defs>\n'
        f'<rect width="{WIDTH}" height="{height:g}" rx="8" fill="{_PAPER}"/>\n'
    )
    return head + "\n".join([*parts, *legend, "</svg>", ""])


def _place(rows: list[list[Mapping[str, Any]]]) -> tuple[dict[str, Box], float]:
    """Boxes by their id, and where the last row ends."""
    boxes: dict[str, Box] = {}
    column, y = (WIDTH - 2 * _MARGIN + _GUTTER) / _COLUMNS, float(_MARGIN)
    for row in rows:
        height = max(_height(spec) for spec in row)
        for spec in row:
            first, number = spec["at"]
            x = _MARGIN + first * column
            boxes[spec.get("id", spec["text"][0])] = Box(spec, x, y, number * column - _GUTTER, height)
        y += height + _GAP
    return boxes, y - _GAP


def _height(spec: Mapping[str, Any]) -> float:
    return len(spec["text"]) * _LINE + 2 * _PAD + (_MAP[1] + 4 if "stripes" in spec else 0)


def _box(box: Box) -> str:
    fill, border, color, _ = KINDS[box.spec["kind"]]
    dashed = ' stroke-dasharray="4 3"' if "training" in box.spec else ""
    parts = [
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="4" fill="{fill}"'
        f' stroke="{border}"{dashed}/>'
    ]
    top = box.y + (box.height - _height(box.spec)) / 2 + _PAD
    if "stripes" in box.spec:
        parts.append(_stripes(box.middle - _MAP[0] / 2, top, box.spec))
        top += _MAP[1] + 4
    for number, line in enumerate(box.spec["text"]):
        bold = ' font-weight="bold"' if number == 0 and len(box.spec["text"]) > 1 else ""
        y = top + number * _LINE + 10
        parts.append(f'<text x="{box.middle:.1f}" y="{y:.1f}" fill="{color}"{bold}>{escape(line)}</text>')
    return "\n".join(parts)


def _stripes(x: float, y: float, spec: Mapping[str, Any]) -> str:
    """A map cut into stripes, and a bracket about each two neighbors."""
    count, gap = spec["stripes"], 3 if spec.get("apart") else 0
    width, pitch = _MAP[0], (_MAP[1] + gap) / count
    parts = [
        f'<rect x="{x:.1f}" y="{y + number * pitch:.1f}" width="{width}" height="{pitch - gap:.1f}"'
        f' fill="{_TINTS[number % 2]}" stroke="{KINDS["shared"][1]}" stroke-width="0.7"/>'
        for number in range(count)
    ]
    for number in range(count - 1 if spec.get("pairs") else 0):
        left, top = x + width + 3 + 4 * (number % 2), y + (number + 0.5) * pitch
        path = f"M{left:.1f} {top:.1f}h4v{pitch:.1f}h-4"
        parts.append(f'<path d="{path}" fill="none" stroke="{KINDS["idea"][1]}" stroke-width="1.2"/>')
    return "\n".join(parts)


def _arrow(boxes: Mapping[str, Box], arrow: str | Mapping[str, str]) -> str:
    ends, label = next(iter(arrow.items())) if isinstance(arrow, Mapping) else (arrow, "")
    names = [name.strip() for name in ends.split("->")]
    if unknown := [name for name in names if name not in boxes]:
        raise ValueError(f"the arrow '{ends}' names {', '.join(unknown)}; there is {', '.join(boxes)}")
    start, end = (boxes[name] for name in names)
    if start.y == end.y:  # in one row, from the one box to the other
        x, last = (start.x + start.width, end.x) if start.x < end.x else (start.x, end.x + end.width)
        y = start.y + start.height / 2
        path, place = f"M{x:.1f} {y:.1f}H{last:.1f}", ((x + last) / 2, y - 4)
    else:
        narrow, wide = sorted((start, end), key=lambda box: box.width)
        inside = wide.x <= narrow.middle <= wide.x + wide.width
        x, last = (narrow.middle, narrow.middle) if inside else (start.middle, end.middle)
        y, turn = start.y + start.height, end.y - _GAP / 2
        path, place = f"M{x:.1f} {y:.1f}V{turn:.1f}H{last:.1f}V{end.y:.1f}", (last + 4, end.y - 8)
    text = f'\n<text x="{place[0]:.1f}" y="{place[1]:.1f}" fill="{_INK}" text-anchor="start">{escape(label)}</text>'
    return f'<path d="{path}" fill="none" stroke="{_INK}" marker-end="url(#end)"/>' + (text if label else "")


def _legend(specs: list[Mapping[str, Any]], bottom: float) -> tuple[list[str], float]:
    """The kinds that there are, two a line, and the height of the figure."""
    entries = [(*KINDS[kind], "") for kind in KINDS if any(spec["kind"] == kind for spec in specs)]
    if any("training" in spec for spec in specs):
        entries.append((_PAPER, _INK, "", "training only", ' stroke-dasharray="4 3"'))
    parts, y = [], bottom + 18
    for number, (fill, border, _, words, dashed) in enumerate(entries):
        x, top = _MARGIN + (number % 3) * 118, y + (number // 3) * 15
        parts.append(f'<rect x="{x}" y="{top:.1f}" width="14" height="9" fill="{fill}" stroke="{border}"{dashed}/>')
        text = f'font-size="9.5" fill="{_INK}" text-anchor="start"'
        parts.append(f'<text x="{x + 19}" y="{top + 8:.1f}" {text}>{escape(words)}</text>')
    return parts, y + 15 * -(-len(entries) // 3) + 4


def read(path: Path) -> Mapping[str, Any]:
    """Read a figure's file.

    Args:
        path: a YAML file of `FOLDER`.
    """
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def main() -> None:
    """Write the SVG files beside their descriptions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    for path in sorted(FOLDER.glob("*.yml")):
        path.with_suffix(".svg").write_text(draw(read(path)), encoding="utf-8")
        print(path.with_suffix(".svg"))


if __name__ == "__main__":
    main()
