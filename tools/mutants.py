"""Which faults would no test notice? A random sample of mutants of the numeric core, tested with mutmut.

    pip install mutmut==3.8.1
    python tools/mutants.py [--count 300] [--seed 0] [--jobs 1] [PATTERN ...]

mutmut changes one thing in one function at a time and runs the tests that call it; `[tool.mutmut]` in pyproject.toml
says where. The sample is drawn from all mutants, or from those whose names match a pattern, such as
`fastreid_parts.losses.*`. It prints how many were killed, and the change of each that was not.

Run it in the root of the repository. It works in the folder `mutants` there, where it keeps which tests call which
function; remove the folder after tests have changed. mutmut leaves functions with decorators alone, but for static and
class methods.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

#: Ends of a mutant that are as good as killed: the tests fail, or run on for ever
_KILLED = ("killed", "timeout", "segfault", "suspicious")


def all_mutants() -> list[str]:
    """Name every mutant of the present sources, in order."""
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.file_utils import walk_mutatable_files
    from mutmut.utils.format_utils import get_mutant_name

    names = []
    for path in walk_mutatable_files():
        mutated = mutate_file_contents(str(path), path.read_text(encoding="utf-8"))
        names += [get_mutant_name(path, name) for name in mutated.mutant_names]
    return sorted(names)


def _mutmut(*arguments: str, capture: bool = False) -> str:
    """Run mutmut with one thread a process; the mutated package is what subprocesses of tests import, too."""
    folder = Path("mutants").resolve()
    folder.mkdir(exist_ok=True)  # Python forgets a path that is not there when it starts
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE if capture else None, text=True, check=True)
    return done.stdout or ""


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `--help`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("patterns", nargs="*", default=["*"], metavar="PATTERN", help="of names (default: all)")
    parser.add_argument("--count", type=int, default=300, help="mutants of the sample (default 300)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default 0)")
    parser.add_argument("--jobs", type=int, default=1, help="mutants that are tested at a time (default 1)")
    args = parser.parse_args(argv)
    names = [name for name in all_mutants() if any(fnmatch.fnmatch(name, pattern) for pattern in args.patterns)]
    sample = sorted(random.Random(args.seed).sample(names, min(args.count, len(names))))
    if not sample:
        parser.error(f"no mutant matches {' '.join(args.patterns)}")
    _mutmut("run", "--max-children", str(args.jobs), *sample)
    statuses = dict(re.findall(r"^ *(\S+): (.+)$", _mutmut("results", "--all", "true", capture=True), re.MULTILINE))
    for name in sample:
        if statuses[name] not in _KILLED:
            print(_mutmut("show", name, capture=True))
    counts = Counter(statuses[name] for name in sample)
    killed = sum(counts[status] for status in _KILLED)
    words = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    print(f"{len(sample)} of {len(names)} mutants, seed {args.seed}: {words}; {killed / len(sample):.1%} killed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
