"""Features of images and of test sets: those of the test loader, computed once, whatever stops the work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from torch import nn

from fastreid_parts.data.build import build_reid_test_loader
from fastreid_parts.evaluation import Features, extract
from fastreid_parts.retrieval import (
    FeatureSet,
    OtherFeaturesError,
    extract_images,
    extract_items,
    extract_share,
    extract_to_store,
    extraction,
    image_items,
    list_images,
    load_feature_set,
    model_fingerprint,
    parts,
    save_feature_set,
)
from fastreid_parts.retrieval.manifest import write_manifest
from fastreid_parts.retrieval.store import read_manifest


@pytest.fixture
def model() -> nn.Module:
    return tiny_model(0)


def tiny_model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Tiny().eval()


class Tiny(nn.Module):
    """Mean colors of the upper, middle and lower third, mixed by random weights: as a network, in no time."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(18, 8)

    def forward(self, batch: dict) -> torch.Tensor:
        return self.linear(nn.functional.adaptive_avg_pool2d(batch["images"] / 255, (3, 2)).flatten(1))


@pytest.fixture
def items(tiny_cfg: Callable[..., CfgNode]) -> list[tuple]:
    """24 test images, the first four of them queries."""
    return build_reid_test_loader(tiny_cfg(), dataset_name="FolderReID")[0].dataset.img_items


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each pass through a model took."""
    counts: list[int] = []

    def counting(model: nn.Module, loader: Any, flip: bool) -> Any:
        counts.append(len(loader.dataset))
        return extract(model, loader, flip=flip)

    monkeypatch.setattr(extraction, "extract", counting)
    return counts


# ---- images -------------------------------------------------------------------------------------------------------


def test_list_images(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "below/c.webp", "notes.txt", ".hidden.jpg", ".thumbnails/d.jpg", "empty/no.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_images(tmp_path) == [str(tmp_path / name) for name in ("a.PNG", "b.jpg", "below/c.webp")]
    assert list_images(tmp_path / "notes.txt") == [str(tmp_path / "notes.txt")]
    with pytest.raises(FileNotFoundError, match="empty' holds no image of a format"):
        list_images(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="neither an image nor a folder"):
        list_images(tmp_path / "other")


@pytest.mark.parametrize("flip", [False, True])
def test_features_of_files_are_those_of_the_test_loader(
    tiny_cfg: Callable[..., CfgNode], model: nn.Module, items: list[tuple], flip: bool
) -> None:
    cfg = tiny_cfg("TEST.FLIP.ENABLED", flip, "TEST.IMS_PER_BATCH", 7)
    loader, _ = build_reid_test_loader(cfg, dataset_name="FolderReID")
    expected = extract(model, loader, flip=flip)
    paths = [item[0] for item in items]
    features = extract_images(cfg, model, [*paths, paths[0]])  # a path that comes twice counts once
    np.testing.assert_array_equal(features.features, expected.features)
    assert list(features.paths) == paths and set(features.pids) == set(features.camids) == {-1}
    known = extract_items(cfg, model, items)
    np.testing.assert_array_equal(known.features, expected.features)
    np.testing.assert_array_equal(known.pids, expected.pids)
    np.testing.assert_array_equal(known.camids, expected.camids)


def test_images_that_cannot_be_read(
    tiny_cfg: Callable[..., CfgNode], model: nn.Module, items: list[tuple], tmp_path: Path
) -> None:
    good, cut = items[0][0], tmp_path / "cut.jpg"
    cut.write_bytes(Path(good).read_bytes()[:300])
    with pytest.raises(ValueError, match=r"1 of 2 images cannot be read:\n  .*cut.jpg: .*\n.*BAD_IMAGES skip"):
        extract_images(tiny_cfg(), model, [good, str(cut)])
    skipping = tiny_cfg("DATALOADER.BAD_IMAGES", "skip")
    assert list(extract_images(skipping, model, [str(cut), good]).paths) == [good]
    with pytest.raises(ValueError, match="None of the 1 images can be read"):
        extract_images(skipping, model, [str(cut)])
    with pytest.raises(ValueError, match="no images"):
        extract_images(skipping, model, [])
    unchecked = ("DATALOADER.CHECK_IMAGES", False)
    assert len(image_items(tiny_cfg(*unchecked), [good, str(cut)])) == 2
    with pytest.raises(ValueError, match="BAD_IMAGES skip needs DATALOADER.CHECK_IMAGES True"):
        image_items(tiny_cfg(*unchecked, "DATALOADER.BAD_IMAGES", "skip"), [good, str(cut)])


# ---- a folder -----------------------------------------------------------------------------------------------------


def test_a_folder_of_features(
    tiny_cfg: Callable[..., CfgNode], model: nn.Module, items: list[tuple], tmp_path: Path, computed: list[int]
) -> None:
    cfg = tiny_cfg()
    stored = extract_to_store(cfg, model, items, tmp_path / "out", 4, "FolderReID", part_size=10)
    assert computed == [10, 10, 4]
    expected = extract_items(cfg, model, items)
    for read in (stored, load_feature_set(tmp_path / "out")):
        np.testing.assert_allclose(read.features.features, expected.features, rtol=1e-6)
        np.testing.assert_array_equal(read.features.pids, expected.pids)
        np.testing.assert_array_equal(read.features.camids, expected.camids)
        assert list(read.features.paths) == list(expected.paths)
        assert (read.num_query, read.dataset, read.config) == (4, "FolderReID", cfg.dump())
        assert read.fingerprint == model_fingerprint(cfg, model)
    assert not (tmp_path / "out" / "parts").exists()
    computed.clear()
    extract_to_store(cfg, model, items, tmp_path / "out", 4, "FolderReID")
    assert computed == []  # what is there is not computed again


def stop_after(parts: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Stop a call when so many parts are written and the next has half its files."""
    written = []

    def save(directory: str, *args: Any, **kwargs: Any) -> None:
        if len(written) == parts:
            original(directory, *args, **kwargs)
            (Path(directory) / "manifest.json").unlink()
            raise KeyboardInterrupt
        written.append(directory)
        original(directory, *args, **kwargs)

    original = extraction.save_feature_set
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(extraction, "save_feature_set", save)
        work()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("parts", [0, 2, 3])
