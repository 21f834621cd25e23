"""What each key of SPEED, SOLVER.AMP and SOLVER.MICRO_BATCHES gives: a training step with it beside one without.

    python tools/throughput.py step --models cge_bot can --ways "channels_last" "bfloat16" --rounds 3 --output keys.json
    python tools/throughput.py memory --output memory.json
    python tools/throughput.py accuracy --models cmbn --seeds 0 1

`step` takes a step as PartsTrainer does (all updates, on a batch that stays the same), in turn with and without each
key, in one process; a cell is the median over rounds of the quotient of their times. `memory` measures each in a
process of its own; a cell is the quotient of the peaks. A cell is empty where the key is refused for the method. Both
run the methods' Market configs with a ResNet-50 on images of --size.

`accuracy` trains the methods' Synthetic configs and the same with their `_fast.yml`, with the same seeds, and prints
mAP. --opts are added to both: SOLVER.AMP.CPU_DTYPE bfloat16 has a processor compute it that has no instructions for it.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fastreid.config import CfgNode
from tabulate import tabulate
from tqdm import tqdm

from fastreid_parts.commands.cost import peak_mib, training_step
from fastreid_parts.config import load_config
from fastreid_parts.engine import PartsTrainer
from fastreid_parts.engine.checks import check_micro_batches
from fastreid_parts.files import add_to_json
from fastreid_parts.measuring import in_own_process, run_once, summarize, take_turns, where

MODELS = ("cge_bot", "cmbn", "rrid_f", "can", "rmgl", "parts_combined")
#: Name -> keys; the first is what the others are held against
WAYS: Mapping[str, Sequence[Any]] = {
    "plain": (),
    "channels_last": ("SPEED.CHANNELS_LAST", True),
    "foreach": ("SPEED.OPTIMIZER", "foreach"),
    "fused": ("SPEED.OPTIMIZER", "fused"),
    "checkpoint": ("SPEED.CHECKPOINT", True),
    "micro-batches": ("SOLVER.MICRO_BATCHES", 2),
    "bfloat16": ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.CPU_DTYPE", "bfloat16", "SOLVER.AMP.DTYPE", "bfloat16"),
    "float16": ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.CPU_DTYPE", "float16"),
    "inductor": ("SPEED.COMPILE", "inductor"),
}


def config(model: str, way: str, args: argparse.Namespace) -> CfgNode:
    """Give the config of a method with the keys of a way."""
    size = ["INPUT.SIZE_TRAIN", list(args.size), "INPUT.SIZE_TEST", list(args.size), "SOLVER.IMS_PER_BATCH", args.batch]
    common = ["MODEL.BACKBONE.PRETRAIN", False, "MODEL.HEADS.NUM_CLASSES", args.classes, *size]
    return load_config(f"Market/{model}.yml", [*common, *WAYS[way], *args.opts])


def is_refused(cfg: CfgNode, model: torch.nn.Module) -> bool:
    """Tell whether a training with it would be refused."""
    try:
        check_micro_batches(cfg, model)
    except ValueError:
        return True
    return False


def compare_steps(model: str, args: argparse.Namespace) -> dict[str, float]:
    """Time a method's step in each way: {way: ratio}."""
    steps = {}
    for way in dict.fromkeys(["plain", *args.ways]):
        cfg = config(model, way, args)
        torch.manual_seed(0)
        network, step = training_step(cfg, args.batch)
        if not is_refused(cfg, network):
            steps[way] = partial(run_once, step, next(network.parameters()).device)
    for way in (bar := tqdm(steps, desc=model, leave=False)):
        bar.set_postfix_str(way)
        take_turns({way: steps[way]}, 2)  # what happens on first use, compilation too, is not timed
    runs = take_turns(steps, args.rounds)
    return {way: row.ratio for way, row in summarize(runs).items()}


