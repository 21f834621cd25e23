"""Functions in turn, what is summed up of them, and the memory of this process."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from fastreid_parts.measuring import Run, in_own_process, resident_mib, run_once, run_with_growth, summarize, take_turns


def test_functions_are_called_in_turn_and_shown_as_they_come() -> None:
    called: list[str] = []
    seen: list[tuple[str, int]] = []

    def call(name: str) -> Run:
        called.append(name)
        return Run(1.0, result=len(called))

    functions = {name: partial(call, name) for name in ("a", "b")}
    runs = take_turns(functions, 3, lambda name, run: seen.append((name, run.result)))
    assert called == ["a", "b"] * 3
    assert seen == [("a", 1), ("b", 2), ("a", 3), ("b", 4), ("a", 5), ("b", 6)]
    assert [run.result for run in runs["b"]] == [2, 4, 6]


def test_a_ratio_is_of_the_same_round() -> None:
    """The machine slows down from round to round: the quotients stay, the quotient of the medians would not."""
    runs = {"first": [Run(1, 5.0), Run(10, 7.0), Run(2)], "other": [Run(3), Run(20), Run(8)]}
    first, other = summarize(runs).values()
    assert first == (2, 1, 7.0)
    assert other == (8, 3, None)  # 3 / 1, 20 / 10 and 8 / 2; the medians' quotient is 4


def test_a_call_on_the_cpu_has_a_time_and_a_result() -> None:
    run = run_once(lambda: "result", torch.device("cpu"))
    assert run.seconds >= 0 and run.mib is None and run.result == "result"


def test_growth_is_of_the_call_alone() -> None:
    """Two calls that hold 64 MiB for a while, the second after one that held more."""

    def hold(mib: int) -> str:
        with mmap.mmap(-1, mib * 2**20) as held:
            held.write(bytes(len(held)))
        return "result"

    runs = [run_with_growth(partial(hold, mib), torch.device("cpu")) for mib in (16, 64, 16)]
    assert [run.result for run in runs] == ["result"] * 3 and min(run.seconds for run in runs) > 0
    if any(run.mib is None for run in runs):
        pytest.skip("this system does not let the peak be reset")
    small, large, small_again = (float(run.mib or 0) for run in runs)
    assert large > 60 and max(small, small_again) < large - 30


def test_growth_is_not_known_where_the_peak_cannot_be_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastreid_parts.measuring._reset_peak", lambda: False)
    assert run_with_growth(lambda: 1, torch.device("cpu"))[1:] == (None, 1)


def test_what_a_process_holds_falls_and_the_most_that_it_held_does_not() -> None:
    if resident_mib("VmRSS") is None:
        pytest.skip("this system has no /proc")
    readings = []
    held = mmap.mmap(-1, 64 * 2**20)  # no allocator between it and the system, which may keep what is freed
    held.write(bytes(len(held)))
    readings.append(resident_mib("VmRSS"))
    held.close()
    readings += [resident_mib("VmRSS"), resident_mib("VmHWM")]
    full, now, highest = map(float, filter(None, readings))
    assert now < full - 60
    assert highest > full - 1  # the kernel counts in batches


def test_a_process_that_dies_or_raises_is_said() -> None:
    assert in_own_process(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        in_own_process(divmod, 7, 0)
    with pytest.raises(ChildProcessError, match="exit code 3"):
        in_own_process(os._exit, 3)


def _work(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def test_a_process_ends_with_who_started_it(tmp_path: Path) -> None:
    """Killed, that one has no time to end it; it would go on measuring beside the next."""
    path = tmp_path / "pid"
    code = "import sys; from fastreid_parts.measuring import in_own_process as own\n"
    code += "from tests.test_measuring import _work; own(_work, sys.argv[1])"
    with subprocess.Popen([sys.executable, "-c", code, path], cwd=Path(__file__).parents[1]) as parent:
        _until(lambda: path.exists() and bool(path.read_text()))
        parent.kill()
    child = int(path.read_text())
    _until(lambda: not _alive(child))


def _alive(pid: int) -> bool:
    """Whether it runs; what nobody waited for does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def _until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)
