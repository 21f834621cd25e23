from __future__ import annotations

import logging
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fastreid.data.datasets import DATASET_REGISTRY
from PIL import Image

from fastreid_parts.data.checks import unmatched_queries
from fastreid_parts.data.datasets import cuhk03_np

from .make_images import noise, write_folders

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"


def load(name, root):
    return DATASET_REGISTRY.get(name)(root=str(root))


def community(root, kind, train=(1, 2), test=(3,)):
    return write_folders(
        root / kind,
        {
            TRAIN: [f"{p:04d}_c{c}_{n}.png" for p in train for c, n in ((1, 1), (2, 6))],
            QUERY: [f"{p:04d}_c{c}_{n}.png" for p in test for c, n in ((1, 1), (2, 6))],
            GALLERY: [f"{p:04d}_c{c}_{n}.jpg" for p in test for c, n in ((1, 2), (2, 7))],
        },
    )


# ---- the community's layout ----


@pytest.mark.parametrize("top", ["cuhk03-np", "CUHK03-NP", "cuhk03np"])
@pytest.mark.parametrize("kind", ["labeled", "labelled", "detected"])
def test_community_layout(tmp_path, top, kind):
    community(tmp_path / top, kind)
    name = "CUHK03NP_detected" if kind == "detected" else "CUHK03NP_labeled"
    data = load(name, tmp_path)
    folder = tmp_path / top / kind
    assert data.train == [
        (str(folder / TRAIN / "0001_c1_1.png"), "cuhk03np_1", "cuhk03np_0"),
        (str(folder / TRAIN / "0001_c2_6.png"), "cuhk03np_1", "cuhk03np_1"),
        (str(folder / TRAIN / "0002_c1_1.png"), "cuhk03np_2", "cuhk03np_0"),
        (str(folder / TRAIN / "0002_c2_6.png"), "cuhk03np_2", "cuhk03np_1"),
    ]
    assert [item[1:] for item in data.query] == [(3, 0), (3, 1)]
    assert [item[1:] for item in data.gallery] == [(3, 0), (3, 1)]
    assert unmatched_queries(data.query, data.gallery) == []


def test_mixed_joins_both_kinds_and_trains_on_nobody_it_tests_on(tmp_path, caplog):
    community(tmp_path / "cuhk03-np", "labeled", train=(1, 2), test=(3, 4))
    community(tmp_path / "cuhk03-np", "detected", train=(1, 3), test=(2, 4))
    with caplog.at_level(logging.INFO):
        data = load("CUHK03NP_mixed", tmp_path)
    assert {item[1] for item in data.train} == {"cuhk03np_1"}
    assert len(data.train) == 4
    assert sorted({item[1] for item in data.query}) == [2, 3, 4]
    assert len(data.query) == len(data.gallery) == 8
    assert "4 training images of 2 identities left out" in caplog.text


def test_counts_other_than_the_protocol_are_warned_of(tmp_path, caplog):
    community(tmp_path / "cuhk03-np", "labeled")
    load("CUHK03NP_labeled", tmp_path)
    assert "4 train images" in caplog.text and "the published protocol has 7368" in caplog.text


