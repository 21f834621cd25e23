"""One look for every figure of the package, and a sheet on which images are placed in inches."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any, BinaryIO

import numpy as np
from matplotlib import cycler, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.patches import Rectangle

INK = "#1f2933"
MUTED = "#66727f"
QUERY = "#2b6cb0"
MATCH = "#1a9641"
NON_MATCH = "#d7301f"
JUNK = "#9aa5b1"  # what does not count: the query's identity from the query's own camera
# Line colors that stay apart for color-blind readers too (Okabe and Ito)
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))  # once there are more lines than colors

# Of letters that DejaVu Sans lacks, Chinese, Japanese and Korean ones above all, by what is installed
_MORE_LETTERS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo"),
    "Arial Unicode MS",
)

DPI = 160
MARGIN = 0.16  # of a figure, in inches


def _families(installed: Collection[str]) -> list[str]:
    """Fonts in the order in which a letter is looked for; one that is not installed would be warned of every time."""
    # The first comes with matplotlib, so figures look alike on every machine
    return ["DejaVu Sans", *(name for name in _MORE_LETTERS if name in installed)]


_STYLE = {
    "font.family": _families({font.name for font in fontManager.ttflist}),
    "font.size": 8,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.prop_cycle": cycler(linestyle=_DASHES) * cycler(color=SERIES),
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}

# Width of a bold letter of DejaVu Sans by its size, on the average of a name
_LETTER = 0.7


def fitting_size(text: str, inches: float, size: float) -> float:
    """Give the font size at which bold text is about as wide as it may be.

    Args:
        text: what is written.
        inches: its greatest width.
        size: the greatest size.
    """
    return min(size, 72 * inches / (_LETTER * max(1, len(text))))


def literal(text: str) -> str:
    """Keep matplotlib from reading a dollar sign in a name as a formula, and from leaving `_name` out of a legend."""
    hidden = "\u200b" if text.startswith("_") else ""
    return hidden + text.replace("$", r"\$")


class Sheet:
    """A white page; positions and sizes are in inches, measured from its top left corner.

    Args:
        width: of the page.
        height: of the page.
    """

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        with rc_context(_STYLE):
            # The object interface: no window system and no global state of pyplot is touched
            self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
            FigureCanvasAgg(self.figure)
            # One set of axes over the whole page, in inches: hundreds of images stay quick to draw
            self._page = self.figure.add_axes((0, 0, 1, 1))
            self._page.set_axis_off()
            self._page.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)

    @classmethod
    def titled(
        cls, width: float, height: float, title: str, margin: float = MARGIN, line: float = 0.3
    ) -> tuple[Sheet, float]:
        """Make a page with a margin around its content, and a title above it where there is one.

        Args:
            width: of the content.
            height: of the content.
            title: may be empty.
            margin: on each side.
            line: height of the title.

        Returns:
            The page, and the upper edge of the content; its left edge is the margin.
        """
        top = margin + (line if title else 0)
        sheet = cls(width + 2 * margin, top + height + margin)
        if title:
            sheet.text(margin, margin, title, fitting_size(title, width, 10), ha="left", weight="bold")
        return sheet, top

    def image(
        self,
        pixels: np.ndarray,
        x: float,
        y: float,
        width: float,
        height: float,
        frame: str | None = None,
        frame_inches: float = 0.035,
    ) -> None:
        """Draw an image over the given rectangle, stretched to it.

        Args:
            pixels: (H, W, 3) uint8, RGB.
            x: left edge.
            y: upper edge.
            width: of the rectangle.
            height: of the rectangle.
            frame: color of a frame around the image, drawn outside of it.
            frame_inches: thickness of the frame.
        """
        self._page.imshow(pixels, extent=(x, x + width, y + height, y), aspect="auto", zorder=2)
        if frame is not None:
            f = frame_inches
            corner, size = (x - f, y - f), (width + 2 * f, height + 2 * f)
            self._page.add_patch(Rectangle(corner, *size, facecolor=frame, edgecolor="none", zorder=1))

    def box(self, x: float, y: float, width: float, height: float, color: str) -> None:
        """Draw the outline of a rectangle over what is there, set off from it by a white edge.

        Args:
            x: left edge.
            y: upper edge.
            width: of the rectangle.
            height: of the rectangle.
            color: of the line.
        """
        for inches, shade in ((0.033, "white"), (0.015, color)):
            outline = Rectangle((x, y), width, height, fill=False, edgecolor=shade, linewidth=72 * inches, zorder=3)
            self._page.add_patch(outline)

    def text(self, x: float, y: float, text: str, size: float = 8, color: str = INK, **look: Any) -> None:
        """Write text at a point.

        Args:
            x: of the point.
            y: of the point.
            text: may have several lines.
            size: of the font.
            color: of the text.
            **look: what matplotlib takes, such as `ha` and `va`, which say where of the text the point is: by default
                in the middle of its upper edge.
        """
        look = {"ha": "center", "va": "top", **look}
        with rc_context(_STYLE):
            self._page.text(x, y, literal(text), size=size, color=color, zorder=3, **look)

    def rule(self, x: float, y: float, width: float, color: str = "#cbd2d9", over: bool = False) -> None:
        """Draw a thin horizontal line.

        Args:
            x: left end.
            y: height.
            width: length.
            color: of the line.
            over: over the images, not under them.
        """
        self._page.plot([x, x + width], [y, y], color=color, linewidth=0.8, zorder=3 if over else 0)

    def axes(self, x: float, y: float, width: float, height: float, title: str = "") -> Axes:
        """Add axes for a plot.

        Args:
            x: left edge of the frame.
            y: upper edge of the frame.
            width: of the frame.
            height: of the frame.
            title: above the frame.
        """
        with rc_context(_STYLE):
            axes = self.figure.add_axes(
                (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
            )
            if title:
                axes.set_title(title, loc="left", fontweight="bold")
        return axes

    def save(self, path: str | os.PathLike | BinaryIO) -> None:
        """Write the page as a PNG into a file, folders on the way being made, or into one that is open."""
        if isinstance(path, (str, os.PathLike)):
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with rc_context(_STYLE):
            self.figure.savefig(path, format="png", dpi=DPI)
