"""What leaves the plugin gives the features that it had inside, whatever the batch."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode

from fastreid_parts.deployment import InferenceModel, writers
from fastreid_parts.deployment import export as exporting
from fastreid_parts.deployment.export import Agreement, compare, export
from fastreid_parts.deployment.inference import as_pixels
from fastreid_parts.deployment.runtimes import description_beside, open_exported, read_description
from fastreid_parts.deployment.sample_images import check_calibration, draw_people, load_raw
from fastreid_parts.deployment.writers import EXPORTERS, PRECISIONS, WriteOptions

from .models import EXPORTED, MODELS, build

BATCHES = (1, 3, 8)
#: Of these torch.export has the default tests, of all in MODELS ONNX
TRACED = ("BagTricks", "CMBN", "RRID", "RMGL")


def _traced(name: str) -> Any:
    return pytest.param(name, marks=() if name in TRACED else pytest.mark.export)


#: Methods on a ViT and on further scales are exported with the tests of every exporter, `-m export`
EVERY = [pytest.param(name, marks=() if name in MODELS else pytest.mark.export) for name in EXPORTED]


def rank_lists(features: np.ndarray) -> np.ndarray:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return np.argsort(-(unit @ unit.T), axis=1)


def people(cfg: CfgNode, count: int = sum(BATCHES)) -> torch.Tensor:
    return load_raw(cfg, draw_people(count))


def save(model: InferenceModel, path: Path, pixels: torch.Tensor, **values: Any) -> Agreement:
    """Export with the options that are named, the rest as `export` takes it."""
    names = {"precision", "exporter", "opset", "simplify", "calibration"}
    options = WriteOptions(**{name: values.pop(name) for name in names & values.keys()})
    said = model.describe(precision=options.precision)
    return export(model, path, pixels, description=said, options=options, **values)


@pytest.fixture
def bag(tiny_cfg: Callable[..., CfgNode]) -> tuple[InferenceModel, torch.Tensor]:
    """A small model and images."""
    cfg, model = build(tiny_cfg, "BagTricks")
    return InferenceModel(cfg, model), people(cfg)


@pytest.mark.parametrize("name", EVERY)
def test_onnx_of_every_model(tiny_cfg: Callable[..., CfgNode], name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    cfg, network = build(tiny_cfg, name, "TEST.FLIP.ENABLED", name == "RMGL")
    model, path = InferenceModel(cfg, network, pixels="imagenet"), tmp_path / "model.onnx"
    pixels = as_pixels(people(cfg), "imagenet", "RGB")
    save(model, path, pixels)
    run = open_exported(path)
    for number in BATCHES:
        with torch.no_grad():
            expected = model(pixels[:number]).numpy()
        given = run(pixels[:number].numpy())
        np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
        np.testing.assert_array_equal(rank_lists(given), rank_lists(expected))


@pytest.mark.parametrize("name", [_traced(name) for name in EXPORTED])
def test_torch_export_has_a_dynamic_batch(tiny_cfg: Callable[..., CfgNode], name: str) -> None:
    cfg, network = build(tiny_cfg, name)
    model, pixels = InferenceModel(cfg, network), people(cfg)
    with torch.no_grad():
        program = torch.export.export(model, (pixels[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
        inputs = [node for node in program.graph.nodes if node.op == "placeholder" and node.name == "pixels"]
        assert isinstance(inputs[0].meta["val"].shape[0], torch.SymInt)
        for number in BATCHES:
            torch.testing.assert_close(program.module()(pixels[:number]), model(pixels[:number]))


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("model.onnx", "float16"),
        ("model.onnx", "int8"),
        ("model.torchscript", "float32"),
        ("model.torchscript", "float16"),
        ("model.pt2", "float32"),
        ("model.pt2", "float16"),
        pytest.param("model.xml", "float32", marks=pytest.mark.export),
        pytest.param("model.xml", "float16", marks=pytest.mark.export),
        pytest.param("model.xml", "int8", marks=pytest.mark.export),
        ("model.safetensors", "float32"),
    ],
)
def test_every_format_in_every_precision(
    tiny_cfg: Callable[..., CfgNode], name: str, precision: str, tmp_path: Path
) -> None:
    cfg, network = build(tiny_cfg, "CMBN")
    model, pixels = InferenceModel(cfg, network), people(cfg)
    if name.endswith(".xml"):
        pytest.importorskip("nncf" if precision == "int8" else "openvino")
    images = pixels.numpy() if precision == "int8" else ()
    agreement = save(model, tmp_path / name, pixels, precision=precision, calibration=images, tolerance=0.5)
    assert agreement == compare(model, tmp_path / name, pixels)
    assert agreement.difference < exporting.TOLERANCES[precision] and agreement.cosine > 0.97
    assert read_description(tmp_path / name).precision == precision
    expected = {name, f"{name}.json"} | ({"model.bin"} if name.endswith(".xml") else set())
    assert set(os.listdir(tmp_path)) == expected
    if precision != "float32":
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        written = sum(path.stat().st_size for path in tmp_path.iterdir() if path.suffix not in (".json", ".xml"))
        assert written < weights * (0.35 if precision == "int8" else 0.6)


def test_a_description_beside_the_file_and_in_it(bag: tuple, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model, pixels = bag
    save(model, tmp_path / "model.onnx", pixels)
    beside = json.loads(description_beside(tmp_path / "model.onnx").read_text())
    assert beside == model.describe().to_dict() == read_description(tmp_path / "model.onnx").to_dict()
    entries = {one.key: one.value for one in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert entries["fastreid_parts.fingerprint"] == beside["fingerprint"]
    assert entries["args"] == "{'dynamic': True}"  # by which ultralytics gives several images at once


def test_features_that_differ_leave_nothing(bag: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels = bag
    there = tmp_path / "model.torchscript"
    there.write_bytes(b"before")
    monkeypatch.setattr(exporting, "compare", lambda *_: Agreement(0.9, 0.4))
    with pytest.raises(ValueError, match=r"differ from the model's by 0.4 of their length .*model.torchscript' is not"):
        save(model, there, pixels, overwrite=True)
    monkeypatch.setattr(exporting, "compare", lambda *_: Agreement(float("nan"), float("nan")))
    with pytest.raises(ValueError, match="differ from the model's by nan"):
        save(model, there, pixels, overwrite=True)
    assert os.listdir(tmp_path) == ["model.torchscript"] and there.read_bytes() == b"before"


def test_what_an_exporter_refuses_is_one_line(bag: tuple, tmp_path: Path) -> None:
    model, pixels = bag
    model.register_forward_hook(lambda *_: torch.linalg.qr(torch.rand(512, 512))[0][:2])
    with pytest.raises(ValueError, match=r"cannot be written as onnx, opset 13 by the legacy exporter \(Unsupported"):
        save(model, tmp_path / "model.onnx", pixels, opset=13)
    assert os.listdir(tmp_path) == []


def test_a_batch_that_is_baked_in_is_found(bag: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels = bag

    def fixed(model: InferenceModel, path: str, *_: Any) -> None:
        torch.jit.trace(lambda x: torch.zeros(2, 512) + x.sum(), pixels[:2]).save(path)

    monkeypatch.setattr(exporting, "write", fixed)
    with pytest.raises(ValueError, match=r"of shape \(2, 512\) for 1 images"):
        save(model, tmp_path / "model.torchscript", pixels)
    assert os.listdir(tmp_path) == []


def test_nothing_is_overwritten_unasked(bag: tuple, tmp_path: Path) -> None:
    model, pixels = bag
    path, beside = tmp_path / "model.torchscript", tmp_path / "model.torchscript.json"
    for place in (path, beside):
        place.write_text("{}")
        with pytest.raises(FileExistsError, match=f"there already: {place}"):
            save(model, path, pixels)
        place.unlink()
    beside.write_text('{"of": "something else"}')
    with pytest.raises(FileExistsError, match="is of something else: name another file"):
        save(model, path, pixels, overwrite=True)
    beside.unlink()
    save(model, path, pixels)
    save(model, path, pixels, overwrite=True)


class TestFullDisk:
    """Writers raise what they like then."""

    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no"), RuntimeError("failed writing file")])
    def test_while_writing(self, bag: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        model, pixels = bag
        free = iter([10**12, 0])
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))

        def write(*_: Any) -> None:
            raise error

        monkeypatch.setattr(exporting, "write", write)
        with pytest.raises(OSError, match="the disk is full: no room for .*model.torchscript; what was there"):
            save(model, tmp_path / "model.torchscript", pixels)
        assert os.listdir(tmp_path) == []

    def test_before(self, bag: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model, pixels = bag
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(OSError, match="the disk is full"):
            save(model, tmp_path / "model.torchscript", pixels)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("onnx", {"opset": 99}, "no opset 99 of the legacy exporter: legacy from 13 to 20, dynamo from 18 to 23"),
        ("onnx", {"opset": 17, "exporter": "dynamo"}, "there is no opset 17 of the dynamo exporter"),
        ("torchscript", {"opset": 17}, "--opset, --exporter and --simplify are of onnx and openvino"),
        ("pt2", {"precision": "int8"}, "pt2 cannot be written in int8; onnx, openvino can"),
        ("safetensors", {"precision": "float16"}, "safetensors cannot be written in float16; onnx, openvino, torchsc"),
    ],
)
def test_what_cannot_be_is_said(kind: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WriteOptions(**options).check(kind)


@pytest.mark.parametrize(
    ("kind", "options", "module", "extra"),
    [
        ("onnx", {}, "onnx", "export"),
        ("onnx", {}, "onnxruntime", "export"),
        ("onnx", {"exporter": "dynamo"}, "onnxscript", "export"),
        ("onnx", {"simplify": True}, "onnxsim", "simplify"),
        ("openvino", {}, "openvino", "openvino"),
        ("openvino", {"precision": "int8"}, "nncf", "openvino"),
    ],
)
def test_what_is_not_installed_is_named(
    kind: str, options: dict, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript", "onnxsim", "openvino", "nncf"):
        monkeypatch.setitem(sys.modules, name, None if name == module else SimpleNamespace())
    with pytest.raises(ImportError, match=rf"needs {module}: pip install 'fastreid_parts\[{extra}\]'"):
        WriteOptions(**options).check(kind)


def test_three_images_calibrate_nothing() -> None:
    with pytest.raises(ValueError, match=r"on 32 images at least.*here are 3 \(images of x\)"):
        check_calibration(draw_people(3), "images of x")


def test_the_tables_are_of_the_same_formats() -> None:
    assert set(PRECISIONS["float32"]) == set(writers._WRITE)
    assert all(usual in opsets for opsets, usual in EXPORTERS.values())
