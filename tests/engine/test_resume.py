"""A resumed run is one run: every key that may change is obeyed, every other one refused by name."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.engine import DefaultTrainer

from fastreid_parts.config import flat_keys
from fastreid_parts.engine import PartsTrainer
from fastreid_parts.engine.resume import (
    Change,
    FreshSchedule,
    ResumeError,
    changed_keys,
    changes_metric,
    check_resumed,
    describe_data,
    effect_of,
    entries,
)
from fastreid_parts.engine.solver import build_lr_scheduler
from fastreid_parts.settings import all_keys

from .test_trainer import same, train, weights

pytestmark = pytest.mark.smallest


def test_an_optimizer_of_stock_fast_reid_is_refused_before_anything_is_loaded(tiny_cfg: Callable) -> None:
    """It holds one flat tensor a group, of which torch says no more than that a group does not match the size."""
    train(tiny_cfg("SOLVER.MAX_EPOCH", 1))
    path = Path(tiny_cfg().OUTPUT_DIR, "model_final.pth")
    checkpoint = torch.load(path, weights_only=True)
    for number, group in enumerate(checkpoint["optimizer"]["param_groups"]):
        group["params"] = [number]
    checkpoint["optimizer"]["state"] = {}
    for entry in ("config", "data", "seed"):
        checkpoint.pop(entry)
    torch.save(checkpoint, path)
    for trainer_class in (PartsTrainer, DefaultTrainer):
        trainer = trainer_class(tiny_cfg("SEED", 4))
        before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
        with pytest.raises(ResumeError, match=r"fast-reid alone keeps .* MODEL.WEIGHTS, and another OUTPUT_DIR"):
            trainer.resume_or_load(resume=True)
        assert same(trainer.model.state_dict(), before)
        trainer.run_folder.close()


# ---- the table ------------------------------------------------------------------------------------------------------

#: What a resumed run may change, of the sections that decide training. All else is refused.
OBEYED = {
    "SOLVER.MAX_EPOCH", "SOLVER.STEPS", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.FIND_UNUSED_PARAMETERS",
    "INPUT.SIZE_TEST", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS",
}  # fmt: skip
#: What it may change where the images stay the same
OF_DATA = ("DATASETS.", "DATALOADER.CHECK_IMAGES", "DATALOADER.BAD_IMAGES")
UNREAD = {one.name for one in all_keys() if one.role in ("test", "procedure") and not one.trains_with}
READ_WITH = {one.name: one.trains_with[0] for one in all_keys() if one.trains_with}
SECTIONS = ("SOLVER", "DATASETS", "INPUT", "DATALOADER", "MODEL", "SPEED")


def another(value: Any) -> Any:
    """A value of the same kind that says something else; it need not make sense, as nothing is built from it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if value is None:
        return 0.1
    return [*value, *([value[0]] if value else [90])]


def table() -> list[str]:
    cfg = get_cfg()
    return [key for section in SECTIONS for key in flat_keys(cfg[section], f"{section}.")]


def change(key: str, same_images: bool) -> Change:
    old = flat_keys(get_cfg())[key]
    return Change(key, old, READ_WITH.get(key, another(old)), epochs_done=3, same_images=same_images)


@pytest.mark.parametrize("key", table())
@pytest.mark.parametrize("same_images", [True, False])
def test_each_key_is_obeyed_or_refused(key: str, same_images: bool) -> None:
    obeyed = key in OBEYED or key in UNREAD
    if key.startswith(OF_DATA):
        obeyed = key == "DATASETS.TESTS" or same_images
    assert (effect_of(change(key, same_images)) is not None) == obeyed


def test_what_was_read_at_the_start_may_be_dropped_but_not_changed() -> None:
    for key, old in (("MODEL.WEIGHTS", "a.pth"), ("MODEL.BACKBONE.PRETRAIN_PATH", "a.pth")):
        assert effect_of(Change(key, old, "", 1, True)) and not effect_of(Change(key, old, "b.pth", 1, True))
    assert effect_of(Change("MODEL.BACKBONE.PRETRAIN", True, False, 1, True))
    assert not effect_of(Change("MODEL.BACKBONE.PRETRAIN", False, True, 1, True))


def test_decays_may_change_that_are_still_to_come() -> None:
    assert effect_of(Change("SOLVER.STEPS", [3, 40], [3, 50, 70], 10, True))
    assert not effect_of(Change("SOLVER.STEPS", [3, 40], [40], 10, True))
    assert not effect_of(Change("SOLVER.STEPS", [40], [5, 40], 10, True))


