"""Several processes and machines: NCCL with GPUs, gloo without, under torchrun or under fast-reid's own launch."""

from __future__ import annotations

import contextlib
import datetime
import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fastreid.config import CfgNode
from fastreid.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..devices import available, refuse_several_processes
from ..host import set_local_group
from .step import update_steps
from .stopping import on_signals, stop_process

_TIMEOUT = datetime.timedelta(minutes=30)


def launched_by_torchrun() -> bool:
    """Tell whether torchrun (or a launcher like it) started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def own_rank() -> tuple[int, int]:
    """Tell the number of this process and how many there are, as RANK and WORLD_SIZE say; (0, 1) where they do not.

    Where there are GPUs, this process's current one becomes that of its LOCAL_RANK; processes beyond their number
    share them. Nothing else is set up: this is for work that needs no process group.

    Raises:
        ValueError: the two are no such numbers.
    """
    if not launched_by_torchrun():
        return 0, 1
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if not 0 <= rank < ranks:
        raise ValueError(f"RANK is {rank} and WORLD_SIZE {ranks}: processes are numbered from 0 to {ranks - 1}")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return rank, ranks


def take_gpu(device: str) -> None:
    """Make the GPU whose number MODEL.DEVICE names the current one of a single process: that whose generator is seeded.

    Args:
        device: MODEL.DEVICE.

    Raises:
        ValueError: torch knows no such device.
    """
    gpu = available(device)
    if gpu.type == "cuda" and gpu.index is not None and comm.get_world_size() == 1:
        torch.cuda.set_device(gpu)


def launch(
    main_func: Callable,
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
) -> Any:
    """Run `main_func(*args)` in every process of a job, as the host's `launch` does.

    Under torchrun the processes are there already, and its environment says who they are. Otherwise this starts
    `num_gpus_per_machine` of them: one a GPU with NCCL, or, without GPUs, so many CPU processes with gloo.

    Args:
        main_func: the work, importable by name from the main script.
        num_gpus_per_machine: processes on this machine.
        num_machines: machines of the job; call `launch` on each.
        machine_rank: number of this machine, from 0.
        dist_url: where they meet, `tcp://host:port`, or `auto` on one machine.
        args: arguments of `main_func`.

    Returns:
        What `main_func` returned where it ran in this process, otherwise None.

    Raises:
        ValueError: more processes than GPUs, or an address that cannot work.
        Exception: what `main_func` raised in one of the processes, with the traceback there as its cause.
        KeyboardInterrupt, SystemExit: the job was asked to stop, and its processes have.
    """
    if launched_by_torchrun():
        return _torchrun_worker(main_func, args)
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        return main_func(*args)
    if torch.cuda.is_available() and num_gpus_per_machine > torch.cuda.device_count():
        raise ValueError(
            f"--num-gpus {num_gpus_per_machine}, but this machine has {torch.cuda.device_count()} GPUs. Start fewer "
            "processes, or hide the GPUs (CUDA_VISIBLE_DEVICES=) to run so many on the CPU."
        )
    if dist_url is None or dist_url == "auto":
        if num_machines > 1:
            raise ValueError("several machines need to be told where to meet: --dist-url tcp://HOST:PORT")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    elif num_machines > 1 and dist_url.startswith("file://"):
        raise ValueError("several machines cannot meet through a file:// address; use tcp://HOST:PORT")
    with tempfile.TemporaryDirectory() as errors:
        work = (main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, errors)
        asked: list[int] = []
        try:
            context = mp.spawn(_spawned_worker, nprocs=num_gpus_per_machine, args=work, daemon=False, join=False)

            def send(signum: int) -> None:
                asked.append(signum)
                for pid in context.pids():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signum)

            kill = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has one, which ends a process at once
            with on_signals(send, lambda signum: send(kill)):
                while not context.join():
                    pass
        except mp.ProcessExitedException as error:
            if not asked and error.exit_code < 128:
                raise
            stop_process(asked[0] if asked else error.exit_code - 128)
        except mp.ProcessRaisedException as error:
            kept = Path(errors, str(error.error_index))
            if not kept.exists():  # not raised by the work, or impossible to pickle
                raise
            raise pickle.loads(kept.read_bytes()) from error
    return None


def _spawned_worker(
    local_rank: int,
    main_func: Callable,
    world_size: int,
    num_gpus_per_machine: int,
    machine_rank: int,
    dist_url: str,
    args: tuple,
    errors: str,
) -> None:
    rank = machine_rank * num_gpus_per_machine + local_rank
    # Processes of one machine share its cores.
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, torch.get_num_threads() // num_gpus_per_machine))
    dist.init_process_group(_backend(), init_method=dist_url, world_size=world_size, rank=rank, timeout=_TIMEOUT)
    _join(local_rank, num_gpus_per_machine)
    try:
        main_func(*args)
    except KeyboardInterrupt:  # which torch takes for an end as any other
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        with contextlib.suppress(Exception):
            kept = pickle.dumps(error)
            pickle.loads(kept)
            Path(errors, str(local_rank)).write_bytes(kept)
        raise
    finally:
        dist.destroy_process_group()


def _torchrun_worker(main_func: Callable, args: tuple) -> Any:
    local_rank = int(os.environ["LOCAL_RANK"])
    dist.init_process_group(_backend(), init_method="env://", timeout=_TIMEOUT)
    _join(local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size())))
    try:
        return main_func(*args)
    finally:
        dist.destroy_process_group()


def _backend() -> str:
    return "nccl" if torch.cuda.is_available() else "gloo"


def _join(local_rank: int, local_size: int) -> None:
    """Take this process's GPU and set up the group of its machine, which the host asks for local ranks."""
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    comm.synchronize()
    for first in range(0, dist.get_world_size(), local_size):
        ranks = list(range(first, first + local_size))
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            set_local_group(group)


def _free_port() -> int:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wrap_distributed(model: nn.Module, cfg: CfgNode | None = None, **kwargs: Any) -> nn.Module:
    """Put the model under DistributedDataParallel, where there are several processes.

    Parameters without a gradient are looked for only where some may be: with SOLVER.FIND_UNUSED_PARAMETERS, or when
    the model takes several update steps an iteration. Batch-norm statistics are each process's own while training;
    evaluation and checkpoints use those of rank 0 (see `compat`).

    Args:
        model: on its device.
        cfg: its SOLVER.FIND_UNUSED_PARAMETERS is honored, if given.
        **kwargs: for DistributedDataParallel.
    """
    if comm.get_world_size() == 1:
        return model
    find_unused = len(update_steps(model)) > 1
    if cfg is not None:
        find_unused = find_unused or cfg.SOLVER.FIND_UNUSED_PARAMETERS
    kwargs.setdefault("broadcast_buffers", False)
    kwargs["find_unused_parameters"] = kwargs.get("find_unused_parameters", False) or find_unused
    device = next(model.parameters()).device
    refuse_several_processes(device)
    on_gpu = device.type == "cuda"
    kwargs["device_ids"] = [comm.get_local_rank()] if on_gpu else None
    return DistributedDataParallel(model, **kwargs)
