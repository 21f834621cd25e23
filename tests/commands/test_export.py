"""export: a checkpoint in, a file that others run out, with what it gives beside what the checkpoint gives."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastreid.config import CfgNode

from fastreid_parts.deployment import Embedder
from fastreid_parts.deployment.runtimes import open_exported, read_description

from . import run as command_line
from .test_extract import write_model

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture
def model(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> list[str]:
    return write_model(tiny_cfg(), tmp_path, "ide")


@pytest.fixture
def run(capsys: pytest.CaptureFixture, tmp_path: Path) -> Callable[..., str]:
    """A function that exports into a folder of its own and gives what it prints."""
    return lambda name, *words: command_line.run(capsys, "export", "--output", tmp_path / "out" / name, *words).out


@pytest.fixture
def problem(capsys: pytest.CaptureFixture, tmp_path: Path) -> Callable[..., str]:
    """The same of a user's error, which leaves no file."""

    def fail(name: str, *words: object) -> str:
        message = command_line.problem(capsys, "export", "--output", tmp_path / "out" / name, *words)
        assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")
        return message

    return fail


def test_for_a_tracker(model: list[str], run: Callable, tmp_path: Path, market_folder: Path) -> None:
    printed = run("m.onnx", *model, "--for", "boxmot", "--dataset", "FolderReID")
    assert "onnx, float32" in printed and "takes (N, 3, 48, 24) RGB, 0 to 1, less ImageNet's mean" in printed
    assert "Compared in batches of 1, 3, 8 (images of FolderReID): cosine at least 1.000000" in printed
    before, after, lost = (float(word) for word in printed.split("mAP of FolderReID: ")[1].split() if "." in word)
    assert before == after > 0 and lost == 0
    path = tmp_path / "out" / "m.onnx"
    assert json.loads(Path(f"{path}.json").read_text()) == read_description(path).to_dict()
    images = sorted(map(str, market_folder.glob("query/*.jpg")))
    expected = Embedder.load(model[-1], model[1])(images)
    np.testing.assert_allclose(Embedder.load(path)(images), expected, rtol=1e-4, atol=1e-4)
    import cv2

    seen = [cv2.cvtColor(cv2.imread(image), cv2.COLOR_BGR2RGB) / 255 for image in images]  # as BoxMOT does
    fed = (np.stack(seen) - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    given = open_exported(path)(fed.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_8_bits_are_calibrated_on_images(
    model: list[str], run: Callable, problem: Callable, market_folder: Path
) -> None:
    three = sorted(map(str, market_folder.glob("query/*.jpg")))[:3]
    assert "int8 is calibrated on 32 images at least" in problem("m.onnx", *model, "--int8", "--calibrate", *three)
    training = market_folder / "bounding_box_train"
    printed = run("m.onnx", *model, "--int8", "--calibrate", training, "--images", *three, "--tolerance", "0.5")
    assert "onnx, int8" in printed and f"images of {', '.join(three)}" in printed


def test_without_a_dataset_people_are_drawn(model: list[str], run: Callable, tmp_path: Path) -> None:
    nowhere = ["--opts", "DATASETS.FOLDER.ROOT", tmp_path / "nowhere"]
    assert "(drawn people)" in run("m.torchscript", *model, "--for", "deep-sort", *nowhere)
    assert read_description(tmp_path / "out" / "m.torchscript").colors == "BGR"


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("m.onnx", ["--for", "boxmot", "--input", "raw"], "--for boxmot says what the pixels are: leave --input"),
        ("m.onnx", ["--format", "openvino"], "is a file of onnx; one of openvino ends in .xml"),
        ("m.safetensors", ["--for", "boxmot"], "a .safetensors holds weights and no program"),
        ("m.safetensors", ["--half"], "safetensors cannot be written in float16"),
        ("m.pt2", ["--int8"], "torch-export cannot be written in int8; onnx, openvino can"),
        ("m.onnx", ["--opset", "99"], "there is no opset 99 of the legacy exporter"),
        ("m.tflite", [], "ends in no ending of an exported file"),
        ("m.onnx", ["--dataset", "Market1502"], "Market1502"),
        ("m.onnx", ["--images", "nothing.jpg"], "there is neither an image nor a folder 'nothing.jpg'"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_written(
    model: list[str], problem: Callable, name: str, words: list[str], message: str
) -> None:
    assert message in problem(name, *model, *words)


def test_a_checkpoint_of_another_model(model: list[str], problem: Callable) -> None:
    other = [
        "--opts",
        "MODEL.META_ARCHITECTURE",
        "CMBN",
        "MODEL.HEADS.NAME",
        "CMBNHead",
        "MODEL.HEADS.EMBEDDING_DIM",
        32,
    ]
    assert "ide.pth" in problem("m.onnx", *model, *other)


def test_an_exported_file_is_no_checkpoint(model: list[str], run: Callable, problem: Callable, tmp_path: Path) -> None:
    run("m.torchscript", *model)
    (tmp_path / "out").rename(tmp_path / "first")
    file = tmp_path / "first" / "m.torchscript"
    assert "is an exported file: name the checkpoint that it was made of" in problem("m.onnx", "--model", file)


def test_a_file_that_is_there_stays(
    model: list[str], run: Callable, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    path = tmp_path / "out" / "m.torchscript"
    run("m.torchscript", *model)
    before = path.read_bytes()
    message = command_line.problem(capsys, "export", "--output", path, *model, "--for", "deep-sort")
    assert message.startswith(f"there already: {path}") and path.read_bytes() == before
    run("m.torchscript", *model, "--for", "deep-sort", "--overwrite")
    assert read_description(path).colors == "BGR"
