"""Time and memory of functions that are called in turn, so that a drift of the machine's speed meets all of them."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch


class Run(NamedTuple):
    """One call: how long it took, the peak of memory in MiB where it is known, and what it gave."""

    seconds: float
    mib: float | None = None
    result: Any = None


class Summary(NamedTuple):
    """Median of the seconds, median over rounds of the quotient by the first function's, highest peak in MiB."""

    seconds: float
    ratio: float
    mib: float | None


def take_turns(
    functions: Mapping[str, Callable[[], Run]], rounds: int, seen: Callable[[str, Run], object] | None = None
) -> dict[str, list[Run]]:
    """Call functions in turn.

    Args:
        functions: by name.
        rounds: calls of each.
        seen: called with every name and run, as they come.
    """
    runs: dict[str, list[Run]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            runs[name].append(function())
            if seen is not None:
                seen(name, runs[name][-1])
    return runs


def summarize(runs: Mapping[str, Sequence[Run]]) -> dict[str, Summary]:
    """Sum up what `take_turns` gave."""
    first = next(iter(runs.values()))
    return {
        name: Summary(
            statistics.median(run.seconds for run in own),
            statistics.median(run.seconds / other.seconds for run, other in zip(own, first)),
            max((run.mib for run in own if run.mib is not None), default=None),
        )
        for name, own in runs.items()
    }


def run_once(step: Callable[[], Any], device: torch.device) -> Run:
    """Call a function and time it.

    Args:
        step: the function.
        device: where it works. On a GPU the run has its peak there, with all that this process holds.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    synchronize(device)
    start = time.perf_counter()
    result = step()
    synchronize(device)
    seconds = time.perf_counter() - start
    return Run(seconds, torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else None, result)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given; the CPU has done it already."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def run_with_growth(step: Callable[[], Any], device: torch.device) -> Run:
    """Call a function and measure its time and how much more memory there was in use at the most than before.

    On the CPU it is what this process holds, and known where the system lets its peak be reset, as Linux does.

    Args:
        step: the function.
        device: where it works.
    """
    gc.collect()
    if device.type == "cuda":
        before: float | None = torch.cuda.memory_allocated(device) / 2**20
    else:
        before = resident_mib("VmRSS") if _reset_peak() else None
    run = run_once(step, device)
    highest = run.mib if device.type == "cuda" else resident_mib("VmHWM")
    return run._replace(mib=None if before is None or highest is None else highest - before)


def _reset_peak() -> bool:
    """Make VmHWM what the process holds now; False where that cannot be."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return False
    return True


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process, where it finds nothing in memory, and give what it gave.

    Ctrl-C, or whatever else ends the wait, ends the process too, and so does the end of this process.

    Args:
        function: importable by name.
        *arguments: what it is called with.

    Raises:
        ChildProcessError: the process died without an answer.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, *arguments))
    process.start()
    sender.close()  # with the process's own the last one: its death ends the wait
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode  # minus a signal's number
        raise ChildProcessError(f"the process that measures ended with exit code {code}: out of memory?") from None
    finally:
        process.terminate()  # one that answered has nothing left to do
        process.join()
    if isinstance(result, BaseException):
        raise result
    return result


def _answer(sender: Connection, function: Callable[..., Any], *arguments: Any) -> None:
    """Send what a function gives, or raises. Ctrl-C reaches all processes of a terminal, and is for the first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        result = function(*arguments)
    except Exception as error:
        result = error
    sender.send(result)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: killed, it ends nothing itself."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def resident_mib(field: str) -> float | None:
    """Read VmRSS, what this process holds in memory now, or VmHWM, the most that it ever has."""
    # Not `resource.getrusage`: a process starts with the highest value of the one that started it
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
    except OSError:
        return None
    return int(lines[field].split()[0]) / 1024  # printed in kB


def where(device: torch.device) -> str:
    """Name the device for the head of a table."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "Apple's GPU, by MPS" if device.type == "mps" else f"cpu, {torch.get_num_threads()} threads"
