"""Whose folder it is: refused, gone on with, put aside, held by one process at a time, numbered."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastreid_parts import folders
from fastreid_parts.engine import PartsTrainer
from fastreid_parts.folders import FolderError, RunFolder, changed_keys, numbered

from .forks import REFUSED, together

HOLDER = """
import sys, filelock
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def left(cfg: object, *files: str, last: str = "") -> dict[str, bytes]:
    """Let a training of this config leave files, and `last_checkpoint` that names one; what is in the folder then."""
    folder = RunFolder(cfg)
    folder.start(cfg)
    folder.close()
    for name in files:
        (folder.path / name).write_text(f"{name} of seed {cfg.SEED}")
    if last:
        (folder.path / "last_checkpoint").write_text(last)
    return content(folder.path)


def content(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


class TestWhose:
    def test_a_finished_run_and_another_one_are_refused_and_left_as_they_are(self, tiny_cfg: Callable) -> None:
        """open-mmlab/mmcv#880: of two runs into one folder the later one's checkpoints replace the earlier one's."""
        cfg = tiny_cfg()
        before = left(cfg, "model_final.pth", "model_best.pth", "metrics.json", last="model_final.pth")
        with pytest.raises(
            FolderError, match=r"a finished run of this config.*{config}-{n}.*--resume.*resume=True.*overwrite=True"
        ):
            RunFolder(cfg).claim()
        with pytest.raises(FolderError, match=r"another run: SOLVER.BASE_LR 0.0003 \(now 0.1\)\. "):
            RunFolder(tiny_cfg("SOLVER.BASE_LR", 0.1)).claim()
        assert content(Path(cfg.OUTPUT_DIR)) == before

    @pytest.mark.parametrize("name", ["model_0003.pth", "last_checkpoint", "metrics.json", "weights_best.pth"])
    def test_what_left_no_record_is_another_run(self, tiny_cfg: Callable, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("model_0003.pth")
        with pytest.raises(FolderError, match=f"another run: {name} of a run that left no run.json"):
            RunFolder(tiny_cfg("OUTPUT_DIR", str(tmp_path))).claim()
        assert sorted(os.listdir(tmp_path)) == [name]

    def test_files_that_no_training_writes_are_in_nobodys_way(self, tiny_cfg: Callable, tmp_path: Path) -> None:
        for name in ("notes.txt", "log.txt", "config.yaml", "start.pth"):
            (tmp_path / name).write_text("mine")
        cfg = tiny_cfg("OUTPUT_DIR", str(tmp_path))
        folder = RunFolder(cfg)
        folder.start(cfg)
        folder.close()
        assert all((tmp_path / name).read_text() == "mine" for name in ("notes.txt", "log.txt", "start.pth"))

    def test_where_and_how_fast_a_run_goes_does_not_make_it_another(self, tiny_cfg: Callable) -> None:
        left(tiny_cfg(), "metrics.json")
        RunFolder(tiny_cfg("DATALOADER.NUM_WORKERS", 1, "MODEL.HEADS.NUM_CLASSES", 6)).check()
        assert changed_keys({"A": 1, "B": 2, "C": 3}, {"A": 1, "B": 3, "D": 4}) == "B 2 (now 3)"

    def test_a_damaged_record_is_named(self, tiny_cfg: Callable) -> None:
        left(tiny_cfg())
        whole = Path(tiny_cfg().OUTPUT_DIR, "run.json").read_text()
        for text in ("{", "[]", '{"config": 1}', whole.replace('"SEED": 3', '"SEED": 2')):
            Path(tiny_cfg().OUTPUT_DIR, "run.json").write_text(text)
            with pytest.raises(FolderError, match=r"run.json is damaged .*delete this one"):
                RunFolder(tiny_cfg()).claim()


class TestAnew:
    def test_what_lies_there_is_put_aside(self, tiny_cfg: Callable) -> None:
        cfg, other = tiny_cfg(), tiny_cfg("SEED", 4)
        files = ("model_final.pth", "weights_best.pth", "metrics.json", "events.out.tfevents.1.x.2")
        before = left(cfg, *files, "log.txt", last="model_final.pth")
        for number in (1, 2):
            folder = RunFolder(other)
            folder.claim(overwrite=True)
            assert folder.anew and set(os.listdir(folder.path)) >= set(before)  # not before the training starts
            folder.start(other)
            folder.close()
            aside = content(folder.path / f"retired-{number}")
            assert aside == {name: text for name, text in before.items() if name not in ("log.txt", ".training.lock")}
            assert not folder.has_models() and not folder.finished and folder.foreign() == ""
            before = left(other, *files, last="model_final.pth")
            before = {name: text for name, text in before.items() if not name.startswith("retired")}

    def test_an_unfinished_run_of_the_same_config_starts_over(self, tiny_cfg: Callable) -> None:
        left(tiny_cfg(), "model_0001.pth", last="model_0001.pth")
        folder = RunFolder(tiny_cfg())
        folder.start(tiny_cfg())
        folder.close()
        assert (folder.path / "retired-1" / "model_0001.pth").exists() and not folder.has_models()

    def test_to_resume_is_to_leave_everything_there(self, tiny_cfg: Callable) -> None:
        before = left(tiny_cfg(), "model_0001.pth", last="model_0001.pth")
        folder = RunFolder(tiny_cfg("SOLVER.MAX_EPOCH", 9))
        folder.claim(resume=True)
        assert not folder.anew
        folder.start(tiny_cfg("SOLVER.MAX_EPOCH", 9))
        folder.close()
        after = content(folder.path)
        assert {name for name in before if after[name] != before[name]} == {"run.json", "config.yaml"}
        assert folder.record["config"]["SOLVER.MAX_EPOCH"] == 9

    def test_models_without_a_word_of_which_is_the_last_are_left_where_they_are(self, tiny_cfg: Callable) -> None:
        left(tiny_cfg(), "model_0001.pth", "model_0000.pth")
        path = Path(tiny_cfg().OUTPUT_DIR)
        os.utime(path / "model_0000.pth", (1, 1))
        before = content(path)
        with pytest.raises(FolderError, match=r"model_0001.pth and no last_checkpoint.*--overwrite.*overwrite=True"):
            RunFolder(tiny_cfg()).claim(resume=True)
        assert content(path) == before

    def test_nothing_to_resume_is_said(self, tiny_cfg: Callable, caplog: pytest.LogCaptureFixture) -> None:
        logging.getLogger("fastreid").addHandler(caplog.handler)
        folder = RunFolder(tiny_cfg())
        folder.claim(resume=True)
        folder.close()
        logging.getLogger("fastreid").removeHandler(caplog.handler)
        assert f"there is no checkpoint in {folder.path} to resume: a new training begins" in caplog.text

    def test_models_that_nothing_resumes_from_are_not_taken_for_the_runs_own(self, tiny_cfg: Callable) -> None:
        left(tiny_cfg("SEED", 4), "model_best.pth")
        folder = RunFolder(tiny_cfg())
        folder.claim(overwrite=True)
        folder.start(tiny_cfg())
        folder.close()
        assert (folder.path / "retired-1" / "model_best.pth").exists() and not folder.has_models()


def test_the_record_names_each_versions_once(tiny_cfg: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = tiny_cfg()
    for commit in ("a", "a", "b"):
        monkeypatch.setattr(folders, "versions", lambda: {"fastreid_parts": commit, "torch": "2"})  # noqa: B023
        folder = RunFolder(cfg)
        folder.claim(resume=True)
        folder.start(cfg)
        folder.close()
    record = json.loads((folder.path / "run.json").read_text())
    assert [used["fastreid_parts"] for used in record["versions"]] == ["a", "b"]
    assert all(used["since"] and used["torch"] == "2" for used in record["versions"])


def test_one_process_at_a_time(tiny_cfg: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """meta-pytorch/torchtune#481: several trainings on one machine into one folder overwrite each other.

    The lock is the kernel's, which tells processes apart that have the same number in two containers.
    """
    cfg = tiny_cfg()
    left(cfg)
    command = [sys.executable, "-c", HOLDER, f"{cfg.OUTPUT_DIR}/.training.lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        monkeypatch.setattr(folders, "_WAIT", 0.1)
        with pytest.raises(FolderError, match="another process is training in"):
            RunFolder(cfg).claim(resume=True)
        other.kill()
    RunFolder(cfg).claim(resume=True)  # a process that is killed holds nothing


@pytest.mark.parametrize("own_pids", [False, True])
def test_of_two_trainings_at_once_one_is_refused(
    tiny_cfg: Callable, monkeypatch: pytest.MonkeyPatch, own_pids: bool
) -> None:
    """open-mmlab/mmcv#880, at the same time, and as process 1 of two containers on one volume."""
    monkeypatch.setattr(folders, "_WAIT", 0.0)

    def train(seed: int) -> None:
        trainer = PartsTrainer(tiny_cfg("SEED", seed, "SOLVER.MAX_EPOCH", 1))
        trainer.resume_or_load(resume=False)
        trainer.train()

    assert sorted(together(lambda: train(3), lambda: train(4), own_pids=own_pids)) == [0, REFUSED]
    path = Path(tiny_cfg().OUTPUT_DIR)
    seed = json.loads((path / "run.json").read_text())["config"]["SEED"]
    for name in ("model_final", "weights_final", "weights_best"):
        assert torch.load(path / f"{name}.pth", weights_only=True)["seed"] == seed
    iterations = [json.loads(line)["iteration"] for line in (path / "metrics.json").open()]
    assert iterations == sorted(set(iterations)) and not list(path.glob("retired-*"))


def test_numbers_follow_the_highest_one(tmp_path: Path) -> None:
    pattern = tmp_path / "cmbn-{n}"
    assert [numbered(pattern).name for _ in range(2)] == ["cmbn-1", "cmbn-2"]
    (tmp_path / "cmbn-1").rmdir()
    (tmp_path / "cmbn-7b").mkdir()
    assert numbered(pattern, last=True).name == "cmbn-2" and numbered(pattern).name == "cmbn-3"
    assert numbered(tmp_path / "new-{n}", last=True).name == "new-1"
    assert numbered(tmp_path / "plain", last=True) == numbered(tmp_path / "plain") == tmp_path / "plain"
