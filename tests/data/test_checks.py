from __future__ import annotations

import logging

import pytest
from fastreid.data.data_utils import read_image
from fastreid.data.datasets import DATASET_REGISTRY
from PIL import Image

from fastreid_parts.data import checks

from .make_images import truncate, write_image


def items_of(paths):
    return [(str(path), number, 0) for number, path in enumerate(paths)]


@pytest.fixture
def images(tmp_path):
    """Three sound images and five bad ones."""
    good = [write_image(tmp_path / f"good{n}{ext}") for n, ext in enumerate((".jpg", ".png", ".webp"))]
    bad = [
        truncate(write_image(tmp_path / "cut.jpg", size=(64, 32)), 0.6),
        truncate(write_image(tmp_path / "cut.png"), 0.6),
        tmp_path / "empty.jpg",
        tmp_path / "text.jpg",
        tmp_path / "gone.jpg",
    ]
    bad[2].write_bytes(b"")
    bad[3].write_text("no image")
    return good, bad


# ---- images ----


def test_every_kind_of_bad_image_is_found(images):
    good, bad = images
    paths = [str(path) for pair in zip(bad, good) for path in pair] + [str(path) for path in bad[3:]]
    found = checks.find_bad_images(paths)
    assert list(found) == [str(path) for path in bad]
    assert found[str(bad[2])] == "the file is empty"
    assert found[str(bad[3])] == "not an image"
    assert found[str(bad[4])] == "no such file"
    assert "truncated" in found[str(bad[0])]


def test_values_that_training_does_not_take_are_found(tmp_path):
    """Formats of numbers decode, and reading refuses what is no image of 8 or 16 bits."""
    for name, mode, value in (("real.tif", "F", 0.5), ("deep.tif", "I", 70_000), ("sixteen.tif", "I;16", 7)):
        Image.new(mode, (8, 16), value).save(tmp_path / name)
    found = checks.find_bad_images([str(path) for path in sorted(tmp_path.iterdir())])
    assert [path.rsplit("/")[-1] for path in found] == ["deep.tif", "real.tif"]
    assert "exceed 16 bits" in found[str(tmp_path / "deep.tif")]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 0.98, 1.0])
def test_the_quick_check_agrees_with_a_full_decode(tmp_path, keep, progressive):
    path = truncate(write_image(tmp_path / "a.jpg", size=(128, 64), quality=90, progressive=progressive), keep)
    try:
        with Image.open(path) as image:
            image.load()
        readable = True
    except OSError:
        readable = False
    assert readable == (keep == 1.0)
    assert (checks.find_bad_images([str(path)]) == {}) == readable


@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
def test_an_image_that_would_fill_the_memory(tmp_path, monkeypatch):
    """python-pillow/Pillow#515: a few KB of a file can be hundreds of MB of pixels."""
    path = tmp_path / "bomb.png"
    Image.new("1", (13000, 13000)).save(path)
    assert path.stat().st_size < 2**15
    loads = []
    monkeypatch.setattr(Image.Image, "load", lambda self: loads.append(self))
    found = checks.find_bad_images([str(path)])
    assert found[str(path)].startswith("13000 x 13000 pixels are more than 89,478,485")
    with pytest.raises(OSError, match="cannot read image .*bomb.png: 13000 x 13000 pixels"):
        read_image(path)
    assert not loads  # not a pixel was decoded
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # who has such images says so to Pillow
    assert checks.find_bad_images([str(path)]) == {} and loads


def test_stop_names_the_bad_images(images):
    good, bad = images
    with pytest.raises(ValueError, match="5 of 8 images cannot be read") as error:
        checks.check_images(items_of(good + bad), "stop")
    assert all(str(path) in str(error.value) for path in bad)
    assert "DATALOADER.BAD_IMAGES skip" in str(error.value)
    assert str(good[0]) not in str(error.value)


def test_skip_drops_and_logs_them(images, caplog):
    good, bad = images
    items = items_of([bad[0], *good, *bad[1:]])
    with caplog.at_level(logging.WARNING):
        assert checks.check_images(items, "skip", workers=1) == items[1:4]
    assert "without 5 images" in caplog.text and "cut.jpg" in caplog.text


def test_more_than_ten_bad_images_are_counted(tmp_path):
    write_image(tmp_path / "good.jpg")
    gone = [tmp_path / f"gone{n:02d}.jpg" for n in range(14)]
    with pytest.raises(ValueError) as error:
        checks.check_images(items_of([tmp_path / "good.jpg", *gone]), "stop")
    assert "gone09" in str(error.value) and "gone10" not in str(error.value)
    assert "... and 4 more" in str(error.value)


def test_sound_items_pass_unchanged_and_are_decoded_once(images, monkeypatch):
    good, _ = images
    items = items_of(good + good)
    decoded = []
    look = checks._why_unreadable
    monkeypatch.setattr(checks, "_why_unreadable", lambda path: decoded.append(path) or look(path))
    assert checks.check_images(items, "stop", workers=0) == items
    assert sorted(decoded) == sorted(str(path) for path in good)


def test_nothing_readable_is_an_error_under_either_policy(images):
    _, bad = images
    for policy in ("stop", "skip"):
        with pytest.raises(ValueError, match="None of the 5 images can be read"):
            checks.check_images(items_of(bad), policy)


