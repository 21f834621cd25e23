"""Measures what docs/results/evidence/plan.yml plans: `make evidence`, hours that can be stopped and gone on with.

    python tools/evidence.py run                 everything that is missing, claim by claim, with the time that is left
    python tools/evidence.py run --claims rrid-relation
    python tools/evidence.py list                what is there and what is missing
    python tools/evidence.py curves              mAP over strengths, of trained models whose rows have none

Each run is a process, `python tools/evidence.py one BENCH ARM SEED`, which stops when `run` is killed in whatever way;
a training that was stopped goes on. A finished run is a row of docs/results/evidence/runs.json, which is all that is
needed to go on elsewhere. The plan has to be committed before anything is measured; a row says the commit and what
exactly was run.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

ROOT = Path(__file__).resolve().parent.parent
PLAN, RESULTS = ROOT / "docs/results/evidence/plan.yml", ROOT / "docs/results/evidence/runs.json"
#: The test set of a row that every arm has: drawn as the training images are.
SAME = "images"
_NUISANCES = "DATASETS.SYNTHETIC.NUISANCES"


class EvidenceError(ValueError):
    """The plan, or what is there of its results, does not fit; the message says what to do."""


@dataclass(frozen=True)
class Cell:
    """One run of the plan: an arm of a bench with a seed.

    Attributes:
        bench, arm, seed: as the plan names them.
        settings: everything that decides the result: variant or config, keys, tests.
    """

    bench: str
    arm: str
    seed: int
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.bench}/{self.arm}, seed {self.seed}"

    @property
    def place(self) -> tuple[str, str, int]:
        """Bench, arm and seed."""
        return self.bench, self.arm, self.seed

    @property
    def digest(self) -> str:
        """SHA-256 of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]


def read_plan(path: Path = PLAN) -> dict[str, Any]:
    """Read the plan, and check that every claim names arms that are there.

    Raises:
        EvidenceError: it does not.
    """
    plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, claim in plan["claims"].items():
        if claim.get("because", name) not in plan["claims"]:
            raise EvidenceError(f"{name} is because of {claim['because']}, which is no claim")
        compare = claim["compare"]
        bench = plan["benches"].get(compare["bench"], {"arms": {}})
        arms = [compare[part] for part in ("baseline", "method", "control") if part in compare]
        if missing := [arm for arm in arms if arm not in bench["arms"]]:
            raise EvidenceError(f"{name} compares {', '.join(missing)}, which the bench {compare['bench']} has not")
        if compare.get("test", SAME) not in {SAME, *bench.get("tests", {})}:
            raise EvidenceError(f"{name} is of a test set {compare['test']}, which the bench has not")
    for bench, curve in plan.get("curves", {"of": {}})["of"].items():
        arms = plan["benches"].get(bench, {"arms": {}})["arms"]
        if missing := [arm for arm in curve["arms"] if arm not in arms]:
            raise EvidenceError(f"curves are of {', '.join(missing)}, which the bench {bench} has not")
    return plan


def cell_of(plan: Mapping[str, Any], bench: str, arm: str, seed: int) -> Cell:
    """Gather what a run of the plan is, from the keys of all runs, of its bench and of its arm."""
    shared = plan["benches"][bench]
    own = shared["arms"][arm]
    nuisances = {f"{_NUISANCES}.{key}": value for key, value in plan["nuisances"][shared["nuisance"]].items()}
    settings = {
        "paper": shared.get("paper"),
        **{name: own[name] for name in ("variant", "config", "without") if name in own},
        "keys": {**plan["start"], **nuisances, **shared["keys"], **own.get("keys", {})},
        "tests": shared.get("tests", {}),
        "all_right": shared.get("all_right", False),
    }
    return Cell(bench, arm, seed, settings)


def cells(plan: Mapping[str, Any], claims: Sequence[str] = ()) -> Iterator[Cell]:
    """List the runs that claims need, claim by claim, and of a claim seed by seed; those of controls last.

    Args:
        plan: the plan.
        claims: by name; all of them by default.

    Raises:
        EvidenceError: there is no such claim.
    """
    names = list(claims or plan["claims"])
    for name in names:
        if name not in plan["claims"]:
            raise EvidenceError(f"no claim '{name}'; there are {', '.join(plan['claims'])}")
    seen = set()
    for parts in (("baseline", "method"), ("control",)):
        for compare, seed in itertools.product((plan["claims"][name]["compare"] for name in names), plan["seeds"]):
            for arm in (compare[part] for part in parts if part in compare):
                if (compare["bench"], arm, seed) not in seen:
                    seen.add((compare["bench"], arm, seed))
                    yield cell_of(plan, compare["bench"], arm, seed)


