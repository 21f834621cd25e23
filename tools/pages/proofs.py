"""What each method is held against, as levels of proof: read from the tests and the results, never typed.

A test that proves something of a method is marked with `@pytest.mark.proves("rrid", level=2)`. Levels 4 and 5 are of
results: claims of docs/results/evidence that are shown, and submitted results in docs/results/submitted.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from . import evidence
from .markdown import table

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("cmbn", "cge", "rrid", "can", "rmgl")
#: Level -> what it means.
LEVELS: Mapping[int, str] = {
    0: "builds from each of its configs, for every row that the papers print",
    1: "its equations: each is a function, and a test compares it with the printed sum as a plain loop",
    2: "its authors' code: features, logits, losses and gradients agree in float64",
    3: "its authors' weights: features of drawn images agree",
    4: "a claim of its paper, shown on drawn people with five seeds",
    5: "its paper's number, within the range, on the paper's dataset",
}
_BY_TEST = (0, 1, 2, 3)


def marked(tests: Path = ROOT / "tests") -> dict[str, dict[int, list[str]]]:
    """Find the marked tests: {method: {level: names of tests}}.

    Args:
        tests: the folder of the tests.

    Raises:
        ValueError: a mark names no method, or a level that tests do not prove.
    """
    found: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(tests.rglob("test_*.py")):
        source = path.read_text(encoding="utf-8")
        if "mark.proves" not in source:
            continue
        tree = ast.parse(source)
        for node in (one for one in ast.walk(tree) if isinstance(one, (ast.FunctionDef, ast.ClassDef))):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.proves":
                    methods = [ast.literal_eval(one) for one in mark.args]
                    level = {word.arg: ast.literal_eval(word.value) for word in mark.keywords}.get("level")
                    if not methods or not set(methods) <= set(METHODS) or level not in _BY_TEST:
                        raise ValueError(f"{path}:{node.lineno}: {ast.unparse(mark)} names no method or no level")
                    for method in methods:
                        found[method][level].append(f"{path.relative_to(tests.parent).as_posix()}::{node.name}")
    return found


def levels(tests: Path = ROOT / "tests", results: Path = ROOT / "docs/results") -> dict[str, dict[int, list[str]]]:
    """Say what proves each level of each method: {method: {level: tests, claims or files}}.

    Args:
        tests: the folder of the tests.
        results: the folder of the results.
    """
    found = marked(tests)
    for method, claims in shown_claims(results / "evidence").items():
        found[method][4] += claims
    for method, files in within_range(results).items():
        found[method][5] += files
    return {method: dict(sorted(found[method].items())) for method in METHODS}


def shown_claims(folder: Path) -> dict[str, list[str]]:
    """Name the claims of each method that are shown; that a gain is a mechanism's own is no further one.

    Args:
        folder: with the plan and the runs.
    """
    plan, rows = evidence.load(folder)
    found = defaultdict(list)
    for name in evidence.papers_claims(plan):
        paper = plan["benches"][plan["claims"][name]["compare"]["bench"]].get("paper")
        if paper and evidence.judge(name, plan, rows).verdict == evidence.SHOWN:
            found[paper].append(name)
    return found


def within_range(folder: Path) -> dict[str, list[str]]:
    """Name the submitted results of each method, with mechanisms that act, that are within the ledger's range.

    Args:
        folder: of results, with the files in `submitted`.

    Raises:
        ValueError: a file is refused.
    """
    from fastreid_parts.paper_results import load_ledger
    from fastreid_parts.paper_results.submissions import read_submission, submitted, verify

    ledger, found = load_ledger(), defaultdict(list)
    sent = [read_submission(path) for path in submitted(folder)]
    for one in sent:
        verdict = verify(one, ledger, sent, look_for_dataset=False)
        if one.measured.idle or not one.measured.mechanisms:  # a baseline of the paper's, or as good as one
            continue
        if verdict.comparisons and not any(held.misses for held in verdict.comparisons):
            found[one.measured.paper].append(one.path.name)
    return found


def pages() -> dict[str, str]:
    """Make the part that docs/methods/index.md includes: {path below docs/: Markdown}."""
    return {"results/claims/_proofs.md": markdown(levels()) + "\n"}


def markdown(found: Mapping[str, Mapping[int, list[str]]]) -> str:
    """Write what is proved, a row a method, and what the levels mean.

    Args:
        found: from `levels`.
    """
    cells = {method: [_evidence(own.get(level, [])) for level in LEVELS] for method, own in found.items()}
    rows = [[f"[{method.upper()}]({method}.md)", *own] for method, own in cells.items()]
    meanings = "\n".join(f"- **{level}**: {meaning}." for level, meaning in LEVELS.items())
    return f"{table(['method', *map(str, LEVELS)], rows)}\n\n{meanings}"


def short(own: Mapping[int, list[str]]) -> str:
    """Write the levels of a method in a cell of README's table: `0, 1, 2`.

    Args:
        own: what proves each level.
    """
    return ", ".join(str(level) for level in LEVELS if own.get(level))


def _evidence(names: list[str]) -> str:
    if not names:
        return ""
    places = ", ".join(dict.fromkeys(name.partition("::")[0] for name in names))
    return f"{len(names)}: {places}"
