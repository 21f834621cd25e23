"""What the host's datasets say of files that do not fit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from fastreid.config import get_cfg
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.dukemtmcreid import DukeMTMC
from fastreid.data.datasets.market1501 import Market1501
from fastreid.data.datasets.veri import VeRi

from fastreid_parts.compat.datasets import NAMINGS
from fastreid_parts.data.build import build_reid_test_loader, load_dataset
from fastreid_parts.host import registered_names

from ..commands.run import problem
from ..data.make_images import write_folders

MARKET = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0007_c6s1_000451_03.jpg", "-1_c1s1_000401_03.jpg"],
    "query": ["0003_c1s1_000151_01.jpg"],
    "bounding_box_test": ["0003_c2s1_000151_01.jpg", "0000_c2s1_000151_01.jpg", "-1_c1s1_000401_03.jpg"],
}
DUKE = {
    "bounding_box_train": ["0001_c2_f0046182.jpg", "7140_c8_f0046182.jpg"],
    "query": ["0005_c2_f0046985.jpg"],
    "bounding_box_test": ["0005_c1_f0046985.jpg"],
}
VERI = {
    "image_train": ["0001_c001_00016450_0.jpg", "0776_c020_00016450_0.jpg"],
    "image_query": ["0002_c002_00030600_0.jpg"],
    "image_test": ["0002_c003_00030600_0.jpg"],
}
FOLDERS: dict[Any, tuple[str, dict[str, list[str]]]] = {
    Market1501: ("Market-1501-v15.09.15", MARKET), DukeMTMC: ("DukeMTMC-reID", DUKE), VeRi: ("veri", VERI),
}  # fmt: skip


def write(root: Path, kind: type) -> Path:
    """One of the three datasets below `root`; gives its folder."""
    below, folders = FOLDERS[kind]
    return write_folders(root / below, folders)


@pytest.mark.parametrize("kind", FOLDERS, ids=lambda kind: kind.__name__)
def test_what_fits_is_read_as_the_host_reads_it(tmp_path: Path, kind: type) -> None:
    folder = write(tmp_path, kind)
    data = load_dataset(kind.__name__, root=str(tmp_path))
    for name, is_train in zip(FOLDERS[kind][1], (True, False, False)):
        hosts = kind.process_dir.__wrapped__(data, str(folder / name), is_train)
        assert sorted(hosts) == kind.process_dir(data, str(folder / name), is_train) and hosts
    assert all(NAMINGS[kind].read(path.name) != "" for path in folder.rglob("*.jpg"))


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        (Market1501, "1600_c1s1_000451_03.jpg", "identity 1600; they are 0 to 1501, and -1 for junk"),
        (Market1501, "-2_c1s1_000451_03.jpg", "identity -2"),
        (Market1501, "0002_c7s1_000451_03.jpg", "camera 7; they are 1 to 6"),
        (Market1501, "0002_c10s1_000451_03.jpg", "camera 10; they are 1 to 6"),
        (Market1501, "stray.jpg", "no identity and camera"),
        (DukeMTMC, "0002_c9_f0046182.jpg", "camera 9; they are 1 to 8"),
        (DukeMTMC, "stray.jpg", "no identity and camera"),
        (VeRi, "0777_c001_00016450_0.jpg", "identity 777; they are 0 to 776"),
        (VeRi, "0776_c021_00016450_0.jpg", "camera 21; they are 1 to 20"),
    ],
)
def test_a_name_that_does_not_fit(tmp_path: Path, kind: type, name: str, reason: str) -> None:
    """NirAharon/BoT-SORT#5: 'NoneType' object has no attribute 'groups', of a name that the pattern does not match."""
    folder = write(tmp_path, kind) / next(iter(FOLDERS[kind][1]))
    write_folders(folder, {".": [name, "second_stray.jpg"]})
    with pytest.raises(ValueError, match=rf"{kind.__name__}: 2 of \d images in {folder}") as error:
        load_dataset(kind.__name__, root=str(tmp_path))
    assert f"{name}: {reason}" in str(error.value) and "second_stray.jpg: no identity" in str(error.value)
    assert "FASTREID_DATASETS" not in str(error.value)  # the folder was found


def test_every_split_is_one_line_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Market-1501's query and gallery are read when they are first looked at, long after the dataset was made."""
    folder = write(tmp_path, Market1501)
    for split in MARKET:
        write_folders(folder, {split: ["1600_c1s1_1.jpg"]})
        said = problem(capsys, "check-data", "--dataset-name", "Market1501", "--root", tmp_path)
        assert f"Market1501: 1 of {len(MARKET[split]) + 1} images in {folder / split}" in said and "1600" in said
        (folder / split / "1600_c1s1_1.jpg").unlink()


