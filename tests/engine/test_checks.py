"""What is refused or said before a run starts, and that none of the configs is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode
from fastreid.engine.defaults import DefaultTrainer
from torch import nn

from fastreid_parts.commands._throughput import epoch_images
from fastreid_parts.config import configs_root, load_config
from fastreid_parts.engine import PartsTrainer
from fastreid_parts.engine.checks import check_config, check_run, check_stock_trainer, check_training, wasted

from ..commands.run import problem

LEAVES = sorted(path for path in configs_root().glob("*/*.yml"))
TRAINERS = [PartsTrainer, DefaultTrainer]


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_config_is_refused_and_none_wastes_anything(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = load_config(str(path), ["MODEL.HEADS.NUM_CLASSES", 2])
    monkeypatch.setattr("fastreid_parts.engine.checks.check_weights", lambda path: None)  # LUPerson's is not here
    monkeypatch.setattr("fastreid_parts.engine.checks.comm.get_world_size", lambda: 1)
    check_training(cfg)
    iters = (epoch_images(cfg) or 0) // cfg.SOLVER.IMS_PER_BATCH
    check_run(cfg, nn.Linear(1, 1), iters)
    assert wasted(cfg, iters) == []


class TestValues:
    @pytest.mark.parametrize(
        ("key", "value", "said"),
        [
            ("SOLVER.BASE_LR", 0.0, "it is above 0"),
            ("SOLVER.GAMMA", 0.0, "it is above 0"),
            ("SOLVER.MOMENTUM", 1.5, "at least 0 and at most 1"),
            ("SOLVER.WEIGHT_DECAY", -0.1, "at least 0"),
            ("SOLVER.HEADS_LR_FACTOR", -1.0, "at least 0"),
            ("SOLVER.DELAY_EPOCHS", -1, "at least 0"),
            ("SOLVER.LR_FACTORS", ["heads", 0.1], r"has 'heads'; it lists pairs .*\[\['heads', 0.1\]\]"),
            ("SOLVER.LR_FACTORS", [["heads", "much"]], "it lists pairs"),
            ("SOLVER.LR_FACTORS", [["heads", -1.0]], "a factor of 0 or more"),
            ("SOLVER.LR_FACTORS", [["heads(", 0.1]], r"'heads\(', which is no regular expression"),
            ("SOLVER.OPT", "LBFGS", "it is one of ASGD, .*Adam, .*Lamb, NAdam"),
            ("SOLVER.OPT", "SparseAdam", "it is one of"),
            ("SOLVER.OPT", "SWA", "it is one of"),
            ("MODEL.LOSSES.CE.EPSILON", 1.5, "at most 1"),
            ("SOLVER.ETA_MIN_LR", 1.0, "is above SOLVER.BASE_LR 0.0003: the cosine schedule would climb"),
            ("INPUT.FLIP.PROB", 50.0, "a probability is between 0 and 1"),
            ("MODEL.PIXEL_STD", [1.0, 0.0, 1.0], "above 0"),
            ("TEST.PRECISE_BN.NUM_ITER", 0, "at least one batch"),
        ],
    )
    def test_out_of_range(self, tiny_cfg: Callable[..., CfgNode], key: str, value: Any, said: str) -> None:
        with pytest.raises(ValueError, match=f"{key}.*{said}"):
            check_training(tiny_cfg("TEST.PRECISE_BN.ENABLED", True, "SOLVER.SCHED", "CosineAnnealingLR", key, value))
        check_config(tiny_cfg(key, value))  # an evaluation reads none of them

    def test_a_clipped_gradient_is_left(self, tiny_cfg: Callable[..., CfgNode]) -> None:
        keys = ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.0, "SOLVER.CLIP_GRADIENTS.ENABLED")
        check_training(tiny_cfg(*keys, False))
        with pytest.raises(ValueError, match="CLIP_VALUE is 0.0, which leaves no gradient"):
            check_training(tiny_cfg(*keys, True))

    def test_the_output_is_no_file(self, tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match="OUTPUT_DIR is '.*file', which is a file"):
            check_config(tiny_cfg("OUTPUT_DIR", str(tmp_path / "file")))


class TestPreciseBN:
    def test_a_dataset_that_is_not_there(self, tiny_cfg: Callable[..., CfgNode]) -> None:
        """The host's default is Market1501, whatever the training set: without it the run ends with its name alone."""
        cfg = tiny_cfg("TEST.PRECISE_BN.ENABLED", True)
        for trainer in TRAINERS:
            with pytest.raises(ValueError, match=r"(?s)TEST.PRECISE_BN.DATASET, .*dataset Market1501 .*FolderReID\.$"):
                trainer(cfg)

    def test_another_dataset_or_none(self, tiny_cfg: Callable[..., CfgNode]) -> None:
        check_training(tiny_cfg("TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.DATASET", "FolderReID"))
        check_training(tiny_cfg("TEST.PRECISE_BN.ENABLED", False))


