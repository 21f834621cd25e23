"""The rate of training steps, measured in a process of its own: what `benchmark training` starts for each round."""

from __future__ import annotations

import itertools
import math
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fastreid.config import CfgNode
from fastreid.engine import train_loop
from fastreid.modeling import build_model
from fastreid.utils.events import EventStorage
from PIL import Image

from ..config import load_config
from ..cpus import usable_cpus
from ..data.build import build_reid_train_loader, load_dataset
from ..data.loader import DeviceLoader, read_batch
from ..data.noted import NotingDataset
from ..data.transforms import build_transforms
from ..deployment.sample_images import draw_people
from ..devices import available
from ..engine.solver import build_optimizer
from ..engine.step import TrainStep
from ..measuring import resident_mib, synchronize
from ..paper_results import load_ledger
from ..pedestrians import SCALES
from ..version import versions
from .cost import same_batch

_DRAWN = "SyntheticReID"

_AS_BASELINE = ("MODEL.META_ARCHITECTURE", "Baseline", "MODEL.HEADS.NAME", "EmbeddingHead")
_WEIGHTED = (
    *("MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"), "MODEL.LOSSES.TRI.FORM", "host"),
    *("MODEL.LOSSES.TRI.HARD_MINING", False, "MODEL.LOSSES.TRI.MARGIN", 0.0),
)
#: fast-reid's baselines by name: a config of the same backbone and recipe, and the keys that make it fast-reid's model.
BASELINES: dict[str, tuple[str, Sequence[Any]]] = {
    "bot": ("Market/cge_bot.yml", _AS_BASELINE),
    "agw": ("Market/cge_agw.yml", (*_AS_BASELINE, *_WEIGHTED)),
    "sbs": ("Market/cge_strong.yml", (*_AS_BASELINE, "MODEL.LOSSES.TRI.FORM", "host", "SOLVER.MAX_EPOCH", 60)),
    "mgn": (
        "Synthetic/mgn.yml",
        (
            *("MODEL.BACKBONE.DEPTH", "50x", "MODEL.BACKBONE.FEAT_DIM", 2048, "MODEL.BACKBONE.LAST_STRIDE", 1),
            *("INPUT.SIZE_TRAIN", [384, 128], "DATASETS.NAMES", ("Market1501",), "SOLVER.MAX_EPOCH", 60),
        ),
    ),
}
#: Configs of the five methods.
METHODS = tuple(f"Market/{name}.yml" for name in ("cmbn", "cge_bot", "rrid_f", "can", "rmgl"))
#: Who takes the steps: fast-reid's own trainer with AMP, or this package's as the config has it.
STEPS = ("fast-reid", "fastreid_parts")


@dataclass(frozen=True)
class Case:
    """What is measured: a config with some keys, and who takes the steps.

    Attributes:
        name: in the table.
        step: one of `STEPS`.
        config: the config file.
        opts: keys to change.
    """

    name: str
    step: str
    config: str
    opts: Sequence[Any]

    def load(self) -> CfgNode:
        """Read the config.

        Raises:
            OSError: there is no such file.
            KeyError: a key does not exist.
            ValueError: a value does not fit.
        """
        return load_config(self.config, self.opts)


@dataclass(frozen=True)
class Amount:
    """How much is measured in a round.

    Attributes:
        warm_up: steps that are not timed.
        steps: steps that are, with images in memory and again with images that are read.
        read: images that one core reads.
    """

    warm_up: int
    steps: int
    read: int


# ---- one round ------------------------------------------------------------------------------------------------------


def measure(case: Case, batch: int, amount: Amount, folder: str) -> dict[str, Any]:
    """Measure one round, in a process that has done nothing else.

    Args:
        case: what is measured.
        batch: images a step.
        amount: how much.
        folder: of drawn people, read where the training set is not here.

    Returns:
        `images_per_second` of steps whose images are in memory; `peak_gb`; `read_per_core`, images a second that one
        core reads; `loaded_images_per_second` and `data_share` of steps whose images `workers` processes read;
        `images`, what was read, and of what the first step took, `first_step_seconds`.
    """
    before = resident_mib("VmRSS")
    cfg = case.load()
    cfg.defrost()
    cfg.SOLVER.IMS_PER_BATCH = batch
    loader, source = _train_loader(cfg, folder)
    cfg.MODEL.HEADS.NUM_CLASSES = max(cfg.MODEL.HEADS.NUM_CLASSES, loader.dataset.num_classes)
    device = available(cfg.MODEL.DEVICE)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    reading = _reads_per_second(loader.dataset, amount.read)

    torch.manual_seed(0)
    batches = _Waited(same_batch(cfg, batch, device))
    trainer, step = _stepper(case, cfg, batches)
    start = time.perf_counter()
    step()
    synchronize(device)
    first = time.perf_counter() - start
    seconds, _ = _timed(step, device, amount.warm_up, amount.steps, batches)
    peak = _peak_gb(device, before)
    workers = loader.num_workers
    batches.source = iter(loader)
    # What workers had ready before the first step is not what they keep up with
    loaded, waited = _timed(step, device, max(amount.warm_up, 2 * workers), amount.steps, batches)
    return {
        "images_per_second": batch * amount.steps / seconds,
        "peak_gb": peak,
        "read_per_core": reading,
        "loaded_images_per_second": batch * amount.steps / loaded,
        "data_share": waited / loaded,
        "workers": workers,
        "images": source,
        "first_step_seconds": first,
        "device": str(device),
        "precision": str(getattr(trainer, "dtype", None) or torch.float32).removeprefix("torch."),
        "cudnn_benchmark": bool(cfg.CUDNN_BENCHMARK),
        "size": list(cfg.INPUT.SIZE_TRAIN),
        "batch": batch,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
    }


