"""PartsTrainer: it repeats, it survives being killed, it freezes, logs, and finds mistakes before it starts."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.engine import DefaultTrainer

from fastreid_parts.analysis.trained_models import load_model
from fastreid_parts.data import checks
from fastreid_parts.data.datasets import FolderReID
from fastreid_parts.data.transforms import TRANSFORMS
from fastreid_parts.engine import PartsTrainer
from fastreid_parts.version import versions

pytestmark = pytest.mark.smallest


def train(cfg: Any, resume: bool = False) -> PartsTrainer:
    trainer = PartsTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.results = trainer.train()
    return trainer


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, map_location="cpu", weights_only=True)["model"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_what_mechanisms_and_augmentations_do_is_logged(cmbn_cfg: Callable, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("fastreid").addHandler(caplog.handler)
    trainer = train(cmbn_cfg("INPUT.REA.ENABLED", True, "INPUT.REA.PROB", 1.0, "SOLVER.MAX_EPOCH", 4))
    logging.getLogger("fastreid").removeHandler(caplog.handler)
    lines = [json.loads(line) for line in Path(trainer.cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()]
    logged = {line["iteration"]: line for line in lines if "mechanism/mask/change" in line}
    assert [*logged] == [2, 5, 8, 11]  # the last iteration of each epoch
    names = {name for name in logged[11] if name.startswith("mechanism/")}
    figures = {"mask": ("change", "std", "range"), "reversal_mask": ("change", "std", "overlap")}
    figures["erasing"] = ("pixels", "images")
    assert names == {f"mechanism/{name}/{figure}" for name, own in figures.items() for figure in own}
    assert logged[11]["mechanism/erasing/images"] > 0.8 and 0.02 < logged[11]["mechanism/erasing/pixels"] < 0.33
    assert logged[11]["mechanism/mask/std"] != logged[2]["mechanism/mask/std"]  # of now, and no median of before
    ends = {record.getMessage() for record in caplog.records if "iteration    3/3" in record.getMessage()}
    assert len(ends) == 4 and all("  mask change 0.0" in line and "  erasing pixels 0." in line for line in ends)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_training_on_a_processor_keeps_freed_memory(
    tiny_cfg: Callable, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """One that has it for want of a GPU, too."""
    kept: list[bool] = []
    monkeypatch.setattr("fastreid_parts.engine.trainer.keep_freed_memory", lambda: kept.append(True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    train(tiny_cfg("MODEL.DEVICE", device, "SOLVER.MAX_EPOCH", 1))
    assert kept


class TestRepeating:
    def test_same_seed_same_weights_and_another_seed_others(self, cmbn_cfg: Callable, tmp_path: Path) -> None:
        ends = []
        for number, seed in enumerate((3, 3, 4)):
            out = tmp_path / str(number)
            train(cmbn_cfg("OUTPUT_DIR", str(out), "SEED", seed))
            ends.append(weights(out / "model_final.pth"))
        assert same(ends[0], ends[1])
        assert not same(ends[0], ends[2])

    def test_evaluating_in_between_changes_nothing(self, tiny_cfg: Callable, tmp_path: Path) -> None:
        ends = []
        for period in (0, 1):
            out = tmp_path / str(period)
            train(tiny_cfg("OUTPUT_DIR", str(out), "TEST.EVAL_PERIOD", period))
            ends.append(weights(out / "model_final.pth"))
        assert same(*ends)

    def test_workers_are_seeded_too(self, tiny_cfg: Callable, tmp_path: Path) -> None:
        ends = []
        for number in range(2):
            out = tmp_path / str(number)
            train(tiny_cfg("OUTPUT_DIR", str(out), "DATALOADER.NUM_WORKERS", 2, "SOLVER.MAX_EPOCH", 1))
            ends.append(weights(out / "model_final.pth"))
        assert same(*ends)

    def test_a_dataset_that_draws_its_items_draws_the_same(self, tiny_cfg: Callable) -> None:
        class HalfReID(FolderReID):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self._train = random.sample(self.train, 18)

        DATASET_REGISTRY.register(HalfReID)
        try:
            drawn = []
            for state in (1, 2):  # whatever was drawn before the trainer was made
                random.seed(state)
                loader = PartsTrainer(tiny_cfg("DATASETS.NAMES", ("HalfReID",))).data_loader
                drawn.append((loader.dataset.img_items, next(iter(loader))["img_paths"]))
        finally:
            del DATASET_REGISTRY._obj_map["HalfReID"]
        assert drawn[0] == drawn[1]

    def test_without_a_seed_a_resumed_run_keeps_the_one_it_drew(self, tiny_cfg: Callable, tmp_path: Path) -> None:
        first = train(tiny_cfg("SEED", -1, "SOLVER.MAX_EPOCH", 1))
        trainer = PartsTrainer(tiny_cfg("SEED", -1))
        trainer.resume_or_load(resume=True)
        assert trainer.seed == first.seed and trainer.start_epoch == 1


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
import fastreid_parts
from fastreid.config import get_cfg
from fastreid_parts.engine import PartsTrainer

cfg = get_cfg()
cfg.merge_from_file(sys.argv[1])
where = sys.argv[2]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

if where == "step":
    run = PartsTrainer.run_step
    def run_step(self):
        run(self)
        if self.iter == 4:
            die()
    PartsTrainer.run_step = run_step
elif where == "writing":
    save = torch.save
    def dying_save(data, file):
        if data["epoch"] == 1:
            file.write(b"half a checkpoint")
            file.flush()
            die()
        save(data, file)
    torch.save = dying_save
elif where == "renaming":
    replace = os.replace
    def dying_replace(src, dst):
        if dst.endswith("model_0001.pth"):
            die()
        replace(src, dst)
    os.replace = dying_replace
trainer = PartsTrainer(cfg)
trainer.resume_or_load(resume=True)
trainer.train()
"""


