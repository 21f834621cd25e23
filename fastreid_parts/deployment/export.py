"""A trained model as a file of another program's: written, opened again, compared, and only then put in its place."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..files import is_disk_full, write_json
from .description import ModelDescription
from .drafts import drafts
from .inference import InferenceModel
from .runtimes import Run, description_beside, format_of, open_exported
from .safetensors_files import load_safetensors
from .writers import WriteOptions, write

#: Images in each batch that a file is compared on; none is the batch that it was traced with.
BATCHES = (1, 3, 8)
#: Precision -> by how much of its length a feature may differ.
TOLERANCES = {"float32": 1e-4, "float16": 0.05, "int8": 0.25}
#: What a program feeds -> range of the pixels and order of the colors.
TARGETS = {"boxmot": ("imagenet", "RGB"), "ultralytics": ("unit", "RGB"), "deep-sort": ("raw", "BGR")}


@dataclass(frozen=True)
class Agreement:
    """How features of a file agree with those of the model.

    Attributes:
        cosine: smallest similarity of an image's two features.
        difference: largest distance of an image's two features, as a share of the length of the model's.
    """

    cosine: float
    difference: float


def export(
    model: InferenceModel,
    path: str | os.PathLike,
    pixels: torch.Tensor,
    *,
    description: ModelDescription,
    options: WriteOptions,
    tolerance: float | None = None,
    overwrite: bool = False,
) -> Agreement:
    """Write a model into a file, with its description in it and beside it, and compare the two.

    What is written takes its place only if its features agree: until then, and where they do not, what was there before
    is as it was, and nothing else is left.

    Args:
        model: on the CPU.
        path: of the file, by whose ending the format is known; folders on the way are made.
        pixels: images (N, 3, H, W) as the model takes them, which features are compared on.
        description: see `InferenceModel.describe`.
        options: how it is written.
        tolerance: see `Agreement.difference`; by default that of the precision.
        overwrite: replace files that are there.

    Raises:
        FileExistsError: one of the files is there and is not to be replaced, or is of something else.
        ImportError: what writes or runs the file is not installed.
        OSError: the disk is full.
        ValueError: the format cannot be written so, or its features differ.
    """
    target, kind = Path(path), format_of(path)
    options.check(kind)
    check_places(target, overwrite)
    tolerance = TOLERANCES[options.precision] if tolerance is None else tolerance
    target.parent.mkdir(parents=True, exist_ok=True)
    _check_room(target, model)
    with drafts(target.parent, target.name) as folder:
        draft = os.path.join(folder, target.name)
        with tqdm(total=2, desc=f"writing {target.name}", leave=False, disable=None) as progress:
            try:
                write(model, draft, kind, description, options)
                write_json(description_beside(draft), description.to_dict())
            except Exception as error:
                if is_disk_full(error) or shutil.disk_usage(folder).free < _size(model):
                    raise _no_room(target) from error
                if isinstance(error, (ImportError, OSError, ValueError)):
                    raise
                reason = (str(error).strip().splitlines() or [""])[0]
                raise ValueError(
                    f"this model cannot be written as {kind}, opset {options.opset or 'as usual'} by the "
                    f"{options.exporter} exporter ({type(error).__name__}: {reason}); another may do"
                ) from error
            progress.update()
            progress.set_description(f"comparing {target.name}")
            agreement = compare(model, draft, pixels)
        if not agreement.difference <= tolerance:
            raise ValueError(
                f"features of the {kind} file in {options.precision} differ from the model's by "
                f"{agreement.difference:.2g} of their length (cosine {agreement.cosine:.6f}), and {tolerance:g} is "
                f"allowed: '{target}' is not written. Another precision or exporter may do; --tolerance allows more"
            )
    return agreement


def check_places(target: Path, overwrite: bool) -> None:
    """Refuse to write over files.

    Args:
        target: the file to export.
        overwrite: the file and its own companions may be replaced.

    Raises:
        FileExistsError: something is there.
    """
    beside = description_beside(target)
    weights = [target.with_suffix(".bin")] if format_of(target) == "openvino" else []
    there = [str(place) for place in (target, beside, *weights) if place.exists()]
    if there and not overwrite:
        raise FileExistsError(f"there already: {', '.join(there)}. Name another file, or replace with --overwrite")
    if beside.exists():
        try:
            ModelDescription.from_dict(json.loads(beside.read_text(encoding="utf-8")))
        except ValueError as error:
            raise FileExistsError(f"'{beside}' is of something else: name another file than '{target}'") from error


def compare(model: InferenceModel, path: str | os.PathLike, pixels: torch.Tensor) -> Agreement:
    """Compare the features of an exported file with those of its model, at each of `BATCHES`.

    Args:
        model: on the CPU.
        path: of the file.
        pixels: images (N, 3, H, W) as both take them; they are repeated where there are too few.

    Raises:
        ImportError: what runs the file is not installed.
        ValueError: the file cannot be opened, or gives something else than (N, D).
    """
    run = _run_of(path)
    return agreement_of(model, lambda batch: torch.from_numpy(run(batch.numpy())), pixels)


@torch.no_grad()
def agreement_of(
    model: Callable[[torch.Tensor], torch.Tensor],
    other: Callable[[torch.Tensor], torch.Tensor],
    pixels: torch.Tensor,
) -> Agreement:
    """Compare the features of two forms of a model at each of `BATCHES`.

    Args:
        model: the form that is right.
        other: the form that is compared with it.
        pixels: images (N, 3, H, W) as both take them; they are repeated where there are too few.

    Raises:
        ValueError: the two give features of other shapes.
    """
    cosines, differences = [], []
    for batch in _batches(pixels):
        expected, got = model(batch), other(batch)
        if got.shape != expected.shape:
            raise ValueError(f"features are {tuple(got.shape)} where the model's are {tuple(expected.shape)}")
        cosines.append(nn.functional.cosine_similarity(got, expected).min())
        differences.append(((got - expected).norm(dim=1) / expected.norm(dim=1)).max())
    return Agreement(float(torch.stack(cosines).min()), float(torch.stack(differences).max()))


def _run_of(path: str | os.PathLike) -> Run:
    if format_of(path) != "safetensors":
        return open_exported(path)
    loaded = InferenceModel(*load_safetensors(path, ["MODEL.DEVICE", "cpu"]))

    @torch.no_grad()
    def run(pixels: np.ndarray) -> np.ndarray:
        return loaded(torch.from_numpy(pixels)).numpy()

    return run


def _batches(pixels: torch.Tensor) -> Iterator[torch.Tensor]:
    rows = np.resize(np.arange(len(pixels)), sum(BATCHES))
    for chosen in np.split(rows, np.cumsum(BATCHES)[:-1]):
        yield pixels[torch.from_numpy(chosen)]


def _size(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def _check_room(target: Path, model: nn.Module) -> None:
    """Half of the weights is what float16 takes; int8 passes through float32."""
    if shutil.disk_usage(target.parent).free < _size(model) / 2:
        raise _no_room(target)


def _no_room(target: Path) -> OSError:
    return OSError(errno.ENOSPC, f"the disk is full: no room for {target}; what was there before is as it was")