class _Waited:
    """Batches, and the seconds that were waited for them."""

    def __init__(self, source: Iterator[Any]) -> None:
        self.source, self.seconds = source, 0.0

    def __iter__(self) -> _Waited:
        return self

    def __next__(self) -> Any:
        start = time.perf_counter()
        data = next(self.source)
        self.seconds += time.perf_counter() - start
        return data


def _stepper(case: Case, cfg: CfgNode, batches: _Waited) -> tuple[Any, Callable[[], None]]:
    """What takes the steps, with its `model`, and the next step."""
    model = build_model(cfg).train()
    trainer: Any
    if case.step == "fast-reid":
        # Flat parameters and, on a GPU, float16 with a scaler: what fast-reid's trainer makes of AMP.ENABLED
        optimizer, wrapper = build_optimizer(cfg, model, contiguous=True)
        on_gpu = next(model.parameters()).device.type == "cuda"
        trainer = (train_loop.AMPTrainer if on_gpu else train_loop.SimpleTrainer)(model, batches, optimizer, wrapper)
    else:
        optimizer, wrapper = build_optimizer(cfg, model)
        trainer = TrainStep.from_cfg(cfg, model, batches, optimizer, wrapper)
    trainer.iter = 0

    def step() -> None:
        with EventStorage():
            trainer.run_step()

    return trainer, step


def _timed(
    step: Callable[[], None], device: torch.device, warm_up: int, steps: int, batches: _Waited
) -> tuple[float, float]:
    """The seconds of some steps after others, and those of them that were waited for batches."""
    for _ in range(warm_up):
        step()
    synchronize(device)
    start, batches.seconds = time.perf_counter(), 0.0
    for _ in range(steps):
        step()
    synchronize(device)
    return time.perf_counter() - start, batches.seconds


def _peak_gb(device: torch.device, before: float | None) -> float | None:
    """The most memory until now in GB, of 2^30 bytes: what torch has on the GPU, or what this process grew by."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    highest = resident_mib("VmHWM")
    return None if before is None or highest is None else (highest - before) / 1024


def _reads_per_second(dataset: Any, count: int) -> float:
    """Images that one core reads, decodes and augments in a second, as a worker of the loader does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        order = [index % len(dataset) for index in range(count)]
        read_batch(dataset, order[:8])  # from the disk, and what happens on first use
        start = time.perf_counter()
        read_batch(dataset, order)
        return count / (time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)


def _train_loader(cfg: CfgNode, folder: str) -> tuple[DeviceLoader, str]:
    """The loader of the config's training set, or of drawn people where that is not here, and which it is."""
    cfg.DATALOADER.CHECK_IMAGES = False
    if _is_here(cfg):
        return build_reid_train_loader(cfg), " ".join(cfg.DATASETS.NAMES)
    items = [(os.path.join(folder, name), *name.split("_")[:2]) for name in sorted(os.listdir(folder))]
    people = NotingDataset(items, build_transforms(cfg, is_train=True), relabel=True)
    return build_reid_train_loader(cfg, train_set=people), "drawn people"


def _is_here(cfg: CfgNode) -> bool:
    """Whether the training sets are; SyntheticReID would be drawn, and is drawn people like the others."""
    if _DRAWN in cfg.DATASETS.NAMES:
        return False
    try:
        return bool([load_dataset(name, cfg) for name in cfg.DATASETS.NAMES])
    except ValueError:
        return False


# ---- before and after the rounds ------------------------------------------------------------------------------------

#: Images of an identity, half of them from each of two cameras.
_EACH = 8


def draw_images(folder: str, count: int) -> None:
    """Write JPEG files of drawn people in the size of Market-1501's, `<identity>_<camera>_<number>.jpg`.

    Args:
        folder: an empty one.
        count: how many at least.
    """
    for number, pixels in enumerate(draw_people(_EACH * math.ceil(count / _EACH))):
        name = f"{number // _EACH:04d}_c{number % 2}_{number}.jpg"
        Image.fromarray(np.ascontiguousarray(pixels)).save(os.path.join(folder, name), quality=90)


def images_for(cases: Sequence[Case], batch: int) -> int:
    """Count the images that every sampler can make a batch of: as many identities as one has.

    Args:
        cases: what is measured.
        batch: images a step.
    """
    identities = max(math.ceil(batch / case.load().DATALOADER.NUM_INSTANCE) for case in cases)
    return max(_EACH * identities, 2 * batch)


def epoch_images(cfg: CfgNode) -> int | None:
    """Count the images of the training sets, None where one of them is not known.

    Args:
        cfg: the config.
    """
    if tuple(cfg.DATASETS.NAMES) == (_DRAWN,):
        return SCALES[cfg.DATASETS.SYNTHETIC.SCALE].train_images
    return load_ledger().training_images(cfg.DATASETS.NAMES)


def machine(device: str) -> dict[str, Any]:
    """Describe what was measured on: processor, card, driver, versions.

    Args:
        device: as MODEL.DEVICE has it.
    """
    described: dict[str, Any] = {
        "cpu": _processor(),
        "cores": usable_cpus(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions(),
    }
    if available(device).type == "cuda":
        card = torch.cuda.get_device_properties(available(device))
        described |= {
            "card": card.name,
            "card_gb": round(card.total_memory / 2**30, 1),
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return described


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(itertools.chain(answer.stdout.split(), [""]))


def scratch() -> tempfile.TemporaryDirectory:
    """Make a folder for drawn people that is gone afterwards."""
    return tempfile.TemporaryDirectory(prefix="fastreid_parts-benchmark-")
