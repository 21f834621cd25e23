"""Loaders: order by seed and epoch, every image of a test set once, errors that name what is missing."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.data import build_reid_train_loader as host_name
from fastreid.data.samplers import TrainingSampler

from fastreid_parts.data import build, checks
from fastreid_parts.data.build import (
    EpochBatchSampler,
    build_reid_test_loader,
    build_reid_train_loader,
    load_dataset,
)
from fastreid_parts.retrieval import extract_images, extraction

from .make_images import write_folders


def batches(sampler: EpochBatchSampler, epoch: int) -> list[list[int]]:
    sampler.set_epoch(7, epoch)
    return [list(map(int, b)) for b in sampler]


class TestEpochs:
    def sampler(self, num_batches: int = 3) -> EpochBatchSampler:
        sampler = EpochBatchSampler(TrainingSampler(13, seed=0), batch_size=4)
        sampler.num_batches = num_batches
        return sampler

    def test_an_epoch_is_a_function_of_its_number(self) -> None:
        one, other = self.sampler(), self.sampler()
        epochs = [batches(one, epoch) for epoch in range(3)]
        assert epochs[0] != epochs[1] != epochs[2]
        assert batches(other, 2) == epochs[2]  # without having seen the first two

    def test_an_epoch_shows_no_image_twice(self) -> None:
        seen = sum(batches(self.sampler(), 0), [])
        assert len(seen) == len(set(seen)) == 12

    def test_endless_unless_told(self) -> None:
        sampler = EpochBatchSampler(TrainingSampler(13, seed=0), batch_size=4)
        assert sum(1 for _ in zip(range(50), sampler)) == 50
        with pytest.raises(TypeError, match="endless"):
            len(sampler)


def test_train_loader(tiny_cfg: Callable) -> None:
    loader = build_reid_train_loader(tiny_cfg())
    batch = next(iter(loader))
    assert batch["images"].shape == (12, 3, 48, 24) and batch["images"].dtype == torch.float32
    assert batch["images"].min() >= 0 and 1 < batch["images"].max() <= 255
    assert batch["targets"].max() < 6 and len(batch["img_paths"]) == 12
    assert host_name is build_reid_train_loader


def test_train_loader_takes_the_hosts_arguments(tiny_cfg: Callable) -> None:
    seen = []
    loader = build_reid_train_loader(
        tiny_cfg(), transforms=lambda image: seen.append(image.size) or torch.zeros(3, 2, 2)
    )
    assert next(iter(loader))["images"].shape == (12, 3, 2, 2)
    assert set(seen) == {(24, 48)}


def test_the_log_says_what_a_dataset_leaves_out(
    tiny_cfg: Callable, tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    """Of fast-reid's own datasets too, which take .jpg alone."""
    names = {"bounding_box_train": ["0002_c1s1_000451_03.jpg"], "query": ["0003_c1s1_000451_03.jpg"]}
    folder = tmp_path / "Market-1501-v15.09.15"
    write_folders(folder, {**names, "bounding_box_test": ["0003_c2s1_000451_03.jpg", "0004_c2s1_000451_03.png"]})
    monkeypatch.setattr(build, "datasets_root", lambda: str(tmp_path))
    monkeypatch.setattr(build, "_told", set())
    with caplog.at_level("INFO", "fastreid_parts"):
        for _ in range(2):
            build_reid_test_loader(tiny_cfg(), dataset_name="Market1501")
    left_out = folder / "bounding_box_test" / "0004_c2s1_000451_03.png"
    assert caplog.text.count(f"1 file passed over, an image that Market1501 leaves out: {left_out}") == 1


def test_test_loader_shows_queries_then_gallery_once(tiny_cfg: Callable) -> None:
    loader, num_query = build_reid_test_loader(tiny_cfg(), dataset_name="FolderReID")
    paths = [p for batch in loader for p in batch["img_paths"]]
    assert num_query == 4 and len(paths) == len(set(paths)) == 24
    assert all(Path(p).parent.name == "query" for p in paths[:4])
    assert paths[:4] == sorted(paths[:4]) and paths[4:] == sorted(paths[4:])
    with pytest.raises(ValueError, match="dataset_name"):
        build_reid_test_loader(tiny_cfg())