def test_missing_dataset_names_both_layouts(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load("CUHK03NP_detected", tmp_path)
    message = str(error.value)
    for part in (
        str(tmp_path / "cuhk03-np" / "detected"),
        TRAIN,
        QUERY,
        GALLERY,
        str(tmp_path / "cuhk03" / "cuhk03_release" / "cuhk-03.mat") + " (missing)",
        str(tmp_path / "cuhk03" / "cuhk03_new_protocol_config_detected.mat") + " (missing)",
    ):
        assert part in message


def test_missing_split_folder_is_named(tmp_path):
    community(tmp_path / "cuhk03-np", "labeled")
    shutil.rmtree(tmp_path / "cuhk03-np" / "labeled" / QUERY)
    with pytest.raises(FileNotFoundError, match="lacks the folder query"):
        load("CUHK03NP_labeled", tmp_path)


def test_unparseable_name_is_named(tmp_path):
    community(tmp_path / "cuhk03-np", "labeled")
    write_folders(tmp_path / "cuhk03-np" / "labeled", {GALLERY: ["someone.png"]})
    with pytest.raises(ValueError, match="someone.png"):
        load("CUHK03NP_labeled", tmp_path)


# ---- the original release ----

# (pair, person, slot) -> what the release shows there; slots 1-5 are one view, 6-10 the other
PERSONS = {1: 2, 2: 1, 3: 1, 4: 1, 5: 1}
IDENTITY = {(1, 1): 1, (1, 2): 2, (2, 1): 3, (3, 1): 4, (4, 1): 5, (5, 1): 1467}


def release_cells(kind):
    return [
        (pair, person, slot)
        for pair, persons in PERSONS.items()
        for person in range(1, persons + 1)
        for slot in (1, 2, 6, 10)
        if not (kind == "detected" and (pair, person, slot) == (1, 1, 2))
    ]


def pixels(kind, pair, person, slot):
    seed = pair * 1000 + person * 100 + slot * 2 + (kind == "detected")
    return noise(seed, height=20 + pair, width=9 + slot)


def write_release(root, kinds=("labeled", "detected")):
    """A release as MATLAB 7.3 stores it: axes reversed, cells as references, an empty cell as its sizes."""
    h5py = pytest.importorskip("h5py")
    scipy_io = pytest.importorskip("scipy.io")
    folder = root / "cuhk03" / "cuhk03_release"
    folder.mkdir(parents=True)
    with h5py.File(folder / "cuhk-03.mat", "w") as file:
        for kind in ("labeled", "detected"):
            there = set(release_cells(kind))
            outer = file.create_dataset(kind, (1, 5), dtype=h5py.ref_dtype)
            for pair, persons in PERSONS.items():
                cells = file.create_dataset(f"#refs#/{kind}{pair}", (10, persons), dtype=h5py.ref_dtype)
                for person in range(1, persons + 1):
                    for slot in range(1, 11):
                        name = f"#refs#/{kind}{pair}_{person}_{slot}"
                        if (pair, person, slot) in there:
                            cell = file.create_dataset(name, data=pixels(kind, pair, person, slot).T)
                        else:
                            cell = file.create_dataset(name, data=np.array([0, 0], dtype=np.uint64))
                            cell.attrs["MATLAB_empty"] = np.uint8(1)
                        cells[slot - 1, person - 1] = cell.ref
                outer[0, pair - 1] = cells.ref
    for kind in kinds:
        cells = release_cells(kind)
        names = [f"{pair}_{person:03d}_{1 if slot <= 5 else 2}_{slot:02d}.png" for pair, person, slot in cells]
        filelist = np.empty((len(names), 1), dtype=object)
        filelist[:, 0] = names
        identities = np.array([[IDENTITY[cell[:2]]] for cell in cells], dtype=np.uint16)
        test = identities[:, 0] > 3
        query = test & np.isin([cell[2] for cell in cells], (1, 6))
        scipy_io.savemat(
            root / "cuhk03" / f"cuhk03_new_protocol_config_{kind}.mat",
            {
                "filelist": filelist,
                "labels": identities,
                "camId": np.array([[1 if cell[2] <= 5 else 2] for cell in cells], dtype=np.uint8),
                "train_idx": (np.flatnonzero(~test) + 1).astype(np.uint16)[:, None],
                "query_idx": (np.flatnonzero(query) + 1).astype(np.uint16)[:, None],
                "gallery_idx": (np.flatnonzero(test & ~query) + 1).astype(np.uint16)[:, None],
            },
        )
    return root


@pytest.mark.parametrize("kind", ["labeled", "detected"])
def test_release_is_extracted_to_the_community_layout(tmp_path, kind):
    write_release(tmp_path)
    data = load(f"CUHK03NP_{kind}", tmp_path)
    assert len(data.train) == (12 if kind == "labeled" else 11)
    assert [item[1:] for item in data.query] == [(4, 0), (4, 1), (5, 0), (5, 1), (1467, 0), (1467, 1)]
    assert [item[1:] for item in data.gallery] == [item[1:] for item in data.query]
    folder = tmp_path / "cuhk03-np" / kind
    # every image is the cell that the protocol names, the right way up and in RGB
    for split, identity, slot, cell in (
        (TRAIN, 2, 6, (1, 2, 6)),
        (QUERY, 1467, 1, (5, 1, 1)),
        (GALLERY, 5, 10, (4, 1, 10)),
    ):
        image = folder / split / f"{identity:04d}_c{1 if slot <= 5 else 2}_{slot}.png"
        assert np.array_equal(np.asarray(Image.open(image)), pixels(kind, *cell))
    assert sum(1 for _ in folder.rglob("*.*")) == len(release_cells(kind))
    assert not (tmp_path / "cuhk03-np" / f"{kind}.partial").exists()


def test_release_is_extracted_once(tmp_path):
    write_release(tmp_path)
    first = load("CUHK03NP_labeled", tmp_path)
    shutil.rmtree(tmp_path / "cuhk03")
    again = load("CUHK03NP_labeled", tmp_path)
    assert (first.train, first.query, first.gallery) == (again.train, again.query, again.gallery)


def test_interrupted_extraction_is_resumed(tmp_path, monkeypatch):
    write_release(tmp_path)
    write, written = cuhk03_np._write_png, []

    def write_seven(image, path):
        if len(written) == 7:
            Path(f"{path}.999999999.tmp").write_bytes(b"half an image")  # as a killed process leaves it
            raise KeyboardInterrupt
        written.append(path)
        write(image, path)

    monkeypatch.setattr(cuhk03_np, "_write_png", write_seven)
    with pytest.raises(KeyboardInterrupt):
        load("CUHK03NP_labeled", tmp_path)
    assert not (tmp_path / "cuhk03-np" / "labeled").exists()

    def write_rest(image, path):
        assert path not in written
        write(image, path)

    monkeypatch.setattr(cuhk03_np, "_write_png", write_rest)
    data = load("CUHK03NP_labeled", tmp_path)
    assert len(data.train) + len(data.query) + len(data.gallery) == len(release_cells("labeled"))
    assert not list((tmp_path / "cuhk03-np").rglob("*.tmp"))


def test_concurrent_extractions_do_not_disturb_each_other(tmp_path):
    write_release(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: load("CUHK03NP_labeled", tmp_path), range(4)))
    assert all(data.train == loaded[0].train and len(data.train) == 12 for data in loaded)