@pytest.mark.parametrize("trainer", TRAINERS)
class TestRuns:
    """36 images in batches of 12: an epoch has three iterations, the run two epochs."""

    def test_a_warm_up_as_long_as_the_run(self, tiny_cfg: Callable[..., CfgNode], trainer: type) -> None:
        """facebookresearch/d2go#19, open-mmlab/mmdetection#7789: the rate never gets to where the config wants it."""
        trainer(tiny_cfg("SOLVER.WARMUP_ITERS", 5))
        for keys in (("SOLVER.WARMUP_ITERS", 6), ("SOLVER.WARMUP_EPOCHS", 2)):
            with pytest.raises(
                ValueError, match=rf"the warm-up of 6 iterations \({keys[0]}\).* which has 6 \(2 epochs"
            ):
                trainer(tiny_cfg(*keys))

    def test_one_image_and_batch_norm(self, tiny_cfg: Callable[..., CfgNode], trainer: type) -> None:
        """dapengchen123/video_reid#4, open-mmlab/mmsegmentation#272: Expected more than 1 value per channel."""
        one = ("SOLVER.IMS_PER_BATCH", 1)
        with pytest.raises(
            ValueError, match=r"one image, of whose features batch norm \(heads.* cannot take statistics"
        ):
            trainer(tiny_cfg(*one))
        trainer(tiny_cfg(*one, "MODEL.HEADS.WITH_BNNECK", False))
        trainer(tiny_cfg(*one, "MODEL.HEADS.NORM", "GN"))

    def test_what_is_wasted_is_logged(
        self, tiny_cfg: Callable[..., CfgNode], trainer: type, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            trainer(tiny_cfg("SOLVER.STEPS", [1, 2]))
        assert "SOLVER.STEPS [2] never come in the run of 2 epochs (SOLVER.MAX_EPOCH)" in caplog.text


def test_layers_that_nothing_freezes_are_said(
    tiny_cfg: Callable[..., CfgNode], caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("fastreid").addHandler(caplog.handler)
    logging.getLogger("fastreid").setLevel(logging.INFO)
    for frozen in (3, 0):
        keys = ("MODEL.FREEZE_LAYERS", ["backbone"], "SOLVER.FREEZE_ITERS", frozen, "MODEL.HEADS.NUM_CLASSES", 6)
        check_run(tiny_cfg(*keys), nn.Linear(1, 1), 3)
        assert ("MODEL.FREEZE_LAYERS backbone are not frozen" in caplog.text) == (not frozen)
    logging.getLogger("fastreid").removeHandler(caplog.handler)


def test_an_augmentation_that_remembers_images_is_said_not_to_repeat(
    tiny_cfg: Callable[..., CfgNode], caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("fastreid").addHandler(caplog.handler)
    for enabled in (False, True):
        check_run(tiny_cfg("INPUT.RPT.ENABLED", enabled, "MODEL.HEADS.NUM_CLASSES", 6), nn.Linear(1, 1), 3)
        assert ("INPUT.RPT pastes pieces of the images" in caplog.text) == enabled


class TestModels:
    def test_one_identity(self, tiny_cfg: Callable[..., CfgNode]) -> None:
        with pytest.raises(ValueError, match="DATASETS.NAMES FolderReID, has a single identity"):
            check_run(tiny_cfg("MODEL.HEADS.NUM_CLASSES", 1), nn.Linear(1, 1), 3)

    def test_losses_without_weight(self, tiny_cfg: Callable[..., CfgNode]) -> None:
        keys = ("MODEL.META_ARCHITECTURE", "PartsBaseline", "MODEL.LOSSES.CE.SCALE", 0.0)
        with pytest.raises(ValueError, match="every loss of MODEL.LOSSES.NAME has the weight 0"):
            PartsTrainer(tiny_cfg(*keys))
        PartsTrainer(tiny_cfg(*keys, "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss")))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (("SOLVER.STEPS", [1, 9]), r"SOLVER.STEPS \[9\] never come in the run of 9 epochs"),
        (("SOLVER.STEPS", [5, 7], "SOLVER.WARMUP_ITERS", 9), r"STEPS \[7\], counted after 3 of warm-up and delay"),
        (("SOLVER.STEPS", [5, 7], "SOLVER.WARMUP_ITERS", 9, "SOLVER.STEPS_FROM_START", True), ""),
        (("SOLVER.STEPS", [30], "SOLVER.SCHED", "CosineAnnealingLR"), ""),
        (("TEST.EVAL_PERIOD", 10), "TEST.EVAL_PERIOD 10 never comes .* there is one evaluation, at its end"),
        (("SOLVER.CHECKPOINT_PERIOD", 20), "CHECKPOINT_PERIOD 20 never comes .* there is one checkpoint, at its end"),
        (("TEST.EVAL_PERIOD", 9, "SOLVER.CHECKPOINT_PERIOD", 0), ""),
        (("MODEL.FREEZE_LAYERS", ["backbone"]), ""),  # how a config switches its base's freezing off
        (("MODEL.FREEZE_LAYERS", ["backbone"], "SOLVER.FREEZE_ITERS", 27), "backbone are frozen to the end of the run"),
        (("MODEL.FREEZE_LAYERS", ["backbone"], "SOLVER.FREEZE_EPOCHS", 9), "backbone are frozen to the end of the run"),
        (("MODEL.FREEZE_LAYERS", ["backbone"], "SOLVER.FREEZE_ITERS", 26), ""),
        (("SOLVER.FREEZE_EPOCHS", 2), "freezes nothing: MODEL.FREEZE_LAYERS is empty"),
        (("MODEL.LOSSES.NAME", ("TripletLoss",)), "TripletLoss compare images .*SAMPLER_TRAIN TrainingSampler"),
        (
            (
                "MODEL.LOSSES.NAME", ("TripletLoss",), "DATALOADER.SAMPLER_TRAIN", "NaiveIdentitySampler",
                "DATALOADER.NUM_INSTANCE", 1,
            ),
            "with NUM_INSTANCE 1 has few or none",
        ),
        (("DATASETS.COMBINEALL", True), "COMBINEALL trains on the test images of FolderReID"),
        (("DATASETS.COMBINEALL", True, "DATASETS.TESTS", ("Market1501",)), ""),
    ],
)  # fmt: skip
def test_what_never_comes_or_comes_in_vain(tiny_cfg: Callable[..., CfgNode], keys: tuple, said: str) -> None:
    cfg = tiny_cfg("SOLVER.MAX_EPOCH", 9, "SOLVER.STEPS", [4], "SOLVER.CHECKPOINT_PERIOD", 3, *keys)
    lines = wasted(cfg, iters_per_epoch=3)
    assert len(lines) == bool(said)
    if said:
        with pytest.raises(ValueError, match=said):
            raise ValueError(lines[0])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (("SOLVER.WARMUP_ITERS", 50), "the warm-up of 50 iterations"),
        (("SOLVER.IMS_PER_BATCH", 1), "one image, of whose features batch norm"),
        (("TEST.PRECISE_BN.ENABLED", True), "TEST.PRECISE_BN.DATASET, whose images"),
        (("SOLVER.BASE_LR", 0.0), "SOLVER.BASE_LR is 0.0"),
        (("MODEL.WEIGHTS", "nowhere.pth"), "no weights file 'nowhere.pth'"),
        (("MODEL.BACKBONE.FEAT_DIM", 2048), "set MODEL.BACKBONE.FEAT_DIM 512"),
    ],
)
def test_each_is_one_line_on_the_command_line(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, capfd: pytest.CaptureFixture, keys: tuple, said: str
) -> None:
    threads = torch.get_num_threads()
    (tmp_path / "own.yml").write_text(tiny_cfg(*keys).dump())
    assert said in problem(capfd, "train", "--config-file", tmp_path / "own.yml")
    torch.set_num_threads(threads)


def test_a_broken_config_is_one_line_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for text, said in (("SOLVER: [\n", "not valid YAML"), ("_BASE_: own.yml\n", "each other's _BASE_")):
        (tmp_path / "own.yml").write_text(text)
        assert said in problem(capsys, "train", "--config-file", tmp_path / "own.yml")


@pytest.mark.parametrize("folder", ["Market", "Synthetic"])
@pytest.mark.parametrize("name", ["cmbn", "cge_bot", "rrid_f", "can", "rmgl"])
def test_fast_reids_trainer_takes_the_recipes(folder: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """And says what it does not do of them."""
    cfg = load_config(f"{folder}/{name}.yml")
    check_stock_trainer(cfg)
    said = " ".join(caplog.messages)
    assert ("SOLVER.FREEZE_EPOCHS is" in said) == (cfg.SOLVER.FREEZE_EPOCHS > 0)
    assert ("SOLVER.CHECKPOINTS_KEPT is" in said) == (cfg.SOLVER.CHECKPOINTS_KEPT >= 0)
