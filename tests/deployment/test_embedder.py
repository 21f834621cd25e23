"""The embedder: what it takes, and that its features are those of `extract`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from PIL import ExifTags, Image, ImageOps

import fastreid_parts
from fastreid_parts import Embedder
from fastreid_parts.deployment import embedder as module
from fastreid_parts.retrieval import extract_images, list_images

from .models import build


@pytest.fixture(scope="module")
def crops(market_folder: Path) -> list[str]:
    return list_images(market_folder / "query") + list_images(market_folder / "bounding_box_test")[:3]


@pytest.fixture
def loaded(tiny_cfg: Callable[..., CfgNode]) -> Embedder:
    return Embedder(*build(tiny_cfg, "BagTricks", "TEST.FLIP.ENABLED", True, "INPUT.RESIZE", "bilinear"))


@pytest.mark.parametrize("name", ["CMBN", "MGN"])
def test_features_are_those_of_extract(tiny_cfg: Callable[..., CfgNode], crops: list[str], name: str) -> None:
    cfg, model = build(tiny_cfg, name, "TEST.FLIP.ENABLED", True)
    expected = extract_images(cfg, model, crops).features
    embedder = Embedder(cfg, model)
    features = embedder(crops, batch_size=3)
    assert features.dtype == np.float32 and features.shape == (7, embedder.dimension)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    unit = embedder(crops, normalize=True)
    np.testing.assert_allclose(unit, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-4, atol=1e-5)
    assert embedder([]).shape == (0, embedder.dimension) == embedder(crops[0], np.empty((0, 4))).shape


def test_arrays_images_and_paths_are_the_same(loaded: Embedder, crops: list[str]) -> None:
    by_path = loaded(crops)
    images = [Image.open(path) for path in crops]
    arrays = [np.asarray(image) for image in images]
    np.testing.assert_array_equal(loaded(images), by_path)
    np.testing.assert_array_equal(loaded(arrays), by_path)
    np.testing.assert_array_equal(loaded([Path(crops[0]), images[1], *arrays[2:]]), by_path)
    np.testing.assert_array_equal(loaded(tuple(arrays)), by_path)
    np.testing.assert_array_equal(loaded(np.stack(arrays)), by_path)
    np.testing.assert_array_equal(loaded(iter(arrays)), by_path)
    opencv = [np.ascontiguousarray(array[:, :, ::-1]) for array in arrays]
    np.testing.assert_array_equal(loaded(opencv, bgr=True), by_path)
    np.testing.assert_array_equal(loaded([*opencv[:3], *images[3:]], bgr=True), by_path)
    assert not np.allclose(loaded(opencv), by_path)
    gray = Image.open(crops[0]).convert("L")  # a palette, gray or an alpha channel becomes RGB
    np.testing.assert_array_equal(loaded([gray]), loaded([np.asarray(gray.convert("RGB"))]))


def test_an_image_of_pillows_is_what_its_file_is(loaded: Embedder, crops: list[str], tmp_path: Path) -> None:
    """Turned by its EXIF entry, of 16 bits, with a palette that is transparent in part."""
    upright = Image.open(crops[0])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    deep = np.asarray(upright.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    upright.convert("P").save(tmp_path / "palette.png", transparency=3)
    paths = [tmp_path / f"{name}.png" for name in ("turned", "deep", "palette")]
    images = [Image.open(path) for path in paths]
    np.testing.assert_array_equal(loaded(images), loaded(paths))
    np.testing.assert_array_equal(loaded(images[:1]), loaded([upright]))
    np.testing.assert_array_equal(loaded(images[1:2]), loaded([upright.convert("L")]))
    assert images[0].size == upright.size[::-1]  # stays as it was
    with pytest.raises(ValueError, match="floating-point"):
        loaded([Image.fromarray(np.zeros((8, 8), np.float32))])
    box = [[0, 0, 9, 20]]
    with pytest.raises(ValueError, match=r"exif_transpose\(frame\), and boxes of that"):
        loaded(images[0], box)
    np.testing.assert_array_equal(loaded(ImageOps.exif_transpose(images[0]), box), loaded(paths[0], box))
    np.testing.assert_array_equal(loaded(upright, box), loaded(paths[0], box))


def test_boxes_of_a_frame(loaded: Embedder, tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    boxes = np.array([[10, 20, 40, 80], [-5.2, 30.4, 20.6, 200], [100, -3, 1e9, 50]])
    cut = [frame[20:80, 10:40], frame[30:90, 0:21], frame[0:50, 100:120]]
    expected = loaded(cut)
    np.testing.assert_array_equal(loaded(frame, boxes), expected)
    np.testing.assert_array_equal(loaded(frame, boxes.tolist()), expected)
    np.testing.assert_array_equal(loaded(frame, torch.tensor(boxes)), expected)
    np.testing.assert_array_equal(loaded(frame[:, :, ::-1], boxes, bgr=True), expected)
    np.testing.assert_array_equal(loaded(Image.fromarray(frame), boxes), expected)
    cv2.imwrite(str(tmp_path / "frame.png"), frame[:, :, ::-1])
    np.testing.assert_array_equal(loaded(tmp_path / "frame.png", boxes), expected)
    for box, problem in (
        ([30, 10, 30, 20], "box 1, .*, has no pixel in the frame of 120 x 90"),
        ([30, 20, 40, 10], "has no pixel"),
        ([120, 0, 130, 10], "has no pixel"),
        ([0, 0, float("nan"), 10], "box 1 is .*must be finite"),
        ([0, 0, float("inf"), 10], "must be finite"),
    ):
        with pytest.raises(ValueError, match=problem):
            loaded(frame, [boxes[0], box])
    for wrong in ([1, 2, 3, 4], [[1, 2, 3]], np.zeros((1, 2, 4)), [[1, 2, 3, 4], [1]], [["a"] * 4]):
        with pytest.raises(ValueError, match=r"a matrix \(N, 4\)"):
            loaded(frame, wrong)


def test_what_is_no_list_of_images_is_refused(loaded: Embedder, crops: list[str], tmp_path: Path) -> None:
    array = np.zeros((20, 10, 3), np.uint8)
    for single in (crops[0], Path(crops[0]), array, Image.open(crops[0])):
        with pytest.raises(ValueError, match="one image: put it into a list, or give the boxes"):
            loaded(single)
    for wrong, problem in (
        (array.astype(np.float32), "type float32: bring its values to 0 to 255"),
        (array.astype(np.int64), "type int64$"),
        (array[:, :, 0], r"of shape \(20, 10\)"),
        (np.zeros((20, 10, 4), np.uint8), r"of shape \(20, 10, 4\)"),
        (np.zeros((0, 10, 3), np.uint8), r"of shape \(0, 10, 3\)"),
    ):
        with pytest.raises(ValueError, match=problem):
            loaded([array, wrong])
    for wrong in (3, None, loaded):
        with pytest.raises(TypeError, match="list of images, not of"):
            loaded(wrong)
        with pytest.raises(TypeError, match="an image is an array .*, not"):
            loaded([wrong])
    with pytest.raises(FileNotFoundError):
        loaded([tmp_path / "none.jpg"])
    (tmp_path / "cut.jpg").write_bytes(Path(crops[0]).read_bytes()[:200])
    with pytest.raises(OSError, match=r"cannot read image .*cut\.jpg"):
        loaded([tmp_path / "cut.jpg"])
    with pytest.raises(ValueError, match="batch_size is 0"):
        loaded(crops, batch_size=0)


def test_batches_are_as_large_as_told(loaded: Embedder, crops: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = module.features_of_batch

    def counted(model: object, batch: dict, flip: bool) -> np.ndarray:
        seen.append(len(batch["images"]))
        return original(model, batch, flip)

    monkeypatch.setattr(module, "features_of_batch", counted)
    loaded(crops, batch_size=3)
    assert seen == [3, 3, 1]


def test_the_package_offers_it_when_it_is_asked_for() -> None:
    assert fastreid_parts.Embedder is module.Embedder and "Embedder" in fastreid_parts.__all__
    with pytest.raises(AttributeError, match="has no attribute 'Embeder'"):
        fastreid_parts.Embeder  # noqa: B018
