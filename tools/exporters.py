"""Which exporter and runtime takes which model: a table for the documents.

    python tools/exporters.py --output docs/guides/_exporters.md     (half an hour on two cores; --models, --ways: less)

Each model is a config that is shipped, on ResNet-18 or on a small ViT, untrained, for small images. It is written as
`fastreid-parts export` writes it, opened in its own runtime, and compared at batches of 1, 3 and 8 drawn people. A cell
is the largest distance of a feature to the model's, as a share of its length; one that fails names the reason below.
"""

from __future__ import annotations

import argparse
import platform
import re
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling import build_model
from tabulate import tabulate
from tqdm import tqdm

import fastreid_parts  # noqa: F401  patches fast-reid
from fastreid_parts.config import load_config
from fastreid_parts.deployment import InferenceModel
from fastreid_parts.deployment.export import BATCHES, TOLERANCES, agreement_of, export
from fastreid_parts.deployment.loading import for_inference
from fastreid_parts.deployment.sample_images import draw_people, load_raw
from fastreid_parts.deployment.writers import EXPORTERS, WriteOptions, quiet
from fastreid_parts.files import write_bytes

_RESNET = ("MODEL.BACKBONE.DEPTH", "18x", "MODEL.BACKBONE.FEAT_DIM", 512)
_VIT = ("MODEL.BACKBONE.TIMM", "test_vit")
_BAG = (*_RESNET, "MODEL.HEADS.WITH_BNNECK", True, "MODEL.BACKBONE.LAST_STRIDE", 1)
_SIZE = [192, 48]  # 12 rows of the map, which all methods can cut

#: Model -> config, empty for fast-reid's own defaults, and keys that make it small.
MODELS: dict[str, tuple[str, tuple]] = {
    **{
        name: (f"Synthetic/{file}.yml", _RESNET)
        for name, file in (
            ("CMBN", "cmbn"), ("CGE on BoT", "cge_bot"), ("CGE on AGW", "cge_agw"), ("RRID-F", "rrid_f"),
            ("RRID-S", "rrid_s"), ("CAN", "can"), ("RMGL", "rmgl"), ("combination", "parts_combined"), ("MGN", "mgn"),
        )
    },
    "BagTricks": ("", _BAG),
    **{f"{name.upper()}, ViT": (f"Market/{name}_vit.yml", _VIT) for name in ("cmbn", "cge", "rrid", "can", "rmgl")},
}  # fmt: skip

_ONNX = [
    (f"ONNX, {exporter} {opset}", "model.onnx", WriteOptions(exporter=exporter, opset=opset))
    for exporter, (opsets, usual) in EXPORTERS.items()
    for opset in (usual, opsets[-1])
]
#: Way -> the file that it writes, none for a model that is compiled and not written, and how.
WAYS: dict[str, tuple[str, WriteOptions]] = {
    **{name: (file, options) for name, file, options in _ONNX},
    "ONNX, int8": ("model.onnx", WriteOptions(precision="int8")),
    "OpenVINO": ("model.xml", WriteOptions()),
    "OpenVINO, int8": ("model.xml", WriteOptions(precision="int8")),
    "torch.export": ("model.pt2", WriteOptions()),
    "torch.jit.trace": ("model.torchscript", WriteOptions()),
    "torch.compile": ("", WriteOptions()),
}


def small_model(name: str) -> tuple[InferenceModel, CfgNode]:
    """Build a model in whose state nothing is as it was initialized, and its config.

    Args:
        name: one of `MODELS`.
    """
    file, changes = MODELS[name]
    cfg = for_inference(load_config(file) if file else get_cfg())
    cfg.merge_from_list([*changes, "MODEL.DEVICE", "cpu", "INPUT.SIZE_TRAIN", _SIZE, "INPUT.SIZE_TEST", _SIZE])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value += 0.02 * (torch.rand(value.shape) - 0.5)
    return InferenceModel(cfg, model), cfg


def difference(model: InferenceModel, cfg: CfgNode, way: str) -> float:
    """Measure how far the features of one way are from the model's, see the module.

    Args:
        model: of `small_model`.
        cfg: its config.
        way: one of `WAYS`.

    Raises:
        Exception: whatever exporter or runtime raise; ValueError where features differ.
    """
    file, options = WAYS[way]
    people = load_raw(cfg, draw_people(32 if options.precision == "int8" else sum(BATCHES)))
    if not file:
        torch.compiler.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True)  # raises at a graph break
        return agreement_of(model, compiled, people).difference
    if options.precision == "int8":
        options = WriteOptions(precision="int8", calibration=people.numpy())
    said = model.describe(precision=options.precision)
    with tempfile.TemporaryDirectory() as folder:
        return export(model, Path(folder, file), people, description=said, options=options).difference


def cell(model: InferenceModel, cfg: CfgNode, way: str, reasons: list[str]) -> str:
    """Fill one cell; what went wrong is added to `reasons` once.

    Args:
        model: of `small_model`.
        cfg: its config.
        way: one of `WAYS`.
        reasons: so far.
    """
    try:
        with quiet():
            return f"{difference(model, cfg, way):.0e}"
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        without_folder = re.sub(r"[^\s']*/(model\.)", r"\1", lines[0])
        reason = f"{way}: {type(error).__name__}: {without_folder[:300]}"
        if reason not in reasons:
            reasons.append(reason)
        return f"fails ({reasons.index(reason) + 1})"


def table(models: Sequence[str], ways: Sequence[str], show: Callable[..., Any] = tqdm) -> str:
    """Make the page: the table, the reasons, and the versions.

    Args:
        models: some of `MODELS`.
        ways: some of `WAYS`.
        show: wraps the models while they are worked on.
    """
    reasons: list[str] = []
    rows = []
    for name in show(models, desc="models"):
        model, cfg = small_model(name)
        rows.append([name, *(cell(model, cfg, way, reasons) for way in ways)])
    parts = [tabulate(rows, headers=["", *ways], tablefmt="pipe", disable_numparse=True)]
    parts += ["\n".join(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))] if reasons else []
    allowed = ", ".join(f"{name} {share:g}" for name, share in TOLERANCES.items())
    parts.append(f"Allowed: {allowed}. Measured with {', '.join(_versions())}; `tools/exporters.py` wrote this table.")
    return "\n\n".join(parts) + "\n"


def _versions() -> list[str]:
    found = [f"Python {platform.python_version()}"]
    for name in ("torch", "onnx", "onnxruntime", "onnxscript", "openvino", "nncf"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Make the table and print or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS), metavar="NAME")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS), metavar="NAME")
    parser.add_argument("--output", metavar="FILE", help="the page to write")
    args = parser.parse_args(argv)
    page = table(args.models, args.ways)
    print(page)
    if args.output:
        write_bytes(args.output, page.encode())


if __name__ == "__main__":
    main()
