"""The figure of the curves: mAP over the strength of one nuisance, docs/figures/curves.svg."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .claims import INK, RULE, figure, text
from .evidence import Curves, curves_of, load

FIGURE = Path(__file__).resolve().parents[2] / "docs/figures/curves.svg"
_COLORS = ("#868e96", "#1c6dd0", "#c2444b")  # the baseline comes first
_PANEL, _HEIGHT, _GAP, _MARGIN, _ABOUT, _LINE = 250, 150, 60, 40, 74, 16
_STEP = 10  # points of mAP between lines


def draw(plan: Mapping[str, Any], found: Curves) -> str:
    """Draw a panel a bench: each seed thin, the mean thick, the strength in training dotted.

    Args:
        plan: the plan.
        found: from `curves_of`, not empty.

    Returns:
        The SVG file.
    """
    columns = min(2, len(found))
    height = -(-len(found) // columns) * (_HEIGHT + _ABOUT) + _LINE
    width = 2 * _MARGIN + columns * _PANEL + (columns - 1) * _GAP
    parts: list[str] = []
    for place, (bench, arms) in enumerate(found.items()):
        left = _MARGIN + place % columns * (_PANEL + _GAP)
        parts += _panel(plan, bench, arms, left, place // columns * (_HEIGHT + _ABOUT) + 2 * _LINE)
    return figure(width, height, "mAP over the strength of one nuisance", parts)


def _panel(plan: Mapping[str, Any], bench: str, arms: Mapping[str, Any], left: float, top: float) -> list[str]:
    nuisance, strengths = plan["curves"]["of"][bench]["nuisance"], plan["curves"]["strengths"]
    trained = plan["nuisances"][plan["benches"][bench]["nuisance"]][nuisance]
    values = [value for seeds in arms.values() for curve in seeds.values() for value in curve.values()]
    lowest, highest = _STEP * math.floor(min(values) / _STEP), _STEP * math.ceil(max(values) / _STEP)
    bottom = top + _HEIGHT

    def y(value: float) -> float:
        return bottom - _HEIGHT * (value - lowest) / (highest - lowest)

    def x(strength: float) -> float:
        return left + _PANEL * (strength - strengths[0]) / (strengths[-1] - strengths[0])

    def line(values: Sequence[float], color: str, thick: float) -> str:
        points = " ".join(f"{x(strength):.1f},{y(value):.1f}" for strength, value in zip(strengths, values))
        return f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="{thick}"/>'

    parts = [text(left, top - 10, f"{bench}: mAP [%] over {nuisance.lower()}", weight="bold")]
    for value in range(lowest, highest + 1, _STEP):
        parts.append(f'<path d="M{left} {y(value):.1f}H{left + _PANEL}" stroke="{RULE}"/>')
        parts.append(text(left - 6, y(value) + 4, f"{value}", anchor="end"))
    parts += [text(x(strength), bottom + 14, f"{strength:g}", anchor="middle") for strength in strengths]
    parts.append(f'<path d="M{x(trained):.1f} {top}V{bottom}" stroke="{INK}" stroke-dasharray="2 3"/>')
    across = left
    for color, (arm, seeds) in zip(_COLORS, arms.items()):
        curves = [[curve[f"{strength:g}"] for strength in strengths] for curve in seeds.values()]
        parts += [line(curve, color, 0.7) for curve in curves]
        parts.append(line(list(np.mean(curves, axis=0)), color, 2.5))
        parts.append(text(across, bottom + 30, arm, color=color, weight="bold"))
        across += 9 * len(arm) + 6
    return parts


if __name__ == "__main__":  # python -m tools.pages.curves
    plan, rows = load()
    if found := curves_of(plan, rows):
        FIGURE.write_text(draw(plan, found), encoding="utf-8")
        print(FIGURE)
