"""Command augmentations: the sheet, the table of the steps in force, the draws by their seed, and its errors."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import Compose

from fastreid_parts.commands import augmentations
from fastreid_parts.commands._trained_models import load_config
from fastreid_parts.commands.augmentations import augmented, main, steps_in_force
from fastreid_parts.data.transforms import build_transforms

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
    """Three images without a pixel of the grey that random shifting fills with."""
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
    assert main(call) == 0
    printed = capsys.readouterr().out
    assert list(table(printed)) == ["RandomShifting", "Resize", "ToTensor"]
    assert "crop_prob=0.5, crop_min=0.7" in table(printed)["RandomShifting"]
    assert f"3 images, 2 draws of each, seed 0: {output}" in printed
    picture = cv2.imread(str(output))
    assert picture is not None and picture.shape[0] > picture.shape[1] > 300
    grey = (picture == 127).all(axis=-1).mean()
    assert 0.05 < grey < 0.5


def test_the_seed_decides_the_sheet(folder: Path, tmp_path: Path) -> None:
    pictures = []
    for seed in ("5", "5", "6"):
        output = tmp_path / "sheet.png"
        assert main([*CONFIG, "--images", *paths(folder)[:1], "--output", str(output), "--seed", seed]) == 0
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
    assert main(call) == 0
    assert "36 images; 4 of them" in capsys.readouterr().out
    train = sorted(str(path) for path in (market_folder / "bounding_box_train").iterdir())
    assert drawn == [train[0], train[12], train[23], train[35]]


def test_without_a_dataset_the_error_points_to_images(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    missing = ["DATASETS.NAMES", "('FolderReID',)", "DATASETS.FOLDER.ROOT", str(tmp_path / "nowhere")]
    output = tmp_path / "sheet.png"
    assert main([*CONFIG, "--output", str(output), "--opts", *missing]) == 1
    printed = capsys.readouterr().out
    assert "nowhere" in printed and "--images FOLDER" in printed
    assert main([*CONFIG, "--output", str(output), "--opts", "DATASETS.NAMES", "()"]) == 1
    assert "DATASETS.NAMES" in capsys.readouterr().out and not output.exists()


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
        assert main([*CONFIG, *output, *arguments]) == 1
        printed = capsys.readouterr().out
        assert printed.startswith("Problem: ")
        assert re.search(message, printed)
    for wrong in (["--draws", "0"], ["--max-images", "0"], ["--opts", "INPUT.RSA.ENABLED"]):
        with pytest.raises(SystemExit):
            main([*CONFIG, "--images", str(folder), *output, *wrong])


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