class TestResuming:
    def test_killed_and_resumed_equals_unbroken(self, cmbn_cfg: Callable, tmp_path: Path) -> None:
        """kill -9 in the middle of an epoch, half-way through a checkpoint, and between writing and renaming it."""
        settings = (
            "SOLVER.MAX_EPOCH", 3, "SOLVER.FREEZE_EPOCHS", 2, "MODEL.FREEZE_LAYERS", ["backbone.shared"],
            "SOLVER.STEPS", [1], "TEST.EVAL_PERIOD", 1, "SOLVER.OPT", "SGD", "SOLVER.AMSGRAD", False,
        )  # fmt: skip
        train(cmbn_cfg("OUTPUT_DIR", str(tmp_path / "unbroken"), *settings))
        unbroken = weights(tmp_path / "unbroken" / "model_final.pth")
        for where in ("step", "writing", "renaming"):
            broken = tmp_path / where
            cfg = cmbn_cfg("OUTPUT_DIR", str(broken), *settings)
            config_file = tmp_path / "config.yaml"
            config_file.write_text(cfg.dump())
            command = [sys.executable, "-c", KILLED, str(config_file), where]
            process = subprocess.run(command, capture_output=True, text=True, timeout=300)
            assert process.returncode == -signal.SIGKILL, process.stderr
            assert not (broken / "model_final.pth").exists()
            assert any(p.name.endswith(".tmp") for p in broken.iterdir()) == (where != "step")

            assert train(cfg, resume=True).start_epoch >= 1, where  # one that starts over would end alike
            assert same(unbroken, weights(broken / "model_final.pth")), where
            assert not any(p.name.endswith(".tmp") for p in broken.iterdir())
            iterations = [json.loads(line)["iteration"] for line in (broken / "metrics.json").open()]
            assert iterations == sorted(set(iterations))

    def test_a_finished_run_is_evaluated(self, tiny_cfg: Callable) -> None:
        first = train(tiny_cfg())
        again = train(tiny_cfg(), resume=True)
        assert again.start_epoch == 2 and again.results["mAP"] == first.results["mAP"]

    def test_checkpoints_carry_config_seed_and_best_metric(self, tiny_cfg: Callable) -> None:
        cfg = tiny_cfg("TEST.EVAL_PERIOD", 1)
        train(cfg)
        saved = torch.load(f"{cfg.OUTPUT_DIR}/model_final.pth", weights_only=True)
        assert saved["seed"] == 3 and "META_ARCHITECTURE: Baseline" in saved["config"]
        assert saved["best_metric"] >= saved["metric"] > 0
        trainer = PartsTrainer(tiny_cfg("TEST.EVAL_PERIOD", 1, "SOLVER.MAX_EPOCH", 3))
        trainer.resume_or_load(resume=True)
        assert saved["best_metric"] in [getattr(hook, "best_metric", None) for hook in trainer._hooks]


