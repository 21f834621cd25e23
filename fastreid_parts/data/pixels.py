"""The pixels of an image, of a file or in memory, as all that looks at images takes them."""

from __future__ import annotations

import contextlib

import numpy as np
from PIL import Image, ImageOps


def upright_rgb(image: Image.Image) -> Image.Image:
    """Give an image upright, as its EXIF entry says, as 8-bit RGB whatever it holds.

    Gray, palette, CMYK and black-and-white images become RGB; an alpha channel is dropped; 16-bit gray is scaled to 8.

    Args:
        image: stays as it is.

    Raises:
        OSError: it is of a file that is cut short.
        ValueError: its values are not of 8 or 16 bits.
    """
    image.load()
    with contextlib.suppress(Exception):  # a malformed EXIF entry says nothing; the pixels are fine
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit gray: I;16 and its byte orders, or I
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its values exceed 16 bits; save it with 8 or 16 bits a channel")
        # 65535 is white, and 65535 / 257 = 255
        image = Image.fromarray(((values.astype(np.int64) + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("it holds floating-point values, whose range is unknown; save it with 8 or 16 bits a channel")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns about the direct way
    return image.convert("RGB")