def compare_memory(model: str, args: argparse.Namespace) -> dict[str, float]:
    """Measure the peak of a method's step in each way: {way: ratio}."""
    peaks = {}
    for way in tqdm(dict.fromkeys(["plain", *args.ways]), desc=model, leave=False):
        cfg = config(model, way, args)
        if way != "micro-batches" or not is_refused(cfg, training_step(cfg, args.batch)[0]):
            peaks[way] = in_own_process(peak_mib, "training", cfg, args.batch)
    return {way: peak / peaks["plain"] for way, peak in peaks.items()}


def compare_accuracy(model: str, args: argparse.Namespace) -> dict[str, float]:
    """Train with and without what `_fast.yml` sets: {mAP of each, and their difference over seeds}."""
    found: dict[str, list[float]] = {"plain": [], "fast": []}
    for seed in args.seeds:
        for name, ending in (("plain", ""), ("fast", "_fast")):
            with tempfile.TemporaryDirectory() as folder:
                opts = ["SEED", seed, "OUTPUT_DIR", folder, "SOLVER.CHECKPOINTS_KEPT", 0, *args.opts]
                trainer = PartsTrainer(load_config(f"Synthetic/{model}{ending}.yml", opts))
                found[name].append((trainer.train() or {})["mAP"])
    differences = [fast - plain for plain, fast in zip(*found.values())]
    spread = statistics.stdev(differences) if len(differences) > 1 else float("nan")
    means = {name: statistics.mean(values) for name, values in found.items()}
    return {**means, "difference": statistics.mean(differences), "its standard deviation": spread}


_PARTS = {"step": compare_steps, "memory": compare_memory, "accuracy": compare_accuracy}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=tuple(_PARTS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="default: all")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=tuple(WAYS), help="default: all")
    parser.add_argument("--batch", type=int, default=8, help="images a step (default: 8)")
    parser.add_argument("--size", type=int, nargs=2, default=[384, 128], help="height and width (default: 384 128)")
    parser.add_argument("--classes", type=int, default=751, help="identities (default: 751, Market's)")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps in each way (default: 5)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of accuracy (default: 0 1 2)")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config keys of every way")
    parser.add_argument("--output", type=Path, help="a JSON file of tables, in which this one is put")
    args = parser.parse_args(argv)
    if min(args.batch, *args.size, args.classes, args.rounds) < 1:
        parser.error("--batch, --size, --classes and --rounds are at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write it where --output says, in the form of docs/results."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = parse(words)
    if "--output" in words:  # where it is kept is not how it was measured
        del words[(at := words.index("--output")) : at + 2]
    rows: list[list[Any]] = []
    columns = [way for way in args.ways if way != "plain"]
    for model in args.models:
        row = _PARTS[args.part](model, args)
        if args.part == "accuracy":
            columns = list(row)
        rows.append([model, *(round(row[column], 3) if column in row else "" for column in columns)])
        if args.output:  # what is measured is kept when the rest is stopped
            add_to_json(args.output, {f"throughput-{args.part}": _entry(args, words, columns, rows)})
    print(tabulate(rows, headers=["", *columns], tablefmt="pipe"))


_REFUSED = "of a training step with a key, over that without; empty where the key is refused for the method's losses"
_ABOUT = {
    "step": f"Time {_REFUSED}",
    "memory": f"Peak of a process in memory {_REFUSED}",
    "accuracy": "mAP in percent of Synthetic configs and of their `_fast.yml`, means over seeds",
}


def _entry(
    args: argparse.Namespace, words: Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> dict[str, Any]:
    device = where(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    images = "" if args.part == "accuracy" else f"{args.batch} images of {args.size[0]}x{args.size[1]}, "
    return {
        "command": f"python tools/throughput.py {shlex.join(words)}",
        "about": f"{_ABOUT[args.part]}: {images}{device}, torch {torch.__version__}.",
        "columns": ["", *columns],
        "rows": rows,
    }


if __name__ == "__main__":
    main()