def test_combining_train_and_test(tiny_cfg: Callable) -> None:
    loader = build_reid_train_loader(tiny_cfg(), combineall=True)
    assert loader.dataset.num_classes == 10 and len(loader.dataset) == 60


def test_unknown_dataset_lists_the_known() -> None:
    with pytest.raises(ValueError, match="no dataset is named 'Marked1501'.*CUHK03NP_labeled.*Market1501"):
        load_dataset("Marked1501")


@pytest.mark.parametrize("name", ["Market1501", "DukeMTMC", "MSMT17", "CUHK03NP_labeled", "VeRi"])
def test_missing_dataset_says_where_to_put_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){name} cannot be read.*{tmp_path}.*FASTREID_DATASETS"):
        load_dataset(name, root=str(tmp_path))


def test_images_can_go_unchecked(tiny_cfg: Callable, monkeypatch: Any) -> None:
    from fastreid_parts.data import build

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("checked")

    monkeypatch.setattr(build, "_checked", {})  # nothing is known of them
    monkeypatch.setattr(build, "check_images", never)
    build_reid_train_loader(tiny_cfg("DATALOADER.CHECK_IMAGES", False))


@pytest.mark.parametrize("checked", [True, False])
def test_all_processes_have_the_items_of_the_first(tiny_cfg: Callable, monkeypatch: Any, checked: bool) -> None:
    """A dataset may draw its items, as the host's VehicleID does, and each process draws others."""
    from fastreid_parts.data import build

    theirs, own = ([(f"/images/{number}.jpg", number, 0)] for number in (1, 2))
    monkeypatch.setattr(build.comm, "is_main_process", lambda: False)
    monkeypatch.setattr(build.comm, "all_gather", lambda mine: [theirs, mine])
    assert build._items(tiny_cfg("DATALOADER.CHECK_IMAGES", checked), own) == theirs


def test_images_that_nobody_looks_for_are_not_skipped(tiny_cfg: Callable) -> None:
    with pytest.raises(ValueError, match="BAD_IMAGES skip needs DATALOADER.CHECK_IMAGES True"):
        build_reid_train_loader(tiny_cfg("DATALOADER.CHECK_IMAGES", False, "DATALOADER.BAD_IMAGES", "skip"))


class TestChecking:
    """Images are decoded once in a process, and again where their file is another."""

    @pytest.fixture
    def root(self, market_folder: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(market_folder, tmp_path / "data"))

    @pytest.fixture
    def decoded(self, monkeypatch: Any) -> list[str]:
        paths: list[str] = []
        look = checks._why_unreadable
        monkeypatch.setattr(checks, "_why_unreadable", lambda path: paths.append(path) or look(path))
        return paths

    def items(self, cfg: Any) -> list:
        return build_reid_test_loader(cfg, dataset_name="FolderReID")[0].dataset.img_items

    def test_once(self, tiny_cfg: Callable, root: Path, decoded: list[str]) -> None:
        cfg = tiny_cfg("DATASETS.FOLDER.ROOT", str(root))
        first = self.items(cfg)
        assert sorted(decoded) == sorted(item[0] for item in first)
        assert self.items(cfg) == first and len(decoded) == 24

    def test_again_where_a_file_changed(self, tiny_cfg: Callable, root: Path, decoded: list[str]) -> None:
        cfg = tiny_cfg("DATASETS.FOLDER.ROOT", str(root))
        changed = Path(self.items(cfg)[0][0])
        content = bytearray(changed.read_bytes())
        status = changed.stat()
        changed.write_bytes(b"\0" * len(content))  # of the same size, a little later
        os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        with pytest.raises(ValueError, match=changed.name):
            self.items(cfg)
        with pytest.raises(ValueError, match=changed.name):  # and stays wrong
            self.items(cfg)
        changed.write_bytes(content)
        assert len(self.items(cfg)) == 24

    def test_unreadable_images_stay_left_out(self, tiny_cfg: Callable, root: Path, decoded: list[str]) -> None:
        cfg = tiny_cfg("DATASETS.FOLDER.ROOT", str(root), "DATALOADER.BAD_IMAGES", "skip")
        bad = sorted((root / "query").iterdir())
        bad[0].write_bytes(b"no image")
        first = self.items(cfg)
        assert len(first) == 23 and str(bad[0]) not in {item[0] for item in first}
        assert self.items(cfg) == first and len(decoded) == 24
        with pytest.raises(ValueError, match=bad[0].name):  # known to be bad is not known to be good
            self.items(tiny_cfg("DATASETS.FOLDER.ROOT", str(root)))
        for path in bad[1:]:
            path.unlink()
        with pytest.raises(ValueError, match="None of the 1 images can be read"):
            self.items(cfg)