def test_unknown_policy():
    with pytest.raises(ValueError, match="BAD_IMAGES is 'ignore'; it is one of stop, skip"):
        checks.check_images([], "ignore")


def test_progress_bar_from_2000_images(images, monkeypatch, capsys):
    good, _ = images
    monkeypatch.setattr(checks, "_why_unreadable", lambda path: None)
    checks.find_bad_images([f"{n}.jpg" for n in range(2000)])
    assert "Checking images" not in capsys.readouterr().err
    checks.find_bad_images([f"{n}.jpg" for n in range(2001)])
    assert "Checking images" in capsys.readouterr().err


# ---- splits and samplers ----


def test_empty_split():
    checks.check_split([("a.jpg", 1, 1)], "query", "Market1501")
    with pytest.raises(ValueError, match="Market1501 has no query images"):
        checks.check_split([], "query", "Market1501")


def training_items(identities, images):
    return [(f"{p}_{n}.jpg", f"x_{p}", "x_0") for p in range(identities) for n in range(images)]


IDENTITY_SAMPLERS = ["NaiveIdentitySampler", "BalancedIdentitySampler"]


@pytest.mark.parametrize("sampler", IDENTITY_SAMPLERS)
def test_batches_that_identity_samplers_can_fill(sampler):
    checks.check_sampler(training_items(4, 4), 16, 4, sampler)
    checks.check_sampler(training_items(4, 4), 8, 4, sampler, world_size=2)


@pytest.mark.parametrize("sampler", IDENTITY_SAMPLERS)
def test_batches_that_identity_samplers_cannot_fill(sampler):
    with pytest.raises(ValueError, match=r"batch of 10 images.*no multiple of DATALOADER\.NUM_INSTANCE 4"):
        checks.check_sampler(training_items(9, 4), 10, 4, sampler)
    with pytest.raises(ValueError, match="wants 4 identities, and the training set has 3"):
        checks.check_sampler(training_items(3, 8), 16, 4, sampler)
    with pytest.raises(ValueError, match=r"32 images \(16 in each of 2\).*wants 8 identities.* has 7"):
        checks.check_sampler(training_items(7, 8), 16, 4, sampler, world_size=2)
    with pytest.raises(ValueError, match="NUM_INSTANCE is 0"):
        checks.check_sampler(training_items(3, 8), 16, 0, sampler)


@pytest.mark.parametrize("sampler", ["TrainingSampler", *IDENTITY_SAMPLERS])
def test_batches_larger_than_the_dataset(sampler):
    with pytest.raises(ValueError, match="batch of 16 images is larger than the training set of 12"):
        checks.check_sampler(training_items(3, 4), 16, 4, sampler)
    with pytest.raises(ValueError, match="leaves 0 images for each of 4 processes"):
        checks.check_sampler(training_items(3, 4), 0, 4, sampler, world_size=4)


def test_other_samplers_take_any_batch_that_fits():
    checks.check_sampler(training_items(1, 7), 7, 4, "TrainingSampler")


def test_unmatched_queries():
    query = [("a", 1, 0), ("b", 1, 1), ("c", 2, 0), ("d", 3, 0)]
    gallery = [("e", 1, 0), ("f", 2, 0), ("g", 2, 1)]
    # a: identity 1 only by camera 0, its own; d: identity 3 nowhere
    assert checks.unmatched_queries(query, gallery) == [query[0], query[3]]


# ---- MSMT17 ----


@pytest.mark.parametrize(
    ("folders", "version", "line"),
    [
        (["MSMT17_V1"], "V1", "MSMT17 V1 (faces visible); results on V1 and V2 are not comparable"),
        (["MSMT17_V2"], "V2", "MSMT17 V2 (faces masked); results on V1 and V2 are not comparable"),
        (
            ["MSMT17_V1", "MSMT17_V2"],
            "V1",
            "MSMT17 V1 (faces visible); results on V1 and V2 are not comparable; "
            "MSMT17_V2 is there too and is not used",
        ),
    ],
)
def test_msmt17_version(tmp_path, caplog, folders, version, line):
    for folder in folders:
        (tmp_path / folder).mkdir()
    assert checks.msmt17_version(str(tmp_path)) == version
    with caplog.at_level(logging.INFO):
        assert checks.log_msmt17_version(str(tmp_path)) == version
    assert [record.getMessage() for record in caplog.records] == [line]


def test_msmt17_version_is_what_fastreid_reads(tmp_path):
    for folder, train, test in (
        ("MSMT17_V1", "train", "test"),
        ("MSMT17_V2", "mask_train_v2", "mask_test_v2"),
    ):
        for split in (train, test):
            write_image(tmp_path / folder / split / "0000" / "0000_000_01_0303morning_0015_0.jpg")
        for name in ("train", "val", "query", "gallery"):
            (tmp_path / folder / f"list_{name}.txt").write_text("0000/0000_000_01_0303morning_0015_0.jpg 0\n")
    read = DATASET_REGISTRY.get("MSMT17")(root=str(tmp_path)).query[0][0]
    assert f"MSMT17_{checks.msmt17_version(str(tmp_path))}" in read


def test_msmt17_missing(tmp_path):
    assert checks.msmt17_version(str(tmp_path)) is None
    with pytest.raises(FileNotFoundError, match=r"MSMT17_V1 or .*MSMT17_V2"):
        checks.log_msmt17_version(str(tmp_path))
