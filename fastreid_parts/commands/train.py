"""Train or evaluate a config.

The options are those of fast-reid's own tools/train_net.py and --overwrite. Config keys to change come last:
KEY VALUE ...

OUTPUT_DIR belongs to one training. A finished one, or one with other settings, is not written over: --resume goes on
with it, --overwrite puts it aside (into retired-1, retired-2 ... in the folder), and an OUTPUT_DIR such as
logs/{config}-{n} names a folder that is not there yet, after the config's file and the first number that is free;
with --resume and --eval-only, the last that is there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fastreid.config import CfgNode
from fastreid.engine import default_setup
from fastreid.utils import comm
from fastreid.utils.checkpoint import Checkpointer

from ..config import find_config, load_config
from ..engine import PartsTrainer, launch
from ..engine.checks import check_config, check_training
from ..folders import RunFolder, numbered


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a path or a name: Market/cmbn.yml")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    parser.add_argument("--overwrite", action="store_true", help="put aside what another training left in OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine, on the CPU without GPUs")
    parser.add_argument("--num-machines", type=int, default=1, help="machines of the job (default: 1)")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0 (default: 0)")
    parser.add_argument("--dist-url", default="auto", help="where machines meet: tcp://HOST:PORT")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys to change, at the end")


def make_config(args: argparse.Namespace) -> CfgNode:
    """Make the config of a command line.

    Raises:
        FileNotFoundError: there is no such config file.
        KeyError: a key does not exist.
        ValueError: settings do not fit together.
    """
    args.config_file = find_config(args.config_file)
    cfg = load_config(args.config_file, args.opts)
    cfg.OUTPUT_DIR = cfg.OUTPUT_DIR.replace("{config}", Path(args.config_file).stem)
    if args.eval_only:
        check_config(cfg, begins=False)
    else:
        check_training(cfg, begins=not args.resume)  # whether there is a checkpoint, the trainer looks
    if args.resume and args.overwrite:
        raise ValueError("--resume goes on with what --overwrite puts aside: give one of them")
    if args.eval_only and not cfg.MODEL.WEIGHTS:
        raise ValueError("--eval-only needs weights: add MODEL.WEIGHTS path/to/model_final.pth")
    if args.eval_only and not len(cfg.DATASETS.TESTS):
        raise ValueError("--eval-only needs a test set: DATASETS.TESTS is empty")
    if args.eval_only and args.resume:
        raise ValueError("--eval-only evaluates MODEL.WEIGHTS and trains nothing: leave out --resume")
    cfg.freeze()
    return cfg


def work(args: argparse.Namespace) -> Any:
    """Do the work of one process.

    Returns:
        The results in the host's form, on the main process.
    """
    cfg = make_config(args)
    if "{n}" in cfg.OUTPUT_DIR:
        cfg.defrost()
        folder = numbered(cfg.OUTPUT_DIR, last=args.resume or args.eval_only) if comm.is_main_process() else ""
        cfg.OUTPUT_DIR = comm.all_gather(str(folder))[0]
        cfg.freeze()
    default_setup(cfg, args)
    if args.eval_only:
        cfg.defrost()
        cfg.MODEL.BACKBONE.PRETRAIN = False
        model = PartsTrainer.build_model(cfg)
        Checkpointer(model).load(cfg.MODEL.WEIGHTS)
        return PartsTrainer.test(cfg, model)
    trainer = PartsTrainer(cfg, resume=args.resume)
    trainer.resume_or_load(args.resume, args.overwrite)
    return trainer.train()


def run(args: argparse.Namespace) -> None:
    """Start the processes of the job, here where it is one; what does not fit shows before, and nothing is written."""
    cfg = make_config(args)
    if not args.eval_only and "{n}" not in cfg.OUTPUT_DIR:
        RunFolder(cfg).check(args.resume, args.overwrite)
    launch(work, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))
