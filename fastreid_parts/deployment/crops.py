"""Images as programs hold them, crops or a frame with boxes, as the RGB images that a test of a model sees."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from fastreid.data import data_utils
from PIL import ExifTags, Image

from ..data.pixels import upright_rgb

#: An array (H, W, 3) of uint8, an image of Pillow's, or the path of an image file.
AnyImage: TypeAlias = np.ndarray | Image.Image | str | os.PathLike

_KINDS = "an array (H, W, 3) of uint8, an image of Pillow's or the path of an image file"


def list_crops(images: Any, boxes: Any, bgr: bool) -> Sequence[Any]:
    """List what features are to be taken of.

    Args:
        images: crops, or with `boxes` the frame that they are in.
        boxes: None, or N boxes in the frame, see `cut`.
        bgr: see `as_image`.

    Raises:
        ValueError: a single image instead of several; boxes that are none of the frame; a frame of Pillow's that is
            not upright.
        TypeError: neither images nor a sequence of such.
    """
    if boxes is not None:
        if isinstance(images, Image.Image) and _is_turned(images):
            raise ValueError(
                "the frame's EXIF entry says that it is to be turned, and boxes may count in its pixels before or "
                "after: take PIL.ImageOps.exif_transpose(frame), and boxes of that"
            )
        return cut(as_image(images, bgr), boxes)
    if isinstance(images, (str, os.PathLike, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim == 3):
        raise ValueError("this is one image: put it into a list, or give the boxes of the people in it as well")
    try:
        return list(images)
    except TypeError:
        raise TypeError(f"features are taken of a list of images, not of {type(images).__name__}") from None


def as_image(image: AnyImage, bgr: bool = False) -> Image.Image:
    """Give an image as 8-bit RGB, upright.

    Args:
        image: what it is made of.
        bgr: the channels of an array stand in the order blue, green, red, as OpenCV has them. Files and images of
            Pillow's say themselves what their channels are.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: a file cannot be read as an image.
        TypeError: it is of another type.
        ValueError: an array has another shape or type, or no pixels; an image of Pillow's has values beyond 16 bits.
    """
    if isinstance(image, (str, os.PathLike)):
        return data_utils.read_image(os.fspath(image))
    if isinstance(image, Image.Image):
        return upright_rgb(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"an image is {_KINDS}, not {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"an image is {_KINDS}; this array is of shape {image.shape} and type {image.dtype}"
            + (": bring its values to 0 to 255 and round them" if image.dtype.kind == "f" else "")
        )
    return Image.fromarray(np.ascontiguousarray(image[:, :, ::-1] if bgr else image))


def _is_turned(image: Image.Image) -> bool:
    with contextlib.suppress(Exception):  # a malformed EXIF entry says nothing
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    return False


def cut(frame: Image.Image, boxes: Any) -> list[Image.Image]:
    """Cut boxes out of a frame.

    Args:
        frame: the whole image.
        boxes: (N, 4), left, top, right and bottom in pixels, right and bottom not included. Fractions are rounded, and
            what lies outside of the frame is cut off.

    Raises:
        ValueError: they are no such matrix, a number is not finite, or a box has no pixel in the frame.
    """
    try:
        matrix = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"boxes are a matrix (N, 4) of numbers: {error}") from error
    if not matrix.size:
        return []
    if matrix.ndim != 2 or matrix.shape[1] != 4:
        raise ValueError(f"boxes are a matrix (N, 4) of left, top, right, bottom, not of shape {matrix.shape}")
    crops = []
    for number, box in enumerate(matrix):
        if not np.isfinite(box).all():
            raise ValueError(f"box {number} is {box.tolist()}: its numbers must be finite")
        limits = (*frame.size, *frame.size)
        left, top, right, bottom = (int(min(max(round(x), 0), limit)) for x, limit in zip(box.tolist(), limits))
        if right <= left or bottom <= top:
            raise ValueError(
                f"box {number}, {box.tolist()}, has no pixel in the frame of {frame.width} x {frame.height}: boxes are "
                "left, top, right, bottom; leave out those of people who are not in it"
            )
        crops.append(frame.crop((left, top, right, bottom)))
    return crops
