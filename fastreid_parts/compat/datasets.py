"""What the host's datasets say of a file that does not fit: which one and why, patched in place."""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import Dataset
from fastreid.data.datasets.dukemtmcreid import DukeMTMC
from fastreid.data.datasets.market1501 import Market1501
from fastreid.data.datasets.veri import VeRi

from ..data.checks import Item
from ..data.datasets.market_naming import JUNK
from ..data.image_files import describe_passed_over, find_images
from ..host import registered_names
from ..words import first_few
from .overlay import replace, wrap

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Naming:
    """How a dataset names its images, `<identity>_c<camera>...`, as the host reads them.

    Attributes:
        cameras: how many there are.
        highest: the highest identity; None where the host does not look.
        example: a name.
    """

    cameras: int
    highest: int | None
    example: str

    def read(self, name: str) -> tuple[int, int] | str:
        """Read identity and camera from a name, or say what is wrong with it."""
        found = re.search(r"(?<![-\d])(-?\d+)_c(\d+)", name)
        if found is None:
            return "no identity and camera"
        identity, camera = int(found[1]), int(found[2])
        if self.highest is not None and not JUNK <= identity <= self.highest:
            return f"identity {identity}; they are 0 to {self.highest}, and {JUNK} for junk"
        if not 1 <= camera <= self.cameras:
            return f"camera {camera}; they are 1 to {self.cameras}"
        return identity, camera


NAMINGS = {
    Market1501: Naming(6, 1501, "0002_c1s1_000451_03.jpg"),
    DukeMTMC: Naming(8, None, "0001_c2_f0046182.jpg"),
    VeRi: Naming(20, 776, "0002_c002_00030600_0.jpg"),
}

#: Local variables in which the host's datasets hold the file or the line that they are reading.
_BEING_READ = ("img_path", "img_info", "line", "img_name", "path", "pid_dir", "dir_name", "split_path", "list_path")


def apply() -> None:
    """Patch every dataset of the host."""
    for dataset, naming in NAMINGS.items():
        _patch_names(dataset, naming)
    for name in registered_names(DATASET_REGISTRY):
        dataset = DATASET_REGISTRY.get(name)
        if dataset.__module__.startswith("fastreid.") and "__init__" in vars(dataset):
            wrap(dataset, "__init__", _with_reason)


def _patch_names(dataset: type[Dataset], naming: Naming) -> None:
    """data/datasets/market1501.py, dukemtmcreid.py, veri.py: a bare AssertionError, or 'NoneType' has no 'groups'.

    The names are looked for in the whole path, so that of images below a folder such as `12_c3/` every one has
    identity 12; of a camera the first digit counts; and a folder with `[` in its name is empty. Here the file's own
    name counts, what does not fit is listed, and images that the host passes over are counted in the log.
    """

    def process_dir(self: Any, dir_path: str, is_train: bool = True) -> list[Item]:
        items: list[Item] = []
        problems = []
        names, passed_over = find_images(dir_path)
        for name in (name for name in names if name.endswith(".jpg")):
            read = naming.read(name)
            if isinstance(read, str):
                problems.append(f"{name}: {read}")
                continue
            identity, camera = read[0], read[1] - 1
            if identity == JUNK and naming.highest is not None:
                continue
            path, prefix = os.path.join(dir_path, name), f"{self.dataset_name}_"
            items.append((path, f"{prefix}{identity}", f"{prefix}{camera}") if is_train else (path, identity, camera))
        if problems:
            raise ValueError(
                f"{type(self).__name__}: {len(problems)} of {len(names)} images in {dir_path} are not named as its "
                f"images are, <identity>_c<camera>, like {naming.example}:\n{first_few(problems)}\n"
                "Rename them or move them elsewhere; the dataset FolderReID reads images of your own."
            )
        passed_over = {why: [name for name in named if name.endswith(".jpg")] for why, named in passed_over.items()}
        passed_over["no .jpg"] = [name for name in names if not name.endswith(".jpg")]
        for line in describe_passed_over(passed_over):
            logger.warning("%s: %s: %s", type(self).__name__, dir_path, line)
        return items

    replace(dataset, "process_dir", process_dir)


def _with_reason(original: Callable, self: Dataset, *args: Any, **kwargs: Any) -> None:
    """data/datasets/*.py: a line of a list or a name that does not fit is an IndexError, a KeyError, a bare assertion.

    The ValueError that takes its place names what was being read, the statement that failed and its reason. What the
    host says itself, above all that a folder is not there, stays.
    """
    name = type(self).__name__
    try:
        original(self, *args, **kwargs)
    except ImportError as error:
        raise ImportError(f"{name} needs {error.name}: pip install {error.name}") from error
    except Exception as error:
        said = _said(error)
        if not said:
            raise
        raise ValueError(
            f"{name} cannot be read: {said}. Correct or remove it; `fastreid-parts check-data --dataset-name {name}` "
            "reads the dataset alone."
        ) from error


def _said(error: Exception) -> str:
    """What a dataset of the host was reading when it failed, and why; empty where the error says so itself."""
    if isinstance(error, RuntimeError) or (isinstance(error, AssertionError) and error.args):
        return ""
    if isinstance(error, OSError) and error.filename is not None:
        return ""
    ours = [
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals["__name__"].startswith((f"{Dataset.__module__.rpartition('.')[0]}.", "fastreid_parts."))
    ]
    frame, line = ours[-1]
    if frame.f_globals["__name__"].startswith("fastreid_parts."):
        return ""
    place = next((frame.f_locals[name] for name in _BEING_READ if isinstance(frame.f_locals.get(name), str)), None)
    (statement,) = traceback.StackSummary.extract([(frame, line)])
    reason = f"{type(error).__name__}{f', {error},' if str(error) else ''}"
    return f"{f'at {place!r}, ' if place is not None else ''}{reason} in `{statement.line}`"
