"""Data and configs that the tests share: tiny images of a few identities, a config that trains on them in seconds."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fastreid.config import CfgNode, get_cfg

import fastreid_parts  # noqa: F401  patches fast-reid before anything else imports it

pytest.register_assert_rewrite("tests.methods.tester")  # a failed assertion there says what it compared

torch.set_num_threads(1)  # the smallest nets; also what makes two runs comparable
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same in processes that tests start


def write_market(root: Path, train_ids: int = 6, test_ids: int = 4, cameras: int = 3, size=(48, 24)) -> Path:
    """A dataset in Market-1501 naming: an identity is a pair of colors, a camera a tint. Two images per camera."""
    rng = np.random.default_rng(0)
    height, width = size
    for split, ids in (("bounding_box_train", range(1, train_ids + 1)), ("test", range(101, 101 + test_ids))):
        for identity in ids:
            top, bottom = rng.integers(0, 255, (2, 3))
            for camera in range(1, cameras + 1):
                for number in range(2):
                    image = np.empty((height, width, 3), np.float32)
                    image[: height // 2], image[height // 2 :] = top, bottom
                    image += rng.normal(camera * 8, 12, image.shape)
                    folder = split
                    if split == "test":
                        folder = "query" if number == 0 and camera == 1 else "bounding_box_test"
                    (root / folder).mkdir(parents=True, exist_ok=True)
                    name = f"{identity:04d}_c{camera}s1_{number:06d}_00.jpg"
                    cv2.imwrite(str(root / folder / name), image.clip(0, 255).astype(np.uint8))
    return root


@pytest.fixture(autouse=True)
def host_logger() -> Iterator[None]:
    """fast-reid's set-up takes its logger out of the root's reach; the next test finds it as it was.

    Its level stays: the set-up is cached, so it would not be raised again. The plugin's own level does not:
    commands set it by the rank of their process.
    """
    logger, own = logging.getLogger("fastreid"), logging.getLogger("fastreid_parts")
    before, level = (logger.propagate, list(logger.handlers)), own.level
    yield
    logger.propagate, logger.handlers = before
    own.setLevel(level)


@pytest.fixture(scope="session")
def market_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 training images of 6 identities; 4 queries and 20 gallery images of 4 others."""
    return write_market(tmp_path_factory.mktemp("market"))


@pytest.fixture
def tiny_cfg(request: pytest.FixtureRequest, market_folder: Path, tmp_path: Path) -> Callable[..., CfgNode]:
    """A function that makes a config on `market_folder`, with overrides as KEY, VALUE pairs.

    The network is a ResNet-18; for tests that are marked `smallest`, one that is trained in a quarter of the time.
    """
    network = SMALLEST if request.node.get_closest_marker("smallest") else ()

    def make(*overrides: object) -> CfgNode:
        cfg = get_cfg()
        cfg.merge_from_list(
            [
                "MODEL.DEVICE", "cpu",
                "MODEL.BACKBONE.DEPTH", "18x",
                "MODEL.BACKBONE.FEAT_DIM", 512,
                "MODEL.HEADS.WITH_BNNECK", True,
                "INPUT.SIZE_TRAIN", [48, 24],
                "INPUT.SIZE_TEST", [48, 24],
                "INPUT.FLIP.ENABLED", True,
                "DATASETS.NAMES", ("FolderReID",),
                "DATASETS.TESTS", ("FolderReID",),
                "DATASETS.FOLDER.ROOT", str(market_folder),
                "DATALOADER.NUM_WORKERS", 0,
                "SOLVER.IMS_PER_BATCH", 12,
                "SOLVER.MAX_EPOCH", 2,
                "SOLVER.WARMUP_ITERS", 0,
                "SOLVER.CHECKPOINT_PERIOD", 1,
                "TEST.EVAL_PERIOD", 0,
                "TEST.IMS_PER_BATCH", 12,
                "SEED", 3,
                "OUTPUT_DIR", str(tmp_path / "run"),
            ]
        )  # fmt: skip
        cfg.merge_from_list([*network, *overrides])
        return cfg

    return make


#: Few weights: steps and checkpoints take long by their number, and half precision where no instruction computes it
SMALLEST = (
    "MODEL.BACKBONE.NAME", "build_mobilenetv2_backbone", "MODEL.BACKBONE.DEPTH", "0.1x",
    "MODEL.BACKBONE.FEAT_DIM", 1280,
)  # fmt: skip

CMBN = (
    "MODEL.META_ARCHITECTURE", "CMBN",
    "MODEL.HEADS.NAME", "CMBNHead",
    "MODEL.HEADS.POOL_LAYER", "GlobalMaxPool",
    "MODEL.HEADS.WITH_BNNECK", False,
    "MODEL.HEADS.EMBEDDING_DIM", 32,
    "SOLVER.AMSGRAD", True,
)  # fmt: skip


@pytest.fixture
def cmbn_cfg(tiny_cfg: Callable[..., CfgNode]) -> Callable[..., CfgNode]:
    """The same with CMBN and a 32-dimensional representation."""
    return lambda *overrides: tiny_cfg(*CMBN, *overrides)