def test_cameras_with_embeddings_have_the_numbers_of_the_test_set(tiny_cfg: Callable) -> None:
    cfg = tiny_cfg("MODEL.BACKBONE.CAMERAS", 12)
    cameras = [f"FolderReID_{number}" for number in (0, 10, 2)]
    items = [("0.jpg", f"p{i}", camera) for i, camera in enumerate(cameras)]
    assert build._camera_numbers(cfg, [item[2] for item in items]) == dict(zip(cameras, (0, 10, 2)))
    loader = build.build_reid_train_loader(cfg)
    assert {name: int(name.rpartition("_")[2]) for name in loader.dataset.cams} == loader.dataset.cam_dict
    assert build._camera_numbers(cfg, ["folder:shop_1:0", "folder:shop_1:7"]) == {
        "folder:shop_1:0": 0,
        "folder:shop_1:7": 7,
    }
    with pytest.raises(ValueError, match="CAMERAS is 12, .*of FolderReID end in their number, .*viper_cam_a"):
        build._camera_numbers(cfg, ["viper_cam_a"])
    cfg.DATASETS.NAMES = ("FolderReID", "SyntheticReID")
    with pytest.raises(ValueError, match="CAMERAS is 12, and cameras of several training sets"):
        build._camera_numbers(cfg, cameras)


def test_one_folder_is_no_two_training_sets(tiny_cfg: Callable, market_folder: Path) -> None:
    for root, names in (
        (str(market_folder), ("FolderReID", f"FolderReID:{market_folder.name}")),
        (repr([f"a={market_folder}", f"b={market_folder}/../{market_folder.name}"]), ("FolderReID:a", "FolderReID:b")),
    ):
        cfg = tiny_cfg("DATASETS.FOLDER.ROOT", root, "DATASETS.NAMES", names)
        with pytest.raises(ValueError, match=f"DATASETS.NAMES names {names[0]} and {names[1]}, .* is in both"):
            build_reid_train_loader(cfg)


def test_loader_processes_are_no_more_than_the_processors(tiny_cfg: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """pytorch/pytorch#46867: more loader processes than a container's processors hinder each other."""
    monkeypatch.setattr("fastreid_parts.data.loader.usable_cpus", lambda: 1)
    for asked, taken in ((0, 0), (1, 1), (8, 1)):
        cfg = tiny_cfg("DATALOADER.NUM_WORKERS", asked)
        assert build_reid_train_loader(cfg).num_workers == taken
        assert build_reid_test_loader(cfg, dataset_name="FolderReID")[0].num_workers == taken
    assert build_reid_test_loader(cfg, dataset_name="FolderReID", num_workers=2)[0].num_workers == 2


def test_datasets_can_be_unpickled_by_a_process_that_has_imported_nothing(
    tiny_cfg: Callable, market_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As loader workers do that are spawned: from notebooks, on macOS and Windows, and with Python 3.14."""
    cfg, sets = tiny_cfg(), []
    monkeypatch.setattr(extraction, "extract", lambda model, loader, flip: sets.append(loader.dataset))
    extract_images(cfg, torch.nn.Linear(1, 1), [str(next((market_folder / "query").iterdir()))])
    sets.append(build_reid_train_loader(cfg).dataset)
    assert type(build_reid_test_loader(cfg, dataset_name="FolderReID")[0].dataset) is type(sets[0])
    code = "import pickle, sys; print(*(pickle.loads(bytes.fromhex(a))[0]['images'].shape for a in sys.argv[1:]))"
    for dataset in sets:
        command = [sys.executable, "-c", code, pickle.dumps(dataset).hex()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.stdout.strip() == "torch.Size([3, 48, 24])", done.stderr
