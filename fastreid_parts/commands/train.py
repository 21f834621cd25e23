"""Train or evaluate a config, with the flags of fast-reid's own tools/train_net.py."""

from __future__ import annotations

import argparse
from typing import Any

from fastreid.config import CfgNode, get_cfg
from fastreid.engine import default_argument_parser, default_setup
from fastreid.utils.checkpoint import Checkpointer

from ..config import find_config
from ..engine import PartsTrainer, launch
from ..engine.checks import check_config

__all__ = ["main", "setup"]


def setup(args: argparse.Namespace) -> CfgNode:
    """The config of a command line, with logging set up and the config written to OUTPUT_DIR.

    Raises:
        FileNotFoundError: there is no such config file.
        KeyError: a key does not exist.
        ValueError: settings do not fit together.
    """
    cfg = get_cfg()
    if args.config_file:
        args.config_file = find_config(args.config_file)
        cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    check_config(cfg)
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def run(args: argparse.Namespace) -> Any:
    """The work of one process.

    Returns:
        The results in the host's form, on the main process.
    """
    cfg = setup(args)
    if args.eval_only:
        if not cfg.MODEL.WEIGHTS:
            raise ValueError("--eval-only needs weights: add MODEL.WEIGHTS path/to/model_final.pth")
        cfg.defrost()
        cfg.MODEL.BACKBONE.PRETRAIN = False
        model = PartsTrainer.build_model(cfg)
        Checkpointer(model).load(cfg.MODEL.WEIGHTS)
        return PartsTrainer.test(cfg, model)
    trainer = PartsTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `--help`."""
    parser = default_argument_parser()
    parser.prog = "train"
    parser.description = __doc__
    args = parser.parse_args(argv)
    if not args.config_file:
        parser.error("--config-file is missing, for example --config-file Market/cmbn.yml")
    launch(
        run,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
    return 0