def test_a_key_that_evaluation_alone_reads_starts_the_best_metric_anew() -> None:
    for key in ("TEST.METRIC", "DATASETS.TESTS", "INPUT.SIZE_TEST", "MODEL.HEADS.TEST_FEAT"):
        assert changes_metric(Change(key, 0, 1, 1, True)), key
    for key in ("TEST.EVAL_PERIOD", "TEST.IMS_PER_BATCH", "SOLVER.MAX_EPOCH", "MODEL.RMGL.CHECKPOINT"):
        assert not changes_metric(Change(key, 0, 1, 1, True)), key


# ---- the comparison -------------------------------------------------------------------------------------------------


@pytest.fixture
def stand_in(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> Callable[..., Any]:
    """A function that makes what the comparison reads of a trainer: six images of three identities, and a config."""

    def make(*overrides: Any, images: int = 6, identities: int = 3, folder: str = "data") -> Any:
        (tmp_path / folder).mkdir(exist_ok=True)
        items = [(str(tmp_path / folder / f"{i}.jpg"), f"x_{i % identities}", "c") for i in range(images)]
        for path, *_ in items:
            Path(path).write_bytes(b"image")
        loader = SimpleNamespace(dataset=SimpleNamespace(img_items=items))
        return SimpleNamespace(cfg=tiny_cfg(*overrides), data_loader=loader, iters_per_epoch=images // 2, seed=3)

    return make


def checkpoint_of(trainer: Any, **changes: Any) -> dict[str, Any]:
    return {"epoch": 2, "best_metric": 0.5, **entries(trainer), **changes}


class TestComparison:
    def test_one_message_names_all_keys_with_both_values_and_the_ways_out(self, stand_in: Callable) -> None:
        """JDAI-CV/fast-reid#167 and mapbox/robosat#169: what a config says of the rate is overwritten at resume."""
        given = stand_in("SOLVER.BASE_LR", 0.01, "SOLVER.OPT", "SGD", "SOLVER.MAX_EPOCH", 9)
        with pytest.raises(ResumeError) as raised:
            check_resumed(given, checkpoint_of(stand_in()))
        message = str(raised.value)
        for words in (
            "SOLVER.BASE_LR is 0.01 and was 0.0003", "SOLVER.OPT is 'SGD' and was 'Adam'", "old values",
            "MODEL.WEIGHTS", "another OUTPUT_DIR", given.cfg.OUTPUT_DIR,
        ):  # fmt: skip
            assert words in message
        assert "MAX_EPOCH" not in message  # which may change

    def test_what_may_change_is_logged_and_kept_with_its_epoch(self, stand_in: Callable, caplog: Any) -> None:
        given = stand_in("SOLVER.MAX_EPOCH", 9)
        check_resumed(given, checkpoint_of(stand_in()))
        first = {"epoch": 3, "key": "SOLVER.MAX_EPOCH", "old": 2, "new": 9}
        assert entries(given)["changes"] == [first]
        again = stand_in("SOLVER.MAX_EPOCH", 9, "TEST.METRIC", "euclidean")
        check_resumed(again, checkpoint_of(given, epoch=5))
        assert entries(again)["changes"] == [
            first,
            {"epoch": 6, "key": "TEST.METRIC", "old": "cosine", "new": "euclidean"},
        ]
        assert given.best_metric == 0.5 and again.best_metric is None

    def test_the_same_settings_change_nothing(self, stand_in: Callable, caplog: Any) -> None:
        check_resumed(given := stand_in("SEED", -1), checkpoint_of(stand_in()))
        assert given.changes == [] and given.best_metric == 0.5

    def test_another_seed_is_another_run(self, stand_in: Callable) -> None:
        with pytest.raises(ResumeError, match="SEED is 8 and was 3"):
            check_resumed(stand_in("SEED", 8), checkpoint_of(stand_in()))

    def test_images_that_come_or_go_are_said(self, stand_in: Callable, caplog: Any) -> None:
        check_resumed(stand_in(images=8), checkpoint_of(stand_in()))
        assert "8 images and 4 iterations an epoch; then 6 and 3" in caplog.text

    @pytest.mark.parametrize("identities", [2, 4])
    def test_other_identities_are_refused(self, stand_in: Callable, identities: int) -> None:
        """facebookresearch/SlowFast#400: an optimizer of other classes ends in `size of tensor a must match`."""
        with pytest.raises(ResumeError, match=f"the training set has {identities} identities, not the 3 of then"):
            check_resumed(stand_in(identities=identities), checkpoint_of(stand_in()))

    def test_a_dataset_may_move_but_not_become_another(self, stand_in: Callable, tmp_path: Path) -> None:
        there = checkpoint_of(stand_in("DATASETS.FOLDER.ROOT", "/old"))
        moved = stand_in("DATASETS.FOLDER.ROOT", "/new", folder="moved")
        check_resumed(moved, there)
        assert [one["key"] for one in moved.changes] == ["DATASETS.FOLDER.ROOT"]
        (tmp_path / "moved" / "0.jpg").write_bytes(b"another image")
        moved.data_loader.dataset.img_items = list(moved.data_loader.dataset.img_items)
        with pytest.raises(ResumeError, match="DATASETS.FOLDER.ROOT is '/new' and was '/old'"):
            check_resumed(moved, there)

    def test_checkpoints_of_before(self, stand_in: Callable) -> None:
        there = checkpoint_of(stand_in())
        for entry in ("data", "changes", "iters_per_epoch", "best_metric"):
            del there[entry]
        check_resumed(stand_in("SOLVER.MAX_EPOCH", 9), there)
        with pytest.raises(ResumeError, match="SOLVER.GAMMA"):
            check_resumed(stand_in("SOLVER.GAMMA", 0.5), there)
        with pytest.raises(ResumeError, match="DATASETS.FOLDER.ROOT"):  # nobody knows whether the images are the same
            check_resumed(stand_in("DATASETS.FOLDER.ROOT", "/new"), there)
        check_resumed(stand_in("SOLVER.GAMMA", 0.5), {"epoch": 2})  # fast-reid's own, without a config

    def test_a_key_that_is_newer_than_the_checkpoint_had_its_default(self, stand_in: Callable) -> None:
        there = checkpoint_of(stand_in())
        there["config"] = "\n".join(line for line in there["config"].splitlines() if "AMSGRAD" not in line)
        assert changed_keys(stand_in().cfg, there, True) == []
        [one] = changed_keys(stand_in("SOLVER.AMSGRAD", True).cfg, there, True)
        assert str(one) == "SOLVER.AMSGRAD is True and was False"

    def test_a_dataset_that_lists_nothing_has_no_digest(self) -> None:
        assert describe_data(SimpleNamespace()) is None


# ---- the schedule ---------------------------------------------------------------------------------------------------

SCHEDULES = {
    "cosine": ("SOLVER.SCHED", "CosineAnnealingLR"),
    "cosine after a warm-up": ("SOLVER.SCHED", "CosineAnnealingLR", "SOLVER.WARMUP_ITERS", 7),
    "steps": ("SOLVER.STEPS", [2, 4]),
    "steps from the start": (
        "SOLVER.STEPS", [3, 4], "SOLVER.STEPS_FROM_START", True, "SOLVER.WARMUP_EPOCHS", 2,
    ),
    "delay": ("SOLVER.SCHED", "CosineAnnealingLR", "SOLVER.DELAY_EPOCHS", 2),
}  # fmt: skip


def stepped(cfg: CfgNode, per_epoch: int = 4) -> Any:
    layer = torch.nn.Linear(2, 2)
    groups = [{"params": [layer.weight], "lr": cfg.SOLVER.BASE_LR}, {"params": [layer.bias], "lr": 0.1}]
    optimizer = torch.optim.SGD(groups)
    return SimpleNamespace(
        optimizer=optimizer,
        scheduler=build_lr_scheduler(cfg, optimizer, per_epoch),
        iters_per_epoch=per_epoch,
        warmup_iters=cfg.SOLVER.WARMUP_ITERS,
        delay_epochs=cfg.SOLVER.DELAY_EPOCHS,
    )


def rates_at(trainer: Any, schedule: FreshSchedule, epochs: int, iterations: int = 0) -> list[float]:
    schedule.step_to(epochs, iterations)
    return [group["lr"] for group in trainer.optimizer.param_groups]


class TestSchedule:
    @pytest.mark.parametrize("name", SCHEDULES)
    def test_a_longer_run_follows_its_own_curve(self, tiny_cfg: Callable, name: str) -> None:
        """mlfoundations/open_clip#413, deepinsight/insightface#2143: more epochs at resume, and a rate of neither."""
        short, long = (stepped(tiny_cfg("SOLVER.MAX_EPOCH", n, *SCHEDULES[name])) for n in (3, 6))
        fresh_short, fresh_long = FreshSchedule(short), FreshSchedule(long)
        curve = [rates_at(long, fresh_long, epoch) for epoch in range(6)]
        fresh_short.step_to(3, 0)  # to its end, and saved there
        saved = short.optimizer.state_dict(), {k: s.state_dict() for k, s in short.scheduler.items()}
        resumed = stepped(tiny_cfg("SOLVER.MAX_EPOCH", 6, *SCHEDULES[name]))
        fresh = FreshSchedule(resumed)
        resumed.optimizer.load_state_dict(saved[0])
        for key, state in saved[1].items():
            resumed.scheduler[key].load_state_dict(state)
        for epoch in range(3, 6):
            assert rates_at(resumed, fresh, epoch) == curve[epoch]
        if "cosine" in name:
            assert curve[3][0] > curve[4][0] > curve[5][0]
        if "steps" in name:
            assert [rates[1] for rates in curve[3:]] == pytest.approx([0.01, 0.001, 0.001])

    def test_within_an_epoch_of_warm_up(self, tiny_cfg: Callable) -> None:
        trainer = stepped(tiny_cfg("SOLVER.WARMUP_ITERS", 10, "SOLVER.WARMUP_FACTOR", 0.0))
        assert rates_at(trainer, FreshSchedule(trainer), 1, 1)[1] == pytest.approx(0.1 * 5 / 10)

    def test_epochs_count_and_not_iterations(self, tiny_cfg: Callable) -> None:
        curves = []
        for per_epoch in (4, 9):
            trainer = stepped(tiny_cfg("SOLVER.MAX_EPOCH", 6, *SCHEDULES["cosine"]), per_epoch)
            curves.append(rates_at(trainer, FreshSchedule(trainer), 4))
        assert curves[0] == curves[1]


# ---- runs -----------------------------------------------------------------------------------------------------------


def test_a_run_that_changes_what_it_may_equals_one_that_had_it_throughout(tiny_cfg: Callable, tmp_path: Path) -> None:
    """nodefluxio/vortex#70: arguments of the schedule that change at resume have no effect."""
    settings = ("SOLVER.SCHED", "CosineAnnealingLR", "SOLVER.WARMUP_ITERS", 2)
    first = tiny_cfg("SOLVER.MAX_EPOCH", 2, "SOLVER.SCHED", "MultiStepLR", "SOLVER.WARMUP_ITERS", 2)
    train(first)
    with pytest.raises(ValueError, match="SOLVER.SCHED is 'CosineAnnealingLR' and was 'MultiStepLR'"):
        train(tiny_cfg("SOLVER.MAX_EPOCH", 3, *settings), resume=True)
    longer = ("SOLVER.MAX_EPOCH", 3, "SOLVER.WARMUP_ITERS", 2, "SOLVER.STEPS", [5], "TEST.EVAL_PERIOD", 1)
    shutil.copytree(first.OUTPUT_DIR, tmp_path / "moved")
    cfg = tiny_cfg("OUTPUT_DIR", str(tmp_path / "moved"), "DATALOADER.NUM_WORKERS", 2, *longer)
    resumed = train(cfg, resume=True)
    assert resumed.start_epoch == 2
    train(tiny_cfg("OUTPUT_DIR", str(tmp_path / "unbroken"), *longer))
    assert same(weights(tmp_path / "moved" / "model_final.pth"), weights(tmp_path / "unbroken" / "model_final.pth"))
    saved = torch.load(tmp_path / "moved" / "model_final.pth", weights_only=True)
    assert {one["key"] for one in saved["changes"]} >= {"OUTPUT_DIR", "DATALOADER.NUM_WORKERS", "SOLVER.MAX_EPOCH"}


def test_images_that_go_shorten_epochs_and_lose_no_line_of_the_log(
    tiny_cfg: Callable, market_folder: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(market_folder, tmp_path / "data"))
    settings = ("DATASETS.FOLDER.ROOT", str(root), "TEST.EVAL_PERIOD", 1, "SOLVER.IMS_PER_BATCH", 6)
    cfg = tiny_cfg(*settings)
    train(cfg)
    log = Path(cfg.OUTPUT_DIR, "metrics.json")
    before = [json.loads(line) for line in log.open()]
    for path in sorted((root / "bounding_box_train").iterdir())[::3]:
        path.unlink()
    resumed = train(tiny_cfg(*settings, "SOLVER.MAX_EPOCH", 3), resume=True)
    assert resumed.iters_per_epoch == 4 and resumed.start_epoch == 2
    after = [json.loads(line) for line in log.open()]
    assert sum("mAP" in line for line in after) == 3 and len(after) > len(before)
    assert [line["iteration"] for line in after] == sorted({line["iteration"] for line in after})
    assert [line["iteration"] for line in after if "mAP" in line] == [4, 8, 12]


class TestStockTrainer:
    def run(self, cfg: CfgNode, resume: bool = False) -> DefaultTrainer:
        trainer = DefaultTrainer(cfg)
        trainer.resume_or_load(resume=resume)
        trainer.train()
        return trainer

    def test_it_is_held_to_the_same(self, tiny_cfg: Callable) -> None:
        """JDAI-CV/fast-reid#131: the rate of a resumed run is not that of its epoch."""
        cosine = ("SOLVER.SCHED", "CosineAnnealingLR", "SOLVER.BASE_LR", 0.01)
        cfg = tiny_cfg("SOLVER.MAX_EPOCH", 2, *cosine)
        self.run(cfg)
        trainer = DefaultTrainer(tiny_cfg("SOLVER.MAX_EPOCH", 3, *cosine, "SOLVER.WEIGHT_DECAY", 0.0))
        with pytest.raises(ResumeError, match=r"SOLVER.WEIGHT_DECAY is 0.0 and was 0.0005"):
            trainer.resume_or_load(resume=True)
        longer = self.run(tiny_cfg("SOLVER.MAX_EPOCH", 3, *cosine), resume=True)
        lines = [json.loads(line) for line in Path(cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()]
        last = [line["lr"] for line in lines if "lr" in line][-1]
        assert longer.start_epoch == 2
        assert last == pytest.approx(1e-7 + (0.01 - 1e-7) * (1 + math.cos(math.pi * 2 / 3)) / 2)


#: Values that make sense, for the keys that are read while a trainer is built
SENSIBLE = {
    "SOLVER.OPT": "SGD", "SOLVER.SCHED": "CosineAnnealingLR", "SOLVER.WARMUP_METHOD": "constant",
    "SOLVER.IMS_PER_BATCH": 6, "SOLVER.MAX_EPOCH": 2, "DATASETS.NAMES": ("FolderReID", "FolderReID"),
    "DATASETS.TESTS": ("FolderReID",), "DATALOADER.SAMPLER_TRAIN": "NaiveIdentitySampler",
    "MODEL.DEVICE": "cpu", "MODEL.BACKBONE.DEPTH": "34x", "MODEL.HEADS.CLS_LAYER": "CosSoftmax",
    "MODEL.HEADS.POOL_LAYER": "GlobalMaxPool", "MODEL.LOSSES.NAME": ("CrossEntropyLoss", "TripletLoss"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("key", table())
def test_each_key_in_a_run(tiny_cfg: Callable, tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
    """Changed alone, it is refused by name, when the trainer is built or when it resumes, or the run takes it."""
    base = tmp_path_factory.getbasetemp() / "base"
    if not base.exists():
        train(tiny_cfg("OUTPUT_DIR", str(base), "SOLVER.MAX_EPOCH", 1))
    folder = tmp_path_factory.mktemp("run")
    for name in ("model_final.pth", "last_checkpoint", "metrics.json"):
        os.link(base / name, folder / name)
    cfg = tiny_cfg("SOLVER.MAX_EPOCH", 1)
    old = flat_keys(cfg)[key]
    value = SENSIBLE.get(key, another(old))
    if value == old:
        pytest.skip("no other value here")
    node = cfg
    *sections, name = key.split(".")
    for section in sections:
        node = node[section]
    node[name], cfg.OUTPUT_DIR = value, str(folder)
    try:
        trainer = PartsTrainer(cfg)
        trainer.resume_or_load(resume=True)
    except (ValueError, KeyError, AttributeError, TypeError, OSError, NotImplementedError) as error:
        assert key.rpartition(".")[2] in str(error) or not isinstance(error, ResumeError), error
        return
    assert key in [one["key"] for one in trainer.changes], f"{key} is ignored"
