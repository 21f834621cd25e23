from __future__ import annotations

import logging

import pytest
from fastreid.config import get_cfg
from fastreid.data.datasets import DATASET_REGISTRY
from PIL import Image

from fastreid_parts.config import add_parts_config
from fastreid_parts.data.build import load_dataset
from fastreid_parts.data.datasets.folder import FolderReID, list_images_of, named_sets
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


def test_query_without_gallery_cannot_be_evaluated(tmp_path):
    write_folders(tmp_path, {"train": ["1_c1.jpg"], "query": ["2_c1.jpg"]})
    listing = list_images_of(str(tmp_path))
    assert listing.problems == []
    assert listing.unfit == ["there are 1 query image and 0 gallery images, and an evaluation needs both"]


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
        "1 train image of identity 0",
        "2 query images of identity 0",
    ]


# ---- what is read, and what is named instead ----


def test_every_format_of_pillow_is_read_and_all_else_is_named(tmp_path, caplog):
    """A .tif that is not found: pytorch/vision#461, huggingface/pytorch-image-models#1335."""
    write_folders(tmp_path, {"train": ["1_c1.jpg", "1_c2.png"], "other": ["1_c3.png"]})
    train = tmp_path / "train"
    for name in ("2_c1.tif", "2_c2.TIFF", "3_c1.ppm", "3_c2.gif", "4_c1.jp2", "4_c2.tga"):
        Image.new("RGB", (8, 16)).save(train / name)
    (train / "5_c1.jpg").symlink_to(tmp_path / "gone.jpg")
    (train / "Thumbs.db").write_bytes(b"x")
    (train / "._1_c1.jpg").write_bytes(b"x")
    write_image(train / "below" / "6_c1.jpg")
    write_image(train / "-1_c1.jpg")
    with caplog.at_level(logging.WARNING):
        data = FolderReID(root=str(tmp_path))
    assert len(data.train) == 8 and {item[1] for item in data.train} == {f"folder_{n}" for n in (1, 2, 3, 4)}
    for line in (
        "1 file passed over, a link to nothing: train/5_c1.jpg",
        "1 file passed over, hidden: train/._1_c1.jpg",
        "1 file passed over, no image by its ending, .db: train/Thumbs.db",
        "1 file passed over, in a folder below: train/below/6_c1.jpg",
        "1 file passed over, junk, of identity -1: train/-1_c1.jpg",
        "1 file passed over, an image beside the folders of the splits: other/1_c3.png",
    ):
        assert line in caplog.text


def test_a_subfolder_for_each_identity(tmp_path):
    """Own images sorted by person, without camera: KaiyangZhou/deep-person-reid#255, JDAI-CV/fast-reid#285."""
    names = {"train/gus": ["1.jpg", "2.jpg"], "train/007": ["1.jpg"], "query/hana": ["0_cam2.jpg"]}
    write_folders(tmp_path, {**names, "gallery/hana/c1": ["9.jpg"], "gallery/-1": ["x.jpg"]})
    data = FolderReID(root=str(tmp_path))
    assert [item[1] for item in data.train] == ["folder_007", "folder_gus", "folder_gus"]
    assert data.identity_names == {1: "hana"} and data.camera_names == {0: "unknown", 1: "1", 2: "2"}
    assert (data.query[0][1:], data.gallery[0][1:]) == ((1, 2), (1, 1))
    assert any("3 train images without a camera" in line for line in list_images_of(str(tmp_path)).warnings)


def test_subfolders_alone_are_training_images(tmp_path):
    write_folders(tmp_path / "people", {"gus": ["1.jpg", "2.jpg"], "hana": ["1.jpg"]})
    listing = list_images_of(str(tmp_path / "people"))
    assert [(row.identity, row.split) for row in listing.rows] == [("gus", "train")] * 2 + [("hana", "train")]
    assert "all images are taken for training" in " ".join(listing.warnings) and listing.unfit == []
    write_folders(tmp_path / "people" / "hana", {"Monday": ["1.jpg"]})
    (warning,) = [line for line in list_images_of(str(tmp_path / "people")).warnings if "identity" in line]
    assert warning.endswith("taken as of that identity: hana/Monday")
    write_folders(tmp_path / "cased", {"Train": ["1_c1.jpg"], "val": ["2_c1.jpg"]})
    listing = list_images_of(str(tmp_path / "cased"))
    assert [row.where for row in listing.rows] == ["Train/1_c1.jpg"]
    assert listing.passed_over == {"an image beside the folders of the splits": ["val/2_c1.jpg"]}
    write_folders(tmp_path / "odd", {"test": ["1_c1.jpg"]})
    assert list_images_of(str(tmp_path / "odd")).problems[0].startswith("no split is called test: the folders are")
    write_folders(tmp_path / "all" / "shop", {"train": ["1_c1.jpg"]})
    (problem,) = list_images_of(str(tmp_path / "all")).problems
    assert problem.endswith(f"{tmp_path / 'all' / 'shop'} has them: name that one")


