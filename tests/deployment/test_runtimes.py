"""Exported files of every format: what they say of themselves, and files that are damaged or of something else."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode

from fastreid_parts.deployment import InferenceModel, ModelDescription
from fastreid_parts.deployment.runtimes import description_beside, format_of, open_exported, read_description
from fastreid_parts.deployment.writers import WriteOptions, write

from .models import MODELS, build

ENDINGS = [".onnx", ".xml", ".torchscript", ".pt2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


@pytest.fixture
def exported(tiny_cfg: Callable[..., CfgNode], folder: Path) -> Callable[[str], tuple[Path, ModelDescription]]:
    """A function that writes a file of an ending, once for all tests, with nothing beside it."""

    def make(ending: str) -> tuple[Path, ModelDescription]:
        if ending == ".xml":
            pytest.importorskip("openvino")
        model = InferenceModel(*build(tiny_cfg, "BagTricks"), pixels="unit", colors="BGR")
        path, said = folder / f"model{ending}", model.describe(threshold=0.3)
        if not path.exists():
            write(model, str(path), format_of(path), said, WriteOptions())
        return path, said

    return make


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_says_what_it_is(exported: Callable, ending: str, tmp_path: Path) -> None:
    path, said = exported(ending)
    assert read_description(path) == said
    assert not description_beside(path).exists()


def test_a_file_that_lost_it_is_described_by_what_lies_beside(exported: Callable, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path, said = exported(".onnx")
    stripped = onnx.load(path)
    del stripped.metadata_props[:]
    onnx.save(stripped, tmp_path / "bare.onnx")
    with pytest.raises(ValueError, match="does not say what model it is, and there is no bare.onnx.json beside it"):
        read_description(tmp_path / "bare.onnx")
    description_beside(tmp_path / "bare.onnx").write_text(json.dumps(said.to_dict()))
    assert read_description(tmp_path / "bare.onnx") == said


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_cut_short(exported: Callable, ending: str, tmp_path: Path) -> None:
    path, _ = exported(ending)
    cut = tmp_path / f"cut{ending}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for reader in (read_description, open_exported):
        with pytest.raises(ValueError, match=r"cut\..*it is cut short or no file of"):
            reader(cut)


def test_weights_of_openvino_cut_short(exported: Callable, tmp_path: Path) -> None:
    path, _ = exported(".xml")
    shutil.copy(path, tmp_path / "cut.xml")
    weights = path.with_suffix(".bin").read_bytes()
    (tmp_path / "cut.bin").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="it is cut short"):
        open_exported(tmp_path / "cut.xml")


@pytest.mark.parametrize("reader", [read_description, open_exported])
def test_no_such_file_and_no_such_format(reader: Callable, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        reader(tmp_path / "nothing.onnx")
    (tmp_path / "model.tflite").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model.tflite' ends in no ending of an exported file: .onnx \(onnx\)"):
        reader(tmp_path / "model.tflite")


def test_a_file_with_another_number_of_rows_is_refused(tmp_path: Path) -> None:
    """As files are whose batch is that of the sample that they were traced with."""

    class Fixed(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels[:2].flatten(1)

    torch.jit.trace(Fixed(), torch.zeros(2, 3, 4, 4)).save(str(tmp_path / "fixed.torchscript"))
    run = open_exported(tmp_path / "fixed.torchscript")
    assert run(np.zeros((2, 3, 4, 4))).dtype == np.float32
    with pytest.raises(ValueError, match=r"gives an array of shape \(2, 48\) for 5 images"):
        run(np.zeros((5, 3, 4, 4)))


@pytest.mark.parametrize(("module", "ending"), [("onnxruntime", ".onnx"), ("onnx", ".onnx"), ("openvino", ".xml")])
def test_what_is_not_installed_is_named(
    module: str, ending: str, exported: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = exported(ending)
    monkeypatch.setitem(sys.modules, module, None)
    extra = "openvino" if module == "openvino" else "export"
    with pytest.raises(ImportError, match=rf"needs {module}: pip install 'fastreid_parts\[{extra}\]'"):
        (read_description if module == "onnx" else open_exported)(path)


def test_the_device_is_there_or_refused(exported: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = pytest.importorskip("onnxruntime")
    path, said = exported(".onnx")
    monkeypatch.setattr(runtime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ValueError, match="this onnxruntime cannot run on cuda"):
        open_exported(path, "cuda")
    assert open_exported(path)(np.zeros((3, 3, *MODELS["BagTricks"][:2]))).shape == (3, said.dimension)
