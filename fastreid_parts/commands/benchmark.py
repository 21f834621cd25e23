"""The rate of training on this machine, of methods beside fast-reid's own step.

    fastreid-parts benchmark training --device cuda --output training.json
    fastreid-parts benchmark training --device cuda --config-file Market/cmbn.yml --variants base amp fast

Without --config-file it measures the five methods and fast-reid's baselines. Each is measured in a process of its own,
in turn, --rounds times; numbers are medians, `spread` is from the lowest to the highest rate. A baseline is measured
twice: `fast-reid` is fast-reid's own trainer as this package mends it, with AMP on a GPU (it has none elsewhere), and
`fastreid_parts` is this package's step, which does what the config says. No dataset is needed: images are noise in
memory, and drawn people as JPEG files where the loader is measured; the training set is read where it is here.

- `images/s`: of steps whose images are in memory.
- `peak GB`: of 2^30 bytes; on a GPU what torch has allocated there, else what the process grew by.
- `data share`: of a step's time, waited for the images that the loader's processes read.
- `cores to feed`: images/s by what one core reads, decodes and augments.
- `hours`: of the config's SOLVER.MAX_EPOCH on the images of its training set, at the rate with the loader.

Ctrl-C keeps what was measured. The same command with the same --output goes on there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

from ..arguments import add_opts, output_file, positive
from ..config import find_config, load_config, word_pairs
from ..files import write_json
from ..measuring import in_own_process
from ._throughput import (
    BASELINES,
    METHODS,
    STEPS,
    Amount,
    Case,
    draw_images,
    epoch_images,
    images_for,
    machine,
    measure,
    scratch,
)

#: Name -> keys. `fast` has a file of its own beside the config's, NAME_fast.yml.
VARIANTS: dict[str, Sequence[Any]] = {
    "base": (),
    "amp": ("SOLVER.AMP.ENABLED", True),
    "fp32": ("SOLVER.AMP.ENABLED", False),
}
_FAST = "fast"
#: (warm-up, steps, images read) of a round: a CPU takes seconds a step.
_AMOUNTS = {"cuda": (20, 100, 400), "cpu": (1, 5, 100)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("mode", choices=["training"], help="what is timed")
    add(
        "--config-file", nargs="+", default=[], metavar="FILE",
        help="configs of models, paths or names such as Market/cmbn.yml (default: the five methods)",
    )  # fmt: skip
    add(
        "--baselines", nargs="*", choices=list(BASELINES), metavar="NAME",
        help=f"fast-reid's models beside them, of {', '.join(BASELINES)} (default: all; with --config-file, bot)",
    )  # fmt: skip
    add(
        "--variants", nargs="+", default=["base"], metavar="NAME",
        help=f"each config with other keys: {', '.join(VARIANTS)} or those of --variant, or {_FAST}: NAME_fast.yml "
        "beside NAME.yml (default: base)",
    )  # fmt: skip
    add(
        "--variant", nargs="+", action="append", default=[], metavar="WORD",
        help="a variant of your own: NAME KEY VALUE KEY VALUE ...; it is measured",
    )  # fmt: skip
    add_opts(parser, "of all configs and baselines")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda, cuda:1 or cpu (default: cuda)")
    add("--batch", type=positive, default=64, help="images a step (default 64)")
    add("--size", type=positive, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of images (default: each config's)")
    add("--classes", type=positive, default=751, help="identities (default 751, Market's)")
    add("--rounds", type=positive, default=3, help="processes for each (default 3)")
    for name, text, number in (
        ("--warm-up", "steps that are not timed", 0),
        ("--steps", "timed steps of a round", 1),
        ("--read", "images that one core reads", 2),
    ):
        usual = {kind: amounts[number] for kind, amounts in _AMOUNTS.items()}
        add(name, type=positive, help=f"{text} (default: {usual['cuda']} on a GPU, {usual['cpu']} on a CPU)")
    add("--output", type=output_file, metavar="FILE", help="a JSON file for the numbers, written after each round")
    add("--overwrite", action="store_true", help="replace what another measurement left in --output")


def run(args: argparse.Namespace) -> int:
    """Measure, and print the table.

    Returns:
        0, or 1 where a case could not be measured.

    Raises:
        OSError: there is no such config file, or --output holds another measurement.
        KeyError: a key does not exist.
        ValueError: the device is not here, or a value does not fit.
    """
    _check_device(args.device)
    cases = list_cases(args)
    usual = _AMOUNTS["cpu" if args.device == "cpu" else "cuda"]
    amount = Amount(*(given or own for given, own in zip((args.warm_up, args.steps, args.read), usual)))
    for case in cases:
        case.load()  # what is wrong with a config is said before anything is measured
    settings = {
        "mode": args.mode,
        "batch": args.batch,
        "warm_up": amount.warm_up,
        "steps": amount.steps,
        "read": amount.read,
        "cases": [[case.name, case.step, case.config, list(map(str, case.opts))] for case in cases],
    }
    report = _begin(args.output, args.overwrite, {"machine": machine(args.device), "settings": settings})
    rounds: dict[str, list[Any]] = report["rounds"]
    waiting = [(label, case) for turn in range(args.rounds) for label, case in _labeled(cases, rounds, turn)]
    try:
        with scratch() as folder, tqdm(waiting, unit="round", disable=None) as shown:
            if waiting:
                draw_images(folder, images_for(cases, args.batch))
            for label, case in shown:
                shown.set_postfix_str(label)
                if not any("error" in one for one in rounds[label]):  # it would not fit the next time either
                    rounds[label].append(_one(case, args.batch, amount, folder))
                if args.output:
                    write_json(args.output, report)
    finally:
        if any(rounds.values()):
            print(_head(report))
            print(_table(cases, report))
    return int(any("error" in one for found in rounds.values() for one in found))


def _check_device(device: str) -> None:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"--device is '{device}'; it is cuda, cuda:NUMBER or cpu")
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(
            f"--device is {device}, and torch sees no GPU here (torch {torch.__version__}, built for CUDA "
            f"{torch.version.cuda}): look at `nvidia-smi`, or measure with --device cpu"
        )


# ---- cases ----------------------------------------------------------------------------------------------------------


def list_cases(args: argparse.Namespace) -> list[Case]:
    """List what the arguments ask for, baselines first.

    Args:
        args: of the command.

    Raises:
        OSError: a config has no file of that name.
        ValueError: there is no such variant.
    """
    own = {words[0]: [word for pair in word_pairs(words[1:]) for word in pair] for words in args.variant}
    asked = dict.fromkeys([*args.variants, *own])
    known = {**VARIANTS, **own}
    if unknown := [name for name in asked if name not in (*known, _FAST)]:
        raise ValueError(f"no variant is named '{unknown[0]}': there are {', '.join([*known, _FAST])}")
    size = ["INPUT.SIZE_TRAIN", list(args.size), "INPUT.SIZE_TEST", list(args.size)] if args.size else []
    common = [
        *("MODEL.DEVICE", args.device, "MODEL.BACKBONE.PRETRAIN", False, "MODEL.HEADS.NUM_CLASSES", args.classes),
        *(*size, *(word for pair in word_pairs(args.opts) for word in pair)),
    ]
    baselines = args.baselines if args.baselines is not None else (["bot"] if args.config_file else list(BASELINES))
    cases = [
        Case(name, step, BASELINES[name][0], [*BASELINES[name][1], *common]) for name in baselines for step in STEPS
    ]
    for config in args.config_file or METHODS:
        for variant in asked:
            name = config if variant == "base" else f"{config} {variant}"
            file = config
            if variant == _FAST and variant not in own:
                path = Path(find_config(config))
                file = str(path.with_name(f"{path.stem}_{_FAST}{path.suffix}"))
                if not os.path.exists(file):
                    raise FileNotFoundError(f"{config} has no variant '{_FAST}': there is no {file}")
            cases.append(Case(name, STEPS[1], file, [*known.get(variant, ()), *common]))
    return cases


def _labeled(cases: Sequence[Case], rounds: dict[str, list[Any]], turn: int) -> list[tuple[str, Case]]:
    """The cases of a round that are not measured yet, with their names in the file."""
    labels = {f"{case.name}, {case.step}": case for case in cases}
    for label in labels:
        rounds.setdefault(label, [])
    return [(label, case) for label, case in labels.items() if len(rounds[label]) <= turn]


def _one(case: Case, batch: int, amount: Amount, folder: str) -> dict[str, Any]:
    """A round, or what it failed by."""
    try:
        return in_own_process(measure, case, batch, amount, folder)
    except Exception as error:  # a card's memory is full, a model refuses the size: the others can be measured
        lines = str(error).strip().splitlines() or [type(error).__name__]
        tqdm.write(f"{case.name}, {case.step}: {lines[0]}")
        return {"error": f"{type(error).__name__}: {lines[0]}"}


# ---- the file -------------------------------------------------------------------------------------------------------


def _begin(output: str | None, overwrite: bool, fresh: dict[str, Any]) -> dict[str, Any]:
    """Go on with what is in the file, if it is of this very measurement."""
    report = {**fresh, "rounds": {}}
    if not output or overwrite or not os.path.exists(output):
        return report
    try:
        with open(output, encoding="utf-8") as file:
            found = json.load(file)
        same = all(found[part] == json.loads(json.dumps(fresh[part])) for part in fresh)
    except (ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise FileExistsError(
            f"{output} holds something else, or numbers of another machine, version or choice of arguments: name "
            "another --output, or replace it with --overwrite"
        )
    return found


# ---- the table ------------------------------------------------------------------------------------------------------


def _head(report: dict[str, Any]) -> str:
    here, settings = report["machine"], report["settings"]
    card = f"{here['card']}, driver {here['driver']}, CUDA {here['cuda']}, " if "card" in here else ""
    measured = next(one for found in report["rounds"].values() for one in found)
    cudnn = f", cudnn.benchmark {'on' if measured.get('cudnn_benchmark') else 'off'}" if card else ""
    steps = f"{settings['steps']} steps a round after 1 + {settings['warm_up']} that are not timed"
    read = f"the loader read {measured.get('images', 'nothing')} with {measured.get('workers', 0)} workers"
    return (
        f"{card}{here['cpu']}, {here['cores']} cores; torch {here['torch']}, fastreid_parts {here['fastreid_parts']}\n"
        f"{settings['batch']} images a step, {steps}{cudnn}; {read}"
    )


def _table(cases: Sequence[Case], report: dict[str, Any]) -> str:
    headers = [
        *("model", "step", "size", "precision", "images/s", "spread", "peak GB", "data share"),
        *("cores to feed", "hours", "of epochs x images"),
    ]
    rows = [_row(case, report["rounds"].get(f"{case.name}, {case.step}", [])) for case in cases]
    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)


def _row(case: Case, rounds: Sequence[dict[str, Any]]) -> list[str]:
    """A line of the table; a cell that was not measured is empty."""
    good = [one for one in rounds if "error" not in one]
    if not good:
        failed = next((one["error"] for one in rounds), "")
        return [case.name, case.step, "", "", failed[:60], "", "", "", "", "", ""]
    median = {
        key: statistics.median(one[key] for one in good)
        for key in ("images_per_second", "loaded_images_per_second", "data_share", "read_per_core")
    }
    rates = [one["images_per_second"] for one in good]
    peaks = [one["peak_gb"] for one in good if one["peak_gb"] is not None]
    cfg = load_config(case.config, case.opts)
    images, epochs = epoch_images(cfg), cfg.SOLVER.MAX_EPOCH
    hours = "" if images is None else f"{epochs * images / median['loaded_images_per_second'] / 3600:.1f}"
    return [
        case.name,
        case.step,
        "x".join(map(str, good[0]["size"])),
        good[0]["precision"],
        f"{median['images_per_second']:,.1f}",
        f"{min(rates):,.1f}-{max(rates):,.1f}",
        f"{max(peaks):.2f}" if peaks else "",
        f"{median['data_share']:.2f}",
        f"{median['images_per_second'] / median['read_per_core']:.1f}",
        hours,
        "" if images is None else f"{epochs} x {images:,}",
    ]
