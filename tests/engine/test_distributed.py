"""Two processes with gloo against one: gradients, weights, evaluation; by spawning and under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fastreid.config import get_cfg
from fastreid.modeling import build_model
from fastreid.utils import comm

from fastreid_parts.engine import PartsTrainer
from fastreid_parts.engine.distributed import launch, wrap_distributed
from fastreid_parts.engine.resume import ResumeError, check_same_start

from ..methods import test_can, test_rmgl, test_rrid
from ..methods.tester import batch, losses_of

# What each of two processes does; also what the single process is compared with. Batch norm is in evaluation mode, as
# its statistics would be those of half a batch each.
WORKER = """
import json, sys
import torch
torch.set_num_threads(1)
import fastreid_parts
from fastreid.config import get_cfg
from fastreid.modeling import build_model
from fastreid.utils import comm
from fastreid.utils.events import EventStorage
from fastreid_parts.engine import PartsTrainer, launch
from fastreid_parts.engine.distributed import wrap_distributed


def work(config, out):
    cfg = get_cfg()
    cfg.merge_from_file(config)
    batch = torch.load(out + "/batch.pth")
    torch.manual_seed(comm.get_rank())  # different at first: rank 0's weights are what counts
    model = build_model(cfg)
    if comm.get_rank() == 0:
        model.load_state_dict(torch.load(out + "/start.pth"))
    model = wrap_distributed(model, cfg)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    share = slice(comm.get_rank() * 3, comm.get_rank() * 3 + 3)
    half = {key: value[share] for key, value in batch.items()}
    gradients = {}
    with EventStorage():
        for step in model.module.update_steps:
            model.zero_grad(set_to_none=True)
            sum(model(half, step=step).values()).backward()
            gradients[step] = {n: p.grad for n, p in model.module.named_parameters()}
    torch.save(gradients, f"{out}/gradients{comm.get_rank()}.pth")

    # Ranks disagree on batch-norm statistics, as after training: evaluation is rank 0's.
    model.module.load_state_dict(torch.load(out + "/start.pth"))
    if comm.get_rank() == 1:
        for name, buffer in model.module.named_buffers():
            if "running" in name:
                buffer.add_(1.0)
    results = PartsTrainer.test(cfg, model)
    if comm.is_main_process():
        with open(out + "/results.json", "w") as file:
            json.dump({k: float(v) for k, v in results.items()}, file)
    trainer = PartsTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    torch.save(trainer.model.module.heads.classifiers["identity"].weight, f"{out}/end{comm.get_rank()}.pth")


if __name__ == "__main__":
    processes = int(sys.argv[1])
    launch(work, processes, dist_url="auto", args=(sys.argv[2], sys.argv[3]))
"""


def run_worker(command: list[str]) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, capture_output=True, text=True, timeout=400, env=env)
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-4000:]


@pytest.mark.smallest
@pytest.mark.parametrize("launcher", [pytest.param("spawn", marks=pytest.mark.slow), "torchrun"])
def test_two_processes_are_one(cmbn_cfg: Callable, tmp_path: Path, launcher: str) -> None:
    cfg = cmbn_cfg("MODEL.HEADS.NUM_CLASSES", 6, "OUTPUT_DIR", str(tmp_path / "run"), "SOLVER.MAX_EPOCH", 1)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    (tmp_path / "worker.py").write_text(WORKER)
    inputs = batch()
    torch.manual_seed(0)
    model = build_model(cfg)
    torch.save(inputs, tmp_path / "batch.pth")
    torch.save(model.state_dict(), tmp_path / "start.pth")
    arguments = [str(tmp_path / "config.yaml"), str(tmp_path)]
    if launcher == "spawn":
        command = [sys.executable, str(tmp_path / "worker.py"), "2", *arguments]
    else:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command += [str(tmp_path / "worker.py"), "1", *arguments]
    run_worker(command)

    # gradients: the mean over processes of half a batch's mean is the whole batch's
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    got = [torch.load(tmp_path / f"gradients{rank}.pth", weights_only=True) for rank in range(2)]
    for step in ("joint", "detached"):
        model.zero_grad(set_to_none=True)
        sum(losses_of(model, inputs, step=step).values()).backward()
        compared = 0
        for name, parameter in model.named_parameters():
            if parameter.grad is None:  # the reversal branch in the second step: no process has a gradient for it
                assert got[0][step][name] is None and got[1][step][name] is None, name
                continue
            assert torch.equal(got[0][step][name], got[1][step][name]), name
            assert torch.allclose(got[0][step][name], parameter.grad, atol=2e-5, rtol=1e-3), name
            compared += 1
        assert compared > 30

    # evaluation: rank 0's statistics on all ranks, shares gathered in order
    single = PartsTrainer.test(cfg, model.eval())
    measured = json.loads((tmp_path / "results.json").read_text())
    assert measured == {k: pytest.approx(float(v), abs=1e-4) for k, v in single.items()}

    # training: all ranks end with the same weights
    assert torch.equal(*(torch.load(tmp_path / f"end{rank}.pth", weights_only=True) for rank in range(2)))


HALVES = """
import sys
import torch
torch.set_num_threads(1)
import fastreid_parts
from fastreid.config import get_cfg
from fastreid.modeling import build_model
from fastreid.utils import comm
from fastreid.utils.events import EventStorage
from fastreid_parts.engine import launch
from fastreid_parts.engine.distributed import wrap_distributed


