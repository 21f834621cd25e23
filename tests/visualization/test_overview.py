from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fastreid_parts.evaluation import Features
from fastreid_parts.visualization import draw_overview, rank_examples, strip_of_people
from fastreid_parts.visualization.style import Sheet


def gallery_of(people: int, path: str) -> Features:
    pids = np.repeat(np.arange(people), 4)
    features = np.arange(4 * people, dtype=np.float32)[:, None]
    return Features(features, pids, np.tile([1, 1, 2, 2], people), [path.format(i) for i in range(4 * people)])


def strip(people_there: int, **settings: int) -> list:
    gallery = gallery_of(people_there, "{}")
    return strip_of_people(gallery, gallery, **settings)


def test_strip_shows_every_camera_first() -> None:
    assert strip(1, images=2) == [["0", "2"]]
    assert strip(1, images=4) == [["0", "2", "1", "3"]]


def test_strip_takes_people_from_all_over() -> None:
    assert strip(9, people=3, images=1) == [["0"], ["16"], ["32"]]
    assert strip(2, people=3, images=5) == []


def test_strip_leaves_out_who_is_no_query() -> None:
    gallery = gallery_of(3, "{}")
    query = Features(gallery.features[8:9], gallery.pids[8:9], gallery.camids[8:9], ["q"])
    assert strip_of_people(query, gallery, images=1) == [["8"]]


def test_draws(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((32, 16, 3), 90, np.uint8))
    gallery = gallery_of(3, str(tmp_path / "a.png"))
    query = Features(gallery.features[::4], np.arange(3), np.zeros(3, int), gallery.paths[::4])
    path = tmp_path / "overview.png"
    draw_overview(
        path,
        strip_of_people(query, gallery),
        rank_examples(query, gallery, k=5, each=1),
        [np.zeros((32, 16, 3), np.uint8)],
        {"trained": np.zeros((1, 32, 16), np.float32)},
        ["people", "lists", "maps"],
    )
    assert cv2.imread(str(path)).std() > 10


def test_sheet_places_images_in_inches(tmp_path: Path) -> None:
    sheet = Sheet(2, 1)
    sheet.image(np.full((4, 4, 3), (250, 0, 0), np.uint8), 0.5, 0.25, 1.0, 0.5)
    sheet.save(tmp_path / "a.png")
    pixels = cv2.imread(str(tmp_path / "a.png"))[..., ::-1]
    height, width, _ = pixels.shape
    assert width == 2 * height
    rows, columns = np.nonzero((pixels == (250, 0, 0)).all(axis=2))
    assert [rows.min() / height, (rows.max() + 1) / height] == pytest.approx([0.25, 0.75], abs=0.02)
    assert [columns.min() / width, (columns.max() + 1) / width] == pytest.approx([0.25, 0.75], abs=0.02)
