"""Stopping from outside: a checkpoint at the next iteration, the usual exit code, and the end of an unbroken run."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode
from fastreid.engine import DefaultTrainer

from fastreid_parts.engine import PartsTrainer
from fastreid_parts.engine.stopping import on_signals, stop_flag, stop_process

from .test_trainer import same, train, weights

pytestmark = pytest.mark.smallest


def signalled(trainer_class: type, signum: int, iteration: int, in_evaluation: bool = False) -> type:
    """A trainer that gets a signal within an iteration, or in the evaluation after it."""

    class Signalled(trainer_class):
        def run_step(self) -> None:
            if self.iter == iteration and not in_evaluation:
                os.kill(os.getpid(), signum)
            super().run_step()

        @classmethod
        def test(cls, cfg: CfgNode, model: torch.nn.Module) -> Any:
            if in_evaluation:
                os.kill(os.getpid(), signum)
            return super().test(cfg, model)

    return Signalled


def stop(cfg: CfgNode, trainer_class: type, signum: int) -> dict[str, Any]:
    """Train until the signal; gives what the checkpoint holds."""
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=True)
    wanted = KeyboardInterrupt if signum == signal.SIGINT else SystemExit
    with pytest.raises(wanted) as raised:
        trainer.train()
    if signum == signal.SIGTERM:
        assert raised.value.code == 143
    path = Path(cfg.OUTPUT_DIR, "model_stopped.pth")
    assert Path(cfg.OUTPUT_DIR, "last_checkpoint").read_text() == path.name
    return torch.load(path, weights_only=True)


STOPS = {
    "within an epoch": (signal.SIGTERM, 4, False),
    "at its end": (signal.SIGINT, 2, False),
    "in an evaluation": (signal.SIGTERM, 0, True),
}


def test_stopped_and_resumed_equals_unbroken(cmbn_cfg: Callable, tmp_path: Path, caplog: Any) -> None:
    """facebookresearch/ParlAI#1419 and blue-oil/blueoil#315: a preempted job goes on where it was.

    goodfire-ai/spd#677: a signal in an evaluation is not waited out.
    """
    logging.getLogger("fastreid").addHandler(caplog.handler)  # the host's keeps to itself what it is told
    settings = (
        "SOLVER.MAX_EPOCH", 2, "SOLVER.WARMUP_ITERS", 5, "TEST.EVAL_PERIOD", 1, "INPUT.REA.ENABLED", True,
        "DATALOADER.SAMPLER_TRAIN", "NaiveIdentitySampler",
    )  # fmt: skip
    train(cmbn_cfg("OUTPUT_DIR", str(tmp_path / "unbroken"), *settings))
    unbroken = weights(tmp_path / "unbroken" / "model_final.pth")
    assert not same(unbroken, weights(tmp_path / "unbroken" / "model_0000.pth"))
    for name, (signum, iteration, in_evaluation) in STOPS.items():
        out = tmp_path / name
        cfg = cmbn_cfg("OUTPUT_DIR", str(out), *settings)
        saved = stop(cfg, signalled(PartsTrainer, signum, iteration, in_evaluation), signum)
        assert (saved["epoch"], saved["iteration"]) == ((0, 2) if name == "within an epoch" else (-1, 3)), name
        assert signal.Signals(signum).name + ": stopped after epoch" in caplog.text
        cfg.DATALOADER.NUM_WORKERS = 1  # whichever process reads an image, it is augmented alike
        train(cfg, resume=True)
        assert same(weights(out / "model_final.pth"), unbroken), name
        assert not (out / "model_stopped.pth").exists()  # later ones took its place


def test_an_epoch_is_started_over_with_another_number_of_processes(tiny_cfg: Callable, caplog: Any) -> None:
    """Batches of another size, in another order: those that are left of the epoch are others."""
    logging.getLogger("fastreid").addHandler(caplog.handler)
    cfg = tiny_cfg()
    saved = stop(cfg, signalled(PartsTrainer, signal.SIGTERM, 4), signal.SIGTERM)
    assert (saved["epoch"], saved["iteration"], saved["processes"]) == (0, 2, 1)
    torch.save({**saved, "processes": 4}, Path(cfg.OUTPUT_DIR, "model_stopped.pth"))
    trainer = PartsTrainer(cfg)
    trainer.resume_or_load(resume=True)
    assert (trainer.start_epoch, trainer.start_iteration) == (1, 0)
    assert trainer.changes == [{"epoch": 1, "key": "processes", "old": 4, "new": 1}]
    assert "goes on with 1 process(es) and had 4" in caplog.text
    assert "epoch 2 is started over: it has another number of processes now" in caplog.text


def test_precise_statistics_are_those_of_an_unbroken_run(tiny_cfg: Callable, tmp_path: Path) -> None:
    precise = ("TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.DATASET", "FolderReID", "TEST.PRECISE_BN.NUM_ITER", 2)
    settings = (*precise, "SEED", -1, "SOLVER.MAX_EPOCH", 1, "INPUT.REA.ENABLED", True, "INPUT.REA.PROB", 1.0)
    stop(
        tiny_cfg("OUTPUT_DIR", str(tmp_path / "0"), *settings),
        signalled(PartsTrainer, signal.SIGTERM, 1),
        signal.SIGTERM,
    )
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    cfg = tiny_cfg("OUTPUT_DIR", str(tmp_path / "1"), *settings)
    stop(cfg, signalled(PartsTrainer, signal.SIGTERM, 2), signal.SIGTERM)  # again, after the last iteration
    for number in range(2):
        train(tiny_cfg("OUTPUT_DIR", str(tmp_path / str(number)), *settings), resume=True)
    assert same(*(weights(tmp_path / str(number) / "model_final.pth") for number in range(2)))


def test_the_stock_trainer_stops_too(tiny_cfg: Callable) -> None:
    cfg = tiny_cfg()
    saved = stop(cfg, signalled(DefaultTrainer, signal.SIGTERM, 1), signal.SIGTERM)
    assert (saved["epoch"], saved["iteration"]) == (-1, 2)
    trainer = DefaultTrainer(tiny_cfg())
    trainer.resume_or_load(resume=True)
    trainer.train()
    assert (trainer.start_epoch, trainer.start_iter, trainer.iter) == (0, 2, 6)


class TestSignals:
    def test_the_same_wish_twice_is_one(self) -> None:
        got: list[tuple[str, int]] = []
        with on_signals(lambda s: got.append(("first", s)), lambda s: got.append(("second", s))):
            for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), signum)
            time.sleep(1.1)
            os.kill(os.getpid(), signal.SIGINT)
        assert got == [("first", signal.SIGTERM), ("second", signal.SIGINT)]

    def test_what_was_there_comes_back_and_what_was_ignored_stays_so(self) -> None:
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            with stop_flag() as flag:
                os.kill(os.getpid(), signal.SIGTERM)
                assert flag.agreed() == 0
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGTERM, before)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_another_thread_trains_without_it(self) -> None:
        seen: list[int] = []

        def work() -> None:
            with stop_flag() as flag:
                seen.append(flag.agreed())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert seen == [0]

    def test_exit_codes(self) -> None:
        with pytest.raises(KeyboardInterrupt):
            stop_process(signal.SIGINT)
        with pytest.raises(SystemExit) as raised:
            stop_process(signal.SIGTERM)
        assert raised.value.code == 143


WAITING = """
import signal, sys, time
from fastreid_parts.engine.stopping import stop_flag
with stop_flag() as flag:
    print("ready", flush=True)
    while not flag.signum:
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(60)
"""


def test_a_second_signal_ends_the_process_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "asked\n"
        time.sleep(1.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM


JOB = """
import os, signal, sys
import torch
torch.set_num_threads(1)
import fastreid_parts
from fastreid.config import get_cfg
from fastreid.utils import comm
from fastreid_parts.engine import PartsTrainer, launch