# ---- results ------------------------------------------------------------------------------------------------------


def read_rows(path: Path = RESULTS) -> list[dict[str, Any]]:
    """Read the finished runs; none where nothing was measured yet."""
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []


def find_row(rows: Sequence[Mapping[str, Any]], cell: Cell) -> Mapping[str, Any] | None:
    """Find the row of a run; None where it is missing.

    Raises:
        EvidenceError: it was measured under another plan.
    """
    for row in rows:
        if (row["bench"], row["arm"], row["seed"]) == cell.place:
            if row["settings"] != cell.digest:
                raise EvidenceError(
                    f"{cell.name} was measured under an earlier plan: remove its row from {RESULTS.name}, or give the "
                    "arm that changed another name"
                )
            return row
    return None


def add_row(row: dict[str, Any], path: Path = RESULTS) -> None:
    """Add a finished run to the file, which is replaced in one step."""
    from fastreid_parts.files import locked, write_json

    with locked(path.parent):
        write_json(path, {"rows": [*read_rows(path), row]})


def add_curve(row: Mapping[str, Any], curve: Mapping[str, Any], path: Path = RESULTS) -> None:
    """Give the row of a run its curve."""
    from fastreid_parts.files import locked, write_json

    with locked(path.parent):
        rows = read_rows(path)
        names = ("bench", "arm", "seed")
        [own] = [one for one in rows if all(one[name] == row[name] for name in names)]
        own["curve"] = dict(curve)
        write_json(path, {"rows": rows})


def plan_commit(path: Path = PLAN) -> str:
    """Find the commit that the plan is of.

    Raises:
        EvidenceError: it was never committed, or changed since.
    """
    folder = path.parent
    git = ["git", "-C", str(folder)]
    changed = subprocess.run([*git, "status", "--porcelain", "--", path.name], capture_output=True, text=True)
    commit = subprocess.run([*git, "log", "-1", "--format=%H", "--", path.name], capture_output=True, text=True)
    if changed.returncode or commit.returncode or changed.stdout.strip() or not commit.stdout.strip():
        raise EvidenceError(f"{path.name} is not committed as it stands: a plan comes before its results")
    return commit.stdout.strip()


# ---- running ------------------------------------------------------------------------------------------------------


def measure(cell: Cell, root: Path) -> dict[str, Any]:
    """Train and evaluate one run.

    Args:
        cell: the run.
        root: the folder of all runs.

    Returns:
        Its row, without the plan's commit.
    """
    from fastreid_parts.paper_results.runner import run_variant

    result, _ = run_variant(_run_of(cell), _folder(cell, root), _trainer(cell))
    without = cell.settings.get("without", {})
    tests = {SAME: dict(result.metrics)}
    for name, changes in cell.settings["tests"].items():
        tests[name] = _tested(cell, root, name, changes)
    row = {
        "bench": cell.bench,
        "arm": cell.arm,
        "seed": cell.seed,
        "settings": cell.digest,
        "tests": tests,
        "mechanisms": {name: dict(one) for name, one in result.mechanisms.items() if name not in without},
        "seconds": result.wall_seconds,
        "resumed": result.resumed,
        "device": result.device,
        "versions": dict(result.versions),
    }
    if cell.settings["all_right"]:
        row["all_right"] = _all_right(_run_of(cell), _weights(cell, root))
    return row