def test_release_without_its_protocol_says_which_file_is_missing(tmp_path):
    write_release(tmp_path, kinds=("detected",))
    with pytest.raises(FileNotFoundError) as error:
        load("CUHK03NP_labeled", tmp_path)
    assert "cuhk-03.mat (there)" in str(error.value)
    assert "config_labeled.mat (missing)" in str(error.value)


def test_damaged_release_files_are_named(tmp_path):
    write_release(tmp_path)
    release = tmp_path / "cuhk03" / "cuhk03_release" / "cuhk-03.mat"
    whole = release.read_bytes()
    release.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cuhk-03\.mat cannot be read"):
        load("CUHK03NP_labeled", tmp_path)
    (tmp_path / "cuhk03" / "cuhk03_new_protocol_config_labeled.mat").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"config_labeled\.mat is not the protocol file"):
        load("CUHK03NP_labeled", tmp_path)


def test_image_missing_from_the_release_is_named(tmp_path):
    write_release(tmp_path)
    # the labeled protocol lists one image that only the labeled boxes hold
    (tmp_path / "cuhk03" / "cuhk03_new_protocol_config_labeled.mat").replace(
        tmp_path / "cuhk03" / "cuhk03_new_protocol_config_detected.mat"
    )
    with pytest.raises(ValueError, match="no detected image 1_001_1_02.png"):
        load("CUHK03NP_detected", tmp_path)


def test_missing_h5py_is_named(tmp_path, monkeypatch):
    write_release(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install h5py"):
        load("CUHK03NP_labeled", tmp_path)
