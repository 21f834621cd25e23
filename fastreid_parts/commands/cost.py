"""Parameters, time and memory of inference or a training step, beside another config's.

The two are measured in turn in one run. `time ratio` is the median over rounds of the quotient of their times.
With --dry nothing is computed: the tensors of a step are followed by their sizes, for a GPU that is not at hand, say.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from fastreid.utils.events import EventStorage
from tabulate import tabulate
from torch import nn

from ..arguments import add_config_options, add_opts, positive
from ..config import load_config
from ..engine.memory import dry_memory
from ..engine.solver import build_optimizer
from ..engine.step import TrainStep
from ..measuring import in_own_process, resident_mib, run_once, summarize, take_turns, where


def _inference(cfg: CfgNode, batch: int) -> tuple[nn.Module, Callable[[], Any]]:
    model = build_model(cfg).eval()
    images = torch.rand(batch, 3, *cfg.INPUT.SIZE_TEST, device=_device(model)) * 255

    @torch.no_grad()
    def step() -> None:
        model(images)

    return model, step


def training_step(cfg: CfgNode, batch: int) -> tuple[nn.Module, Callable[[], Any]]:
    """Make a step as PartsTrainer takes it, on a batch that stays the same: all updates, without reading images.

    Args:
        cfg: the config.
        batch: images.

    Returns:
        The model, and the step.
    """
    model = build_model(cfg)
    optimizer, wrapper = build_optimizer(cfg, model)
    data = same_batch(cfg, batch, _device(model))
    trainer = TrainStep.from_cfg(cfg, model, data, optimizer, wrapper)
    trainer.iter = 0

    def step() -> None:
        with EventStorage():
            trainer.run_step()

    return model, step


def same_batch(cfg: CfgNode, batch: int, device: torch.device) -> Iterator[dict[str, torch.Tensor]]:
    """Give a batch of noise for ever, NUM_INSTANCE images of each identity.

    Args:
        cfg: the config.
        batch: images.
        device: where they are.
    """
    data = {
        "images": torch.rand(batch, 3, *cfg.INPUT.SIZE_TRAIN) * 255,
        "targets": torch.arange(batch) // cfg.DATALOADER.NUM_INSTANCE % cfg.MODEL.HEADS.NUM_CLASSES,
        "camids": torch.zeros(batch, dtype=torch.long),
    }
    return itertools.repeat({key: value.to(device) for key, value in data.items()})


def peak_mib(mode: str, cfg: CfgNode, batch: int) -> float:
    """Measure the most memory that a model takes: weights, gradients, the optimizer's state and activations.

    In a process that does nothing else; `run` starts one for each model.

    Args:
        mode: `inference` or `training`.
        cfg: the model's.
        batch: images a step.

    Returns:
        On a GPU what PyTorch has allocated there, on a CPU what the process has grown by, in MiB.

    Raises:
        OSError: the model is on a CPU, and this system has no /proc.
    """
    before = resident_mib("VmRSS")
    model, step = _MODES[mode](cfg, batch)
    for _ in range(2):  # the first makes the optimizer's state, which the second finds in memory
        step()
    device = _device(model)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    highest = resident_mib("VmHWM")
    if before is None or highest is None:
        raise OSError(
            "--memory of a model on a CPU is read from /proc/self/status, which this system does not have: "
            "leave --memory out"
        )
    return highest - before


def _device(model: nn.Module) -> torch.device:
    """Where the model really is: MODEL.DEVICE is a wish."""
    return next(model.parameters()).device


_MODES = {"inference": _inference, "training": training_step}


def _config(path: str, overrides: list[str], classes: int) -> CfgNode:
    return load_config(path, ["MODEL.BACKBONE.PRETRAIN", False, "MODEL.HEADS.NUM_CLASSES", classes, *overrides])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("mode", choices=sorted(_MODES), help="what is timed")
    add_config_options(parser, weights=False)
    parser.add_argument("--versus", help="the config to compare with; --config-file by default")
    add_opts(parser, "in --versus", "--versus-opts")
    parser.add_argument("--batch", type=positive, help="images a step (default 8, in training IMS_PER_BATCH)")
    parser.add_argument("--classes", type=positive, default=751, help="identities in training (default 751, Market's)")
    parser.add_argument("--rounds", type=positive, default=20, help="timed steps of each model (default 20)")
    memory = parser.add_mutually_exclusive_group()
    memory.add_argument("--dry", action="store_true", help="memory alone, without computing anything: any batch")
    memory.add_argument("--memory", action="store_true", help="peak memory too, of each model in a process of its own")


def run(args: argparse.Namespace) -> None:
    """Measure and print the table.

    Raises:
        OSError: there is no such config file, or memory cannot be read here.
        KeyError: a key does not exist.
    """
    # Without identities the model of inference has no classifier, as after `train --eval-only`
    classes = args.classes if args.mode == "training" else 0
    configs = {
        "versus": _config(args.versus or args.config_file, args.versus_opts, classes),
        "model": _config(args.config_file, args.opts, classes),
    }
    cfg = configs["model"]
    batch = args.batch or (8 if args.mode == "inference" else cfg.SOLVER.IMS_PER_BATCH)
    if args.dry:
        _print_dry(args.mode, configs, batch)
        return
    built = {name: _MODES[args.mode](config, batch) for name, config in configs.items()}
    device = _device(built["model"][0])
    steps = {name: partial(run_once, step, device) for name, (_, step) in built.items()}
    take_turns(steps, 1)  # what happens on first use is not timed
    rows = summarize(take_turns(steps, args.rounds))

    print(f"{_title(args.mode, cfg, batch)}, {where(device)}, {args.rounds} rounds, torch {torch.__version__}")
    headers = ["", "parameters", "ms a step", "time ratio"]
    counts = {name: sum(p.numel() for p in model.parameters()) for name, (model, _) in built.items()}
    table = [[name, f"{counts[name]:,}", f"{1000 * row.seconds:.1f}", f"{row.ratio:.3f}"] for name, row in rows.items()]
    if args.memory:
        headers += ["peak MB", "memory ratio"]
        peaks = [in_own_process(peak_mib, args.mode, config, batch) for config in configs.values()]
        for line, peak in zip(table, peaks):
            line += [f"{peak:,.0f}", f"{peak / peaks[0]:.3f}"]
    print(tabulate(table, headers=headers, tablefmt="pipe"))


def _title(mode: str, cfg: CfgNode, batch: int) -> str:
    height, width = cfg.INPUT.SIZE_TEST if mode == "inference" else cfg.INPUT.SIZE_TRAIN
    return f"{mode}: {batch} images of {height}x{width}"


def _print_dry(mode: str, configs: dict[str, CfgNode], batch: int) -> None:
    rows: list[list[Any]] = []
    first = None
    for name, cfg in configs.items():
        if mode == "inference":
            data = {"images": torch.zeros(batch, 3, *cfg.INPUT.SIZE_TEST)}
        else:
            data = next(same_batch(cfg, batch, torch.device("cpu")))
        found = dry_memory(cfg, mode, data)
        first = first or found.peak
        rows.append([name, *found, found.peak / first])
    print(f"{_title(mode, configs['model'], batch)}, not computed: MiB of tensors, torch {torch.__version__}")
    headers = ["", "parameters", "weights", "gradients", "optimizer", "activations", "peak", "ratio"]
    print(tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=("", *[",.0f"] * 6, ".3f"), intfmt=","))