def measure_curve(plan: Mapping[str, Any], row: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Evaluate a trained run at each strength of the nuisance that its bench is for, the rest as in training.

    Args:
        plan: the plan.
        row: of the run; what it has been tested at is taken from it.
        root: the folder of all runs.

    Returns:
        `nuisance`, and `mAP`: {strength: percent}.
    """
    cell = cell_of(plan, row["bench"], row["arm"], row["seed"])
    nuisance = plan["curves"]["of"][cell.bench]["nuisance"]
    key = f"{_NUISANCES}.{nuisance}"
    measured = {float(cell.settings["keys"][key]): row["tests"][SAME]["mAP"]}
    for name, changes in cell.settings["tests"].items():
        if changes.keys() == {key}:
            measured[float(changes[key])] = row["tests"][name]["mAP"]
    for strength in plan["curves"]["strengths"]:
        if strength not in measured:
            measured[strength] = _tested(cell, root, f"{key}-{strength:g}", {key: strength})["mAP"]
    return {"nuisance": nuisance, "mAP": {f"{strength:g}": measured[strength] for strength in sorted(measured)}}


def wants_curve(plan: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Tell whether the plan draws a curve of a row's run."""
    curves = plan.get("curves", {"seeds": ()})
    return row["seed"] in curves["seeds"] and row["arm"] in curves["of"].get(row["bench"], {"arms": ()})["arms"]


def curve_of(plan: Mapping[str, Any], row: Mapping[str, Any]) -> Mapping[str, float] | None:
    """Give a row's curve, {strength: mAP in percent}; None where the one that the plan has now was not measured."""
    curve = row.get("curve", {"nuisance": ""})
    if not wants_curve(plan, row) or curve["nuisance"] != plan["curves"]["of"][row["bench"]]["nuisance"]:
        return None
    wanted = [f"{strength:g}" for strength in plan["curves"]["strengths"]]
    return {strength: curve["mAP"][strength] for strength in wanted} if curve["mAP"].keys() >= set(wanted) else None


def _run_of(cell: Cell, changes: Mapping[str, Any] | None = None) -> Any:
    """The cell as a run of the ledger; with keys that are changed in its evaluation."""
    from fastreid_parts.paper_results.ledger import Variant, load_ledger
    from fastreid_parts.paper_results.runner import Run

    settings = cell.settings

    def made(variant: Variant, extra: Mapping[str, Any], trained: Run | None = None) -> Run:
        words = tuple(str(word) for pair in extra.items() for word in pair)
        config = str(variant.config).format(folder="Synthetic")
        return Run(variant, "SyntheticReID", config, dict(variant.overrides or {}), cell.seed, words, trained)

    if "config" in settings:
        variant = Variant("combined", cell.arm, "", cell.arm, {}, settings["config"])
    else:
        variant = load_ledger().variants[settings["paper"], settings["variant"]]
    trained = None
    if variant.evaluates is not None:
        trained = made(load_ledger().variants[variant.paper, variant.evaluates], settings["keys"])
    return made(variant, {**settings["keys"], **(changes or {})}, trained)


def _folder(cell: Cell, root: Path) -> Path:
    """Arms that are trained alike share a folder, so that what only evaluates finds the model of another arm."""
    keys, without = cell.settings["keys"], cell.settings.get("without", {})
    alike = [keys, without] if without else keys
    return root / cell.bench / hashlib.sha256(json.dumps(alike, sort_keys=True).encode()).hexdigest()[:12]


def _weights(cell: Cell, root: Path) -> Path:
    run = _run_of(cell)
    return (run.trained or run).folder(_folder(cell, root)) / "weights_final.pth"


def _tested(cell: Cell, root: Path, name: str, changes: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of a trained cell under changed keys."""
    from fastreid_parts.paper_results.runner import evaluate_weights

    folder = _folder(cell, root) / "tests" / name
    return evaluate_weights(_run_of(cell, changes), _weights(cell, root), folder, _trainer(cell))


def _trainer(cell: Cell) -> type:
    """What trains and evaluates a cell: models in which each mechanism of `without` has its neutral form, for good."""
    from fastreid_parts.engine import PartsTrainer
    from fastreid_parts.mechanisms import mechanisms_of, neutral_form

    without = cell.settings.get("without", {})

    class Trainer(PartsTrainer):
        forms = contextlib.ExitStack()  # never closed

        @classmethod
        def build_model(cls, cfg: Any) -> Any:
            model = super().build_model(cfg)
            found = {name: list(placed.mechanism.neutral) for name, placed in mechanisms_of(model).items()}
            if unknown := [name for name, form in without.items() if form not in found.get(name, ())]:
                raise EvidenceError(
                    f"{cell.name}: 'without' of {', '.join(unknown)} is none of the model's forms, {found}"
                )
            for mechanism, form in without.items():
                cls.forms.enter_context(neutral_form(model, mechanism, form))
            return model

    return Trainer if without else PartsTrainer


def _all_right(run: Any, weights: Path) -> float:
    """Percentage of the training images that all local classifiers, built from the features, get right."""
    from fastreid_parts.analysis.local_classifiers import build_local_classifiers, local_decisions
    from fastreid_parts.analysis.trained_models import TrainedModel, load_on_training_set

    words = [str(word) for pair in run.overrides.items() for word in pair]
    trained = TrainedModel(run.name, run.config, str(weights), [*words, *run.extra, "MODEL.BACKBONE.PRETRAIN", "False"])
    model, loader, _ = load_on_training_set(trained)
    classifiers = build_local_classifiers(model, loader, loader.dataset.num_classes, 3, run.name)
    return 100 * float(local_decisions(model, loader, classifiers, run.name).level_shares()[0])


def run(args: argparse.Namespace) -> int:
    """Measure what is missing, each run in a process of its own, several at a time."""
    wanted = list(cells(read_plan(), args.claims))
    plan_commit()  # a plan that is not committed shows before anything starts
    progress = _Progress(wanted, args.root, args.jobs)
    print(f"{progress.done()} of {len(wanted)} runs are there", flush=True)
    with ThreadPoolExecutor(args.jobs) as pool:
        for worker in [pool.submit(progress.work) for _ in range(args.jobs)]:
            worker.result()
    return 0


class _Progress:
    """What workers share, those of other calls of this script too: the rows, and who measures what."""

    def __init__(self, wanted: Sequence[Cell], root: Path, jobs: int) -> None:
        self._wanted, self._root, self._jobs = wanted, root, jobs
        self._spent: list[float] = []
        self._failed = False

    def done(self) -> int:
        """How many runs are there."""
        rows = read_rows()
        return sum(find_row(rows, cell) is not None for cell in self._wanted)

    def work(self) -> None:
        """Measure one run after the other, until none is missing.

        Raises:
            EvidenceError: a run failed.
        """
        while not self._failed and (missing := len(self._wanted) - self.done()):
            with contextlib.ExitStack() as stack:
                cell = self._choose(stack)
                if cell is None:  # others are at all that is missing
                    time.sleep(2)
                    continue
                hours = _hours(sum(self._spent) / len(self._spent) * missing / self._jobs) if self._spent else ""
                left = f", about {hours} left" if hours else ""
                print(f"[{len(self._wanted) - missing + 1}/{len(self._wanted)}] {cell.name}{left}", flush=True)
                try:
                    self._measure(cell)
                except BaseException:
                    self._failed = True
                    raise

    def _choose(self, stack: contextlib.ExitStack) -> Cell | None:
        """Hold a missing run. Arms of a bench may share a model, so only one of each seed is measured at a time."""
        rows = read_rows()
        for cell in (one for one in self._wanted if find_row(rows, one) is None):
            folder = self._root / cell.bench
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(Timeout):
                stack.enter_context(FileLock(folder / f"seed{cell.seed}.lock", timeout=0))
                if find_row(read_rows(), cell) is None:  # nobody has measured it meanwhile
                    return cell
                stack.close()
        return None

    def _measure(self, cell: Cell) -> None:
        start = time.perf_counter()
        words = [sys.executable, str(Path(__file__).resolve()), "--root", str(self._root), "one"]
        words += [cell.bench, cell.arm, str(cell.seed), "--until-stdin-closes"]
        log = self._root / cell.bench / f"{cell.arm}-{cell.seed}.txt"
        threads = str(max(1, (os.cpu_count() or 1) // self._jobs))
        with open(log, "a", encoding="utf-8") as file:
            own = {"OMP_NUM_THREADS": threads, **os.environ}
            code = subprocess.call(words, stdin=subprocess.PIPE, stdout=file, stderr=file, env=own)
        if code:
            raise EvidenceError(f"{cell.name} failed: {log} says why")
        self._spent.append(time.perf_counter() - start)
        row = find_row(read_rows(), cell)
        assert row is not None
        shown = ", ".join(f"{name} {result['mAP']:.2f}" for name, result in row["tests"].items())
        print(f"    {cell.name}: mAP {shown}; {self._spent[-1]:.0f} s", flush=True)


def _stop_with_stdin() -> None:
    """End this process as SIGTERM does, a training at its next iteration, when whoever holds its stdin has gone."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1024):  # not sys.stdin.read: its lock, held here, would abort a normal exit
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def one(args: argparse.Namespace) -> int:
    """Measure one run, and add its row."""
    if args.until_stdin_closes:
        _stop_with_stdin()
    plan = read_plan()
    cell = cell_of(plan, args.bench, args.arm, args.seed)
    if args.dry:
        print(json.dumps(cell.settings, indent=2))
        return 0
    counts = args.seed in plan["seeds"]
    commit = plan_commit() if counts else ""
    config = _config_digest(cell)
    if counts:
        _check_seeds(cell, config)
    row = {**measure(cell, args.root), "config": config}
    if wants_curve(plan, row):
        row["curve"] = measure_curve(plan, row, args.root)
    if counts:
        date = datetime.now().astimezone().isoformat(timespec="seconds")
        add_row({**row, "plan": commit, "date": date})
    else:
        print(json.dumps(row, indent=2))  # of a trial that is no evidence
    return 0


def _config_digest(cell: Cell) -> str:
    """SHA-256 of the keys that a run has otherwise than by default, but for the seed and what decides no result."""
    from fastreid.config import get_cfg

    from fastreid_parts.folders import NEUTRAL_KEYS, dumped_keys
    from fastreid_parts.paper_results.runner import make_config

    own, default = (dumped_keys(cfg) for cfg in (make_config(_run_of(cell), ""), get_cfg()))
    left_out = {*NEUTRAL_KEYS, "SEED"}
    chosen = {key: value for key, value in own.items() if key not in left_out and value != default.get(key)}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]


def _check_seeds(cell: Cell, config: str) -> None:
    """Refuse a run that is measured, or whose other seeds are of another config under the same name."""
    rows = read_rows()
    if find_row(rows, cell):
        raise EvidenceError(f"{cell.name} is measured: remove its row from {RESULTS.name} to measure it anew")
    others = [row for row in rows if (row["bench"], row["arm"]) == (cell.bench, cell.arm)]
    if changed := [str(row["seed"]) for row in others if row.get("config", config) != config]:
        raise EvidenceError(
            f"{cell.bench}/{cell.arm} is another config than with the seeds {', '.join(changed)}: its variant or its "
            f"config file has changed. Remove their rows from {RESULTS.name}, or give the arm another name"
        )


def curves(args: argparse.Namespace) -> int:
    """Measure the curves that are missing, of the models that are there."""
    plan = read_plan()
    for row in read_rows():
        if not wants_curve(plan, row) or curve_of(plan, row):
            continue
        cell = cell_of(plan, row["bench"], row["arm"], row["seed"])
        if not _weights(cell, args.root).is_file():
            print(f"{cell.name}: its model is not in {args.root}")
            continue
        curve = measure_curve(plan, row, args.root)
        add_curve(row, curve)
        at = ", ".join(f"{strength}: {value:.2f}" for strength, value in curve["mAP"].items())
        print(f"{cell.name}, {curve['nuisance'].lower()} {at}", flush=True)
    return 0


def show(args: argparse.Namespace) -> int:
    """Say for each claim how many of its runs are there."""
    plan, rows = read_plan(), read_rows()
    for name in plan["claims"]:
        needed = list(cells(plan, [name]))
        there = sum(find_row(rows, cell) is not None for cell in needed)
        print(f"{there:3} of {len(needed)}  {name}: {plan['claims'][name]['says']}")
    return 0


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.0f} min"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = "the folder of trained models (default: logs/evidence)"
    parser.add_argument("--root", type=Path, default=ROOT / "logs/evidence", help=text)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    everything = commands.add_parser("run", help="measure everything that is missing")
    everything.add_argument("--claims", nargs="+", default=[], help="only what these need")
    everything.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores (default: 1)")
    everything.set_defaults(do=run)
    text = "measure the curves that rows have not, of models that are there"
    commands.add_parser("curves", help=text).set_defaults(do=curves)
    commands.add_parser("list", help="say what is there").set_defaults(do=show)
    single = commands.add_parser("one", help="measure one run; with a seed that is not the plan's it is printed alone")
    for word, kind in (("bench", str), ("arm", str), ("seed", int)):
        single.add_argument(word, type=kind)
    single.add_argument("--until-stdin-closes", action="store_true", help="stop then, as with SIGTERM")
    single.add_argument("--dry", action="store_true", help="print its settings")
    single.set_defaults(do=one)
    args = parser.parse_args(argv)
    if getattr(args, "jobs", 1) < 1:
        parser.error("--jobs is at least 1")
    try:
        return args.do(args)
    except EvidenceError as error:
        print(f"evidence: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("evidence: interrupted; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