def work(folder, methods):
    for method in methods:
        cfg = get_cfg()
        cfg.merge_from_file(f"{folder}/{method}.yaml")
        start = torch.load(f"{folder}/{method}.pth")
        model = build_model(cfg)
        model.load_state_dict(start["model"])
        model = wrap_distributed(model, cfg)
        with EventStorage():
            sum(model(start["halves"][comm.get_rank()]).values()).backward()
        gradients = {name: p.grad for name, p in model.module.named_parameters() if p.requires_grad}
        centers = {name: b for name, b in model.module.named_buffers() if name.endswith(".centers")}
        torch.save([gradients, centers], f"{folder}/{method}{comm.get_rank()}.pth")


if __name__ == "__main__":
    launch(work, 2, dist_url="auto", args=(sys.argv[1], sys.argv[2:]))
"""


@pytest.mark.smallest
def test_two_processes_average_the_gradients_of_their_halves(tiny_cfg: Callable, tmp_path: Path) -> None:
    """Of every method: metric losses see the images of their own process, so the whole batch's are others."""
    methods = {
        "rrid": (test_rrid.OVERRIDES, test_rrid.SIZE),
        "can": (test_can.OVERRIDES, test_can.SIZE),
        "rmgl": (test_rmgl.OVERRIDES, test_rmgl.SIZE),
    }
    expected = {}
    for name, (overrides, size) in methods.items():
        cfg = tiny_cfg("MODEL.HEADS.NUM_CLASSES", 6, *overrides)
        (tmp_path / f"{name}.yaml").write_text(cfg.dump())
        torch.manual_seed(0)
        model = build_model(cfg)
        halves = [batch(4, size, seed) for seed in range(2)]
        torch.save({"model": model.state_dict(), "halves": halves}, tmp_path / f"{name}.pth")
        start = {key: value.clone() for key, value in model.state_dict().items()}
        gradients = []
        for half in halves:
            model.load_state_dict(start)
            model.zero_grad(set_to_none=True)
            sum(losses_of(model, half).values()).backward()
            gradients.append({key: p.grad.clone() for key, p in model.named_parameters() if p.requires_grad})
        expected[name] = {key: (gradients[0][key] + gradients[1][key]) / 2 for key in gradients[0]}
    (tmp_path / "worker.py").write_text(HALVES)
    run_worker([sys.executable, str(tmp_path / "worker.py"), str(tmp_path), *methods])
    for name, gradients in expected.items():
        got, centers = zip(*(torch.load(tmp_path / f"{name}{rank}.pth", weights_only=True) for rank in range(2)))
        assert len(centers[0]) == (5 if name == "can" else 0)  # three global features, two branches' local ones
        assert all(torch.equal(centers[0][key], centers[1][key]) and centers[0][key].any() for key in centers[0])
        assert got[0].keys() == gradients.keys()
        for key, gradient in gradients.items():
            assert torch.equal(got[0][key], got[1][key]), key
            assert torch.allclose(got[0][key], gradient, atol=1e-5 * float(gradient.abs().max()) + 1e-7, rtol=1e-3), key


TRAINED = """
import sys
import torch
torch.set_num_threads(1)
import fastreid_parts
from fastreid.config import get_cfg
from fastreid.utils import comm
from fastreid_parts.engine import PartsTrainer, launch


def work(folder, names):
    for name in names:
        cfg = get_cfg()
        cfg.merge_from_file(f"{folder}/{name}.yaml")
        trainer = PartsTrainer(cfg)
        trainer.resume_or_load(resume=False)
        start = {key: value.clone() for key, value in trainer.model.module.state_dict().items()}
        trainer.train()
        torch.save([start, trainer.model.module.state_dict()], f"{folder}/{name}{comm.get_rank()}.pth")


if __name__ == "__main__":
    launch(work, 2, dist_url="auto", args=(sys.argv[1], sys.argv[2:]))
"""