class TestLogging:
    def test_lines_that_are_written_again_go_in_one_step(self, tmp_path: Path) -> None:
        """A kill while metrics.json is shortened leaves the old file or the new one."""
        log, old = tmp_path / "metrics.json", tmp_path / "old"
        lines = [json.dumps({"iteration": number}) + "\n" for number in range(5)]
        log.write_text("".join(lines))
        old.hardlink_to(log)
        trainer = SimpleNamespace(cfg=SimpleNamespace(OUTPUT_DIR=str(tmp_path)), _logged_iterations=3)
        PartsTrainer._go_on_with_metrics(trainer, 3)  # type: ignore[arg-type]
        assert log.read_text() == "".join(lines[:3]) and old.read_text() == "".join(lines)

    def test_metrics_hold_the_last_evaluation(self, tiny_cfg: Callable) -> None:
        cfg = tiny_cfg()
        trainer = train(cfg)
        lines = [json.loads(line) for line in Path(cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()]
        evaluations = [line for line in lines if "mAP" in line]
        assert [line["iteration"] for line in evaluations] == [trainer.max_iter]
        assert evaluations[0]["mAP"] == pytest.approx(trainer.results["mAP"])


class TestFreezing:
    def test_epochs_dotted_names_and_statistics(self, cmbn_cfg: Callable) -> None:
        cfg = cmbn_cfg(
            "MODEL.FREEZE_LAYERS", ["backbone.shared", "backbone.branches"], "SOLVER.FREEZE_EPOCHS", 2,
            "SOLVER.MAX_EPOCH", 3, "TEST.EVAL_PERIOD", 1,
        )  # fmt: skip
        trainer = PartsTrainer(cfg)
        snapshots = []
        after_epoch = trainer.after_epoch

        def recorded() -> None:
            after_epoch()
            snapshots.append({k: v.clone() for k, v in trainer.model.state_dict().items()})

        trainer.after_epoch = recorded  # type: ignore[method-assign]
        start = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        trainer.train()
        pretrained = [k for k in start if k.startswith(("backbone.shared", "backbone.branches"))]
        fresh = [k for k in start if k.startswith(("backbone.reversal_block", "heads")) and k.endswith("weight")]
        for snapshot in snapshots[:2]:  # an evaluation lies between the two
            assert all(torch.equal(snapshot[k], start[k]) for k in pretrained)
            assert all(not torch.equal(snapshot[k], start[k]) for k in fresh)
        moved = [k for k in pretrained if not torch.equal(snapshots[2][k], start[k])]
        assert len(moved) == len(pretrained)


class TestRegistry:
    def test_a_registered_transform_reaches_the_loader(self, tiny_cfg: Callable) -> None:
        class Blackout:
            STAGE = "tensor"

            @classmethod
            def from_config(cls, cfg: Any) -> Blackout:
                return cls()

            def __call__(self, image: torch.Tensor) -> torch.Tensor:
                return image * 0

        TRANSFORMS.register(Blackout)
        try:
            trainer = PartsTrainer(tiny_cfg("INPUT.EXTRA_TRANSFORMS", ["Blackout"]))
            assert next(iter(trainer.data_loader))["images"].abs().sum() == 0
        finally:
            del TRANSFORMS._obj_map["Blackout"]


class TestAmp:
    def test_bfloat16_trains_on_the_cpu(self, cmbn_cfg: Callable) -> None:
        cfg = cmbn_cfg("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.CPU_DTYPE", "bfloat16", "SOLVER.MAX_EPOCH", 1)
        trainer = train(cfg)
        assert trainer._trainer.dtype is torch.bfloat16 and trainer.grad_scaler is None
        assert all(p.dtype is torch.float32 for p in trainer.model.parameters())


BAD = {
    "metric": (("TEST.METRIC", "manhattan"), "TEST.METRIC is 'manhattan'"),
    "classes": (("MODEL.HEADS.NUM_CLASSES", 5), "NUM_CLASSES is 5, and the training set has 6"),
    "identities": (
        ("DATALOADER.SAMPLER_TRAIN", "NaiveIdentitySampler", "DATALOADER.NUM_INSTANCE", 1),
        "wants 12 identities",
    ),
    "multiple": (("DATALOADER.SAMPLER_TRAIN", "NaiveIdentitySampler", "DATALOADER.NUM_INSTANCE", 5), "no multiple"),
    "batch": (("SOLVER.IMS_PER_BATCH", 64), "larger than the training set"),
    "sampler": (("DATALOADER.SAMPLER_TRAIN", "RandomSampler"), "SAMPLER_TRAIN is 'RandomSampler'"),
    "dataset": (("DATASETS.NAMES", ("Markt1501",)), "no dataset is named 'Markt1501'"),
    "absent": (("DATASETS.NAMES", ("Market1501",)), "(?s)Market1501 cannot be read.*FASTREID_DATASETS"),
    "test set": (("DATASETS.TESTS", ("FolderReID", "Market1501")), "(?s)Market1501 cannot be read.*FASTREID_DATASETS"),
    "folder": (("DATASETS.FOLDER.ROOT", "/nowhere"), "nowhere"),
    "loss": (("MODEL.LOSSES.NAME", ("CrossEntropyLos",)), "CrossEntropyLos"),
    "transform": (("INPUT.EXTRA_TRANSFORMS", ["RandomShiftin"]), "RandomShiftin"),
    "twice": (("DATASETS.TESTS", ("FolderReID", "FolderReID")), "DATASETS.TESTS names FolderReID twice"),
    "freeze": (("MODEL.FREEZE_LAYERS", ["stem"], "SOLVER.FREEZE_EPOCHS", 1), "FREEZE_LAYERS names 'stem'"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named_before_training(tiny_cfg: Callable, what: str) -> None:
    overrides, message = BAD[what]
    with pytest.raises(ValueError, match=message):
        PartsTrainer(tiny_cfg(*overrides))


def test_an_unreadable_image_stops_or_is_left_out(tiny_cfg: Callable, market_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(market_folder, root)
    bad = sorted((root / "bounding_box_train").iterdir())[0]
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(ValueError, match=bad.name):
        PartsTrainer(tiny_cfg("DATASETS.FOLDER.ROOT", str(root)))
    trainer = PartsTrainer(tiny_cfg("DATASETS.FOLDER.ROOT", str(root), "DATALOADER.BAD_IMAGES", "skip"))
    assert len(trainer.data_loader.dataset) == 35


@pytest.mark.parametrize("folder", ["query", "bounding_box_test"])
def test_an_unreadable_test_image_stops_before_training(
    tiny_cfg: Callable, market_folder: Path, tmp_path: Path, folder: str
) -> None:
    root = Path(shutil.copytree(market_folder, tmp_path / "data"))
    bad = sorted((root / folder).iterdir())[0]
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(ValueError, match=bad.name):
        PartsTrainer(tiny_cfg("DATASETS.FOLDER.ROOT", str(root)))
    PartsTrainer(tiny_cfg("DATASETS.FOLDER.ROOT", str(root), "DATALOADER.BAD_IMAGES", "skip"))


def test_what_an_evaluation_needs_is_asked_before_training_and_only_of_runs_that_evaluate(
    tiny_cfg: Callable, market_folder: Path, tmp_path: Path
) -> None:
    """Said after the last of 60 epochs: NirAharon/BoT-SORT#117; of own images: JDAI-CV/fast-reid#173."""
    root = tmp_path / "data"
    shutil.copytree(market_folder / "bounding_box_train", root / "train")
    with pytest.raises(ValueError, match=r"FolderReID has no query images.*DATASETS\.TESTS \"\(\)\" trains without"):
        PartsTrainer(tiny_cfg("DATASETS.FOLDER.ROOT", str(root)))
    for split in ("query", "gallery"):  # one camera
        (root / split).mkdir()
        shutil.copy(market_folder / "query" / "0101_c1s1_000000_00.jpg", root / split)
    with pytest.raises(ValueError, match="FolderReID: none of the 1 query can be scored"):
        PartsTrainer(tiny_cfg("DATASETS.FOLDER.ROOT", str(root)))
    cfg = tiny_cfg("DATASETS.FOLDER.ROOT", str(root), "DATASETS.TESTS", (), "SOLVER.MAX_EPOCH", 1)
    trainer = PartsTrainer(cfg)
    assert trainer.train() == {} and (tmp_path / "run" / "model_final.pth").is_file()


def test_own_sets_are_trained_on_together_and_tested_apart(
    tiny_cfg: Callable, market_folder: Path, tmp_path: Path
) -> None:
    """Several own data sets in one training: KaiyangZhou/deep-person-reid#452."""
    other = shutil.copytree(market_folder, tmp_path / "other")
    names = ("FolderReID:other", "FolderReID:first")
    roots = [str(other), f"first={market_folder}"]
    cfg = tiny_cfg("DATASETS.FOLDER.ROOT", roots, "DATASETS.NAMES", names, "DATASETS.TESTS", names)
    cfg.merge_from_list(["SOLVER.MAX_EPOCH", 1])
    trainer = PartsTrainer(cfg)
    assert trainer.cfg.MODEL.HEADS.NUM_CLASSES == 12 and len(trainer.data_loader.dataset) == 72
    assert trainer.data_loader.dataset.num_cameras == 6
    results = trainer.train()
    assert set(results) == set(names) and results[names[0]]["mAP"] == results[names[1]]["mAP"]


def test_evaluations_do_not_check_the_images_again(
    tiny_cfg: Callable, market_folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    root = Path(shutil.copytree(market_folder, tmp_path / "data"))  # images that no earlier test has had checked
    decoded: list[str] = []
    look = checks._why_unreadable
    monkeypatch.setattr(checks, "_why_unreadable", lambda path: decoded.append(path) or look(path))
    trainer = PartsTrainer(tiny_cfg("DATASETS.FOLDER.ROOT", str(root), "TEST.EVAL_PERIOD", 1))
    assert len(decoded) == len(set(decoded)) == 60  # of training, query and gallery
    trainer.train()
    assert len(decoded) == 60


def test_weights_of_another_model_are_refused(tiny_cfg: Callable, cmbn_cfg: Callable, tmp_path: Path) -> None:
    out = tmp_path / "other"
    train(cmbn_cfg("OUTPUT_DIR", str(out), "SOLVER.MAX_EPOCH", 1))
    trainer = PartsTrainer(tiny_cfg("MODEL.WEIGHTS", str(out / "model_final.pth")))
    with pytest.raises(ValueError, match="weights of another model"):
        trainer.resume_or_load(resume=False)


def test_command_line_trains_and_evaluates(market_folder: Path, tmp_path: Path, cmbn_cfg: Callable) -> None:
    """tools/train_net.py with the host's flags, as the README types it."""
    root = Path(__file__).parents[2]
    config = tmp_path / "config.yaml"
    config.write_text(cmbn_cfg("SOLVER.MAX_EPOCH", 1).dump())
    command = [sys.executable, str(root / "tools" / "train_net.py"), "--config-file", str(config)]
    start = time.time()
    subprocess.run([*command, "OUTPUT_DIR", str(tmp_path / "out")], check=True, capture_output=True, timeout=300)
    final = str(tmp_path / "out" / "model_final.pth")
    evaluate = subprocess.run(
        [*command, "--eval-only", "MODEL.WEIGHTS", final, "OUTPUT_DIR", str(tmp_path / "eval")],
        check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "mAP" in evaluate.stdout and time.time() > start
    misspelt = subprocess.run([*command, "SOLVER.BASE_LRR", "1"], capture_output=True, text=True, timeout=300)
    assert misspelt.returncode != 0 and "BASE_LR" in misspelt.stderr


def content(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


class TestFolder:
    def test_a_second_training_does_not_touch_a_finished_one(self, tiny_cfg: Callable) -> None:
        """KaiyangZhou/deep-person-reid#63: the best model of before is overwritten by a later training's."""
        cfg = tiny_cfg("SOLVER.MAX_EPOCH", 1)
        train(cfg)
        before = content(cfg.OUTPUT_DIR)
        other = tiny_cfg("SOLVER.MAX_EPOCH", 1, "SOLVER.BASE_LR", 0.1)
        for again in (cfg, other):
            for trainer_class in (PartsTrainer, DefaultTrainer):
                with pytest.raises(ValueError, match="--overwrite"):
                    trainer_class(again).resume_or_load(resume=False)
            with pytest.raises(ValueError, match="--overwrite"):
                PartsTrainer(again).train()
        assert content(cfg.OUTPUT_DIR) == before

        class Killed(PartsTrainer):
            def run_step(self) -> None:
                raise KeyboardInterrupt

        trainer = Killed(other)
        trainer.resume_or_load(resume=False, overwrite=True)
        assert content(cfg.OUTPUT_DIR) == before  # until it starts
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        aside = content(f"{cfg.OUTPUT_DIR}/retired-1")
        assert before == {**aside, ".training.lock": b""}
        resumed = PartsTrainer(other)
        resumed.resume_or_load(resume=True)  # before its first checkpoint: not the old model under the new settings
        assert resumed.start_epoch == 0

    def test_versions_are_in_log_checkpoints_and_folder(self, tiny_cfg: Callable, caplog: Any) -> None:
        cfg = tiny_cfg("SOLVER.MAX_EPOCH", 1, "TEST.EVAL_PERIOD", 1)
        train(cfg)
        for name in ("model_final", "model_best", "weights_final", "weights_best"):
            saved = torch.load(f"{cfg.OUTPUT_DIR}/{name}.pth", weights_only=True)
            assert saved["versions"] == versions() and set(versions()) == {"fastreid_parts", "fast-reid", "torch"}
            assert "META_ARCHITECTURE: Baseline" in saved["config"] and saved["metric"] > 0
        record = json.loads(Path(cfg.OUTPUT_DIR, "run.json").read_text())
        assert record["versions"][0]["torch"] == versions()["torch"] and record["config"]["SEED"] == 3

    def test_the_weights_alone_are_the_model_that_was_evaluated(
        self, cmbn_cfg: Callable, caplog: pytest.LogCaptureFixture
    ) -> None:
        """JDAI-CV/fast-reid#689: to load a model for evaluation warns of the classifier that it does not need."""
        cfg = cmbn_cfg("SOLVER.MAX_EPOCH", 1, "SOLVER.CHECKPOINTS_KEPT", 0)
        trainer = train(cfg)
        names = {"weights_final.pth", "weights_best.pth", "last_checkpoint"}
        assert names == {name for name in os.listdir(cfg.OUTPUT_DIR) if name.endswith(("pth", "checkpoint"))}
        state = weights(Path(cfg.OUTPUT_DIR, "weights_final.pth"))
        assert 0 < len(state) < len(trainer.model.state_dict()) and not any("classifiers" in name for name in state)

        cfg.MODEL.HEADS.NUM_CLASSES = 1
        logger = logging.getLogger("fastreid")
        for file in (cfg.OUTPUT_DIR + "/weights_final.pth", cfg.OUTPUT_DIR + "/full.pth"):
            if "full" in file:
                torch.save({"model": trainer.model.state_dict()}, file)
            with caplog.at_level(logging.INFO):
                logger.addHandler(caplog.handler)
                model = load_model(cfg, file)
                logger.removeHandler(caplog.handler)
            assert PartsTrainer.test(cfg, model)["mAP"] == trainer.results["mAP"]
            assert not [line for line in caplog.messages if "Skip loading" in line or "not found" in line]

        again = train(cmbn_cfg("SOLVER.MAX_EPOCH", 1, "SOLVER.CHECKPOINTS_KEPT", 0), resume=True)
        assert again.results["mAP"] == trainer.results["mAP"] and again.start_epoch == 1
        longer = PartsTrainer(cmbn_cfg("SOLVER.MAX_EPOCH", 2, "SOLVER.CHECKPOINTS_KEPT", 0))
        with pytest.raises(ValueError, match=r"weights alone .*cannot go on to epoch 2: MODEL.WEIGHTS"):
            longer.resume_or_load(resume=True)
        file = f"{cfg.OUTPUT_DIR}/weights_final.pth"
        start = PartsTrainer(cmbn_cfg("MODEL.WEIGHTS", file, "OUTPUT_DIR", f"{cfg.OUTPUT_DIR}-2"))
        start.resume_or_load(resume=False)
        assert all(torch.equal(start.model.state_dict()[name], value) for name, value in state.items())
