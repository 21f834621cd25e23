"""Command augmentations: the sheet, the table of the steps in force, the draws by their seed, and its errors."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import Compose

from fastreid_parts.analysis import augmentations
from fastreid_parts.analysis.augmentations import augmented, draw_contact_sheet, steps_in_force
from fastreid_parts.config import load_config
from fastreid_parts.data.transforms import build_transforms
from tests.commands.run import problem, run

RED, GREEN, BLUE = (220, 30, 30), (30, 200, 30), (30, 30, 220)
CONFIG = ["--config-file", "Synthetic/cge_bot.yml"]
ONLY_RSA = [
    "INPUT.RSA.ENABLED", "True", "INPUT.FLIP.ENABLED", "False", "INPUT.PADDING.ENABLED", "False",
    "INPUT.REA.ENABLED", "False", "INPUT.SIZE_TRAIN", "[48, 24]",
]  # fmt: skip
EVERYTHING = [
    "INPUT.RSA.ENABLED", "True", "INPUT.EXTRA_TRANSFORMS", "['RandomCropResizeShift']", "INPUT.CJ.ENABLED", "True",
    "INPUT.AUTOAUG.ENABLED", "True", "INPUT.AUTOAUG.PROB", "0.1", "INPUT.AUGMIX.ENABLED", "True",
    "INPUT.RPT.ENABLED", "True", "INPUT.AFFINE.ENABLED", "True",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images without a pixel of the gray that random shifting fills with."""
    root = tmp_path_factory.mktemp("images")
    for number in range(3):
        image = np.random.default_rng(number).integers(140, 256, (48, 24, 3)).astype(np.uint8)
        cv2.imwrite(str(root / f"person_{number}.png"), image)
    return root


def paths(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.iterdir())


def table(output: str) -> dict[str, str]:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if line[:1] == "|"]
    return {row[0]: row[1] for row in rows[2:]}


