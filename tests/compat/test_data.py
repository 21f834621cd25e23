"""Images, augmentations, item order and the loader of the patched host. The host's own code is in `__wrapped__`."""

from __future__ import annotations

import random
import subprocess
import sys
import warnings
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from fastreid.config import get_cfg
from fastreid.data import build as host_build
from fastreid.data import common, data_utils
from fastreid.data.common import CommDataset
from fastreid.data.datasets.bases import ImageDataset
from fastreid.data.transforms import ToTensor, build_transforms, functional
from fastreid.data.transforms import build as host_transforms_build
from fastreid.data.transforms.transforms import RandomPatch
from PIL import Image
from torchvision.transforms import InterpolationMode

from fastreid_parts.compat import data as patches
from fastreid_parts.data.loader import DeviceLoader

HOST_TO_TENSOR = patches.to_tensor.__wrapped__
HOST_READ_IMAGE = patches.read_image.__wrapped__
RED = (200, 30, 40)


def _rgb(size=(8, 6), seed=0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


class TestLoader:
    def test_stands_where_the_host_looks_it_up(self) -> None:
        assert data_utils.DataLoaderX is DeviceLoader
        assert host_build.DataLoaderX is DeviceLoader

    @pytest.mark.skipif(torch.cuda.is_available(), reason="what happens without CUDA")
    def test_the_hosts_own_fails_without_cuda(self) -> None:
        with pytest.raises((RuntimeError, AssertionError)):
            DeviceLoader.__wrapped__(0, dataset=[1, 2], batch_size=1)

    def test_gives_batches_without_a_warning(self) -> None:
        items = [{"images": torch.full((3, 2, 2), float(i)), "targets": i} for i in range(5)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loader = DeviceLoader(
                0, dataset=items, batch_size=2, collate_fn=host_build.fast_batch_collator, pin_memory=True
            )
            batches = list(loader)
        assert [batch["targets"].tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
        assert loader.pin_memory == torch.cuda.is_available()
        assert len(list(loader)) == 3  # a second pass
        loader.shutdown()

    @pytest.mark.gpu
    def test_moves_tensors_to_the_gpu_and_nothing_else(self) -> None:
        items = [{"images": torch.zeros(3, 2, 2), "img_paths": "a.jpg"}]
        loader = DeviceLoader(
            0, dataset=items, batch_size=1, collate_fn=host_build.fast_batch_collator, pin_memory=True
        )
        batch = next(iter(loader))
        assert batch["images"].device == torch.device("cuda", 0)
        assert batch["img_paths"] == ["a.jpg"]


class TestRandomAffine:
    def test_the_hosts_call_works(self) -> None:
        cfg = get_cfg()
        cfg.merge_from_list(["INPUT.AFFINE.ENABLED", True])
        assert build_transforms(cfg)(_rgb()).shape == (3, 256, 128)

    def test_torchvision_itself_is_untouched(self) -> None:
        with pytest.raises(TypeError, match="resample"):
            torchvision.transforms.RandomAffine(degrees=10, resample=False)
        assert host_transforms_build.T.RandomAffine is patches.RandomAffine

    @pytest.mark.parametrize(("number", "mode"), [(False, "NEAREST"), (2, "BILINEAR"), (3, "BICUBIC")])
    def test_translates_the_old_names(self, number: int, mode: str) -> None:
        old = patches.RandomAffine(degrees=(30, 30), resample=number, fillcolor=7)
        new = torchvision.transforms.RandomAffine(degrees=(30, 30), interpolation=InterpolationMode[mode], fill=7)
        image = _rgb()
        assert old(image).tobytes() == new(image).tobytes()


class TestToTensor:
    def test_rgb_has_the_hosts_values(self) -> None:
        image = _rgb()
        assert torch.equal(functional.to_tensor(image), HOST_TO_TENSOR(image))
        array = np.asarray(image).copy()
        assert torch.equal(functional.to_tensor(array), HOST_TO_TENSOR(array))
        assert torch.equal(ToTensor()(image), HOST_TO_TENSOR(image))

    @pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"])
    def test_every_mode_is_float(self, mode: str) -> None:
        if mode == "I;16":
            image = Image.fromarray(np.array([[0, 40000], [7, 65535]], np.uint16))
            want = [[[0, 40000], [7, 65535]]]  # the host wraps values above 32767
        elif mode == "1":
            image = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
            want = [[[0, 255], [255, 0]]]
        else:
            image = _rgb((2, 2)).convert(mode)
            want = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1).tolist()
        tensor = functional.to_tensor(image)
        assert tensor.dtype == torch.float32
        assert tensor.tolist() == want

    def test_the_hosts_own_is_wrong_or_fails_on_16_bits(self) -> None:
        image = Image.fromarray(np.array([[40000]], np.uint16))
        try:
            assert HOST_TO_TENSOR(image).item() != 40000
        except ValueError as error:  # numpy 2
            assert "copy" in str(error)

    def test_arrays_of_any_type(self) -> None:
        for dtype in (np.uint8, np.uint16, np.int64, np.float64, bool):
            array = np.ones((2, 3), dtype)
            assert functional.to_tensor(array).shape == (1, 2, 3)
            assert functional.to_tensor(array).dtype == torch.float32

    def test_the_result_is_not_the_arrays_memory(self) -> None:
        array = np.ones((2, 3, 3), np.float32)
        functional.to_tensor(array).zero_()
        assert array.all()

    def test_a_wrong_shape(self) -> None:
        with pytest.raises(ValueError, match=r"\(1, 2, 3, 4\)"):
            functional.to_tensor(np.ones((1, 2, 3, 4)))


def _kept_elements(tensor: torch.Tensor) -> int:
    """Elements of the memory that the tensor keeps alive."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces another name for it
        return tensor.storage().size()


class TestRandomPatch:
    def test_patches_do_not_keep_their_images(self) -> None:
        transform = RandomPatch()
        image = torch.rand(3, 32, 16)
        transform(image)
        patch = transform.patchpool[0]
        assert _kept_elements(patch) == patch.numel() < image.numel()
        before = patch.clone()
        image.zero_()
        assert torch.equal(patch, before)

    def test_the_hosts_own_pool_holds_views(self) -> None:
        transform = RandomPatch()
        transform.patchpool = deque(maxlen=10)  # what the host puts there
        image = torch.rand(3, 32, 16)
        transform(image)
        assert _kept_elements(transform.patchpool[0]) == image.numel()

    def test_the_pool_is_bounded_as_documented(self, seeded: None) -> None:
        transform = RandomPatch(prob_happen=0.0)
        image = torch.zeros(3, 256, 128)
        for _ in range(patches.PATCHES_KEPT + 200):
            transform(image)
        assert len(transform.patchpool) == patches.PATCHES_KEPT
        mebibytes = sum(patch.numel() * 4 for patch in transform.patchpool) / 2**20
        assert 70 < mebibytes < 85

    def test_a_capacity_that_is_asked_for(self) -> None:
        assert RandomPatch(pool_capacity=5).patchpool.maxlen == 5
        assert RandomPatch(0.3, 6, 2).patchpool.maxlen == 6

    def test_pastes_patches_of_other_images(self, seeded: None) -> None:
        transform = RandomPatch(prob_happen=1.0, min_sample_size=1)
        transform(torch.zeros(3, 32, 16))
        pasted = [transform(torch.ones(3, 32, 16)).min().item() for _ in range(20)]
        assert 0 in pasted


class TestItemOrder:
    class Shuffled(ImageDataset):
        """Lists its folders as a file system might."""

        def __init__(self, lazy: bool = True, **kwargs) -> None:
            self.calls = 0
            train = [("b/2.jpg", "x_2", "x_0"), ("a/9.jpg", "x_1", "x_0"), ("b/1.jpg", "x_2", "x_1")]
            test = [("q/2.jpg", 2, 0), ("q/1.jpg", 1, 0)]

            def listed() -> list:
                self.calls += 1
                return train

            super().__init__(listed if lazy else train, lambda: test, test, **kwargs)

    @pytest.mark.parametrize("lazy", [True, False])
    def test_items_come_sorted_by_path(self, lazy: bool) -> None:
        dataset = self.Shuffled(lazy)
        assert [item[0] for item in dataset.train] == ["a/9.jpg", "b/1.jpg", "b/2.jpg"]
        assert [item[1] for item in dataset.train] == ["x_1", "x_2", "x_2"]  # the tuples stay whole
        assert [item[0] for item in dataset.query] == ["q/1.jpg", "q/2.jpg"]
        assert [item[0] for item in dataset.gallery] == ["q/1.jpg", "q/2.jpg"]

    def test_the_folder_is_listed_once(self) -> None:
        dataset = self.Shuffled()
        assert dataset.train is dataset.train
        assert dataset.calls == 1

    def test_combining_all_subsets(self) -> None:
        dataset = self.Shuffled(combineall=True)
        paths = [item[0] for item in dataset.train]
        assert paths == sorted(paths)
        assert len(paths) == 7


def _save(image: Image.Image, path: Path, **kwargs) -> str:
    image.save(path, **kwargs)
    return str(path)


class TestReadImage:
    def test_stands_where_the_host_looks_it_up(self) -> None:
        assert common.read_image is data_utils.read_image is patches.read_image

    def test_rgb_is_the_hosts(self, tmp_path: Path) -> None:
        path = _save(_rgb(), tmp_path / "a.jpg")
        assert data_utils.read_image(path).tobytes() == HOST_READ_IMAGE(path).tobytes()

    @pytest.mark.parametrize(
        ("mode", "name"),
        [("RGBA", "a.png"), ("LA", "a.png"), ("CMYK", "a.jpg"), ("P", "a.png"), ("L", "a.png"), ("1", "a.png")],
    )
    def test_three_channels_whatever_the_file_holds(self, mode: str, name: str, tmp_path: Path) -> None:
        plain = Image.new("RGB", (8, 6), RED)
        path = _save(plain.quantize() if mode == "P" else plain.convert(mode), tmp_path / name)
        image = data_utils.read_image(path)
        assert image.mode == "RGB" and image.size == (8, 6)
        gray = round(0.299 * 200 + 0.587 * 30 + 0.114 * 40)
        want = {"L": (gray,) * 3, "LA": (gray,) * 3}.get(mode, RED)
        if mode == "1":
            assert set(np.unique(np.asarray(image))) <= {0, 255}
        else:
            assert np.abs(np.asarray(image).astype(int) - want).max() <= 4  # JPEG's rounding
        if mode in ("RGBA", "LA", "CMYK"):
            assert len(HOST_READ_IMAGE(path).getbands()) == (2 if mode == "LA" else 4)

    def test_a_palette_with_transparency_gives_no_warning(self, tmp_path: Path) -> None:
        palette = Image.new("RGB", (4, 4), RED).convert("P")
        path = _save(palette, tmp_path / "a.png", transparency=bytes([255] * 255 + [0]))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert data_utils.read_image(path).mode == "RGB"

    def test_16_bit_gray_is_scaled(self, tmp_path: Path) -> None:
        values = np.array([[0, 257, 32896, 65535, 128, 129]], np.uint16)
        for name in ("a.png", "a.tif"):
            image = data_utils.read_image(_save(Image.fromarray(values), tmp_path / name))
            assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255, 0, 1]

    def test_values_without_a_known_range(self, tmp_path: Path) -> None:
        wide = _save(Image.fromarray(np.array([[70000]], np.int32)), tmp_path / "wide.tif")
        with pytest.raises(OSError, match=r"wide.tif.*16 bits"):
            data_utils.read_image(wide)
        real = _save(Image.fromarray(np.array([[0.5]], np.float32)), tmp_path / "real.tif")
        with pytest.raises(OSError, match=r"real.tif.*floating-point"):
            data_utils.read_image(real)

    def test_exif_turns_the_image_upright(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        path = _save(Image.new("RGB", (8, 6), RED), tmp_path / "a.jpg", exif=exif)
        assert data_utils.read_image(path).size == (6, 8)

    @pytest.mark.parametrize("content", [b"", b"no image at all", "cut"])
    def test_an_unreadable_file_is_named(self, content: object, tmp_path: Path) -> None:
        path = tmp_path / "0002_c1s1.jpg"
        if content == "cut":
            _save(_rgb((64, 64)), path)
            content = path.read_bytes()[:700]
        path.write_bytes(content)
        with pytest.raises(OSError, match="0002_c1s1.jpg"):
            CommDataset([(str(path), "p", "c")])[0]

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nowhere.jpg"):
            data_utils.read_image(str(tmp_path / "nowhere.jpg"))

    def test_formats(self, tmp_path: Path) -> None:
        path = _save(Image.new("RGB", (2, 2), RED), tmp_path / "a.png")
        assert data_utils.read_image(path, format="BGR").getpixel((0, 0)) == RED[::-1]
        assert data_utils.read_image(path, format="RGB").getpixel((0, 0)) == RED
        assert data_utils.read_image(path, format="L").mode == "L"

    def test_a_script_that_bound_it_before_the_plugin(self) -> None:
        script = (
            "import collections, sys, types\n"
            "collections.Mapping = dict\n"  # names that fast-reid cannot be imported without
            "sys.modules['torch._six'] = types.SimpleNamespace(string_classes=(str, bytes))\n"
            "from fastreid.data.data_utils import read_image, DataLoaderX\n"
            "del sys.modules['torch._six'], collections.Mapping\n"
            "import fastreid_parts\n"
            "print(read_image.__module__, DataLoaderX.__module__)\n"
        )
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True, timeout=120
        )
        assert done.stdout.split() == ["fastreid_parts.compat.data", "fastreid_parts.data.loader"]


class TestBuildTransforms:
    """Every augmentation of the host's own on this stack."""

    NAMES = ("CROP", "FLIP", "PADDING", "CJ", "AFFINE", "AUTOAUG", "AUGMIX", "REA", "RPT")

    @pytest.mark.parametrize("name", NAMES + ("ALL",))
    def test_train_transform(self, name: str, seeded: None) -> None:
        cfg = get_cfg()
        cfg.merge_from_list(["INPUT.SIZE_TRAIN", [64, 32], "INPUT.CROP.SIZE", [64, 32]])
        for one in self.NAMES if name == "ALL" else (name,):
            cfg.INPUT[one].ENABLED = True
            if "PROB" in cfg.INPUT[one]:
                cfg.INPUT[one].PROB = 1.0
        transform = host_transforms_build.build_transforms(cfg)
        for seed in range(8):
            tensor = transform(_rgb((40, 70), seed))
            assert tensor.shape == (3, 64, 32) and tensor.dtype == torch.float32
            assert tensor.min() >= 0 and 1 < tensor.max() <= 255

    def test_test_transform(self) -> None:
        assert host_transforms_build.build_transforms(get_cfg(), is_train=False)(_rgb()).shape == (3, 256, 128)


@pytest.fixture
def seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
