"""The contact sheet: which image stands where, undistorted, and what it says about lists that do not fit."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fastreid_parts.visualization.contact_sheet import draw_contact_sheet

RED, GREEN, BLUE = (220, 30, 30), (30, 200, 30), (30, 30, 220)


def plain(colour: tuple[int, int, int], height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def boxes(path: Path, colour: tuple[int, int, int]) -> list[tuple[int, int, int, int]]:
    """Left, top, width and height of the areas of a colour in a picture, by their rows and then columns."""
    picture = cv2.imread(str(path))[..., ::-1].astype(int)
    mask = (np.abs(picture - colour).max(axis=-1) < 8).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    found = [tuple(int(v) for v in row[:4]) for row in stats[1:] if row[4] > 50]
    return sorted(found, key=lambda box: (box[1], box[0]))


def test_rows_are_images_and_columns_the_original_and_its_draws(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sheet.png"
    originals = [plain(RED, 128, 64), plain(RED, 128, 64)]
    draws = [[plain(GREEN, 384, 128), plain(BLUE, 384, 128)], [plain(BLUE, 384, 128), plain(GREEN, 384, 128)]]
    draw_contact_sheet(originals, draws, path, labels=["one.jpg", "two.jpg"], title="a $title$")
    red, green, blue = (boxes(path, colour) for colour in (RED, GREEN, BLUE))
    assert len(red) == len(green) == len(blue) == 2
    assert red[0][0] == red[1][0] and red[0][1] < red[1][1]
    assert red[0][0] < green[0][0] < blue[0][0]  # first row: green, blue
    assert red[1][0] < blue[1][0] < green[1][0]
    assert green[0][0] == blue[1][0] and blue[0][0] == green[1][0]


def test_images_keep_their_aspect_and_do_not_overlap(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    originals = [plain(RED, 100, 50), plain(RED, 50, 100), plain(RED, 30, 30)]
    draw_contact_sheet(originals, [[plain(GREEN, 384, 128)]] * 3, path)
    red, green = boxes(path, RED), boxes(path, GREEN)
    assert [box[2] / box[3] for box in red] == pytest.approx([0.5, 2, 1], rel=0.03)
    assert [box[2] / box[3] for box in green] == pytest.approx([1 / 3] * 3, rel=0.05)
    assert max(box[0] + box[2] for box in red) < min(box[0] for box in green)
    for upper, lower in zip(green, green[1:]):
        assert upper[1] + upper[3] < lower[1]


def test_a_row_is_as_high_as_its_highest_image(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    draw_contact_sheet([plain(RED, 100, 50)] * 2, [[plain(GREEN, 50, 100)]] * 2, path)
    red, green = boxes(path, RED), boxes(path, GREEN)
    assert len(red) == 2 and red[0][1] + red[0][3] < red[1][1]
    assert green[0][1] + green[0][3] / 2 == pytest.approx(red[0][1] + red[0][3] / 2, abs=2)  # centred


def test_a_needle_of_an_image_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    draw_contact_sheet([plain(RED, 1, 500)], [[plain(GREEN, 500, 1)]], path)
    (red,), (green,) = boxes(path, RED), boxes(path, GREEN)
    assert min(*red[2:], *green[2:]) >= 6


def test_lists_that_do_not_fit(tmp_path: Path) -> None:
    path, image = tmp_path / "sheet.png", plain(RED, 8, 4)
    for originals, draws in (([], []), ([image], []), ([image], [[]])):
        with pytest.raises(ValueError, match="at least one image and one draw"):
            draw_contact_sheet(originals, draws, path)
    with pytest.raises(ValueError, match="2 images, 1 rows of 1 draws"):
        draw_contact_sheet([image, image], [[image]], path)
    with pytest.raises(ValueError, match="2 rows of 1 or 2 draws"):
        draw_contact_sheet([image, image], [[image], [image, image]], path)
    with pytest.raises(ValueError, match="1 images but 2 labels"):
        draw_contact_sheet([image], [[image]], path, labels=["a", "b"])
    assert not path.exists()
