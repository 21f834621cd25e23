"""A model written as a file of each format. What is written is checked by `export`, not here."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..extras import optional
from .description import ModelDescription
from .inference import InferenceModel
from .runtimes import ENTRY
from .safetensors_files import save_safetensors

#: The exporters to ONNX that torch has, with the opsets that each writes and the one that is taken unless another is
#: asked for.
EXPORTERS = {"legacy": (range(13, 21), 17), "dynamo": (range(18, 24), 18)}
#: Precision -> formats that can have it.
PRECISIONS = {
    "float32": ("onnx", "openvino", "torchscript", "torch-export", "safetensors"),
    "float16": ("onnx", "openvino", "torchscript", "torch-export"),
    "int8": ("onnx", "openvino"),
}
_INPUT, _OUTPUT = "images", "features"
_SAMPLES = 2  # images of the sample; with one, torch takes the batch for fixed
_QUANTIZED = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """How a file is written.

    Attributes:
        precision: one of `PRECISIONS`.
        exporter: one of `EXPORTERS`; of ONNX, and of OpenVINO, which is made of it.
        opset: of ONNX; None: the exporter's usual one.
        simplify: run onnxsim on it.
        calibration: images (N, 3, H, W) float32 as the model takes them, for int8.
    """

    precision: str = "float32"
    exporter: str = "legacy"
    opset: int | None = None
    simplify: bool = False
    calibration: Sequence[np.ndarray] = field(default=(), repr=False)

    def check(self, kind: str) -> None:
        """Refuse what cannot be written.

        Args:
            kind: the format.

        Raises:
            ImportError: what writes it is not installed.
            ValueError: the format has no such precision, an option is not of this format, or there is no such opset.
        """
        if kind not in PRECISIONS[self.precision]:
            raise ValueError(
                f"{kind} cannot be written in {self.precision}; {', '.join(PRECISIONS[self.precision])} can"
            )
        if kind not in ("onnx", "openvino") and (self != WriteOptions(precision=self.precision)):
            raise ValueError(f"--opset, --exporter and --simplify are of onnx and openvino, not of {kind}")
        opsets, _ = EXPORTERS[self.exporter]
        if self.opset is not None and self.opset not in opsets:
            others = [f"{name} from {those[0]} to {those[-1]}" for name, (those, _) in EXPORTERS.items()]
            raise ValueError(f"there is no opset {self.opset} of the {self.exporter} exporter: {', '.join(others)}")
        for module, extra in _needs(kind, self):
            optional(module, extra, f"export to {kind}")


def _needs(kind: str, options: WriteOptions) -> Iterator[tuple[str, str]]:
    """Modules and the extras that have them."""
    if kind == "onnx":
        yield from (("onnx", "export"), ("onnxruntime", "export"))
    if kind == "openvino":
        yield "openvino", "openvino"
        if options.precision == "int8":
            yield "nncf", "openvino"
    if kind in ("onnx", "openvino") and options.exporter == "dynamo":
        yield "onnxscript", "export"
    if options.simplify:
        yield "onnxsim", "simplify"


def write(model: InferenceModel, path: str, kind: str, description: ModelDescription, options: WriteOptions) -> None:
    """Write a model into a file that is not there yet.

    Args:
        model: on the CPU, in float32.
        path: of the file.
        kind: its format.
        description: goes into the file.
        options: see `WriteOptions`.
    """
    with torch.no_grad(), quiet():
        _WRITE[kind](model, path, description, options)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what exporters say of their own work; errors are raised as ever."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "nncf")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


class _InHalf(nn.Module):
    """A fast-reid model in half precision that takes images as they come."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.half()

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        return self.model({**batch, "images": batch["images"].half()})


def in_half(model: InferenceModel) -> InferenceModel:
    """Copy a model whose weights and maps are float16; pixels and features stay float32."""
    copied = copy.deepcopy(model)
    copied.model = _InHalf(copied.model)
    return copied


def _sample(description: ModelDescription) -> torch.Tensor:
    return torch.zeros(_SAMPLES, 3, *description.size)


def _dynamic_batch() -> tuple[dict[int, Any], ...]:
    return ({0: torch.export.Dim("batch")},)


