"""Models in folders that others load, from this machine or from the Hugging Face Hub."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from fastreid.config import CfgNode
from torch import nn

from ..extras import optional
from ..files import write_bytes, write_json
from ..folders import FolderError
from .drafts import drafts
from .inference import InferenceModel
from .model_card import model_card, results_of_evaluation, results_of_run
from .safetensors_files import DESCRIPTION, WEIGHTS, save_safetensors

logger = logging.getLogger(__name__)

#: The files of a folder: weights, what they are twice, for programs and for people, and the page.
CONFIG, CARD = "config.yaml", "README.md"
FILES = (WEIGHTS, DESCRIPTION, CONFIG, CARD)


def save_folder(
    cfg: CfgNode,
    model: nn.Module,
    folder: str | os.PathLike,
    *,
    name: str = "",
    license: str = "",
    results: Sequence[str | os.PathLike] = (),
    threshold: float | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model into a folder: `FILES`. Who is killed leaves what was there, or no weights that load.

    Args:
        cfg: the model's config.
        model: with its weights.
        folder: made where it is not there; other files in it stay.
        name: of the model, on its page; by default the folder's.
        license: of the weights, as a hub names it.
        results: files that `evaluate --output` wrote of this model. What its training logged for the checkpoint is on
            the page as well.
        threshold: two images show the same person if their distance is below it; by default the one that the model
            was loaded with.
        overwrite: replace these files where they are there.

    Raises:
        FileNotFoundError: a file of results is not there.
        FolderError: one of the files is in the folder already.
        ImportError: what writes them is not installed.
        ValueError: results are of another model, or the model is an exported file.
    """
    folder = os.path.abspath(folder)
    check_free(folder, FILES, overwrite)
    if hasattr(model, "description"):
        raise ValueError("an exported file cannot be saved as weights again: load the checkpoint that it was made of")
    exported = InferenceModel(cfg, model)
    said = exported.describe(threshold=threshold)
    measured = [one for path in results for one in results_of_evaluation(path, said.fingerprint)]
    named = {(one.dataset, one.how) for one in measured}
    measured += [one for one in results_of_run(cfg) if (one.dataset, one.how) not in named]
    page = model_card(said, name or os.path.basename(folder), cfg.DATASETS.NAMES, measured, license)
    with drafts(folder, WEIGHTS) as place:
        save_safetensors(exported, os.path.join(place, WEIGHTS), said)
        write_json(os.path.join(place, DESCRIPTION), said.to_dict())
        write_bytes(os.path.join(place, CONFIG), said.config.encode())
        write_bytes(os.path.join(place, CARD), page.encode())


def check_free(folder: str, names: Sequence[str], overwrite: bool = False) -> None:
    """Refuse to write files over others.

    Args:
        folder: where they go.
        names: of the files.
        overwrite: write all the same.

    Raises:
        FolderError: one of them is there.
    """
    there = [name for name in names if os.path.exists(os.path.join(folder, name))]
    if there and not overwrite:
        raise FolderError(f"'{folder}' holds {', '.join(there)} already: name another folder, or overwrite them")


def find_folder(name: str | os.PathLike, revision: str = "") -> str:
    """Find a folder that `save_folder` wrote, here or on the Hugging Face Hub; from there only its files are fetched.

    Args:
        name: a folder, or OWNER/NAME on the hub.
        revision: a branch, tag or commit there.

    Returns:
        The path of its weights.

    Raises:
        ImportError: huggingface_hub is not installed.
        OSError: there is no such folder, or it cannot be fetched.
        ValueError: it holds no weights that can be read without running code.
    """
    folder = os.fspath(name)
    if not os.path.isdir(folder):
        hub = optional("huggingface_hub", "hub", "a model of the hub")
        try:
            folder = hub.snapshot_download(folder, revision=revision or None, allow_patterns=list(FILES))
        except (OSError, ValueError) as error:
            problem = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise OSError(f"'{name}' is no folder here, and cannot be had from the hub: {problem}") from error
    path = os.path.join(folder, WEIGHTS)
    if not os.path.isfile(path):
        raise ValueError(
            f"'{name}' holds no {WEIGHTS}: other formats of weights can run code of whoever wrote them and are not "
            "read from a hub. If you trust it, load the checkpoint: Embedder.load(checkpoint, config)"
        )
    return path
