"""Train or evaluate a config.

The options are those of fast-reid's own tools/train_net.py. Config keys to change come last: KEY VALUE ...
"""

from __future__ import annotations

import argparse
from typing import Any

from fastreid.config import CfgNode
from fastreid.engine import default_setup
from fastreid.utils.checkpoint import Checkpointer

from ..config import find_config, load_config
from ..engine import PartsTrainer, launch
from ..engine.checks import check_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a path or a name: Market/cmbn.yml")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
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
    check_config(cfg)
    if args.eval_only and not cfg.MODEL.WEIGHTS:
        raise ValueError("--eval-only needs weights: add MODEL.WEIGHTS path/to/model_final.pth")
    if args.eval_only and not len(cfg.DATASETS.TESTS):
        raise ValueError("--eval-only needs a test set: DATASETS.TESTS is empty")
    cfg.freeze()
    return cfg


def work(args: argparse.Namespace) -> Any:
    """Do the work of one process.

    Returns:
        The results in the host's form, on the main process.
    """
    cfg = make_config(args)
    default_setup(cfg, args)
    if args.eval_only:
        cfg.defrost()
        cfg.MODEL.BACKBONE.PRETRAIN = False
        model = PartsTrainer.build_model(cfg)
        Checkpointer(model).load(cfg.MODEL.WEIGHTS)
        return PartsTrainer.test(cfg, model)
    trainer = PartsTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def run(args: argparse.Namespace) -> None:
    """Start the processes of the job, here where it is one; what does not fit shows before."""
    make_config(args)
    launch(work, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))
