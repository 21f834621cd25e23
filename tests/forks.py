"""Children of this process, forked: they share what is imported, so that many of them cost seconds."""

from __future__ import annotations

import ctypes
import os
import signal
import traceback
from collections.abc import Callable

import faiss
import torch

REFUSED, FAILED = 2, 3

_NEW_PIDS = 0x30000000  # CLONE_NEWUSER and CLONE_NEWPID


def fork(work: Callable[[], object], own_pids: bool = False) -> int:
    """Start a child and give its process number; it ends with 0, with `REFUSED` after a user's error, or `FAILED`.

    With `own_pids` it is process 1 of a namespace of its own, as in a container; where that is not allowed it only
    takes itself for process 1.
    """
    child = os.fork()
    if child:
        return child
    code = FAILED
    try:
        torch.set_num_threads(1)  # threads of OpenMP do not outlive a fork
        faiss.omp_set_num_threads(1)
        if own_pids:
            if ctypes.CDLL(None).unshare(_NEW_PIDS) == 0:
                inner = os.fork()
                if inner:
                    os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))
            else:
                os.getpid = lambda: 1
            assert os.getpid() == 1
        work()
        code = 0
    except (ValueError, OSError) as error:
        code = REFUSED
        print(error, flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def code_of(child: int) -> int:
    """Wait for a child: its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def together(*works: Callable[[], object], own_pids: bool = False) -> list[int]:
    """Run children at the same time, and give how they ended."""
    children = [fork(work, own_pids) for work in works]
    return [code_of(child) for child in children]


def killed_at(step: int, work: Callable[[], object]) -> int:
    """Run a child that kills itself before its `step`-th call that makes, renames, removes or locks something.

    Gives how it ended: -9, or with 0 if it took fewer steps.
    """

    def work_until() -> None:
        left = step

        def counted(call: Callable) -> Callable:
            def counting(*args: object, **kwargs: object) -> object:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return counting

        for name in ("replace", "remove", "unlink", "rmdir", "mkdir", "fsync"):
            setattr(os, name, counted(getattr(os, name)))
        work()

    return code_of(fork(work_until))