def test_combining_leaves_distractors_out_and_numbers_of_the_test_apart(tmp_path):
    """Test numbers that training gives to others as well: JDAI-CV/fast-reid#447."""
    names = {"train": ["1_c1.jpg"], "query": ["1_c1_1.jpg"]}
    write_folders(tmp_path, {**names, "gallery": ["1_c2.jpg", *(f"0_c{n}.jpg" for n in range(1, 6))]})
    data = FolderReID(root=str(tmp_path), combineall=True)
    assert [item[1] for item in data.train] == ["folder_test_1", "folder_test_1", "folder_1"]
    assert len(data.gallery) == 6


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
    assert "1 identity in training and in the test, which makes the result too good: 2\n" in caplog.text
    assert "1 file name in more than one split: 3_c1_1.jpg (query and gallery)" in caplog.text


def test_images_of_one_camera_can_be_trained_on_and_not_evaluated(tmp_path):
    """KaiyangZhou/deep-person-reid#207 and Cysu/open-reid#85 have a set of one camera, and an evaluation that fails."""

    names = {"train": ["5_c1.jpg", "6_c1.jpg"], "query": ["1_c1_1.jpg", "2_c1_1.jpg"]}
    write_folders(tmp_path, {**names, "gallery": ["1_c1_2.jpg", "2_c1_2.jpg"]})
    assert list_images_of(str(tmp_path)).unfit[0].startswith("none of the 2 queries can be scored")
    assert len(FolderReID(root=str(tmp_path)).train) == 2


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


def test_an_image_can_be_query_and_gallery(tmp_path):
    rows = ["1.jpg,gus,door,query", "1.jpg,gus,door,gallery", "2.jpg,gus,till,gallery", "3.jpg,0,till,gallery"]
    data = FolderReID(csv=str(table(tmp_path, rows)), combineall=True)
    assert (len(data.query), len(data.gallery)) == (1, 3)
    assert [item[1] for item in data.train] == ["folder_gus", "folder_gus", "folder_0"]  # each image once
    rows = ["1.jpg,gus,door,query", "1.jpg,hana,door,gallery", "2.jpg,gus,a,gallery", "2.jpg,gus,a,gallery"]
    problems = list_images_of(csv=str(table(tmp_path, [*rows, "2.jpg,gus,a,train"]))).problems
    assert problems[0] == "line 3: 1.jpg has another identity or camera than in line 2"
    assert problems[1:] == [f"line {line}: 2.jpg is listed already in line 4" for line in (5, 6)]


def test_numbers_of_a_spreadsheet(tmp_path):
    rows = [
        "1.jpg,-1.0,1.0,gallery",
        "2.jpg,7.0,1.0,gallery",
        "3.jpg,7,2,query",
        "4.jpg,'=1+1,2,train",
        "5.jpg,07,2,train",
    ]
    listing = list_images_of(csv=str(table(tmp_path, rows)))
    assert [(row.identity, row.camera) for row in listing.rows] == [("7", "1"), ("7", "2"), ("=1+1", "2"), ("07", "2")]
    assert listing.passed_over == {"junk, of identity -1": ["1.jpg"]}
    assert listing.warnings == ["identities that differ in zeros alone are different people: 07 and 7"]


# ---- from a config ----


def test_several_sets(tmp_path):
    """The same numbers in two data sets are different people: a question in JDAI-CV/fast-reid#163."""
    write_folders(tmp_path / "a" / "shop", {"train": ["1_c1.jpg", "1_c2.jpg"]})
    write_folders(tmp_path / "street", {"train": ["1_c1.jpg"], "query": ["2_c1.jpg"], "gallery": ["2_c2.jpg"]})
    csv = table(tmp_path, ["1.jpg,gus,door,train"])
    cfg = add_parts_config(get_cfg())
    roots = [str(tmp_path / "a" / "shop"), f"outside={tmp_path / 'street'}"]
    cfg.merge_from_list(["DATASETS.FOLDER.ROOT", repr(roots), "DATASETS.FOLDER.CSV", str(csv)])
    data = {name: load_dataset(f"FolderReID:{name}", cfg, "unused") for name in ("shop", "outside", "people")}
    assert [one.train[0][1] for one in data.values()] == ["folder:shop:1", "folder:outside:1", "folder:people:gus"]
    assert len({item[2] for one in data.values() for item in one.train}) == 4  # cameras
    assert [len(one.query) for one in data.values()] == [0, 1, 0]
    with pytest.raises(ValueError, match="write FolderReID:shop or FolderReID:outside or FolderReID:people"):
        load_dataset("FolderReID", cfg, "unused")
    with pytest.raises(ValueError, match="names no set 'mall', but FolderReID:shop"):
        load_dataset("FolderReID:mall", cfg, "unused")
    with pytest.raises(ValueError, match="Market1501 is one dataset"):
        load_dataset("Market1501:shop", cfg, "unused")
    cfg.merge_from_list(["DATASETS.FOLDER.ROOT", roots[0]])  # a string again
    assert roots[0] == cfg.DATASETS.FOLDER.ROOT
    cfg.merge_from_list(["DATASETS.FOLDER.CSV", ""])
    assert load_dataset("FolderReID:shop", cfg, "unused").train[0][1] == "folder:shop:1"
    assert load_dataset("FolderReID", cfg, "unused").train[0][1] == "folder_1"
    cfg.merge_from_list(["DATASETS.FOLDER.ROOT", repr([roots[0], f"shop={tmp_path}"])])
    with pytest.raises(ValueError, match=r"FOLDER\.ROOT gives the name shop twice"):
        named_sets(cfg)


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
