"""Exported files: which ending is which format, what a file says of itself, and running it where it is meant to run.

A file of torch's formats is opened by torch, which trusts whoever wrote it.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from ..extras import optional
from .description import PREFIX, ModelDescription
from .safetensors_files import read_safetensors

#: Ending of an exported file -> its format.
FORMATS = {
    ".onnx": "onnx",
    ".xml": "openvino",  # its weights lie beside it, in a .bin
    ".torchscript": "torchscript",
    ".pt2": "torch-export",
    ".safetensors": "safetensors",
}
#: Of OpenVINO's runtime information and of torch's extra files, the one that holds the description.
ENTRY = "fastreid_parts.json"

#: Pixels (N, 3, H, W) float32, as the file takes them -> features (N, D) float32.
Run: TypeAlias = Callable[[np.ndarray], np.ndarray]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def format_of(path: str | os.PathLike) -> str:
    """Tell the format of an exported file by its ending.

    Raises:
        ValueError: no format has this ending.
    """
    ending = Path(path).suffix
    if ending not in FORMATS:
        known = ", ".join(f"{end} ({name})" for end, name in FORMATS.items())
        raise ValueError(f"'{os.fspath(path)}' ends in no ending of an exported file: {known}")
    return FORMATS[ending]


def description_beside(path: str | os.PathLike) -> Path:
    """Name the JSON that lies beside an exported file: `model.onnx.json`."""
    return Path(f"{os.fspath(path)}.json")


def read_description(path: str | os.PathLike) -> ModelDescription:
    """Read what an exported file says of itself; of a file that lost it, what lies beside it.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: what reads it is not installed.
        ValueError: it is cut short, has an unknown ending, or nothing says what it is.
    """
    kind = format_of(path)
    if kind == "safetensors":
        return read_safetensors(path, weights=False)[0]
    with _whole_file(path):
        said = _READ[kind](os.fspath(path))
    if said and ENTRY not in said:
        return ModelDescription.from_map(said)
    beside = description_beside(path)
    if not said and not beside.is_file():
        raise ValueError(
            f"'{os.fspath(path)}' does not say what model it is, and there is no {beside.name} beside it: export the "
            "model again with `fastreid-parts export`"
        )
    return ModelDescription.from_dict(json.loads(said[ENTRY] if said else beside.read_text(encoding="utf-8")))


def open_exported(path: str | os.PathLike, device: str = "cpu") -> Run:
    """Open an exported file in its own runtime.

    Args:
        path: of any format but safetensors, which is opened as a model of torch.
        device: `cpu` or `cuda`, the latter for all but OpenVINO.

    Returns:
        A function that raises ValueError where the file gives something else than a feature an image.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: its runtime is not installed.
        ValueError: it is cut short, or its runtime lacks the device.
    """
    kind = format_of(path)
    if kind not in _OPEN:
        raise ValueError(f"'{os.fspath(path)}' holds weights without a program: load it with Embedder.load")
    with _whole_file(path):
        run = _OPEN[kind](os.fspath(path), device)

    def checked(pixels: np.ndarray) -> np.ndarray:
        features = np.asarray(run(np.ascontiguousarray(pixels, dtype=np.float32)))
        if features.ndim != 2 or len(features) != len(pixels):
            raise ValueError(
                f"'{os.fspath(path)}' gives an array of shape {features.shape} for {len(pixels)} images; it must be "
                f"({len(pixels)}, D)"
            )
        return features.astype(np.float32, copy=False)

    return checked


@contextlib.contextmanager
def _whole_file(path: str | os.PathLike) -> Iterator[None]:
    """Turn what runtimes raise for a damaged file, each its own kind, into one error."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file '{os.fspath(path)}'")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own buffers
            yield
    except ImportError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"'{os.fspath(path)}' cannot be opened; it is cut short or no file of {format_of(path)}: {reason}"
        ) from error


def _onnxruntime() -> Any:
    return optional("onnxruntime", "export", "an ONNX file")


def _openvino() -> Any:
    return optional("openvino", "openvino", "a file of OpenVINO")


def _read_onnx(path: str) -> dict[str, str]:
    model = optional("onnx", "export", "an ONNX file").load(path, load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props if entry.key.startswith(PREFIX)}


def _read_openvino(path: str) -> dict[str, str]:
    model = _openvino().Core().read_model(path)
    return {ENTRY: model.get_rt_info([ENTRY]).astype(str)} if model.has_rt_info([ENTRY]) else {}


def _read_torchscript(path: str) -> dict[str, str]:
    files: dict[str, Any] = {ENTRY: ""}
    torch.jit.load(path, map_location="cpu", _extra_files=files)
    return _found(files)


def _read_torch_export(path: str) -> dict[str, str]:
    files: dict[str, Any] = {ENTRY: ""}
    torch.export.load(path, extra_files=files)
    return _found(files)


def _found(files: dict[str, Any]) -> dict[str, str]:
    return {
        name: content.decode() if isinstance(content, bytes) else content for name, content in files.items() if content
    }


def _open_onnx(path: str, device: str) -> Run:
    runtime = _onnxruntime()
    provider = _PROVIDERS[device]
    if provider not in runtime.get_available_providers():
        raise ValueError(f"this onnxruntime cannot run on {device}: pip install onnxruntime-gpu")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings are of its own optimizations
    session = runtime.InferenceSession(path, options, providers=[provider])
    (name,) = (one.name for one in session.get_inputs())
    return lambda pixels: session.run(None, {name: pixels})[0]


def _open_openvino(path: str, device: str) -> Run:
    runtime = _openvino()
    if device != "cpu":
        raise ValueError(f"a file of OpenVINO runs on cpu, not on {device}")
    # Its default on some processors is bfloat16, whose features are not those of the checkpoint
    compiled = runtime.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pixels: compiled(pixels)[0]


def _open_torchscript(path: str, device: str) -> Run:
    return _of_torch(torch.jit.load(path, map_location=device), device)


def _open_torch_export(path: str, device: str) -> Run:
    return _of_torch(torch.export.load(path).module().to(device), device)


def _of_torch(module: Callable[[torch.Tensor], torch.Tensor], device: str) -> Run:
    @torch.no_grad()
    def run(pixels: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(pixels).to(device)).cpu().numpy()

    return run


_READ: dict[str, Callable[[str], dict[str, str]]] = {
    "onnx": _read_onnx,
    "openvino": _read_openvino,
    "torchscript": _read_torchscript,
    "torch-export": _read_torch_export,
}
_OPEN: dict[str, Callable[[str, str], Run]] = {
    "onnx": _open_onnx,
    "openvino": _open_openvino,
    "torchscript": _open_torchscript,
    "torch-export": _open_torch_export,
}