def work(config, who):
    cfg = get_cfg()
    cfg.merge_from_file(config)
    run = PartsTrainer.run_step
    def run_step(self):
        if self.iter == 1 and comm.is_main_process():
            os.kill(os.getppid() if who == "parent" else os.getpid(), signal.SIGTERM)
        run(self)
        if self.iter > 1 or self.iter == 1 and who == "parent":
            import time; time.sleep(0.5)  # until the parent has passed it on
    PartsTrainer.run_step = run_step
    trainer = PartsTrainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()

if __name__ == "__main__":
    launch(work, 2, dist_url="auto", args=(sys.argv[1], sys.argv[2]))
"""


@pytest.mark.parametrize("who", [pytest.param("parent", marks=pytest.mark.slow), "process 0"])
def test_all_processes_of_a_job_stop_together(tiny_cfg: Callable, tmp_path: Path, who: str) -> None:
    """The launcher passes a signal on; a signal that one process got is everybody's."""
    cfg = tiny_cfg("SOLVER.MAX_EPOCH", 3)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    (tmp_path / "job.py").write_text(JOB)
    command = [sys.executable, str(tmp_path / "job.py"), str(tmp_path / "config.yaml"), who]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 143, process.stdout[-2000:] + process.stderr[-4000:]
    assert process.stdout.count("SIGTERM: stopped after epoch 1, iteration") == 1
    saved = torch.load(Path(cfg.OUTPUT_DIR, "model_stopped.pth"), weights_only=True)
    assert saved["epoch"] == -1 and saved["iteration"] in (2, 3)