def test_a_sheet_of_own_images(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "new" / "sheet.png"
    call = [*CONFIG, "--images", str(folder), "--output", str(output), "--draws", "2", "--opts", *ONLY_RSA]
    printed = run(capsys, "augmentations", *call).out
    assert list(table(printed)) == ["RandomShifting", "Resize", "ToTensor"]
    assert "crop_prob=0.5, crop_min=0.7" in table(printed)["RandomShifting"]
    assert f"3 images, 2 draws of each, seed 0: {output}" in printed
    picture = cv2.imread(str(output))
    assert picture is not None and picture.shape[0] > picture.shape[1] > 300
    gray = (picture == 127).all(axis=-1).mean()
    assert 0.05 < gray < 0.5


def test_the_seed_decides_the_sheet(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pictures = []
    for seed in ("5", "5", "6"):
        output = tmp_path / "sheet.png"
        run(capsys, "augmentations", *CONFIG, "--images", *paths(folder)[:1], "--output", output, "--seed", seed)
        pictures.append(cv2.imread(str(output)))
    assert np.array_equal(pictures[0], pictures[1])
    assert pictures[0].shape == pictures[2].shape and not np.array_equal(pictures[0], pictures[2])


def test_images_of_the_configs_dataset(
    market_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    original = augmentations.augmented
    monkeypatch.setattr(
        augmentations, "augmented", lambda t, paths, *rest: drawn.extend(paths) or original(t, paths, *rest)
    )
    own = ["DATASETS.NAMES", "('FolderReID',)", "DATASETS.FOLDER.ROOT", str(market_folder)]
    call = [*CONFIG, "--output", str(tmp_path / "sheet.png"), "--draws", "1", "--max-images", "4", "--opts", *own]
    assert "36 images; 4 of them" in run(capsys, "augmentations", *call).out
    train = sorted(str(path) for path in (market_folder / "bounding_box_train").iterdir())
    assert drawn == [train[0], train[12], train[23], train[35]]


def test_without_a_dataset_the_error_points_to_images(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    missing = ["DATASETS.NAMES", "('FolderReID',)", "DATASETS.FOLDER.ROOT", str(tmp_path / "nowhere")]
    output = tmp_path / "sheet.png"
    call = ["augmentations", *CONFIG, "--output", output, "--opts"]
    message = problem(capsys, *call, *missing)
    assert "nowhere" in message and "--images FOLDER" in message
    assert "DATASETS.NAMES" in problem(capsys, *call, "DATASETS.NAMES", "()") and not output.exists()


def test_other_errors(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    text = tmp_path / "notes.png"
    text.write_text("no image")
    output = ["--output", str(tmp_path / "sheet.png")]
    for arguments, message in (
        (["--images", str(tmp_path / "none")], "neither an image nor a folder"),
        (["--images", str(text)], "cannot read image .*notes.png"),
        (["--images", str(folder), "--opts", "INPUT.RSA.ENABLED", "True", "INPUT.RSA.CROP_MIN", "0.0"], "CROP_MIN"),
        (["--images", str(folder), "--opts", "INPUT.RSB", "1"], "RSB"),
    ):
        assert re.search(message, problem(capsys, "augmentations", *CONFIG, *output, *arguments))
    for wrong in (["--draws", "0"], ["--max-images", "0"], ["--opts", "INPUT.RSA.ENABLED"]):
        problem(capsys, "augmentations", *CONFIG, "--images", folder, *output, *wrong)


def test_draws_are_what_training_sees(folder: Path) -> None:
    transform = build_transforms(load_config("Synthetic/cge_bot.yml", ONLY_RSA))
    rows = augmented(transform, paths(folder), 5, seed=1)
    assert [len(row) for row in rows] == [5, 5, 5]
    for row in rows:
        assert all(draw.shape == (48, 24, 3) and draw.dtype == np.uint8 for draw in row)
        assert all((draw == 127).all(axis=-1).any() for draw in row)  # the box of random shifting
        assert len({draw.tobytes() for draw in row}) == 5
    again = augmented(transform, paths(folder), 5, seed=1)
    assert all(np.array_equal(a, b) for one, two in zip(rows, again) for a, b in zip(one, two))


def test_pixels_are_rounded_and_kept_in_their_range(folder: Path) -> None:
    levels = torch.tensor([300.0, -5.0, 100.6]).view(3, 1, 1).expand(3, 2, 2)
    (draw,) = augmented(Compose([lambda image: levels]), paths(folder)[:1], 1, seed=0)[0]
    assert draw[0, 0].tolist() == [255, 0, 101]


def test_every_step_is_listed_with_its_settings() -> None:
    cfg = load_config("Synthetic/cge_bot.yml", EVERYTHING)
    steps = steps_in_force(build_transforms(cfg))
    assert [name for name, _ in steps] == [
        "RandomShifting", "RandomCropResizeShift", "RandomApply", "Resize", "Pad", "RandomCrop",
        "RandomHorizontalFlip", "RandomApply", "RandomAffine", "AugMix", "ToTensor", "RandomErasing", "RandomPatch",
    ]  # fmt: skip
    settings = dict(steps)
    assert settings["RandomApply"].startswith("p=0.5 ColorJitter(brightness=")
    assert steps[2][1] == "p=0.1 AutoAugment"
    assert settings["RandomHorizontalFlip"] == "p=0.5" and settings["ToTensor"] == ""
    assert "prob=0.0" in settings["AugMix"] and "prob_happen=0.5" in settings["RandomPatch"]
    assert "crop_min=0.7, shift_max=0.1" in settings["RandomCropResizeShift"]
    assert "0x" not in str(steps)


# ---- the sheet


def plain(color: tuple[int, int, int], height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


def boxes(path: Path, color: tuple[int, int, int]) -> list[tuple[int, int, int, int]]:
    """Left, top, width and height of the areas of a color in a picture, by their rows and then columns."""
    picture = cv2.imread(str(path))[..., ::-1].astype(int)
    mask = (np.abs(picture - color).max(axis=-1) < 8).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    found = [tuple(int(v) for v in row[:4]) for row in stats[1:] if row[4] > 50]
    return sorted(found, key=lambda box: (box[1], box[0]))


def test_rows_are_images_and_columns_the_original_and_its_draws(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sheet.png"
    originals = [plain(RED, 128, 64), plain(RED, 128, 64)]
    draws = [[plain(GREEN, 384, 128), plain(BLUE, 384, 128)], [plain(BLUE, 384, 128), plain(GREEN, 384, 128)]]
    draw_contact_sheet(originals, draws, path, labels=["one.jpg", "two.jpg"], title="a $title$")
    red, green, blue = (boxes(path, color) for color in (RED, GREEN, BLUE))
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
    assert green[0][1] + green[0][3] / 2 == pytest.approx(red[0][1] + red[0][3] / 2, abs=2)  # centerd


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
