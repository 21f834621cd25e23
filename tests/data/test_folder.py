from __future__ import annotations

import logging

import pytest
from fastreid.config import get_cfg
from fastreid.data.datasets import DATASET_REGISTRY

from fastreid_parts.config import add_parts_config
from fastreid_parts.data.datasets.folder import FolderReID, list_images_of
from fastreid_parts.data.datasets.market_naming import parse_market_name

from .make_images import write_folders, write_image


def market_like(root):
    return write_folders(
        root,
        {
            "bounding_box_train": ["0002_c1s1_000451_03.jpg", "12_c12_1.PNG", "-1_c1_1.jpg"],
            "query": ["0100007_c1_1.jpeg", "0100007_c12_1.JPG"],
            "bounding_box_test": ["0100007_c2_1.bmp", "100007_c12_2.webp", "0000_c3_1.jpg", "-1_c2_9.jpg"],
        },
    )


def table(root, rows, header="path,identity,camera,split", images=True):
    csv = root / "people.csv"
    csv.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    for row in rows if images else ():
        path = row.split(",")[0].strip()
        if path.endswith(".jpg"):
            write_image(root / path)
    return csv


# ---- file names ----


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("0002_c1s1_000451_03.jpg", (2, 1)),
        ("0001_c12_1.png", (1, 12)),
        ("123456789_c003_1.png", (123456789, 3)),
        ("-1_c3.jpg", (-1, 3)),
        ("0000_c6s4_1.jpg", (0, 6)),
        ("-2_c3.jpg", None),
        ("anna_c1.jpg", None),
        ("0001_1.jpg", None),
        ("x0001_c1.jpg", None),
        ("0001_cam1.jpg", None),
    ],
)
def test_parse_market_name(name, parsed):
    assert parse_market_name(name) == parsed


# ---- a folder ----


def test_folder_in_market_naming(tmp_path):
    root = market_like(tmp_path)
    data = FolderReID(root=str(root))
    # cameras 1, 2, 3, 12 become 0, 1, 2, 11 in every split, so that every one is shown by its own number
    assert data.train == [
        (str(root / "bounding_box_train" / "0002_c1s1_000451_03.jpg"), "folder_2", "folder_0"),
        (str(root / "bounding_box_train" / "12_c12_1.PNG"), "folder_12", "folder_11"),
    ]
    assert [item[1:] for item in data.query] == [(100007, 11), (100007, 0)]  # c12 sorts first
    assert [item[1:] for item in data.gallery] == [(0, 2), (100007, 1), (100007, 11)]
    assert data.camera_names == {0: "1", 1: "2", 2: "3", 11: "12"}


def test_short_folder_names_and_files_that_are_no_images(tmp_path):
    write_folders(tmp_path, {"train": ["1_c1.jpg"], "query": ["2_c1.jpg"], "gallery": ["2_c2.jpg"]})
    (tmp_path / "train" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "train" / "._1_c1.jpg").write_bytes(b"x")
    data = FolderReID(root=str(tmp_path))
    assert [len(data.train), len(data.query), len(data.gallery)] == [1, 1, 1]


def test_test_only_and_train_only(tmp_path):
    write_folders(tmp_path / "test", {"query": ["2_c1.jpg"], "gallery": ["2_c2.jpg"]})
    write_folders(tmp_path / "train", {"train": ["2_c1.jpg", "2_c2.jpg"]})
    test = FolderReID(root=str(tmp_path / "test"))
    assert (test.train, len(test.query), len(test.gallery)) == ([], 1, 1)
    train = FolderReID(root=str(tmp_path / "train"))
    assert (len(train.train), train.query, train.gallery) == (2, [], [])


def test_query_without_gallery_is_an_error(tmp_path):
    write_folders(tmp_path, {"train": ["1_c1.jpg"], "query": ["2_c1.jpg"]})
    with pytest.raises(ValueError, match="query images and no gallery images"):
        FolderReID(root=str(tmp_path))


def test_bad_names_are_counted_and_the_first_ten_named(tmp_path):
    write_folders(tmp_path, {"train": [f"photo{n:02d}.jpg" for n in range(13)] + ["1_c1.jpg"]})
    with pytest.raises(ValueError, match="13 problems") as error:
        FolderReID(root=str(tmp_path))
    message = str(error.value)
    assert "train/photo00.jpg" in message and "train/photo09.jpg" in message
    assert "photo10" not in message and "... and 3 more" in message