def test_the_path_above_says_nothing_about_identities(tmp_path: Path) -> None:
    """The host finds `12_c3` in the whole path, and images of a folder with `[` not at all."""
    root = tmp_path / "12_c3 [old]"
    write(root, Market1501)
    data = load_dataset("Market1501", root=str(root))
    assert [item[1:] for item in data.train] == [("market1501_2", "market1501_0"), ("market1501_7", "market1501_5")]


def test_images_that_are_passed_over_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path, Market1501)
    write_folders(folder, {"query": ["0004_c1s1_1.png", "0005_c1s1_1.PNG"]})
    (folder / "query" / "Thumbs.db").write_text("")
    with caplog.at_level(logging.WARNING):
        assert len(load_dataset("Market1501", root=str(tmp_path)).query) == 1
    assert f"{folder / 'query'}: 2 files passed over, no .jpg: 0004_c1s1_1.png, 0005_c1s1_1.PNG" in caplog.text
    assert "Thumbs" not in caplog.text  # it comes with Market-1501


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0001/0001_01_0303morning_0008_0.jpg\n", "ValueError, not enough values to unpack"),
        ("\n", "ValueError, not enough values to unpack"),
        ("0001/photo.jpg 7\n", "IndexError, list index out of range"),
        ("0001/0001_000_01_0303morning.jpg seven\n", "ValueError, invalid literal for int"),
    ],
)
def test_a_line_of_a_list_that_does_not_fit(tmp_path: Path, line: str, reason: str) -> None:
    """JDAI-CV/fast-reid#488: a list whose lines have another form ends deep inside of the dataset."""
    folder = tmp_path / "MSMT17_V1"
    for name in ("train", "test"):
        (folder / name).mkdir(parents=True)
    for name in ("train", "val", "query", "gallery"):
        (folder / f"list_{name}.txt").write_text("0001/0001_000_01_0303morning_0008_0.jpg 1\n")
    load_dataset("MSMT17", root=str(tmp_path))
    (folder / "list_query.txt").write_text(line)
    with pytest.raises(ValueError, match="MSMT17 cannot be read: at '") as error:
        load_dataset("MSMT17", root=str(tmp_path))
    said = str(error.value)
    assert repr(line.split(" ")[0]) in said or repr(line) in said
    assert reason in said and "check-data --dataset-name MSMT17" in said and "FASTREID_DATASETS" not in said


def test_a_split_that_is_no_json(tmp_path: Path) -> None:
    folder = tmp_path / "cuhk03"
    (folder / "cuhk03_release").mkdir(parents=True)
    (folder / "cuhk03_release" / "cuhk-03.mat").write_text("")
    for name in ("images_detected", "images_labeled"):
        (folder / name).mkdir()
    for kind in ("detected", "labeled"):
        (folder / f"cuhk03_new_protocol_config_{kind}.mat").write_text("")
        for split in ("classic", "new"):
            (folder / f"splits_{split}_{kind}.json").write_text("[{")
    with pytest.raises(ValueError, match="CUHK03 cannot be read: at .*splits_new_labeled.json', JSONDecodeError, "):
        load_dataset("CUHK03", root=str(tmp_path))


def test_a_bare_assertion_is_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "VERI-Wild" / "train_test_split"
    (tmp_path / "VERI-Wild" / "images").mkdir(parents=True)
    folder.mkdir()
    (folder / "vehicle_info.txt").write_text("id/image;Camera ID\n00001/000001;14\n00001/000001;14\n")
    for name in ("train_list.txt", "test_10000_query.txt", "test_10000.txt"):
        (folder / name).write_text("00001/000001.jpg\n")
    with pytest.raises(ValueError, match=r"AssertionError in `assert len\(imgid2vid\) == "):
        load_dataset("VeRiWild", root=str(tmp_path))


@pytest.mark.parametrize("name", [n for n in registered_names(DATASET_REGISTRY) if n != "SyntheticReID"])
def test_a_folder_that_is_not_there_is_the_hosts_own_message(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read|FolderReID needs") as error:
        load_dataset(name, get_cfg(), str(tmp_path))
    assert "Error in `" not in str(error.value)


def test_a_test_set_without_a_match_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folders(tmp_path / FOLDERS[Market1501][0], {**MARKET, "bounding_box_test": ["0003_c1s1_000152_01.jpg"]})
    monkeypatch.setattr("fastreid.data.build._root", str(tmp_path))
    with pytest.raises(ValueError, match="Market1501: none of the 1 query can be scored"):
        build_reid_test_loader(get_cfg(), dataset_name="Market1501")
