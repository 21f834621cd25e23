"""What the host gets wrong between an image file and a batch, patched in place. The samplers are in `samplers.py`."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any

import fastreid.data.data_utils as host_data_utils
import fastreid.data.transforms.build as host_transforms_build
import fastreid.data.transforms.functional as host_functional
import numpy as np
import torch
import torchvision.transforms
from fastreid.data.common import CommDataset
from fastreid.data.datasets.bases import Dataset
from fastreid.data.transforms.transforms import RandomPatch
from fastreid.utils.file_io import PathManager
from PIL import Image

from ..data.checks import check_size
from ..data.loader import DeviceLoader, read_batch
from ..data.pixels import upright_rgb
from . import samplers
from .overlay import Overlay, replace, wrap


def apply() -> None:
    """Patch reading, augmenting, ordering, sampling and loading images."""
    # data/data_utils.py: "Found no NVIDIA driver" from its CUDA stream on a machine without a GPU. `DeviceLoader` takes
    # the same arguments and needs none; with a GPU, batches arrive on it as before.
    replace(host_data_utils, "DataLoaderX", DeviceLoader)
    # data/common.py: what augmentation draws depends on which worker reads an image, and on what it read before.
    CommDataset.__getitems__ = read_batch
    # data/data_utils.py: RGBA, LA and CMYK images keep 4, 2 and 4 channels, palettes their indices. The batch then
    # cannot be stacked, or the model sees indices as gray. An unreadable file is not named, and in a batch of 64 nobody
    # can tell which it was.
    replace(host_data_utils, "read_image", read_image)
    # data/transforms/functional.py: "Unable to avoid copy" for modes 1 and I;16 with numpy 2. On any stack it turns
    # 16-bit values above 32767 into negative ones, and returns integers for some modes, which the model cannot
    # normalize. Values of RGB images are the host's.
    replace(host_functional, "to_tensor", to_tensor)
    # data/transforms/build.py: INPUT.AFFINE passes `resample` and `fillcolor`, which torchvision renamed. Only the
    # module that builds the host's transforms sees the translating class.
    host_transforms_build.T = Overlay(host_transforms_build.T, RandomAffine=RandomAffine)
    wrap(RandomPatch, "__init__", _init_random_patch)
    _patch_item_order()
    samplers.apply()


class RandomAffine(torchvision.transforms.RandomAffine):
    """torchvision's RandomAffine, also under the argument names that torchvision dropped.

    Args:
        *args: as for torchvision's.
        resample: the old name of `interpolation`: a number of PIL's, or False for nearest.
        fillcolor: the old name of `fill`.
        **kwargs: as for torchvision's.
    """

    def __init__(self, *args: Any, resample: Any = None, fillcolor: Any = None, **kwargs: Any) -> None:
        if resample is not None:
            kwargs["interpolation"] = int(resample)
        if fillcolor is not None:
            kwargs["fill"] = fillcolor
        super().__init__(*args, **kwargs)


def to_tensor(pic: Image.Image | np.ndarray) -> torch.Tensor:
    """Turn an image into a float32 tensor (C, H, W) with the image's own values: 0..255 for 8 bits, 0..65535 for 16.

    Args:
        pic: a PIL image of any mode, or an array (H, W) or (H, W, C). Mode "1" becomes 0 and 255.

    Raises:
        ValueError: an array of another number of dimensions.
    """
    array = pic if isinstance(pic, np.ndarray) else np.array(pic)
    if array.ndim not in (2, 3):
        raise ValueError(f"an image array is (H, W) or (H, W, C), but this one has the shape {array.shape}")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        array = array.astype(np.float32)  # torch has no counterpart to every dtype of numpy
    return torch.from_numpy(np.atleast_3d(array)).permute(2, 0, 1).contiguous().float()


PATCHES_KEPT = 1000


class _PatchPool(deque):
    """A pool of patches that owns their pixels."""

    def append(self, patch: torch.Tensor) -> None:
        super().append(patch.clone())


def _init_random_patch(
    original: Callable,
    self: RandomPatch,
    prob_happen: float = 0.5,
    pool_capacity: int = PATCHES_KEPT,
    *args: Any,
    **kwargs: Any,
) -> None:
    """data/transforms/transforms.py, `RandomPatch`: the pool's patches are views, so each keeps a whole image alive.

    50,000 images of 256x128 in float32 are 18 GiB, in every worker. Here a patch is a copy, and the pool holds 1,000
    unless told otherwise: at 256x128 a patch is 79 KiB on average and 194 KiB at most, so a worker's pool is about
    77 MiB and never above 190 MiB.
    """
    original(self, prob_happen, pool_capacity, *args, **kwargs)
    self.patchpool = _PatchPool(maxlen=pool_capacity)


def _patch_item_order() -> None:
    """data/datasets/*.py list their folders with glob and listdir, whose order is the file system's.

    A seed then draws other images on another machine. The three subsets are given sorted by path, once; identities
    and cameras are relabeled in sorted order by the host already.
    """

    def in_order(subset: str) -> property:
        def get(self: Dataset) -> list[tuple[Any, ...]]:
            held = self.__dict__
            items = held[f"_{subset}"]
            if items is not held.get(f"_{subset}_in_order"):
                items = sorted(items() if callable(items) else items, key=lambda item: item[0])
                held[f"_{subset}"] = held[f"_{subset}_in_order"] = items
            return items

        return property(get, doc=f"The items of the {subset} subset, (path, pid, camid), sorted by path.")

    for subset in ("train", "query", "gallery"):
        setattr(Dataset, subset, in_order(subset))


def read_image(file_name: str | os.PathLike, format: str | None = None) -> Image.Image:
    """Read an image file, upright as its EXIF entry says, as 8-bit RGB whatever the file holds.

    Gray, palette, CMYK and black-and-white images become RGB; an alpha channel is dropped; 16-bit gray is scaled to 8.

    Args:
        file_name: the path.
        format: a mode of PIL's to convert the RGB image to, or "BGR" for RGB with its channels reversed.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it is there and cannot be read as an image; the message names it and says why.
    """
    try:
        with PathManager.open(os.fspath(file_name), "rb") as f:
            image = Image.open(f)
            check_size(image)
            image = upright_rgb(image)
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's decoders raise SyntaxError, struct.error and more for a broken file
        raise OSError(f"cannot read image {os.fspath(file_name)}: {error}") from error
    if format == "BGR":
        return Image.fromarray(np.ascontiguousarray(np.asarray(image)[:, :, ::-1]))
    return image if format is None else image.convert(format)