def test_a_call_that_was_stopped_goes_on(
    tiny_cfg: Callable[..., CfgNode],
    model: nn.Module,
    items: list[tuple],
    tmp_path: Path,
    computed: list[int],
    monkeypatch: pytest.MonkeyPatch,
    parts: int,
    half: bool,
) -> None:
    cfg = tiny_cfg()
    extract_to_store(cfg, model, items, tmp_path / "whole", 4, half=half, part_size=10)
    out = tmp_path / "out"
    stop_after(parts, monkeypatch, lambda: extract_to_store(cfg, model, items, out, 4, half=half, part_size=10))
    computed.clear()
    extract_to_store(cfg, model, items, out, 4, half=half, part_size=7)  # the size of a part may change between calls
    assert computed == {0: [7, 7, 7, 3], 2: [4], 3: []}[parts]
    for name in ("features.npy", "images.csv"):
        whole, resumed = (tmp_path / "whole" / name).read_bytes(), (out / name).read_bytes()
        if parts:
            assert resumed == whole
    np.testing.assert_allclose(
        load_feature_set(out).features.features, load_feature_set(tmp_path / "whole").features.features, rtol=1e-3
    )
    assert not (out / "parts").exists()


def test_a_damaged_part_is_computed_again(
    tiny_cfg: Callable[..., CfgNode],
    model: nn.Module,
    items: list[tuple],
    tmp_path: Path,
    computed: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def run() -> object:
        return extract_to_store(tiny_cfg(), model, items, tmp_path, 4, part_size=6)

    stop_after(3, monkeypatch, run)
    damaged = tmp_path / "parts" / "000000006" / "features.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    computed.clear()
    run()
    assert computed == [6, 6]  # that one, and the one that was not finished
    assert "A part is computed again" in caplog.text and "truncated" in caplog.text


def test_of_images_that_changed_a_part_is_computed_again_and_a_finished_set_stays(
    tiny_cfg: Callable[..., CfgNode],
    model: nn.Module,
    items: list[tuple],
    tmp_path: Path,
    computed: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Images that are cut anew have the names of the old ones; a touch is enough, as nobody reads them to compare."""
    items = [
        (str(shutil.copy(path, tmp_path / f"{number}.jpg")), *labels) for number, (path, *labels) in enumerate(items)
    ]

    def run() -> FeatureSet:
        return extract_to_store(tiny_cfg(), model, items, tmp_path / "out", 4, part_size=6)

    stop_after(3, monkeypatch, run)
    shutil.copyfile(items[0][0], items[7][0])
    computed.clear()
    features = run().features.features
    assert computed == [6, 6]  # the second part, and the one that was not finished
    assert "of images 6 to 11, files changed" in caplog.text
    np.testing.assert_allclose(features[7], features[0], rtol=1e-3)
    kept = contents(tmp_path / "out")
    os.utime(items[3][0])
    with pytest.raises(OtherFeaturesError, match=r"before their files changed .* name another folder"):
        run()
    assert contents(tmp_path / "out") == kept
    os.remove(items[3][0])
    with pytest.raises(OtherFeaturesError):
        run()


def test_a_set_that_does_not_say_how_its_files_were_is_taken(
    tiny_cfg: Callable[..., CfgNode], model: nn.Module, items: list[tuple], tmp_path: Path, computed: list[int]
) -> None:
    there = extract_to_store(tiny_cfg(), model, items, tmp_path, 4)
    manifest = read_manifest(tmp_path)
    assert manifest.pop("state") == there.state != ""
    write_manifest(tmp_path, manifest)
    computed.clear()
    assert extract_to_store(tiny_cfg(), model, items, tmp_path, 4).state == "" and not computed


@pytest.mark.parametrize("finished", [False, True])
def test_features_of_another_model_or_of_other_images_stay(
    tiny_cfg: Callable[..., CfgNode],
    model: nn.Module,
    items: list[tuple],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    finished: bool,
) -> None:
    def run(cfg: CfgNode, model: nn.Module, items: list[tuple], **kwargs: Any) -> object:
        return extract_to_store(cfg, model, items, tmp_path, part_size=10, **{"num_query": 4, **kwargs})

    if finished:
        run(tiny_cfg(), model, items)
    else:
        stop_after(2, monkeypatch, lambda: run(tiny_cfg(), model, items))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other_items = [items[1], items[0], *items[2:]]
    other_cameras = [(path, identity, camera + 1) for path, identity, camera in items]
    for message, changed in (
        ("another model", lambda: run(tiny_cfg(), tiny_model(1), items)),
        ("another model or of other settings", lambda: run(tiny_cfg("TEST.FLIP.ENABLED", True), model, items)),
        ("other images", lambda: run(tiny_cfg(), model, other_items)),
        ("other images", lambda: run(tiny_cfg(), model, other_cameras)),
    ):
        with pytest.raises(ValueError, match=f"holds features of {message}.*name another folder"):
            changed()
    if finished:
        for message, wrong in (("num_query 4, not 3", {"num_query": 3}), ("float32, not float16", {"half": True})):
            with pytest.raises(ValueError, match=message):
                run(tiny_cfg(), model, items, **wrong)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_refused_before_anything_is_computed(
    tiny_cfg: Callable[..., CfgNode], model: nn.Module, items: list[tuple], tmp_path: Path, computed: list[int]
) -> None:
    for wrong in ([], items[:4]):
        with pytest.raises(ValueError, match="no gallery"):
            extract_to_store(tiny_cfg(), model, wrong, tmp_path, 4)
    foreign = tmp_path / "dataset"  # a folder whose manifest is not a feature set's
    foreign.mkdir()
    (foreign / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="describes something else"):
        extract_to_store(tiny_cfg(), model, items, foreign, 4)
    assert computed == [] and (foreign / "manifest.json").read_text() == "{}"


def test_what_a_kill_after_the_last_step_left_is_removed(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, items: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_args, **_kwargs: None)
        extract_to_store(tiny_cfg(), tiny_model(0), items, tmp_path, 4)
    assert (tmp_path / "parts").is_dir()
    extract_to_store(tiny_cfg(), tiny_model(0), items, tmp_path, 4)
    assert not (tmp_path / "parts").exists()


def test_features_of_a_model_of_fast_reid(tiny_cfg: Callable[..., CfgNode], items: list[tuple], tmp_path: Path) -> None:
    cfg = tiny_cfg("MODEL.HEADS.NUM_CLASSES", 6)
    model = build_model(cfg)  # in training mode
    stored = extract_to_store(cfg, model, items, tmp_path, 4)
    assert stored.features.features.shape == (24, 512) and model.training
    query, gallery = stored.split()
    assert len(query) == 4 and len(gallery) == 20


# ---- shares of several processes ----------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("features.npy", "images.csv", "manifest.json")}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("before", "ranks"), [(0, 2), (0, 3), (3, 2), (2, 3), (2, 1), (0, 9)])
def test_shares_make_the_bytes_of_one_process(
    tiny_cfg: Callable[..., CfgNode],
    model: nn.Module,
    items: list[tuple],
    tmp_path: Path,
    computed: list[int],
    before: int,
    ranks: int,
    half: bool,
) -> None:
    cfg, out = tiny_cfg("TEST.IMS_PER_BATCH", 5), tmp_path / "out"
    extract_to_store(cfg, model, items, tmp_path / "whole", 4, "D", half)
    if before:  # another number of processes, of which the first did not finish
        for rank in range(1, before):
            assert extract_share(cfg, model, items, out, rank, before, 4, "D", half, part_size=5) is None
    left = len(items) - (5 * (5 - 5 // before) - 1 if before else 0)
    computed.clear()
    if ranks == 1:
        extract_to_store(cfg, model, items, out, 4, "D", half)
    for rank in reversed(range(ranks)) if ranks > 1 else ():
        joined = extract_share(cfg, model, items, out, rank, ranks, 4, "D", half, part_size=5)
        # whoever finishes last joins; after 2 or 3 others only images of the first ranks were missing
        assert (joined is None) == (not (out / "manifest.json").exists())
    assert sum(computed) == left
    assert contents(out) == contents(tmp_path / "whole")
    assert not (out / "parts").exists()


def test_a_share_that_finds_all_done_computes_nothing(
    tiny_cfg: Callable[..., CfgNode], model: nn.Module, items: list[tuple], tmp_path: Path, computed: list[int]
) -> None:
    extract_to_store(tiny_cfg(), model, items, tmp_path, 4)
    computed.clear()
    there = extract_share(tiny_cfg(), model, items, tmp_path, 1, 2, 4)
    assert there is not None and len(there.features) == 24 and computed == []
    with pytest.raises(ValueError, match="numbered from 0 to 1"):
        extract_share(tiny_cfg(), model, items, tmp_path, 2, 2, 4)


def test_shares_of_another_model_are_refused(
    tiny_cfg: Callable[..., CfgNode], model: nn.Module, items: list[tuple], tmp_path: Path, computed: list[int]
) -> None:
    extract_share(tiny_cfg(), model, items, tmp_path, 0, 2, 4)
    computed.clear()
    with pytest.raises(ValueError, match="of another model"):
        extract_share(tiny_cfg(), tiny_model(1), items, tmp_path, 1, 2, 4)
    assert computed == []


def test_a_process_group_is_refused(
    tiny_cfg: Callable[..., CfgNode], model: nn.Module, items: list[tuple], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(extraction.comm, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="process group"):
        extract_to_store(tiny_cfg(), model, items, tmp_path, 4)
    assert not list(tmp_path.glob("**/features.npy"))


def test_parts_that_overlap_or_come_in_any_order(tmp_path: Path) -> None:
    def save(first: int, end: int) -> None:
        rows = np.arange(first, end)
        features = Features(rows[:, None].astype(np.float32), rows, rows, [f"{row}.jpg" for row in rows])
        save_feature_set(parts.part_folder(str(tmp_path), first), FeatureSet(features, 0, "", "", ""))

    def missing(end: int) -> list[tuple[int, int]]:
        return list(parts.missing_spans(parts.load_parts(str(tmp_path)), (0, end)))

    save(6, 9)
    save(2, 4)
    assert missing(12) == [(0, 2), (4, 6), (9, 12)] and missing(6) == [(0, 2), (4, 6)]
    save(0, 8)
    (tmp_path / "notes").mkdir()
    assert missing(9) == []
    assert parts.join_parts(parts.load_parts(str(tmp_path))).features[:, 0].tolist() == list(range(9))


@pytest.mark.parametrize(("total", "batch", "ranks"), [(24, 5, 3), (1, 8, 4), (100, 1, 7), (4096, 64, 3)])
def test_shares_are_whole_batches_and_cover_all(total: int, batch: int, ranks: int) -> None:
    shares = [parts.share_of(total, batch, rank, ranks) for rank in range(ranks)]
    assert [image for share in shares for image in range(*share)] == list(range(total))
    assert all(first % batch == 0 or first == total for first, _ in shares)
    sizes = [-(-(end - first) // batch) for first, end in shares]
    assert max(sizes) - min(sizes) <= 1
