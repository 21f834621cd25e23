"""`fastreid-parts` and `python -m fastreid_parts`: the list of commands, versions, and errors in one line."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastreid_parts
from fastreid_parts import command_line
from fastreid_parts.command_line import COMMANDS, main, summary

from .commands.run import problem, run

# What pip writes for the entry point of pyproject.toml
CONSOLE_SCRIPT = """
import sys
from fastreid_parts.command_line import main
if __name__ == "__main__":
    sys.exit(main())
"""
MODEL = ["--model", "a", "nowhere.yml", "nowhere.pth"]
#: Command -> words that name a file which is not there, and what the error says of it.
MISSING = {
    "benchmark": (["training", "--device", "cpu", "--config-file", "nowhere.yml"], "nowhere.yml"),
    "activation-maps": ([*MODEL, "--images", "x", "--output", "x.png"], "no config file 'nowhere.yml'"),
    "augmentations": (["--config-file", "nowhere.yml", "--images", "x", "--output", "x.png"], "nowhere.yml"),
    "check-data": (["--folder", "nowhere"], "there is no folder "),
    "configs": (["x"], "unrecognized arguments: x"),
    "cost": (["inference", "--config-file", "nowhere.yml"], "no config file 'nowhere.yml'"),
    "demo": (["--config-file", "nowhere.yml"], "no config file 'nowhere.yml'"),
    "evaluate": (["--features", "nowhere"], "there is no folder 'nowhere'"),
    "extract": (["--config-file", "nowhere.yml", "--weights", "x", "--output", "y"], "no config file 'nowhere.yml'"),
    "export": (["--model", "nowhere", "--output", "x.pt2"], "neither a file nor a folder 'nowhere'"),
    "hub": (["save", "--model", "nowhere", "--output", "x"], "neither a file nor a folder 'nowhere'"),
    "hardness": ([*MODEL, "--output", "x.png"], "nowhere.yml"),
    "identify": (
        ["--features", "nowhere", "--table", "x.csv", "--threshold", "0.3", "--output", "y"],
        "there is no folder 'nowhere'",
    ),
    "index": (["info", "--index", "nowhere"], "nowhere"),
    "keys": (["NO_SUCH_KEY"], "no key of the plugin's has 'NO_SUCH_KEY' in its name"),
    "weights": (["luperson/resnet50"], "Place it at "),
    "loss-distribution": ([*MODEL, "--output", "x.png"], "nowhere.yml"),
    "mechanisms": ([*MODEL, "--output", "x.png"], "nowhere.yml"),
    "rank-lists": ([*MODEL, "--output", "x.png"], "nowhere.yml"),
    "receptive-fields": (["--config-file", "nowhere.yml"], "nowhere.yml"),
    "relation-maps": ([*MODEL, "--output", "x.png"], "nowhere.yml"),
    "report": ([*MODEL, "--output", "x.html"], "nowhere.yml"),
    "reproduce": (["show", "nothing"], "no variant 'nothing'"),
    "rerank": (["--features", "nowhere"], "there is no folder 'nowhere'"),
    "robustness": ([*MODEL, "--output", "x.png"], "nowhere.yml"),
    "search": (["--index", "nowhere", "--query", "x"], "nowhere"),
    "single-features": ([*MODEL, "--output", "x.png"], "nowhere.yml"),
    "synthesize": (["--contact-sheet", "x.nothing", "--identities", "1", "--views", "1"], "ends in .png"),
    "train": (["--config-file", "nowhere.yml"], "no config file 'nowhere.yml'"),
}
#: Words to which a key that does not exist is added.
KEYS = {
    "benchmark": ["training", "--device", "cpu", "--config-file", "Market/cmbn.yml", "--opts"],
    "cost": ["inference", "--config-file", "Market/cmbn.yml", "--opts"],
    "demo": [],
    "reproduce": ["run", "baseline", "--paper", "cmbn", "--dry-run", "--opts"],
    "train": ["--config-file", "Market/cmbn.yml"],
}


def module_of(name: str) -> object:
    return importlib.import_module(f"fastreid_parts.{COMMANDS[name][1]}")


def start(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300, cwd=cwd, env=env)


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "fastreid-parts").write_text(CONSOLE_SCRIPT)
    return str(tmp_path / "fastreid-parts")


def test_help_lists_every_command_once_below_its_group(capsys: pytest.CaptureFixture) -> None:
    printed = run(capsys, "--help").out
    group, seen = "", {}
    for line in printed.splitlines():
        if re.fullmatch(r"[a-z ]+:", line):
            group = line[:-1]
        elif group and line.strip():
            name, _, text = line.strip().partition(" ")
            assert name not in seen and text.strip()
            seen[name] = group
    assert seen == {name: group for name, (group, _) in COMMANDS.items()}
    assert max(map(len, printed.splitlines())) <= 120 and " ..." not in printed.partition("\n\n")[2]
    assert run(capsys, code=2).out == printed
    assert "usage: python -m fastreid_parts COMMAND" in command_line._usage("python -m fastreid_parts")


@pytest.mark.parametrize("name", COMMANDS)
def test_summary_is_the_first_line_of_the_docstring(name: str) -> None:
    assert summary(name) == (module_of(name).__doc__ or "").splitlines()[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    printed = capsys.readouterr().out
    assert stop.value.code == 0 and printed.startswith(f"usage: fastreid-parts {name} ")
    assert summary(name) in printed and "--import MODULE" in printed and "--debug" in printed


def test_version(capsys: pytest.CaptureFixture) -> None:
    printed = run(capsys, "--version").out
    assert printed.startswith(f"fastreid_parts {fastreid_parts.__version__}") and printed.count("\n") == 1
    assert f"torch {importlib.metadata.version('torch')}" in printed and "fast-reid " in printed


@pytest.mark.parametrize("word", ["--help", "--version", "trian"])
@pytest.mark.parametrize("how", ["module", "script"])
def test_what_needs_no_command_is_light(how: str, word: str, script: str, tmp_path: Path) -> None:
    start_with = ["-m", "fastreid_parts"] if how == "module" else [script]
    answer = start(*start_with, word, cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    imported = set(re.findall(r"^import time:.*\| +(\S+)$", answer.stderr, re.MULTILINE))
    heavy = {"torch", "numpy", "fastreid", "matplotlib", "fastreid_parts.compat"}
    assert "argparse" in imported and not imported & heavy
    assert answer.returncode == (2 if word == "trian" else 0)
    program = "fastreid-parts" if how == "script" else "python -m fastreid_parts"
    if word == "--help":
        assert answer.stdout.startswith(f"usage: {program} COMMAND")


@pytest.mark.parametrize(
    ("light", "words"),
    [
        (True, ["python", "-m", "fastreid_parts", "train"]),
        (True, ["python", "/usr/bin/fastreid-parts", "train"]),
        (True, ["python.exe", "fastreid-parts.exe"]),
        (False, ["python"]),
        (False, ["python", "-m", "other", "fastreid_parts"]),
        (False, ["python", "other.py", "fastreid-parts"]),
        (False, ["python", "-c", "import fastreid_parts", "-m", "fastreid_parts"]),  # a process that was spawned
    ],
)
def test_the_package_is_whole_wherever_it_is_no_command_line(light: bool, words: list[str]) -> None:
    assert fastreid_parts._is_command_line(words) == light


def test_the_nearest_command_and_config_are_suggested(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    error = run(capsys, "serach", code=2).err
    assert error == "fastreid-parts: 'serach' is neither a command nor a file: did you mean search or extract?\n"
    assert "`fastreid-parts --help` lists the commands" in run(capsys, "xyzzy", code=2).err
    assert "did you mean Market/cmbn.yml or " in problem(capsys, "train", "--config-file", "Market/cmnb.yml")
    assert "`fastreid-parts configs`" in problem(capsys, "train", "--config-file", "xyzzy")


def test_every_command_has_an_error_to_show() -> None:
    assert set(MISSING) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_file_is_one_line(
    name: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, message = MISSING[name]
    assert message in problem(capsys, name, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_option_is_one_line(name: str, capsys: pytest.CaptureFixture) -> None:
    error = problem(capsys, name, "--no-such-option")
    assert re.search("unrecognized arguments|are required|is required|invalid choice|no-such-option", error)
    assert f"`fastreid-parts {name} --help` lists" in error or "KEY VALUE" in error


@pytest.mark.parametrize("name", KEYS)
def test_a_wrong_key_is_one_line_with_the_nearest(
    name: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = problem(capsys, name, *KEYS[name], "SOLVER.MAX_EPOCHS", "3")
    assert "SOLVER.MAX_EPOCHS. Did you mean SOLVER.MAX_EPOCH or" in error and not list(tmp_path.iterdir())


def test_an_error_of_one_of_several_processes_is_one_line(script: str, tmp_path: Path) -> None:
    words = ["train", "--config-file", "Market/cmbn.yml", "--num-gpus", "2", "MODEL.BACKBONE.PRETRAIN", "False"]
    answer = start(script, *words, cwd=tmp_path, CUDA_VISIBLE_DEVICES="", FASTREID_DATASETS="nowhere")
    assert answer.returncode == 2 and "Traceback" not in answer.stderr
    lines = [line for line in answer.stderr.splitlines() if "signal SIGTERM" not in line]  # torch's, of the others
    assert lines[-1].startswith("fastreid-parts train: dataset Market1501 cannot be read"), answer.stderr


def test_keys_of_a_plugin_are_listed_by_a_part_of_their_name(capsys: pytest.CaptureFixture) -> None:
    printed = run(capsys, "keys", "rrid").out
    assert "MODEL.RRID.RELATION 'one_vs_rest'" in printed and "Eq. (1)" in printed and "MODEL.CAN" not in printed
    assert "MODEL.CAN.PARTS [1, 3, 5, 7]" in run(capsys, "keys").out


@pytest.mark.parametrize("words", [["--debug", "info"], ["info", "--debug"]])
def test_debug_shows_where_an_error_comes_from(words: list[str]) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        main(["index", *words, "--index", "nowhere"])


def test_interruption_is_one_line(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module_of("configs"), "run", interrupted)
    assert run(capsys, "configs", code=130).err == "fastreid-parts configs: interrupted\n"


def test_an_error_of_the_program_is_no_error_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: object) -> None:
        raise TypeError("a fault")

    monkeypatch.setattr(module_of("configs"), "run", broken)
    with pytest.raises(TypeError):
        main(["configs"])


def test_a_message_of_several_lines_is_one(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def several(args: object) -> None:
        raise ValueError("two entries:\n  a\n  b\n")

    monkeypatch.setattr(module_of("configs"), "run", several)
    assert problem(capsys, "configs") == "two entries: a; b"
