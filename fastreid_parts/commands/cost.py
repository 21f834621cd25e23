"""Parameters, time and memory of inference or of a training step: one config beside another, in turn in one run."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling import build_model
from fastreid.utils.events import EventStorage
from tabulate import tabulate
from torch import nn

from ..config import find_config
from ..engine.solver import build_optimizer
from ..engine.step import TrainStep

__all__ = ["main", "measure", "peak_megabytes", "resident_megabytes"]


def measure(steps: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> list[dict[str, float]]:
    """Time functions in turn, so that a drift of the machine's speed meets all of them.

    Args:
        steps: {name: what is timed}.
        rounds: timed calls of each, after one that is not.
        device: where they run.

    Returns:
        For each function, in order: `milliseconds` (median of a call), `ratio` (median over rounds of its time by the
        first function's in the same round) and, on a GPU, `megabytes` (peak of a call, with all that the run holds).
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    peaks = dict.fromkeys(steps, 0)
    on_gpu = device.type == "cuda"
    for number in range(rounds + 1):
        for name, step in steps.items():
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(device)
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            step()
            if on_gpu:
                torch.cuda.synchronize(device)
                peaks[name] = torch.cuda.max_memory_allocated(device)
            if number:
                seconds[name].append(time.perf_counter() - start)
    first = next(iter(seconds.values()))
    rows = []
    for name in steps:
        row = {
            "milliseconds": 1000 * statistics.median(seconds[name]),
            "ratio": statistics.median(b / a for a, b in zip(first, seconds[name])),
        }
        if on_gpu:
            row["megabytes"] = peaks[name] / 2**20
        rows.append(row)
    return rows


def _inference(cfg: CfgNode, batch: int) -> tuple[nn.Module, Callable[[], Any]]:
    model = build_model(cfg).eval()
    images = torch.rand(batch, 3, *cfg.INPUT.SIZE_TEST, device=_device(model)) * 255

    @torch.no_grad()
    def step() -> None:
        model(images)

    return model, step


def _training(cfg: CfgNode, batch: int) -> tuple[nn.Module, Callable[[], Any]]:
    """A step as PartsTrainer takes it, on a batch that stays the same: all updates, without reading images."""
    model = build_model(cfg)
    optimizer, wrapper = build_optimizer(cfg, model)
    data = {
        "images": torch.rand(batch, 3, *cfg.INPUT.SIZE_TRAIN) * 255,
        "targets": torch.arange(batch) // cfg.DATALOADER.NUM_INSTANCE % cfg.MODEL.HEADS.NUM_CLASSES,
        "camids": torch.zeros(batch, dtype=torch.long),
    }
    data = {key: value.to(_device(model)) for key, value in data.items()}
    amp = cfg.SOLVER.AMP
    trainer = TrainStep(model, itertools.repeat(data), optimizer, wrapper, amp.ENABLED, amp.CPU_DTYPE)
    trainer.iter = 0

    def step() -> None:
        with EventStorage():
            trainer.run_step()

    return model, step


def peak_megabytes(mode: str, cfg: CfgNode, batch: int) -> float:
    """The most memory that a model takes in this process: weights, gradients, the optimizer's state and activations.

    In a process that does nothing else; `main` starts one for each model.

    Args:
        mode: `inference` or `training`.
        cfg: the model's.
        batch: images a step.

    Returns:
        On a GPU what PyTorch has allocated there, on a CPU what the process has grown by, in units of 2**20 bytes.

    Raises:
        OSError: the model is on a CPU, and this system has no /proc.
    """
    before = resident_megabytes("VmRSS")
    model, step = _MODES[mode](cfg, batch)
    for _ in range(2):  # the first makes the optimizer's state, which the second finds in memory
        step()
    device = _device(model)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    highest = resident_megabytes("VmHWM")
    if before is None or highest is None:
        raise OSError("--memory of a model on a CPU is read from /proc/self/status, which this system does not have")
    return highest - before


def resident_megabytes(field: str) -> float | None:
    """VmRSS, what this process holds in memory now, or VmHWM, the most that it ever has."""
    # Not `resource.getrusage`: a process starts with the highest value of the one that started it
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
    except OSError:
        return None
    return int(lines[field].split()[0]) / 1024  # printed in kB


def _in_a_process_of_its_own(mode: str, cfg: CfgNode, batch: int) -> float:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_megabytes, mode, cfg, batch).result()


def _device(model: nn.Module) -> torch.device:
    """Where the model really is: MODEL.DEVICE is a wish."""
    return next(model.parameters()).device


_MODES = {"inference": _inference, "training": _training}


def _config(path: str, overrides: list[str], classes: int) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(find_config(path))
    cfg.merge_from_list(["MODEL.BACKBONE.PRETRAIN", False, "MODEL.HEADS.NUM_CLASSES", classes, *overrides])
    return cfg


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `--help`."""
    parser = argparse.ArgumentParser(prog="cost", description=__doc__)
    parser.add_argument("mode", choices=sorted(_MODES), help="what is timed")
    parser.add_argument("--config-file", required=True, help="the model; for inference, as it is deployed")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of --config-file")
    parser.add_argument("--versus", help="the config to compare with; --config-file by default")
    parser.add_argument("--versus-opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of --versus")
    parser.add_argument("--batch", type=int, help="images a step (default 8, in training IMS_PER_BATCH)")
    parser.add_argument("--classes", type=int, default=751, help="identities in training (default 751, Market-1501's)")
    parser.add_argument("--rounds", type=int, default=20, help="timed steps of each model (default 20)")
    parser.add_argument("--memory", action="store_true", help="peak memory too, of each model in a process of its own")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.classes < 1 or (args.batch is not None and args.batch < 1):
        parser.error("--batch, --classes and --rounds must be at least 1")
    # Without identities the model of inference has no classifier, as after `train --eval-only`
    classes = args.classes if args.mode == "training" else 0
    configs = {
        "versus": _config(args.versus or args.config_file, args.versus_opts, classes),
        "model": _config(args.config_file, args.opts, classes),
    }
    cfg = configs["model"]
    batch = args.batch or (8 if args.mode == "inference" else cfg.SOLVER.IMS_PER_BATCH)
    built = {name: _MODES[args.mode](config, batch) for name, config in configs.items()}
    device = _device(built["model"][0])
    rows = measure({name: step for name, (_, step) in built.items()}, args.rounds, device)

    height, width = cfg.INPUT.SIZE_TEST if args.mode == "inference" else cfg.INPUT.SIZE_TRAIN
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(f"{args.mode}: {batch} images of {height}x{width}, {where}, {args.rounds} rounds, torch {torch.__version__}")
    headers = ["", "parameters", "ms a step", "time ratio"]
    table = [
        [name, f"{sum(p.numel() for p in model.parameters()):,}", f"{row['milliseconds']:.1f}", f"{row['ratio']:.3f}"]
        for (name, (model, _)), row in zip(built.items(), rows)
    ]
    if args.memory:
        headers += ["peak MB", "memory ratio"]
        peaks = [_in_a_process_of_its_own(args.mode, config, batch) for config in configs.values()]
        for line, peak in zip(table, peaks):
            line += [f"{peak:,.0f}", f"{peak / peaks[0]:.3f}"]
    print(tabulate(table, headers=headers, tablefmt="pipe"))
    return 0