def to_onnx(
    model: nn.Module, path: str, size: Sequence[int], exporter: str = "legacy", opset: int | None = None
) -> None:
    """Write an ONNX file whose batch is dynamic.

    Args:
        model: (N, 3, H, W) -> (N, D).
        path: of the file.
        size: H and W.
        exporter: one of `EXPORTERS`.
        opset: None: the exporter's usual one.
    """
    how: dict[str, Any] = {"dynamo": False, "dynamic_axes": {_INPUT: {0: "batch"}, _OUTPUT: {0: "batch"}}}
    if exporter == "dynamo":
        how = {"dynamo": True, "dynamic_shapes": _dynamic_batch(), "external_data": False, "verbose": False}
    how["opset_version"] = opset or EXPORTERS[exporter][1]
    names = {"input_names": [_INPUT], "output_names": [_OUTPUT]}
    torch.onnx.export(model, (torch.zeros(_SAMPLES, 3, *size),), path, **names, **how)


def _write_onnx(model: InferenceModel, path: str, description: ModelDescription, options: WriteOptions) -> None:
    onnx = optional("onnx", "export", "export to onnx")
    source = in_half(model) if options.precision == "float16" else model
    to_onnx(source, path, description.size, options.exporter, options.opset)
    if options.simplify:
        simple, same = optional("onnxsim", "simplify", "--simplify").simplify(onnx.load(path))
        if not same:
            raise ValueError("onnxsim gives a model of other features: export without --simplify")
        onnx.save(simple, path)
    if options.precision == "int8":
        _quantize_onnx(path, options.calibration)
    written = onnx.load(path)
    opset = max(entry.version for entry in written.opset_import if not entry.domain)
    if options.opset not in (None, opset):
        raise ValueError(f"the {options.exporter} exporter of this torch writes opset {opset}, not {options.opset}")
    # By `args` ultralytics knows that it may give several images at once
    entries = {**description.to_map(), "args": str({"dynamic": True})}
    for key, value in entries.items():
        written.metadata_props.add(key=key, value=value)
    onnx.save(written, path)


def _quantize_onnx(path: str, images: Sequence[np.ndarray]) -> None:
    """Weights of each output channel and maps in 8 bits, where the network multiplies matrices."""
    quantization = optional("onnxruntime.quantization", "export", "--int8")
    preprocess = optional("onnxruntime.quantization.shape_inference", "export", "--int8").quant_pre_process

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.left = iter(tqdm(images, desc="calibration", unit="image", leave=False, disable=None))

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {_INPUT: image[None]}

    prepared = f"{path}.prepared"
    preprocess(path, prepared, skip_symbolic_shape=True)
    quantization.quantize_static(
        prepared,
        path,
        Images(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=list(_QUANTIZED),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    os.remove(prepared)


def _write_openvino(model: InferenceModel, path: str, description: ModelDescription, options: WriteOptions) -> None:
    openvino = optional("openvino", "openvino", "export to openvino")
    # Of ONNX: its converter of torch models takes several times as long for the same file
    between = f"{path}.onnx"
    to_onnx(model, between, description.size, options.exporter, options.opset)
    converted = openvino.Core().read_model(between)
    if options.precision == "int8":
        nncf = optional("nncf", "openvino", "--int8")
        images = [image[None] for image in options.calibration]
        # Heads stay as they are: masks and counts of maxima bear no rounding, and little of the work is theirs
        kept = nncf.IgnoredScope(patterns=[".*head.*"], validate=False)
        converted = nncf.quantize(converted, nncf.Dataset(images), subset_size=len(images), ignored_scope=kept)
    converted.set_rt_info(json.dumps(description.to_dict()), [ENTRY])
    openvino.save_model(converted, path, compress_to_fp16=options.precision == "float16")
    os.remove(between)


def _write_torchscript(model: InferenceModel, path: str, description: ModelDescription, options: WriteOptions) -> None:
    source = in_half(model) if options.precision == "float16" else model
    traced = torch.jit.trace(source, _sample(description), check_trace=False)
    torch.jit.save(traced, path, _extra_files={ENTRY: json.dumps(description.to_dict())})


def _write_torch_export(model: InferenceModel, path: str, description: ModelDescription, options: WriteOptions) -> None:
    source = in_half(model) if options.precision == "float16" else model
    program = torch.export.export(source, (_sample(description),), dynamic_shapes=_dynamic_batch())
    torch.export.save(program, path, extra_files={ENTRY: json.dumps(description.to_dict())})


def _write_safetensors(model: InferenceModel, path: str, description: ModelDescription, options: WriteOptions) -> None:
    save_safetensors(model, path, description)


_WRITE: dict[str, Callable[[InferenceModel, str, ModelDescription, WriteOptions], None]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torchscript": _write_torchscript,
    "torch-export": _write_torch_export,
    "safetensors": _write_safetensors,
}
