"""How many processors this process may use, how OpenMP's threads share them with other work, and what the heap keeps.

libgomp, which torch's and faiss's wheels bring along, lets a thread that waits for others spin for a while. On a busy
machine it spins away the time slice that the others need, and a training can fall to a fiftieth of its rate. It reads
the environment once, when torch is loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

#: Each of them says how long a thread spins; where the user has set one, none is touched.
SPIN_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SPINS = "1000"  # `tools/benchmark.py busy` measures it beside the default

#: Each of them may say what the heap does; where the user has set one, it is left alone.
HEAP_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST, _LARGEST_OF_OLD = 2**31 - 1, 32 * 2**20  # an older glibc refuses more than the second


def set_thread_defaults(environ: MutableMapping[str, str] = os.environ) -> None:
    """Have OpenMP's threads spin for a short time only, and be no more than a cgroup's quota; before torch is loaded.

    Processes that are started later inherit it. What the user has set stays.
    """
    if not any(name in environ for name in SPIN_VARIABLES):
        environ["GOMP_SPINCOUNT"] = SPINS
    if (usable := usable_cpus()) < _affinity():  # OpenMP knows of affinity itself
        environ.setdefault("OMP_NUM_THREADS", str(usable))


def keep_freed_memory(environ: Mapping[str, str] = os.environ) -> bool:
    """Have glibc's heap keep what is freed, for the next tensor of that size; the process stays as large as it was.

    By default a tensor of more than 32 MiB is fetched from the system, page by page, each time it is made: up to a
    third of a step of a MobileNetV2 at 128x64, and nothing where tensors are small. `tools/benchmark.py busy --ways
    "glibc's heap" fastreid_parts` measures it. It cannot be taken back: it is for processes that compute to their end.

    Args:
        environ: where the user may have set otherwise.

    Returns:
        Whether it was done: not with another C library, or where the user has set one of `HEAP_VARIABLES`.
    """
    if any(name in environ for name in HEAP_VARIABLES):
        return False
    try:
        library = ctypes.CDLL(None)
        mallopt = library.mallopt
        library.gnu_get_libc_version  # noqa: B018  others, such as musl, take the call and do nothing
    except (AttributeError, OSError, TypeError):  # no glibc; Windows opens no None
        return False
    kept = mallopt(_MMAP_THRESHOLD, _LARGEST) or mallopt(_MMAP_THRESHOLD, _LARGEST_OF_OLD)
    return bool(kept and mallopt(_TRIM_THRESHOLD, _LARGEST))


def usable_cpus() -> int:
    """Count the processors that this process may use: of its affinity, as many whole ones as its cgroup's quota has."""
    return max(1, int(min([_affinity(), *_quotas()])))


def waited_for_cpu() -> float | None:
    """Sum up the seconds that the threads of this process were ready to run and had no processor, None if unknown."""
    try:
        states = [(task / "schedstat").read_text(encoding="ascii") for task in Path("/proc/self/task").iterdir()]
        return sum(int(state.split()[1]) for state in states) / 1e9
    except (OSError, IndexError, ValueError):  # no Linux, or a thread that has just ended
        return None


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas(membership: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> Iterator[float]:
    """Processors that each cgroup from this process's own up to the root allows, of version 1 and 2.

    Inside a container the path of the membership may be the host's and not there; the quota is at the root then.
    """
    with contextlib.suppress(OSError):
        for line in Path(membership).read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if "cpu" in controllers.split(",") or not controllers:
                for mount in {Path(root, name) for name in (controllers, "cpu", "unified", "")}:
                    folder = mount / path.lstrip("/")
                    for place in (folder, *folder.parents):
                        if place.is_relative_to(mount):
                            yield from _quota(place)


def _quota(folder: Path) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError):  # no such file, "max"
        quota, period = map(int, (folder / "cpu.max").read_text(encoding="ascii").split())
        yield quota / period
    with contextlib.suppress(OSError, ValueError):
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        if quota > 0:  # -1 is no limit
            yield quota / period
