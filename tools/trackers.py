"""Make the environments that other projects' trackers run in, each once: `make trackers`, and ARGS=boxmot for one.

Trackers bring many packages along, and no environment fits all of them: norfair wants NumPy 1 and BoxMOT NumPy 2. So
each has a folder of its own beside .venv. uv installs, because it links what it has once downloaded: torch, the one of
constraints.txt, takes its space on the disk once. A folder that holds the same packages already stays as it is.

    python tools/trackers.py [boxmot] [ultralytics] [trackers]

Needs the package index, Python 3.10 to 3.13 (3.10 to 3.12 for norfair) and, the first time, 6 GB of disk.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: The only cv2 that there is to be: it needs no libraries of a desktop, and two packages of it overwrite each other.
OPENCV = "opencv-python-headless==4.11.0.86"
_NO_OTHER_OPENCV = 'opencv-python; python_version < "3"\n'


@dataclass(frozen=True)
class Environment:
    """One environment.

    Attributes:
        packages: what is installed, each with its version.
        newest: the newest Python (3, minor) that the packages are published for.
        project: whether fastreid_parts, editable, and fast-reid are in it as well.
    """

    packages: tuple[str, ...]
    newest: tuple[int, int]
    project: bool = False


# The versions that BoxMOT asks for
_ONNX = ("onnx==1.20.1", "onnxruntime==1.24.3")
#: Name -> what is in `.venv-NAME`.
ENVIRONMENTS = {
    "boxmot": Environment(("boxmot==25.0.0", *_ONNX), (3, 13)),
    "ultralytics": Environment(("ultralytics==8.4.190", "lap==0.5.13", *_ONNX), (3, 13)),
    "trackers": Environment(
        ("deep-sort-realtime==1.3.2", "norfair==2.3.0", "numpy==1.26.4", *_ONNX), (3, 12), project=True
    ),
}


def folder(name: str, root: Path = ROOT) -> Path:
    """Name the folder of an environment."""
    return root / f".venv-{name}"


def interpreter(name: str, root: Path = ROOT) -> Path | None:
    """Find the Python of an environment; None where it has not been made, or not with these packages."""
    stamp = folder(name, root) / ".installed"
    made = stamp.is_file() and stamp.read_text(encoding="utf-8") == _contents(name, root)
    return folder(name, root) / "bin" / "python" if made else None


def make(name: str, root: Path = ROOT) -> bool:
    """Make an environment that is not there, from nothing: what an interrupted run left is removed.

    Returns:
        Whether there was something to do.

    Raises:
        ValueError: this Python is too new for the packages.
        subprocess.CalledProcessError: the installation failed; uv has said why.
    """
    wanted, environment = ENVIRONMENTS[name], folder(name, root)
    if interpreter(name, root):
        return False
    if sys.version_info[:2] > wanted.newest:
        raise ValueError(
            f"{', '.join(wanted.packages)} want Python {'.'.join(map(str, wanted.newest))} or older, and this is "
            f"{sys.version.split()[0]}: make venv and make trackers with an older one, PYTHON=python3.11 VENV=.venv311"
        )
    uv = [sys.executable, "-m", "uv"]
    install = [*uv, "pip", "install", "--python", str(environment / "bin" / "python")]
    subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(environment)], check=True)
    with tempfile.TemporaryDirectory() as temporary:
        overrides = Path(temporary) / "overrides.txt"
        overrides.write_text(_NO_OTHER_OPENCV)
        subprocess.run([*install, "--override", str(overrides), *_requirements(name, root)], check=True)
    if wanted.project:
        subprocess.run([*install, "--no-deps", _host()], check=True)
    (environment / ".installed").write_text(_contents(name, root), encoding="utf-8")
    return True


def _requirements(name: str, root: Path) -> list[str]:
    pinned = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    torch = [line for line in pinned if line.startswith(("torch==", "torchvision=="))]
    project = ["--editable", f"{root}[cpu,export]"] if ENVIRONMENTS[name].project else []
    return [*ENVIRONMENTS[name].packages, *torch, OPENCV, *project]


def _contents(name: str, root: Path) -> str:
    lines = _requirements(name, root)
    if ENVIRONMENTS[name].project:  # whose dependencies may have changed
        lines.append(hashlib.sha256((root / "pyproject.toml").read_bytes()).hexdigest())
    return "".join(f"{one}\n" for one in lines)


def _host() -> str:
    from fastreid_parts.compat import INSTALL_COMMAND

    return INSTALL_COMMAND.split()[-1]


def main(argv: list[str] | None = None) -> int:
    """Make the environments that are asked for, all by default; 1 where one could not be made."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ENVIRONMENTS)}; all by default")
    names = parser.parse_args(argv).names or list(ENVIRONMENTS)
    unknown = [name for name in names if name not in ENVIRONMENTS]
    if unknown:
        parser.error(f"there is no environment {', '.join(unknown)}; there are {', '.join(ENVIRONMENTS)}")
    if importlib.util.find_spec("uv") is None:
        parser.error("uv is not installed here: run make trackers, or pip install uv")
    for name in names:
        try:
            new = make(name)
        except (ValueError, subprocess.CalledProcessError) as error:
            print(f"{folder(name)}: {error}", file=sys.stderr)
            return 1
        print(f"{folder(name)}: {'made' if new else 'already there'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
