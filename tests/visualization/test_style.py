"""A sheet: inches become pixels, and what is placed stands where it was placed."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest

from fastreid_parts.visualization import style
from fastreid_parts.visualization.style import DPI, MATCH, Sheet, fitting_size, literal


def pixels_of(sheet: Sheet) -> np.ndarray:
    """(H, W, 3) RGB of the page."""
    content = io.BytesIO()
    sheet.save(content)
    return cv2.imdecode(np.frombuffer(content.getvalue(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_images_stand_where_they_are_placed_and_frames_outside_of_them() -> None:
    sheet = Sheet(2, 1)
    for left in (0.25, 1.25):  # the second does not move the first
        sheet.image(np.full((4, 4, 3), (10, 20, 250), np.uint8), left, 0.25, 0.5, 0.5, MATCH, frame_inches=0.05)
    page = pixels_of(sheet)
    assert page.shape == (DPI, 2 * DPI, 3)
    rows, columns = (np.abs(page.astype(int) - (10, 20, 250)).max(axis=2) <= 2).nonzero()
    expected = DPI * np.array([0.25, 0.75, 0.25, 1.75])
    found = [rows.min(), rows.max() + 1, columns.min(), columns.max() + 1]
    assert found == pytest.approx(expected, abs=1)
    assert tuple(page[DPI // 2, round(0.22 * DPI)]) == tuple(bytes.fromhex(MATCH[1:]))
    assert (page[DPI // 2, DPI] == 255).all()


def test_a_title_takes_room_above_the_content_only_where_there_is_one() -> None:
    plain, top = Sheet.titled(2, 1, "", margin=0.1, line=0.3)
    assert (plain.width, plain.height, top) == pytest.approx((2.2, 1.2, 0.1))
    titled, top = Sheet.titled(2, 1, "Title", margin=0.1, line=0.3)
    assert (titled.width, titled.height, top) == pytest.approx((2.2, 1.5, 0.4))
    head = pixels_of(titled)[: round(0.4 * DPI)]
    assert head.min() < 100 and (pixels_of(plain) == 255).all()


def test_a_name_that_begins_with_an_underscore_is_in_the_legend() -> None:
    """matplotlib leaves such labels out."""
    axes = Sheet(2, 2).axes(0.5, 0.5, 1, 1)
    for name in ("_base", "new"):
        axes.plot([0, 1], [0, 1], label=literal(name))
    shown = [text.get_text() for text in axes.legend().get_texts()]
    assert [text.lstrip("\u200b") for text in shown] == ["_base", "new"]


def test_letters_that_the_font_lacks_are_those_of_another_that_is_installed() -> None:
    assert style._families([]) == ["DejaVu Sans"]
    assert style._families({"Malgun Gothic", "Noto Sans CJK SC", "Comic Sans"}) == [
        "DejaVu Sans", "Noto Sans CJK SC", "Malgun Gothic",
    ]  # fmt: skip


def test_a_long_title_stays_on_the_page_and_a_dollar_sign_is_no_formula() -> None:
    assert fitting_size("short", 2, 10) == 10
    assert fitting_size("n" * 80, 2, 10) == pytest.approx(fitting_size("n" * 40, 2, 10) / 2)
    sheet, _ = Sheet.titled(2, 0.5, "cost_$_of_$" * 8)
    page = pixels_of(sheet)
    assert (page[:, -round(0.1 * DPI) :] == 255).all() and page.min() < 100
