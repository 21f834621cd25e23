"""Does the project install and train on the oldest and the newest stack that it claims?

For each row: a fresh virtual environment, filled by the same `make venv` that a user runs, and in it
`tools/smoke.py`. Prints a Markdown table. An interpreter that is not on this machine is skipped, and said so.

    python tools/matrix.py [--only 3.10 ...] [--python /path/to/python ...] [--output FILE.md|FILE.json]

Needs Python 3.10 or newer, GNU make, the package index and about 6 GB of disk for the row in progress.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    """One stack: the Python, what it stands for, and its constraints (None: constraints.txt)."""

    python: str
    stack: str
    constraints: tuple[str, ...] | None


def lower_bounds(pyproject: str) -> tuple[str, ...]:
    """Pin what a pyproject.toml depends on, but for development, at the oldest version that it allows."""
    runtime = pyproject.partition("\ndependencies = [")[2].partition("\ndev = [")[0]
    return tuple(f"{name}=={oldest}" for name, oldest in re.findall(r'"([\w-]+)>=([\d.]+)"', runtime))


ROWS = (
    Row("3.10", "the oldest of everything", lower_bounds((ROOT / "pyproject.toml").read_text(encoding="utf-8"))),
    Row("3.11", "constraints.txt", None),
    Row("3.13", "the newest there is", ()),
    Row("3.14", "the newest there is", ()),
)
COLUMNS = ("python", "torch", "torchvision", "numpy", "imports", "trains", "evaluates", "seconds")
TRAINERS = ("stock", "cmbn")  # the two trainings of tools/smoke.py


def version_of(interpreter: str | Path) -> str | None:
    """`major.minor` of an interpreter, None where it does not run (a pyenv shim without its version, say)."""
    command = [str(interpreter), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def find_interpreter(version: str, given: list[str]) -> str | None:
    """An interpreter of that `major.minor`: given, on PATH, or among pyenv's; None: there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    of_pyenv = sorted(pyenv.glob(f"versions/{version}*/bin/python{version}"), reverse=True)
    on_path = shutil.which(f"python{version}")
    candidates = [*given, *([on_path] if on_path else []), *map(str, of_pyenv)]
    return next((candidate for candidate in candidates if version_of(candidate) == version), None)


def run_row(row: Row, interpreter: str, directory: Path) -> dict[str, Any]:
    """Install and smoke-test one stack in `directory`, with a log beside it.

    Returns:
        The row's name, what `tools/smoke.py` reported (nothing where it could not even import the plugin),
        the seconds that the installation took, and `problem`, None where everything worked.
    """
    log, report_file, environment = directory / "log.txt", directory / "report.json", directory / "venv"
    constraints = ROOT / "constraints.txt"
    if row.constraints is not None:
        constraints = directory / "constraints.txt"
        constraints.write_text("".join(f"{line}\n" for line in row.constraints))
    foreign = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "MAKEFLAGS"}
    settings = {key: value for key, value in os.environ.items() if key not in foreign}
    settings["CUDA_VISIBLE_DEVICES"] = ""  # the smoke test is the CPU's
    install = ["make", "venv", f"PYTHON={interpreter}", f"VENV={environment}", f"CONSTRAINTS={constraints}"]
    install.append("EXTRAS=cpu")  # what a user needs; tools of development have bounds of their own
    smoke = [f"{environment}/bin/python", f"{ROOT}/tools/smoke.py", "--output", str(report_file)]
    result: dict[str, Any] = {"row": row.python, "stack": row.stack, "problem": None}
    with log.open("w") as output:
        start = time.monotonic()
        installed = subprocess.run(install, cwd=ROOT, env=settings, stdout=output, stderr=subprocess.STDOUT)
        result["install_seconds"] = round(time.monotonic() - start, 1)
        if installed.returncode == 0:
            subprocess.run(smoke, cwd=directory, env=settings, stdout=output, stderr=subprocess.STDOUT)
    if report_file.is_file():
        result.update(json.loads(report_file.read_text()))
        problems = [f"{kind}: {result[kind]['problem']}" for kind in TRAINERS if result[kind]["problem"]]
        result["problem"] = "; ".join(problems) or None
    else:
        step = "smoke test" if installed.returncode == 0 else "installation"
        lines = [line for line in log.read_text().splitlines() if line and not line.startswith("make")]
        result["problem"] = f"{step}: {lines[-1] if lines else 'no output'}"
    return result


def markdown(results: list[dict[str, Any]]) -> str:
    """The table of what `run_row` returned, one line a stack."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for result in results:
        cells = dict.fromkeys(COLUMNS, "-")
        cells.update(python=result["row"], imports="no", trains="no", evaluates="no")
        if "torch" in result:
            cells.update({column: str(result[column]) for column in COLUMNS if column in result})
            cells["imports"] = "yes"
            for step in ("trains", "evaluates"):
                cells[step] = "yes" if all(result[kind][step] for kind in TRAINERS) else "no"
        lines.append("| " + " | ".join(cells[column] for column in COLUMNS) + " |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Run the rows; 0 where every row that ran installed, imported, trained and evaluated, otherwise 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    versions = [row.python for row in ROWS]
    parser.add_argument("--only", nargs="+", choices=versions, default=versions, help="these rows")
    parser.add_argument("--python", nargs="+", default=[], metavar="PATH", help="interpreters to try first")
    parser.add_argument("--output", type=Path, help="write the table, or a .json of all that was seen")
    parser.add_argument("--logs", type=Path, help="keep the rows' logs in this folder")
    args = parser.parse_args(argv)

    results = []
    for row in ROWS:
        if row.python not in args.only:
            continue
        interpreter = find_interpreter(row.python, args.python)
        if interpreter is None:
            print(f"Python {row.python}: skipped, none on PATH or under pyenv; name one with --python")
            continue
        print(f"Python {row.python} ({row.stack}): installing and training, {interpreter} ...", flush=True)
        with tempfile.TemporaryDirectory(prefix="fastreid_parts-matrix-") as directory:
            results.append(run_row(row, interpreter, Path(directory)))
            if args.logs:
                args.logs.mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(directory) / "log.txt", args.logs / f"python-{row.python}.txt")
        if results[-1]["problem"]:
            print(f"Python {row.python}: {results[-1]['problem']}", file=sys.stderr)

    table = markdown(results)
    print("\n" + table)
    if args.output:
        as_json = args.output.suffix == ".json"
        args.output.write_text(json.dumps(results, indent=2) + "\n" if as_json else table)
    if not results:
        print("no row ran", file=sys.stderr)
    return 0 if results and not any(result["problem"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
