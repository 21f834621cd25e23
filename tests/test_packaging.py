"""What a user installs: the wheel and its data, the source archive, the declared and the pinned dependencies."""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import fastreid_parts
from fastreid_parts.compat import INSTALL_COMMAND
from fastreid_parts.paper_results import load_ledger

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.10.13", "3.11.7", "3.12.1", "3.13.0", "3.14.0")
EXTRAS = ("", "cpu", "gpu", "dev", "docs", "export", "milvus")  # those of constraints.txt

# Imports whose distribution has another name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "faiss": "faiss-cpu",
    "fastreid": "fastreid-parts",  # the host, which `make venv` installs
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
# What the host imports only where it is there, or only to compile its own ranking.
OPTIONAL_OF_HOST = {"Cython", "cython", "detectron2", "distutils", "fvcore", "rfconv"}


def build(target: str, source: Path, directory: Path) -> Path:
    """Build the `wheel` or `sdist` of `source` into `directory`, without a network."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(directory)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, text=True)
    (built,) = directory.iterdir()
    return built


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def requirements(wheel: Path) -> list[Requirement]:
    """What pyproject.toml declares, extras included."""
    return [Requirement(text) for text in metadata_of(wheel).get_all("Requires-Dist", [])]


def test_cleaning_leaves_environments_alone(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    shutil.copy(ROOT / "Makefile", tmp_path)
    kept = [".venv/lib/a", ".venv310/lib/b", "env/c", "datasets/d", "logs/e", "tools/notes"]
    gone = ["fastreid_parts/__pycache__", "fastreid_parts/data/__pycache__", "tests/__pycache__", "tools/__pycache__"]
    for name in (*[f"{place}/__pycache__" for place in kept[:4]], *kept, *gone, "build", "dist"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert all((tmp_path / place / "__pycache__").is_dir() for place in kept[:4])
    assert all((tmp_path / name).is_dir() for name in kept)
    assert not any((tmp_path / name).exists() for name in (*gone, "build", "dist"))


def test_wheel_carries_configs_ledger_template_and_type_marker(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"fastreid_parts/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob("configs/**/*.yml")}
    ledger = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("fastreid_parts/paper_results/*.yml")}
    assert {"fastreid_parts/configs/Base-CMBN.yml", "fastreid_parts/configs/Market/cmbn.yml"} <= configs
    assert ledger
    report = {f"fastreid_parts/report/{name}" for name in ("page.html", "style.css")}
    assert configs | ledger | report | {"fastreid_parts/py.typed"} <= names


def test_wheel_installs_the_command_line(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        written = archive.read(name).decode()
    assert written.split() == ["[console_scripts]", "fastreid-parts", "=", "fastreid_parts.command_line:main"]


def test_wheel_holds_nothing_else(wheel: Path) -> None:
    """Modules, configs, the ledger, the table of published weights, templates: what the package reads, and no more."""
    data = r"configs/([\w-]+/)?[\w-]+\.yml|(paper_results|pretrained)/\w+\.yml|\w+/\w+\.(html|css|js|md)|py\.typed"
    known = re.compile(rf"fastreid_parts(/({data}|([a-z]\w*/)*\w+\.py)|-[^/]*\.dist-info/.+)")
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) == len(set(names)) > 200
    assert not [name for name in names if not known.fullmatch(name)]
    assert not [name for name in names if re.search(r"(^|/)(tests|tools|docs)/", name)]


def test_wheel_finds_its_configs_and_ledger_without_a_clone(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    (tmp_path / "elsewhere").mkdir()
    script = f"""
