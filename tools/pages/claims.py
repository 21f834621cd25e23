"""The figure of the claims: each gain with its interval, docs/figures/claims.svg."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from .evidence import IDLE, MISSING, NOT_SHOWN, OPPOSITE, OTHER_CAUSE, SHOWN, Verdict, summary, verdicts

FIGURE = Path(__file__).resolve().parents[2] / "docs/figures/claims.svg"
_COLORS = {
    SHOWN: "#2b7a4b",
    NOT_SHOWN: "#868e96",
    OPPOSITE: "#c2444b",
    IDLE: "#c77700",
    OTHER_CAUSE: "#7048a8",
    MISSING: "#9ec1ea",
}
_WORDS = {MISSING: "seeds are missing"}
_WIDTH, _LABELS, _VALUES, _MARGIN, _LINE = 680, 170, 190, 12, 22
INK, _PAPER, RULE = "#1f2933", "#ffffff", "#ced4da"


def draw(found: Sequence[Verdict]) -> str:
    """Draw the claims that two seeds or more were measured of; the others are counted.

    An interval is cut where those of whole claims end.

    Args:
        found: verdicts of all claims, in the order that they are drawn in.

    Returns:
        The SVG file.
    """
    rows = [one for one in found if one.interval is not None]
    whole = [one for one in rows if one.verdict != MISSING] or rows  # two seeds may have an interval of any width
    reach = _round_up(max((abs(end) for one in whole for end in one.interval or ()), default=1.0))
    left, right = _MARGIN + _LABELS, _WIDTH - _MARGIN - _VALUES
    middle, unit = (left + right) / 2, (right - left) / 2 / reach
    top = 2 * _LINE
    bottom = top + len(rows) * _LINE
    parts = [text(_MARGIN, _LINE, summary(found), weight="bold")]
    for value in (-reach, -reach / 2, 0.0, reach / 2, reach):
        x = middle + unit * value
        parts.append(f'<path d="M{x:.1f} {top - 6}V{bottom}" stroke="{INK if value == 0 else RULE}"/>')
        parts.append(text(x, bottom + 14, f"{value:+g}" if value else "0", anchor="middle"))
    for number, one in enumerate(rows):
        y = top + (number + 0.5) * _LINE
        low, high, mean = (middle + unit * min(max(x, -reach), reach) for x in (*(one.interval or ()), one.mean))
        color = _COLORS[one.verdict]
        parts.append(text(_MARGIN, y + 4, one.claim))
        parts.append(f'<path d="M{low:.1f} {y}H{high:.1f}" stroke="{color}" stroke-width="3" stroke-linecap="round"/>')
        parts.append(f'<circle cx="{mean:.1f}" cy="{y}" r="4.5" fill="{color}"/>')
        words = _WORDS.get(one.verdict, one.verdict)
        parts.append(text(right + 12, y + 4, f"{one.mean:+.2f}  {words}", color=color))
    about = "Gain of the method in points, with its 95 % interval over seeds; drawn people, a MobileNetV2 of ImageNet"
    parts.append(text(_MARGIN, bottom + 34, about))
    title = f"The papers' claims on drawn people. {summary(found)}"
    return figure(_WIDTH, bottom + 46, title, parts)


def figure(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """Put elements on a sheet: the SVG file.

    Args:
        width, height: of the sheet, in pixels.
        title: for those who do not see it.
        parts: SVG elements.
    """
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" viewBox="0 0 {width} {height}" role="img"'
        f" aria-label={quoteattr(title)} font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\""
        f' font-size="11.5">\n<title>{escape(title)}</title>\n'
        f'<rect width="{width}" height="{height}" rx="8" fill="{_PAPER}"/>\n'
    )
    return head + "\n".join([*parts, "</svg>", ""])


def text(x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal", color: str = INK) -> str:
    """Write words into a figure: an SVG element.

    Args:
        x, y: where, in pixels.
        words: what.
        anchor: `start`, `middle` or `end`.
        weight: `normal` or `bold`.
        color: of the words.
    """
    style = f'fill="{color}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def _round_up(value: float) -> float:
    """To 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(value, 1e-3)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


if __name__ == "__main__":  # python -m tools.pages.claims
    FIGURE.write_text(draw(verdicts()), encoding="utf-8")
    print(FIGURE)
