"""Exported files in the place of their checkpoint: the same features, the same results, and an index takes both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode

from fastreid_parts import Embedder
from fastreid_parts.checkpoints import save_weights
from fastreid_parts.deployment import InferenceModel
from fastreid_parts.deployment.runtimes import FORMATS
from fastreid_parts.deployment.writers import WriteOptions, write
from fastreid_parts.evaluation import evaluate_features
from fastreid_parts.retrieval import GalleryIndex, list_images, load_feature_set, model_fingerprint

from ..commands.run import problem, run
from .models import build

#: Relative to the largest value of a feature; float32 in another order of sums.
TOLERANCE = 1e-5
FEEDS = {".onnx": ("imagenet", "RGB"), ".xml": ("unit", "BGR"), ".torchscript": ("raw", "BGR"), ".pt2": ("raw", "RGB")}
QUICK = (".onnx", ".torchscript")


@pytest.fixture
def trained(tiny_cfg: Callable[..., CfgNode]) -> tuple[CfgNode, torch.nn.Module]:
    return build(tiny_cfg, "CMBN", "TEST.FLIP.ENABLED", True)


def export(
    trained: tuple[CfgNode, torch.nn.Module], path: Path, normalize: bool = False, threshold: float | None = None
) -> Path:
    kind = FORMATS[path.suffix]
    if kind == "openvino":
        pytest.importorskip("openvino")
    pixels, colors = FEEDS[path.suffix]
    model = InferenceModel(*trained, pixels=pixels, colors=colors, normalize=normalize)
    write(model, str(path), kind, model.describe(threshold), WriteOptions())
    return path


@pytest.mark.parametrize(
    "ending", [pytest.param(end, marks=() if end in QUICK else pytest.mark.export) for end in FEEDS]
)
def test_features_are_those_of_the_checkpoint(
    trained: tuple[CfgNode, torch.nn.Module], tmp_path: Path, market_folder: Path, ending: str
) -> None:
    images = list_images(market_folder / "query", market_folder / "bounding_box_test")[:9]
    expected = Embedder(*trained)(images)
    embedder = Embedder.load(export(trained, tmp_path / f"model{ending}"))
    run_file, passes = embedder.model.run, []
    embedder.model.run = lambda pixels: passes.append(len(pixels)) or run_file(pixels)
    for batch_size in (1, 4, 32):
        features = embedder(images, batch_size=batch_size)
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())
    assert passes == [1] * 9 + [4, 4, 1] + [9]  # the mirror images are in the file
    assert embedder([]).shape == (0, embedder.dimension) == (0, expected.shape[1])
    unit = embedder(images, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    arrays = [np.random.default_rng(0).integers(0, 256, (40, 20, 3), np.uint8)]
    np.testing.assert_array_equal(embedder([arrays[0][:, :, ::-1]], bgr=True), embedder(arrays))
    assert embedder.fingerprint == embedder.description.fingerprint == model_fingerprint(*trained)
    with pytest.raises(ValueError, match="TEST.FLIP.ENABLED is built into"):
        Embedder.load(tmp_path / f"model{ending}", opts=["TEST.FLIP.ENABLED", "False"])
    with pytest.raises(ValueError, match="exported file cannot be saved as weights again"):
        embedder.save_pretrained(tmp_path / "folder")


def test_an_index_of_the_checkpoint_takes_a_file_and_gives_the_same_results(
    trained: tuple[CfgNode, torch.nn.Module], tmp_path: Path, market_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    (cfg, model), file, index = trained, export(trained, tmp_path / "model.onnx"), tmp_path / "index"
    save_weights(model, tmp_path / "model.pth", config=cfg.dump())
    root = ["--opts", "DATALOADER.NUM_WORKERS", 0, "DATASETS.FOLDER.ROOT", market_folder]
    run(capsys, "extract", "--model", tmp_path / "model.pth", "--output", tmp_path / "expected")
    run(capsys, "extract", "--model", file, "--output", tmp_path / "features", *root)
    expected, there = load_feature_set(tmp_path / "expected"), load_feature_set(tmp_path / "features")
    assert there.fingerprint == expected.fingerprint and list(there.features.paths) == list(expected.features.paths)
    scale = np.abs(expected.features.features).max()
    np.testing.assert_allclose(there.features.features, expected.features.features, rtol=0, atol=TOLERANCE * scale)
    drawn = np.random.default_rng(0).permutation(expected.features.pids)  # with the true ones, nothing goes wrong
    results = [
        evaluate_features(replace(one.features, pids=drawn), one.num_query, one.to_cfg()) for one in (there, expected)
    ]
    assert results[0] == pytest.approx(results[1], abs=0.01) and 0 < results[0]["mAP"] < 100
    run(capsys, "index", "build", "--index", index, "--features", tmp_path / "expected")
    query = next((market_folder / "query").iterdir())

    def found(*words: object) -> list[str]:
        """The images that are found, without distances, which differ in their last digits."""
        printed = run(capsys, "search", "--query", query, "--k", 3, "--index", *words).out
        return [line.split()[-1] for line in printed.splitlines() if line.endswith(".jpg")]

    expected_images = found(index)
    assert len(expected_images) == 4 and found(index, "--model", file) == expected_images
    run(capsys, "index", "add", "--index", index, "--model", file, "--images", query)
    assert len(GalleryIndex.load(index)) == 21
    run(capsys, "index", "build", "--index", tmp_path / "own", "--features", tmp_path / "features")
    assert found(tmp_path / "own") == expected_images  # by the file that the index knows of itself


def test_a_file_of_unit_length_serves_programs_and_no_index(
    trained: tuple[CfgNode, torch.nn.Module], tmp_path: Path, market_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    file, images = export(trained, tmp_path / "unit.onnx", normalize=True), list_images(market_folder / "query")
    expected = Embedder(*trained)(images, normalize=True)
    np.testing.assert_allclose(Embedder.load(file)(images), expected, rtol=0, atol=TOLERANCE)
    message = problem(capsys, "extract", "--model", file, "--images", *images, "--output", tmp_path / "features")
    assert "gives features of unit length" in message and not (tmp_path / "features").exists()


def test_what_is_damaged_is_refused_and_what_is_rough_is_said(
    trained: tuple[CfgNode, torch.nn.Module], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = export(trained, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="holds its config"):
        Embedder.load(file, trained[0])
    model = InferenceModel(*trained)
    rough = tmp_path / "rough.onnx"
    write(model, str(rough), "onnx", model.describe(precision="float16"), WriteOptions(precision="float16"))
    Embedder.load(rough)
    assert "is in float16: its features are near those of the checkpoint, not equal" in caplog.text
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cut short or no file of onnx"):
        Embedder.load(file)
