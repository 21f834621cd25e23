"""What is wrong with a config is said before anything is built from it."""

from __future__ import annotations

from fastreid.config import CfgNode
from fastreid.utils import comm

from ..data.checks import check_named_once
from ..evaluation.evaluator import check_test_keys
from ..pretrained import check_weights


def check_config(cfg: CfgNode) -> None:
    """Check the settings that would otherwise fail late, or not at all.

    Raises:
        ValueError: the message names the key and its choices.
        FileNotFoundError: there are no weights where MODEL.BACKBONE.PRETRAIN_PATH says.
    """
    check_test_keys(cfg)
    if cfg.MODEL.BACKBONE.PRETRAIN and cfg.MODEL.BACKBONE.PRETRAIN_PATH:
        check_weights(cfg.MODEL.BACKBONE.PRETRAIN_PATH)
    if not cfg.OUTPUT_DIR:
        raise ValueError("OUTPUT_DIR is empty: checkpoints and logs need a folder")
    if cfg.SOLVER.MAX_EPOCH < 1:
        raise ValueError(f"SOLVER.MAX_EPOCH is {cfg.SOLVER.MAX_EPOCH}; a run has at least one epoch")
    world_size = comm.get_world_size()
    for key, batch in (("SOLVER", cfg.SOLVER.IMS_PER_BATCH), ("TEST", cfg.TEST.IMS_PER_BATCH)):
        if batch < 1 or batch % world_size:
            raise ValueError(
                f"{key}.IMS_PER_BATCH is {batch}; it is shared by {world_size} process(es), so it must be a positive "
                "multiple of that"
            )
    if not len(cfg.DATASETS.NAMES):
        raise ValueError("DATASETS.NAMES needs at least one dataset")
    for key in ("NAMES", "TESTS"):
        check_named_once(f"DATASETS.{key}", cfg.DATASETS[key])