import sys
sys.path.insert(0, {str(site)!r})
import fastreid_parts
from fastreid.config import get_cfg
from fastreid_parts.paper_results import load_ledger
path = fastreid_parts.find_config("Market/cmbn.yml")
cfg = get_cfg()
cfg.merge_from_file(path)
print(fastreid_parts.__file__, path, cfg.MODEL.META_ARCHITECTURE, bool(load_ledger().rows), sep="\\n")
"""
    command = [sys.executable, "-c", script]
    answer = subprocess.run(command, cwd=tmp_path / "elsewhere", capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    module, config, architecture, ledger = answer.stdout.strip().splitlines()[-4:]
    assert Path(module) == site / "fastreid_parts" / "__init__.py"
    assert Path(config) == site / "fastreid_parts" / "configs" / "Market" / "cmbn.yml"
    assert (architecture, ledger) == ("CMBN", "True")


def test_source_archive_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked")
    (source,) = (tmp_path / "unpacked").iterdir()
    assert (source / "tests" / "test_packaging.py").is_file()
    again = build("wheel", source, tmp_path / "wheel")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_metadata(wheel: Path) -> None:
    metadata = metadata_of(wheel)
    assert metadata["Version"] == fastreid_parts.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    classifiers = set(metadata.get_all("Classifier", []))
    assert {f"Programming Language :: Python :: {python.rpartition('.')[0]}" for python in PYTHONS} <= classifiers


def test_the_readme_of_a_package_index_leads_nowhere_else(wheel: Path) -> None:
    """Links and figures of README that are relative work in the repository alone."""
    text = str(metadata_of(wheel).get_payload())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert text.startswith(readme.partition("\n")[0]) and len(text) > len(readme) / 2 and links
    assert not [link for link in links if not link.startswith(("https://", "http://", "#"))]
    captions = re.findall(r"^!\[.*\n\n\*(.*)$", readme, re.MULTILINE)
    assert captions and not [caption for caption in captions if caption in text], "of figures that are not there"


def test_citation_and_changelog_are_of_the_last_release() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["license"] == "Apache-2.0"
    headings = re.findall(r"^## \[(.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    released = f"{citation['version']}] - {citation['date-released']}"
    version, cited_version = Version(fastreid_parts.__version__), Version(citation["version"])
    if version.is_devrelease:  # what is cited is the last release
        assert headings[:2] == ["Unreleased]", released] and version > cited_version
    else:
        assert headings[0] == released and version == cited_version
    cited = {work.get("abbreviation", "").lower(): work["title"].lower() for work in citation["references"]}
    for paper, document in load_ledger().papers.items():
        assert cited[paper].startswith(document["title"].lower().partition(":")[0])


@pytest.mark.slow
def test_wheel_in_an_empty_environment_runs_the_demo(wheel: Path, tmp_path: Path) -> None:
    """As a user without a clone has it: pip alone, the configs by name, and nothing of this folder on the path."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "FASTREID"))}
    environment.update(CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")

    def call(*words: object) -> str:
        answer = subprocess.run(
            list(map(str, words)), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=3000
        )
        assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-3000:]
        return answer.stdout

    call(sys.executable, "-m", "venv", tmp_path / "venv")
    programs = tmp_path / "venv" / "bin"
    call(programs / "pip", "install", "--constraint", ROOT / "constraints.txt", f"{wheel}[cpu]")
    call(programs / "python", "-m", *INSTALL_COMMAND.split())
    where = call(programs / "python", "-c", "import fastreid_parts; print(fastreid_parts.__file__)")
    assert str(tmp_path / "venv") in where
    assert "Market/cmbn.yml" in call(programs / "fastreid-parts", "configs")
    call(programs / "fastreid-parts", "demo", "--output", "out", "SOLVER.MAX_EPOCH", "1")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert all(values["mAP"] > 0 for values in results["results"].values())
    assert (tmp_path / "out" / "overview.png").stat().st_size > 10_000


def imported_by(package: Path) -> set[str]:
    """Top-level names that the sources of a package import from outside of themselves."""
    names: set[str] = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.split(".")[0])
    return names


def is_standard_library(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and "site-packages" not in str(spec.origin or list(spec.submodule_search_locations or []))


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
def test_every_import_is_declared(requirements: list[Requirement]) -> None:
    """The host's own metadata misses some of what it imports, and is not asked: it is installed with --no-deps."""
    host = importlib.util.find_spec("fastreid")
    assert host is not None and host.origin is not None
    names = imported_by(Path(host.origin).parent) - OPTIONAL_OF_HOST | imported_by(ROOT / "fastreid_parts")
    names -= {"fastreid_parts"}
    assert {"torch", "faiss", "gdown", "imageio"} <= names
    declared = {canonicalize_name(requirement.name) for requirement in requirements} | {"fastreid-parts"}
    assert not {
        name
        for name in names
        if canonicalize_name(DISTRIBUTIONS.get(name, name)) not in declared and not is_standard_library(name)
    }


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_pin_each_dependency_once_and_within_its_range(
    requirements: list[Requirement], python: str
) -> None:
    environment = {
        "python_full_version": python,
        "python_version": ".".join(python.split(".")[:2]),
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
    }
    pins: dict[str, list[str]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate(environment):
                pins.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier)[2:])
    for requirement in requirements:
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({**environment, "extra": extra}) for extra in EXTRAS):
            continue
        versions = pins.get(canonicalize_name(requirement.name), [])
        assert len(versions) == 1, f"{requirement.name} on Python {python}: pinned to {versions}"
        assert Version(versions[0]) in requirement.specifier, f"{requirement} on Python {python}: {versions}"


@pytest.mark.parametrize("faiss", ["cpu", "gpu"])
def test_make_installs_one_faiss(requirements: list[Requirement], faiss: str) -> None:
    """By what the installed distributions ask for: milvus-lite brings faiss-cpu, and both fill the same package."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    planned = subprocess.run(
        ["make", "--dry-run", "--always-make", "venv", f"EXTRA={faiss}"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    (extras,) = re.findall(r'--editable "\.\[(.*)\]"', planned)
    todo = [(one, extra) for extra in extras.split(",") for one in requirements]
    seen: set[str] = set()
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        if (name := canonicalize_name(requirement.name)) not in seen:
            seen.add(name)
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                todo += [(Requirement(text), "") for text in importlib.metadata.requires(name) or []]
    assert {name for name in seen if name.startswith("faiss")} == {f"faiss-{faiss}"}


def test_make_installs_the_host_that_the_import_error_names() -> None:
    (host,) = re.findall(r"^HOST := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert INSTALL_COMMAND.split()[-1] == host
