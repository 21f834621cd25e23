"""How many processors may be used, and what the environment tells OpenMP before torch is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastreid_parts import cpus

V1, V2 = "4:cpuacct,cpu:/docker/abc\n2:cpuset:/\n", "0::/user/job\n"
QUOTAS = {
    "version 2, of the group or one above it": (
        V2,
        {"user/cpu.max": "250000 100000", "user/job/cpu.max": "max 100000"},
        2,
    ),
    "version 2, inside a container": ("0::/\n", {"cpu.max": "150000 100000"}, 1),
    "version 2, less than one": ("0::/\n", {"cpu.max": "20000 100000"}, 1),
    "version 2, none": (V2, {"user/cpu.max": "max 100000"}, 8),
    "version 1": (V1, {"cpuacct,cpu/docker/abc/cpu.cfs_": "300000 100000"}, 3),
    "version 1, inside a container": (V1, {"cpu/cpu.cfs_": "300000 100000"}, 3),
    "version 1, none": (V1, {"cpu/docker/abc/cpu.cfs_": "-1 100000"}, 8),
    "both": (V1 + V2, {"cpu/cpu.cfs_": "700000 100000", "unified/user/cpu.max": "400000 100000"}, 4),
    "of another controller": ("3:memory:/x\n", {"memory/x/cpu.max": "100000 100000"}, 8),
    "more than there are": ("0::/\n", {"cpu.max": "9900000 100000"}, 8),
    "no such file": ("0::/gone\n", {}, 8),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_a_quota_counts_in_whole_processors(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onyx-dot-app/onyx#12351: threads by the host's cores, a tenth of them allowed, and throttled most of the time."""
    membership, files, expected = QUOTAS[case]
    (tmp_path / "cgroup").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("cfs_"):
            for part, value in zip(("quota", "period"), text.split()):
                path.with_name(f"cpu.cfs_{part}_us").write_text(f"{value}\n")
        else:
            path.write_text(f"{text}\n")
    quotas = cpus._quotas
    monkeypatch.setattr(cpus, "_quotas", lambda: quotas(str(tmp_path / "cgroup"), str(tmp_path / "fs")))
    monkeypatch.setattr(cpus, "_affinity", lambda: 8)
    assert cpus.usable_cpus() == expected
    environment: dict[str, str] = {}
    cpus.set_thread_defaults(environment)
    assert environment.get("OMP_NUM_THREADS") == (None if expected == 8 else str(expected))


def test_affinity_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "_quotas", lambda: [])
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7}, raising=False)
    assert cpus.usable_cpus() == 3
    environment: dict[str, str] = {}
    cpus.set_thread_defaults(environment)
    assert "OMP_NUM_THREADS" not in environment  # OpenMP sees it itself


@pytest.mark.parametrize("name", cpus.SPIN_VARIABLES)
def test_what_the_user_set_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "_quotas", lambda: [0.5])
    monkeypatch.setattr(cpus, "_affinity", lambda: 8)
    mine = {name: "0", "OMP_NUM_THREADS": "5"}
    environment = dict(mine)
    cpus.set_thread_defaults(environment)
    assert environment == mine


def test_time_without_a_processor_only_grows() -> None:
    before = cpus.waited_for_cpu()
    if before is None:
        pytest.skip("the system does not count it")
    assert 0 <= before <= cpus.waited_for_cpu()


@pytest.mark.parametrize("words", [["-m", "fastreid_parts", "--version"], ["-c", "import fastreid_parts"]])
def test_torch_finds_the_defaults(words: list[str], tmp_path: Path) -> None:
    """pytorch/pytorch#3021: several processes on one machine are many times slower than each alone."""
    hook = "import os, atexit; atexit.register(lambda: print('spins', os.environ.get('GOMP_SPINCOUNT')))"
    (tmp_path / "sitecustomize.py").write_text(hook)
    environment = {name: value for name, value in os.environ.items() if name not in cpus.SPIN_VARIABLES}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(Path(cpus.__file__).parents[1])])
    answer = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=300)
    assert answer.stdout.splitlines()[-1] == f"spins {cpus.SPINS}", answer.stderr


_FAULTS = """
import resource, sys
from fastreid_parts.cpus import keep_freed_memory
done = keep_freed_memory()
import torch
def make():
    return [torch.ones(size) for size in (2**22, 2**25)]  # 16 and 128 MiB
for _ in range(3):
    make()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    make()
print(done, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() // 2**20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
@pytest.mark.parametrize("mine", [{}, {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}])
def test_freed_memory_is_used_again(mine: dict[str, str]) -> None:
    """Or fetched from the system anew each time, where the user has said something about the heap."""
    environment = {name: value for name, value in os.environ.items() if name not in cpus.HEAP_VARIABLES}
    environment["PYTHONPATH"] = str(Path(cpus.__file__).parents[1])
    answer = subprocess.run(
        [sys.executable, "-c", _FAULTS], env={**environment, **mine}, capture_output=True, text=True, check=True
    )
    done, fetched = answer.stdout.split()
    assert done == str(not mine)
    assert int(fetched) < 100 if done == "True" else int(fetched) > 500  # MiB; 720 are made


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have the call and not the meaning, as musl has."""
    monkeypatch.setattr(cpus.ctypes, "CDLL", lambda name: type("Library", (), {"mallopt": print})())
    assert not cpus.keep_freed_memory({})


@pytest.mark.parametrize("largest", [2**31 - 1, 2**25])
def test_an_older_glibc_takes_what_it_can(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def mallopt(what: int, value: int) -> int:
        calls.append((what, value))
        return int(what != -3 or value <= largest)

    monkeypatch.setattr(
        cpus.ctypes, "CDLL", lambda name: type("Library", (), {"mallopt": mallopt, "gnu_get_libc_version": None})
    )
    assert cpus.keep_freed_memory({})
    assert calls[-2:] == [(-3, largest), (-1, 2**31 - 1)]
