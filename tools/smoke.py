"""Does this installation train? A minute on the CPU, with noise for images.

Trains one epoch with fast-reid's own trainer and a config like its bag of tricks, and one with PartsTrainer
and CMBN. Each must move every trainable parameter and come back from the evaluation with a finite mAP: on a
stack that it was not written for, fast-reid by itself moves no weight, and logs plausible losses.

    python tools/smoke.py [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

HEIGHT, WIDTH = 64, 32


def write_noise_dataset(root: Path) -> None:
    """Write a dataset in Market-1501's layout below `root`: 8 identities to train on, 4 to find, two cameras.

    The images of one identity are one random picture under fresh noise, JPEG, HEIGHT x WIDTH pixels.
    """
    import numpy as np
    from PIL import Image

    random = np.random.RandomState(0)
    folders = {"bounding_box_train": range(1, 9), "query": range(11, 15), "bounding_box_test": range(11, 15)}
    for folder, identities in folders.items():
        directory = root / "Market-1501-v15.09.15" / folder
        directory.mkdir(parents=True)
        for identity in identities:
            picture = np.random.RandomState(identity).randint(0, 200, (HEIGHT, WIDTH, 3))
            for camera in (1, 2):
                for shot in range(1 if folder == "query" else 3):
                    noisy = picture + random.randint(0, 56, picture.shape)
                    name = f"{identity:04d}_c{camera}s1_{shot:06d}_00.jpg"
                    Image.fromarray(noisy.astype(np.uint8)).save(directory / name)


def stock_config() -> Any:
    """fast-reid's bag of tricks (its Base-bagtricks.yml) with a small network."""
    from fastreid.config import get_cfg

    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "Baseline"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.BACKBONE.NORM = "BN"
    cfg.MODEL.BACKBONE.DEPTH = "18x"
    cfg.MODEL.BACKBONE.FEAT_DIM = 512
    cfg.MODEL.BACKBONE.LAST_STRIDE = 1
    cfg.MODEL.BACKBONE.PRETRAIN = False
    cfg.MODEL.HEADS.NAME = "EmbeddingHead"
    cfg.MODEL.HEADS.NORM = "BN"
    cfg.MODEL.HEADS.WITH_BNNECK = True
    cfg.MODEL.HEADS.POOL_LAYER = "GlobalAvgPool"
    cfg.MODEL.HEADS.CLS_LAYER = "Linear"
    cfg.MODEL.LOSSES.NAME = ("CrossEntropyLoss", "TripletLoss")
    cfg.MODEL.LOSSES.TRI.MARGIN = 0.3
    cfg.INPUT.REA.ENABLED = True
    cfg.INPUT.FLIP.ENABLED = True
    cfg.INPUT.PADDING.ENABLED = True
    cfg.DATALOADER.SAMPLER_TRAIN = "NaiveIdentitySampler"
    cfg.DATALOADER.NUM_INSTANCE = 4
    cfg.SOLVER.AMP.ENABLED = True
    cfg.SOLVER.OPT = "Adam"
    cfg.SOLVER.BASE_LR = 0.00035
    return cfg


def cmbn_config() -> Any:
    """The plugin's own configs/Synthetic/cmbn.yml."""
    from fastreid_parts.config import load_config

    return load_config("Synthetic/cmbn.yml")


def shrink(cfg: Any, output: Path) -> Any:
    """Three iterations of one epoch on the noise, then one evaluation, on the CPU."""
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.NAMES = ("Market1501",)
    cfg.DATASETS.TESTS = ("Market1501",)
    cfg.INPUT.SIZE_TRAIN = [HEIGHT, WIDTH]
    cfg.INPUT.SIZE_TEST = [HEIGHT, WIDTH]
    cfg.DATALOADER.NUM_WORKERS = 1
    cfg.SOLVER.IMS_PER_BATCH = 16
    cfg.SOLVER.MAX_EPOCH = 1
    cfg.SOLVER.STEPS = [1]
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.CHECKPOINT_PERIOD = 1
    cfg.TEST.EVAL_PERIOD = 1
    cfg.TEST.IMS_PER_BATCH = 16
    cfg.OUTPUT_DIR = str(output)
    output.mkdir(parents=True)
    return cfg


def train_and_evaluate(trainer_class: Any, cfg: Any) -> dict[str, Any]:
    """Run `cfg` and say what happened.

    Returns:
        `trains`: every trainable parameter moved and stayed finite. `evaluates`: the mAP is finite.
        `mAP`: in percent, or None. `problem`: what went wrong, or None.
    """
    import torch

    outcome: dict[str, Any] = {"trains": False, "evaluates": False, "mAP": None, "problem": None}
    before: dict[str, Any] = {}
    try:
        trainer = trainer_class(cfg)
        trainer.resume_or_load(resume=False)
        before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
        outcome["mAP"] = float(trainer.train()["mAP"])
        outcome["evaluates"] = math.isfinite(outcome["mAP"])
        if not outcome["evaluates"]:
            outcome["problem"] = f"mAP is {outcome['mAP']}"
    except Exception:
        traceback.print_exc()
        outcome["problem"] = traceback.format_exc().strip().splitlines()[-1]
    if before:
        after = dict(trainer.model.named_parameters())
        stuck = [n for n in before if torch.equal(after[n], before[n]) or not torch.isfinite(after[n]).all()]
        outcome["trains"] = not stuck
        if stuck and outcome["problem"] is None:
            outcome["problem"] = f"{len(stuck)} of {len(before)} parameters did not move: {stuck[0]} ..."
    return outcome


def run(directory: Path) -> dict[str, Any]:
    """Both trainings below `directory`.

    Returns:
        Versions of the stack, the outcome of `stock` and `cmbn`, and the seconds that all of it took.
    """
    start = time.monotonic()
    # fast-reid reads this once, when it is imported: hence the imports inside functions.
    os.environ["FASTREID_DATASETS"] = str(directory)
    write_noise_dataset(directory)

    from fastreid_parts.engine import PartsTrainer  # first: it makes fast-reid importable

    # isort: split
    import faiss
    import numpy
    import torch
    import torchvision
    from fastreid.engine import DefaultTrainer

    report: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "faiss": faiss.__version__,
    }
    torch.manual_seed(0)
    report["stock"] = train_and_evaluate(DefaultTrainer, shrink(stock_config(), directory / "stock"))
    report["cmbn"] = train_and_evaluate(PartsTrainer, shrink(cmbn_config(), directory / "cmbn"))
    report["seconds"] = round(time.monotonic() - start, 1)
    return report


def main(argv: list[str] | None = None) -> int:
    """Run the smoke training; 0 when both trainings train and evaluate, otherwise 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, help="write the report there, as JSON")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        report = run(Path(directory))
    text = json.dumps(report, indent=2)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")
    outcomes = (report["stock"], report["cmbn"])
    return 0 if all(outcome["trains"] and outcome["evaluates"] for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