def test_both_spellings_of_a_split_are_an_error(tmp_path):
    write_folders(tmp_path, {"train": ["1_c1.jpg"], "bounding_box_train": ["1_c2.jpg"]})
    with pytest.raises(ValueError, match="both bounding_box_train and train"):
        FolderReID(root=str(tmp_path))


def test_missing_and_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"FOLDER\.ROOT.*nowhere"):
        FolderReID(root=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no images in the folders bounding_box_train or train, query, "):
        FolderReID(root=str(tmp_path))
    with pytest.raises(ValueError, match=r"set DATASETS\.FOLDER\.ROOT or DATASETS\.FOLDER\.CSV"):
        FolderReID()


def test_distractors_are_left_out_of_train_and_query(tmp_path):
    write_folders(
        tmp_path,
        {
            "train": ["0_c1.jpg", "1_c1.jpg"],
            "query": ["0_c2.jpg", "0_c2_2.jpg", "2_c1.jpg"],
            "gallery": ["0_c3.jpg", "2_c2.jpg"],
        },
    )
    listing = list_images_of(str(tmp_path))
    assert [row.where for row in listing.rows] == ["train/1_c1.jpg", "query/2_c1.jpg", "gallery/0_c3.jpg"] + [
        "gallery/2_c2.jpg"
    ]
    assert [w.split(" left out")[0] for w in listing.warnings] == [
        "1 train images of identity 0",
        "2 query images of identity 0",
    ]


# ---- warnings that need all splits ----


def test_unanswerable_queries_overlap_and_repeated_names_are_warned_of(tmp_path, caplog):
    write_folders(
        tmp_path,
        {
            "train": ["1_c1.jpg", "2_c1.jpg"],
            "query": ["2_c1_1.jpg", "3_c1_1.jpg", "3_c1_2.jpg", "4_c1_1.jpg"],
            # identity 3 only by the same camera, identity 4 not at all
            "gallery": ["2_c2_1.jpg", "3_c1_1.jpg"],
        },
    )
    with caplog.at_level(logging.WARNING):
        data = FolderReID(root=str(tmp_path))
    assert len(data.query) == 4
    assert "3 of 4 query images do not count" in caplog.text
    assert "their identity: 3, 4\n" in caplog.text
    assert "1 identities are trained on and tested on, which makes the result too good: 2\n" in caplog.text
    assert "1 file names stand in more than one split: 3_c1_1.jpg (query and gallery)" in caplog.text


def test_no_answerable_query_is_an_error(tmp_path):
    write_folders(tmp_path, {"query": ["1_c1_1.jpg", "2_c1_1.jpg"], "gallery": ["1_c1_2.jpg", "2_c1_2.jpg"]})
    with pytest.raises(ValueError, match="none of the 2 query images"):
        FolderReID(root=str(tmp_path))


def test_clean_data_gives_no_warning(tmp_path):
    listing = list_images_of(str(market_like(tmp_path)))
    assert (listing.problems, listing.warnings) == ([], [])


# ---- a table ----


def test_table_with_free_names_in_any_column_order(tmp_path):
    csv = tmp_path / "people.csv"
    csv.write_bytes(
        "\ufeffsplit, camera ,note,identity,path\r\n"
        "gallery,entrance,,Zoë,b/1.jpg\r\n"
        "gallery,hall,,anna,b/2.jpg\r\n"
        'query,hall,"blue, long",Zoë,b/3.jpg\r\n'
        "query,entrance,,anna,b/4.jpg\r\n"
        "gallery,hall,,-1,b/5.jpg\r\n"
        "train,10,,0,b/6.jpg\r\n"
        "train,9,,bob,b/7.jpg\r\n".encode()
    )
    for number in range(1, 8):
        write_image(tmp_path / "b" / f"{number}.jpg")
    data = FolderReID(csv=str(csv))
    # cameras: entrance 0, hall 1, 9 2, 10 3; identities: Zoë 1, anna 2
    assert data.gallery == [(str(tmp_path / "b/1.jpg"), 1, 0), (str(tmp_path / "b/2.jpg"), 2, 1)]
    assert data.query == [(str(tmp_path / "b/3.jpg"), 1, 1), (str(tmp_path / "b/4.jpg"), 2, 0)]
    assert [item[1:] for item in data.train] == [("folder_0", "folder_3"), ("folder_bob", "folder_2")]
    assert data.identity_names == {1: "Zoë", 2: "anna"}
    assert data.camera_names == {0: "entrance", 1: "hall", 2: "9", 3: "10"}


def test_table_paths_start_at_root_when_there_is_one(tmp_path):
    (tmp_path / "tables").mkdir()
    write_image(tmp_path / "images" / "1.jpg")
    absolute = write_image(tmp_path / "elsewhere" / "2.jpg")
    csv = table(tmp_path / "tables", ["1.jpg,a,x,train", f"{absolute},b,x,train"], images=False)
    data = FolderReID(root=str(tmp_path / "images"), csv=str(csv))
    assert {item[0] for item in data.train} == {str(tmp_path / "images" / "1.jpg"), str(absolute)}
    with pytest.raises(ValueError, match=f"line 2: no file {tmp_path / 'tables' / '1.jpg'}"):
        FolderReID(csv=str(csv))


def test_every_bad_row_is_named_with_its_line(tmp_path):
    csv = table(
        tmp_path,
        [
            "1.jpg,a,x,train",
            "2.jpg,,x,train",
            "3.jpg,a,,train",
            "4.jpg,a,x,test",
            "5.png,a,x,train",
            ",a,x,train",
            "./1.jpg,b,x,gallery",
            "6.jpg,a",
            "8.jpg,a,y,train",
        ],
    )
    listing = list_images_of(csv=str(csv))
    assert listing.problems == [
        "line 3: identity empty",
        "line 4: camera empty",
        "line 5: unknown split 'test'; it is one of train, query, gallery",
        f"line 6: no file {tmp_path / '5.png'}",
        "line 7: path empty",
        "line 8: ./1.jpg is listed already in line 2",
        "line 9: camera and split empty",
    ]
    assert [row.where for row in listing.rows] == ["line 2", "line 10"]
    with pytest.raises(ValueError, match=r"people\.csv: 7 problems\n  line 3: identity empty"):
        FolderReID(csv=str(csv))


def test_missing_columns_are_named(tmp_path):
    with pytest.raises(ValueError, match="no column identity, camera.* and is: path, person, split"):
        FolderReID(csv=str(table(tmp_path, ["1.jpg,a,train"], header="path,person,split")))
    with pytest.raises(ValueError, match="separated by commas, and is: path;identity;camera;split"):
        FolderReID(csv=str(table(tmp_path, ["1.jpg;a;x;train"], header="path;identity;camera;split", images=False)))


def test_tables_that_are_none(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match="no column path, identity, camera, split.*and is: empty"):
        FolderReID(csv=str(tmp_path / "empty.csv"))
    with pytest.raises(ValueError, match="the table has no rows"):
        FolderReID(csv=str(table(tmp_path, [])))
    with pytest.raises(ValueError, match="not a table in UTF-8 text"):
        FolderReID(csv=str(write_image(tmp_path / "image.jpg")))
    with pytest.raises(FileNotFoundError, match=r"FOLDER\.CSV: there is no file .*nowhere\.csv"):
        FolderReID(csv=str(tmp_path / "nowhere.csv"))


# ---- from a config ----


def test_from_config(tmp_path, monkeypatch):
    cfg = add_parts_config(get_cfg())
    with pytest.raises(ValueError, match=r"DATASETS\.FOLDER\.ROOT"):
        FolderReID.from_config(cfg, str(tmp_path))
    market_like(tmp_path / "datasets" / "shop")
    csv = table(tmp_path / "datasets", ["shop/query/0100007_c1_1.jpeg,a,x,train"])

    cfg.DATASETS.FOLDER.ROOT = str(tmp_path / "datasets" / "shop")
    assert len(FolderReID.from_config(cfg, "unused").train) == 2
    monkeypatch.chdir(tmp_path / "datasets")
    cfg.DATASETS.FOLDER.ROOT = "shop"
    assert FolderReID.from_config(cfg, "unused").train[0][0].startswith("shop")
    monkeypatch.chdir(tmp_path)
    assert FolderReID.from_config(cfg, "datasets", combineall=True).train[0][0].startswith("datasets")

    cfg.DATASETS.FOLDER.ROOT, cfg.DATASETS.FOLDER.CSV = "", str(csv)
    assert FolderReID.from_config(cfg, "unused").train == [
        (str(tmp_path / "datasets/shop/query/0100007_c1_1.jpeg"), "folder_a", "folder_0")
    ]


def test_registered():
    assert DATASET_REGISTRY.get("FolderReID") is FolderReID
