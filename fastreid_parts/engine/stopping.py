"""Stopping a run from outside: SIGTERM or Ctrl-C becomes a flag that all processes read after the same iteration."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import torch
import torch.distributed as dist
from fastreid.utils import comm

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: A terminal, a launcher and a cluster's queue may each deliver the same wish; what comes within so many seconds is it.
_SAME_WISH = 1.0


class Stopped(BaseException):
    """Leaves an evaluation that a run is stopped in."""


def stop_process(signum: int) -> None:
    """Raise what ends a process with the code that is usual for a signal: 130 for SIGINT, 143 for SIGTERM.

    Raises:
        KeyboardInterrupt: for SIGINT.
        SystemExit: for another.
    """
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + signum)


class StopFlag:
    """Remembers that the process was asked to stop.

    Attributes:
        signum: the signal, 0 without one.
    """

    def __init__(self) -> None:
        self.signum = 0

    def agreed(self) -> int:
        """Ask all processes; collective. Returns the signal that any of them got, or 0."""
        if comm.get_world_size() == 1:
            return self.signum
        on = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
        flag = torch.tensor(self.signum, device=on)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return int(flag)


@contextlib.contextmanager
def on_signals(first: Callable[[int], None], second: Callable[[int], None]) -> Iterator[None]:
    """Call functions when SIGTERM or SIGINT arrives, and when one arrives again; only the main thread can.

    A signal that the process was told to ignore, as below nohup, stays ignored.

    Args:
        first: is given the signal.
        second: likewise.
    """
    arrived: list[float] = []

    def handle(signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not arrived:
            first(signum)
        elif now - arrived[0] > _SAME_WISH:
            second(signum)
        arrived.append(now)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    for signum in _SIGNALS:
        if before[signum] is not signal.SIG_IGN:
            signal.signal(signum, handle)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler or signal.SIG_DFL)


@contextlib.contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Turn the first SIGTERM or SIGINT into a flag; a second one ends the process at once."""
    flag = StopFlag()

    def end(signum: int) -> None:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    with on_signals(lambda signum: setattr(flag, "signum", signum), end):
        yield flag