@pytest.mark.slow
def test_two_processes_train_with_the_keys_of_speed(cmbn_cfg: Callable, tmp_path: Path) -> None:
    """What the keys change is rounding, with norms that see no batch, so that its parts change nothing either.

    Not the smallest network: its norms cannot all be frozen.
    """
    still = ("MODEL.BACKBONE.NORM", "FrozenBN", "MODEL.HEADS.WITH_BNNECK", False, "MODEL.CMBN.REVERSAL_BRANCH", False)
    sgd = ("SOLVER.OPT", "SGD", "SOLVER.AMSGRAD", False, "SOLVER.BASE_LR", 0.05, "SOLVER.MAX_EPOCH", 1)
    ways = {
        "plain": (),
        "compiled": ("SPEED.COMPILE", "aot_eager"),
        "parts": ("SOLVER.MICRO_BATCHES", 2, "SPEED.CHECKPOINT", True, "SPEED.CHANNELS_LAST", True),
    }
    for name, keys in ways.items():
        cfg = cmbn_cfg(*still, *sgd, *keys, "OUTPUT_DIR", str(tmp_path / name))
        (tmp_path / f"{name}.yaml").write_text(cfg.dump())
    (tmp_path / "worker.py").write_text(TRAINED)
    run_worker([sys.executable, str(tmp_path / "worker.py"), str(tmp_path), *ways])
    moved = {}
    for name in ways:
        (start, end), (_, other) = (torch.load(tmp_path / f"{name}{rank}.pth", weights_only=True) for rank in range(2))
        assert all(torch.equal(end[key], other[key]) for key in end), name
        moved[name] = torch.cat([(end[key] - start[key]).flatten() for key in end if key.endswith("weight")])
    assert moved["plain"].norm() > 0.01
    off = {name: float((way - moved["plain"]).norm() / moved["plain"].norm()) for name, way in moved.items()}
    assert max(off.values()) < 1e-3, off


APART = """
import sys
import torch
torch.set_num_threads(1)
import fastreid_parts
from fastreid.config import get_cfg
from fastreid.utils import comm
from fastreid_parts.engine import PartsTrainer, launch
from fastreid_parts.engine.resume import ResumeError


def work(folder):
    cfg = get_cfg()
    cfg.merge_from_file(f"{folder}/config.yaml")
    cfg.merge_from_list(["OUTPUT_DIR", f"{folder}/{comm.get_rank()}", "SOLVER.MAX_EPOCH", 2])
    try:
        PartsTrainer(cfg).resume_or_load(resume=True)
    except ResumeError as error:
        with open(f"{folder}/error{comm.get_rank()}", "w") as file:
            file.write(str(error))


if __name__ == "__main__":
    launch(work, 2, dist_url="auto", args=(sys.argv[1],))
"""


def test_what_is_said_of_processes_that_begin_at_two_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    trainer = SimpleNamespace(
        checkpointer=SimpleNamespace(model=torch.nn.Linear(2, 1)), cfg=SimpleNamespace(OUTPUT_DIR="out"),
        start_epoch=1, start_iteration=0,
    )  # fmt: skip

    def start(other: Callable[[tuple], tuple]) -> None:
        monkeypatch.setattr(comm, "all_gather", lambda own: [own, other(own)])
        check_same_start(trainer, "model_final.pth")

    start(lambda own: own)
    for other in (lambda own: ("no checkpoint", 0, 0, own[3]), lambda own: (*own[:3], "01234567")):
        with pytest.raises(
            ResumeError, match=r"process 0: model_final.pth, epoch 2, iteration 0, weights(?s:.*)one fold"
        ):
            start(other)


@pytest.mark.slow
@pytest.mark.smallest
def test_processes_that_would_begin_at_two_places_are_refused(tiny_cfg: Callable, tmp_path: Path) -> None:
    """Two machines without a folder in common: the checkpoint lies on the first one's disk."""
    cfg = tiny_cfg("SOLVER.MAX_EPOCH", 1, "OUTPUT_DIR", str(tmp_path / "0"))
    (tmp_path / "config.yaml").write_text(cfg.dump())
    trainer = PartsTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    (tmp_path / "worker.py").write_text(APART)
    run_worker([sys.executable, str(tmp_path / "worker.py"), str(tmp_path)])
    for rank in range(2):
        error = (tmp_path / f"error{rank}").read_text()
        assert "process 0: model_final.pth, epoch 2, iteration 0, weights" in error
        assert "process 1: no checkpoint, epoch 1, iteration 0, weights" in error and "one folder that all see" in error


def test_one_process_is_called_directly() -> None:
    assert launch(lambda x: x + 1, 1, args=(2,)) == 3


def test_several_machines_need_an_address() -> None:
    with pytest.raises(ValueError, match="--dist-url tcp://HOST:PORT"):
        launch(print, 1, num_machines=2, dist_url="auto")
    with pytest.raises(ValueError, match="file://"):
        launch(print, 1, num_machines=2, dist_url="file:///tmp/x")


def test_a_single_process_is_not_wrapped() -> None:
    model = torch.nn.Linear(2, 2)
    assert wrap_distributed(model, get_cfg()) is model
