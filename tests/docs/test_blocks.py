"""The code in README and the documents: Python runs, commands fit their parsers, and, marked `docs`, run."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastreid_parts.command_line import COMMANDS, main

from . import blocks, sandbox

PAGES = blocks.documents()
#: Blocks of text that is no code, and MyST's own
NO_CODE = {"text", "console", "markdown"}
#: Word of a command -> why it is checked and not run
NOT_RUN = {
    "--import": "tests/test_plugin.py runs it, in a process of its own",
    "demo": "tests/commands/test_demo.py runs it",
    "weights": "it downloads",
    "identify": "tests/commands/test_identify.py runs it",
}


def name(page: Path) -> str:
    return page.relative_to(blocks.ROOT).as_posix()


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sandbox, from which each page gets its own."""
    folder = tmp_path_factory.mktemp("sandbox")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        sandbox.build(folder)
    return folder  # outside: tests of other files run while this folder is there


def enter(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.chdir(folder)
    for variable, value in blocks.environment(folder).items():
        patch.setenv(variable, value)
    sandbox.shrink(patch)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_has_a_language(page: Path) -> None:
    known = {"sh", "python", *blocks.DATA, *NO_CODE}
    assert not {one for one in blocks.languages(page) if one not in known and not one.startswith("{")}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_fit_their_parsers(page: Path) -> None:
    shell = blocks.Shell(blocks.check)
    for line, reason in blocks.evaluate(page, shell, python=False):
        assert reason, line
    for words in blocks.inline_commands(page):
        blocks.check(words)


def test_commands_are_found() -> None:
    source = (
        "C=a.yml\nfastreid-parts train --config-file $C \\\n    SEED 1   # comment\nmake demo\ntorchrun x > out.txt\n"
    )
    train = ["fastreid-parts", "train", "--config-file", "a.yml", "SEED", "1"]
    assert blocks.words_of(source) == [train, ["make", "demo"], ["torchrun", "x"]]
    assert blocks.words_of("make $X", "X=demo\nmake test\n") == [["make", "demo"]]


@pytest.mark.parametrize(
    "line",
    [
        "fastreid-parts tarin",
        "fastreid-parts train --config-file Market/cmnb.yml",
        "fastreid-parts train --config-file Market/cmbn.yml MODEL.NOTHING 1",
        "fastreid-parts search --qeury x",
        "make nothing",
        "python tools/nothing.py",
        "python tools/growth.py build --nlist 1024",
        "rm -r logs",
    ],
)
def test_a_wrong_command_is_noticed(line: str) -> None:
    with pytest.raises((AssertionError, ValueError, KeyError)):
        blocks.check(blocks.words_of(line)[0])


WITH_PYTHON = [page for page in PAGES if "python" in blocks.languages(page)]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_python_runs(page: Path, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(sandbox.copy(filled, tmp_path / "here"), monkeypatch)
    list(blocks.evaluate(page, blocks.Shell(lambda words: None), python=True))


WITH_COMMANDS = [page for page in PAGES if "sh" in blocks.languages(page)]


@pytest.mark.docs
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name)
def test_commands_run(page: Path, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(sandbox.copy(filled, tmp_path / "here"), monkeypatch)

    def run(words: list[str]) -> None:
        blocks.check(words)
        if words[0] == "fastreid-parts" and words[1] in COMMANDS and not NOT_RUN.keys() & {*words}:
            sandbox.train_what_is_named(words)
            assert main(at_tiny_scale(words[1:])) == 0, words

    list(blocks.evaluate(page, blocks.Shell(run), python=True))


def at_tiny_scale(words: list[str]) -> list[str]:
    """Do in one process, in a few steps or as a plan, what would take hours; the sandbox has a run and an index."""
    words = [word.replace("/data/", "data/") for word in words]
    for option, value in (("--num-gpus", "1"), ("--fpr", "0.1")):  # a thousandth needs a thousand pairs
        if option in words:
            words[words.index(option) + 1] = value
    goes_on = {"--resume", "--eval-only", "--overwrite"} & {*words}
    more = {
        ("cost",): ["--rounds", "1", "--batch", "2"],
        ("index", "build"): [] if goes_on else ["--overwrite"],
        ("reproduce", "run"): ["--dry-run"],
        ("train",): [] if goes_on else ["--overwrite"],
    }
    for name, options in more.items():
        if tuple(words[: len(name)]) == name:
            return [*name, *options, *words[len(name) :]]
    return words
