"""Which files of a folder are images, and what is said of the others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fastreid_parts.data.datasets.folder import list_images_of
from fastreid_parts.data.image_files import describe_passed_over, find_images, image_extensions

from .make_images import write_folders, write_image


def test_all_that_pillow_reads_and_nothing_that_it_only_knows() -> None:
    assert {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jp2", ".ppm"} <= set(
        image_extensions()
    )
    assert not {".pdf", ".h5", ".mpg", ".wmf", ".txt", ".csv"} & set(image_extensions())


def test_links_in_a_circle(tmp_path: Path) -> None:
    """glob follows links in a circle until the path is too long: FaithLife-Community/OuDedetai#91."""
    for number in range(14):
        write_image(tmp_path / "shop" / f"day{number % 2}" / f"{number:02d}.jpg")
    (tmp_path / "shop" / "a_again").symlink_to(tmp_path / "shop")
    (tmp_path / "shop" / "day0" / "up").symlink_to("..")
    (tmp_path / "shop" / "self").symlink_to("self")
    (tmp_path / "shop" / "gone.jpg").symlink_to("nothing.jpg")
    found, passed_over = find_images(tmp_path / "shop", deep=True)
    assert found == sorted(f"day{number % 2}/{number:02d}.jpg" for number in range(14))
    assert passed_over["a link to a folder that is read already"] == ["a_again", "day0/up"]
    assert passed_over["a link to nothing"][-1] == "gone.jpg"
    assert sum(map(len, passed_over.values())) == 4


def test_a_linked_folder_is_read(tmp_path: Path) -> None:
    """A set that is linked into another folder: fastai/fastai#2270."""
    write_image(tmp_path / "store" / "1.jpg")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "valid").symlink_to(tmp_path / "store")
    assert find_images(tmp_path / "mine", deep=True)[0] == ["valid/1.jpg"]
    assert find_images(tmp_path / "mine") == ([], {"a link to a folder": ["valid"]})


def test_folders_beside_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lost+found of a disk of images, which is root's."""
    for folder in ("lost+found", "notes/private"):
        (tmp_path / folder).mkdir(parents=True)
    write_folders(tmp_path, {"train": ["1_c1.jpg", "1_c2.jpg"]})
    scan = os.scandir

    def refuses(folder: str) -> Any:
        if str(folder).rstrip(os.sep).endswith(("lost+found", "private")):
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuses)
    unopened = {"a folder that cannot be opened (Permission denied)": ["lost+found", "notes/private"]}
    assert find_images(tmp_path) == ([], {**unopened, "in a folder below": ["train/1_c1.jpg", "train/1_c2.jpg"]})
    listing = list_images_of(str(tmp_path))
    assert len(listing.rows) == 2 and {k: v for k, v in listing.passed_over.items() if v} == unopened


def test_names_that_are_no_utf8_and_folders_below(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    (tmp_path / "notes").write_bytes(b"x")
    write_image(tmp_path / "below" / "deeper" / "1.jpg")
    found, passed_over = find_images(tmp_path)
    assert [os.fsencode(name) for name in found] == [b"caf\xe9.jpg"]
    assert describe_passed_over(passed_over) == [
        "1 file passed over, in a folder below: below/deeper/1.jpg",
        "1 file passed over, no image by its ending, none: notes",
    ]
