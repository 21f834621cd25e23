"""Parameters and time of inference: one config beside another, measured in turn in one run."""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling import build_model
from tabulate import tabulate
from torch import nn

__all__ = ["main", "measure"]


def measure(models: dict[str, nn.Module], images: torch.Tensor, rounds: int) -> list[dict[str, float]]:
    """Time the models in turn, so that a drift of the machine's speed meets all of them.

    Args:
        models: {name: model in evaluation mode}.
        images: (N, 3, H, W) in 0 to 255, on the models' device.
        rounds: timed passes of each, after one that is not.

    Returns:
        For each model, in order: `parameters`, `milliseconds` (median of a pass) and `ratio` (median over rounds of
        its time by the first model's in the same round).
    """
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for number in range(rounds + 1):
            for name, model in models.items():
                start = time.perf_counter()
                model(images)
                if images.is_cuda:
                    torch.cuda.synchronize()
                if number:
                    seconds[name].append(time.perf_counter() - start)
    first = next(iter(seconds.values()))
    return [
        {
            "parameters": sum(p.numel() for p in model.parameters()),
            "milliseconds": 1000 * statistics.median(seconds[name]),
            "ratio": statistics.median(b / a for a, b in zip(first, seconds[name])),
        }
        for name, model in models.items()
    ]


def _config(path: str, overrides: list[str]) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(path)
    cfg.merge_from_list(["MODEL.BACKBONE.PRETRAIN", False, *overrides])
    return cfg


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `--help`."""
    parser = argparse.ArgumentParser(prog="inference-cost", description=__doc__)
    parser.add_argument("--config-file", required=True, help="the model, as it is deployed")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of --config-file")
    parser.add_argument("--versus", help="the config to compare with; --config-file by default")
    parser.add_argument("--versus-opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of --versus")
    parser.add_argument("--batch", type=int, default=8, help="images a pass (default 8)")
    parser.add_argument("--rounds", type=int, default=20, help="timed passes of each model (default 20)")
    args = parser.parse_args(argv)
    if args.batch < 1 or args.rounds < 1:
        parser.error("--batch and --rounds must be at least 1")
    configs = {
        "versus": _config(args.versus or args.config_file, args.versus_opts),
        "model": _config(args.config_file, args.opts),
    }
    models = {name: build_model(cfg).eval() for name, cfg in configs.items()}
    height, width = configs["model"].INPUT.SIZE_TEST
    device = next(models["model"].parameters()).device
    images = torch.rand(args.batch, 3, height, width, device=device) * 255
    rows = measure(models, images, args.rounds)
    print(f"{args.batch} images of {height}x{width} on {device}, {args.rounds} rounds, torch {torch.__version__}")
    table = [
        (name, f"{row['parameters']:,}", f"{row['milliseconds']:.1f}", f"{row['ratio']:.3f}")
        for name, row in zip(models, rows)
    ]
    print(tabulate(table, headers=("", "parameters", "ms a pass", "time ratio"), tablefmt="pipe"))
    return 0
