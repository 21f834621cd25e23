"""Reproduce the papers' reported results: list, run, check and send them, and check others'.

    fastreid-parts reproduce list --paper cmbn --table "Table 4"
    fastreid-parts reproduce show baseline_rb_mg_cds --dataset Market1501
    fastreid-parts reproduce run --paper cmbn --table "Table 4" --dataset Market1501 --seed 0 1 2
    fastreid-parts reproduce run baseline --paper cmbn --dataset Synthetic --opts MODEL.DEVICE cpu
    fastreid-parts reproduce check --paper cmbn
    fastreid-parts reproduce table --paper cmbn --table "Table 4"
    fastreid-parts reproduce submit baseline_rb_mg_cds --paper cmbn --dataset Market1501 --by "A. Name"
    fastreid-parts reproduce verify cmbn-Market1501-baseline_rb_mg_cds-seed0.zip --accept

Runs land in RESULTS/<paper>/<dataset>/<variant>/seed<k>/; one that is finished is skipped, one that was
interrupted goes on. `submit` packs a finished one into a file of some hundred kB; `verify` computes its metrics anew
from the ranks in it, refuses what does not fit together, and with --accept keeps it in RESULTS/submitted, for `table`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from ..arguments import add_opts, not_negative, output_file
from ..config import word_pairs
from ..engine.checks import check_training
from ..folders import NEUTRAL_KEYS
from ..paper_results.compare import compare, markdown_table, order_note, summarize
from ..paper_results.ledger import CHECKED, Ledger, LedgerError, Row, load_ledger
from ..paper_results.runner import make_config, plan_runs, run_variant
from ..paper_results.submissions import (
    Submission,
    Verdict,
    accept,
    check_text,
    default_name,
    pack,
    read_submission,
    submitted,
    verify,
)
from ..paper_results.tolerances import printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the commands on the ledger."""
    commands = parser.add_subparsers(dest="command", required=True)
    selection = argparse.ArgumentParser(add_help=False)
    selection.add_argument("--paper", help="a paper of the ledger, as `list` names it")
    selection.add_argument("--table", help='as printed: "Table 4"')
    selection.add_argument("--dataset", help="its name or its folder below configs/: Market1501 or Market")
    results = argparse.ArgumentParser(add_help=False)
    results.add_argument("--output", default="results", type=Path, help="the results folder (default: results)")

    def add(name: str, do: object, help: str, parents: Sequence[argparse.ArgumentParser]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help, parents=list(parents))
        command.set_defaults(do=do)
        return command

    add("list", _list, "List reported results.", [selection])
    show = add("show", _show, "Show one variant: config, overrides, ranges, notes, runs.", [selection, results])
    show.add_argument("variant", help="as `list` names it")
    run = add("run", _run, "Train and evaluate variants.", [selection, results])
    run.add_argument("variant", nargs="*", help="variants; all of the selection by default")
    run.add_argument("--seed", type=not_negative, nargs="+", default=[0], help="one run a seed (default: 0)")
    run.add_argument("--dry-run", action="store_true", help="say what would run")
    add_opts(run, "in all runs")
    add("check", _check, "Hold measured results against the ranges.", [selection, results])
    add("table", _table, "Paper and ours beside each other, as markdown, and what others sent.", [selection, results])
    submit = add("submit", _submit, "Pack a finished run into a file that others can check.", [selection, results])
    submit.add_argument("variant", help="as `list` names it")
    submit.add_argument("--seed", type=not_negative, default=0, help="of the run (default: 0)")
    submit.add_argument("--by", required=True, metavar="NAME", help="who sends it: stands beside the result")
    submit.add_argument("--source", default="", metavar="URL", help="a page that says more, such as an issue")
    submit.add_argument("--file", type=output_file, help="what to write (default: PAPER-DATASET-VARIANT-seedK.zip)")
    add_opts(submit, "in this evaluation, such as MODEL.DEVICE")
    check = add("verify", _verify, "Check files that `submit` wrote, and say what cannot be checked here.", [results])
    check.add_argument("files", nargs="+", type=Path, metavar="FILE", help="submitted files")
    check.add_argument("--weights", metavar="FILE", help="weights of the one run, to evaluate them once more")
    check.add_argument("--accept", action="store_true", help="keep them in RESULTS/submitted, for `table`")
    add_opts(check, "in the evaluation of --weights, such as MODEL.DEVICE")


def run(args: argparse.Namespace) -> int | None:
    """Do what the command on the ledger says.

    Returns:
        1 where `check` finds a number out of its range.

    Raises:
        OSError: a config or a weights file is not there.
        KeyError: a key does not exist.
        ValueError: the request makes no sense.
    """
    return args.do(load_ledger(), args)


# ---- selecting ---------------------------------------------------------------------------------------------


def _select(ledger: Ledger, args: argparse.Namespace, names: Sequence[str] = ()) -> tuple[list[Row], str | None]:
    """The rows asked for, and the dataset that stands in for theirs (one that no paper reports on)."""
    dataset = None if args.dataset is None else ledger.dataset_name(args.dataset)
    stand_in = dataset if dataset is not None and "queries" not in ledger.datasets[dataset] else None
    rows = ledger.select(args.paper, args.table, None if stand_in else dataset)
    if stand_in:  # a transfer is from one of the papers' datasets to another
        rows = [row for row in rows if row.variant.train_on is None]
    if args.paper is not None and args.paper not in ledger.papers:
        raise ValueError(f"no paper '{args.paper}'; the ledger has {', '.join(ledger.papers)}")
    if args.table is not None and not ledger.select(args.paper, args.table):
        sources = dict.fromkeys(f"{row.paper} {row.source}" for row in ledger.select(args.paper))
        raise ValueError(f"no source '{args.table}'; the ledger has {', '.join(sources)}")
    for name in names:
        if not any(row.variant.name == name for row in rows):
            known = ", ".join(dict.fromkeys(row.variant.name for row in rows)) or "no variants"
            raise ValueError(f"no variant '{name}' in this selection, which has {known}")
    if names:
        rows = [row for row in rows if row.variant.name in names]
    if not rows:
        raise ValueError("the ledger has no row for this selection; `list` shows them")
    return rows, stand_in


def _config(ledger: Ledger, row: Row, dataset: str | None = None) -> str:
    try:
        return ledger.config_of(row.variant, dataset or row.dataset)
    except LedgerError:
        return "not built"


# ---- the commands ------------------------------------------------------------------------------------------


def _list(ledger: Ledger, args: argparse.Namespace) -> None:
    rows, stand_in = _select(ledger, args)
    table = [
        [row.paper, row.source, row.variant.name, stand_in or row.dataset]
        + ["" if stand_in else printed(row.metrics[metric]) for metric in CHECKED]
        + [_config(ledger, row, stand_in)]
        for row in rows
    ]
    print(tabulate(table, ["paper", "source", "variant", "dataset", "mAP", "Rank-1", "config"], disable_numparse=True))
    built = sum(row.variant.built for row in rows)
    print(f"\n{len(rows)} rows, {built} of built methods.")


def _show(ledger: Ledger, args: argparse.Namespace) -> None:
    rows, stand_in = _select(ledger, args, [args.variant])
    for paper in dict.fromkeys(row.paper for row in rows):
        own = [row for row in rows if row.paper == paper]
        variant = own[0].variant
        print(f"{paper}/{variant.name}: {variant.description}")
        if variant.run_name != variant.name:
            print(f"  the same model as {variant.run_name}, trained once")
        if variant.evaluates is not None:
            source = "" if variant.train_on is None else f", trained on {ledger.measured_on(variant.train_on)}"
            print(f"  evaluates the trained model of {variant.evaluates}{source}")
        print(f"  pre-training {variant.pretrain}, re-ranking {'yes' if variant.rerank else 'no'}")
        if not variant.built:
            print("  not built yet")
        for key, value in (variant.overrides or {}).items():
            print(f"  override {key} {value}")
        for row in own:
            _show_row(ledger, row, stand_in, args.output)


def _show_row(ledger: Ledger, row: Row, stand_in: str | None, root: Path) -> None:
    dataset = stand_in or row.dataset
    read = ledger.measured_on(dataset)
    print(f"\n  {row.source}, row '{row.label}', {dataset}" + ("" if read == dataset else f", measured on {read}"))
    print(f"    config {_config(ledger, row, stand_in)}")
    if stand_in is None:
        for metric in CHECKED:
            limits = row.ranges[metric]
            print(f"    {metric} {printed(limits.reported)}, tolerated {limits.low:.1f} to {limits.high:.1f}")
        print(f"    {row.reason}")
        for note in row.notes:
            print(f"    note: {note}")
    summary = summarize(root, row.paper, dataset, row.variant.run_name)
    if summary.seeds:
        seeds = ", ".join(map(str, summary.seeds))
        print(f"    ours: mAP {summary.shown('mAP')}, rank1 {summary.shown('rank1')} with seed {seeds}")
        if summary.idle:
            print(f"    idle: {summary.shown_idle()}, so that the number is not one of this mechanism")
    else:
        print(f"    ours: not measured in {root}")


def _run(ledger: Ledger, args: argparse.Namespace) -> None:
    if not (args.variant or args.paper or args.table or args.dataset):
        raise ValueError("name a variant, or select with --paper, --table, --dataset; `list` shows what there is")
    rows, stand_in = _select(ledger, args, args.variant)
    built = [row for row in rows if row.variant.built]
    left_out = dict.fromkeys(f"{row.paper}/{row.variant.name}" for row in rows if not row.variant.built)
    if not built or (args.variant and left_out):
        raise ValueError(f"not built yet: {', '.join(left_out)}")
    if left_out:
        print(f"Left out, because not built yet: {', '.join(left_out)}")
    runs = plan_runs(ledger, built, args.seed, stand_in, args.opts)
    for needed in [one for run in runs for one in (run.trained, run) if one is not None]:
        cfg = make_config(needed, needed.folder(args.output))
        if not args.dry_run:
            check_training(cfg)
    for number, run in enumerate(runs, start=1):
        of = "" if run.trained is None else f", the model of {run.trained.name}"
        print(f"[{number}/{len(runs)}] {run.name}: {run.config} {run.folder(args.output)}{of}", flush=True)
        if args.dry_run:
            continue
        result, was_there = run_variant(run, args.output)
        how = "done already" if was_there else f"{result.wall_seconds:.0f} s"
        numbers = f"mAP {result.metrics['mAP']:.1f}, Rank-1 {result.metrics['rank1']:.1f}"
        idle = f", idle: {', '.join(result.idle)}" if result.idle else ""
        print(f"[{number}/{len(runs)}] {run.name}: {numbers} ({how}){idle}", flush=True)


def _check(ledger: Ledger, args: argparse.Namespace) -> int:
    rows, stand_in = _select(ledger, args)
    if stand_in is not None:
        raise ValueError(f"no paper reports results on {stand_in}: there is nothing to check")
    comparisons = compare([row for row in rows if row.variant.built], args.output)
    for comparison in comparisons:
        print(comparison)
    verdicts = [comparison.verdict for comparison in comparisons]
    kinds = ("within", "below", "above", "missing", "departs")
    print("\n" + ", ".join(f"{verdicts.count(kind)} {kind}" for kind in kinds))
    print(f"{sum(not row.variant.built for row in rows)} rows of methods that are not built yet were left out.")
    return 1 if any(comparison.misses for comparison in comparisons) else 0


def _table(ledger: Ledger, args: argparse.Namespace) -> None:
    rows, stand_in = _select(ledger, args)
    print(markdown_table(rows, args.output, stand_in))
    if stand_in is not None:
        note = order_note(rows, args.output, stand_in)
        print(f"\nNo paper reports results on {stand_in}." + (f"\n{note}" if note else ""))
    if sent := _submitted_table(ledger, rows, stand_in, args.output):
        print(f"\nSent by others, computed anew from the ranks that they sent:\n\n{sent}")


def _submitted_table(ledger: Ledger, rows: Sequence[Row], stand_in: str | None, root: Path) -> str:
    """Markdown of the accepted submissions among the rows' runs; empty where there is none."""
    wanted = {(row.paper, row.variant.run_name, stand_in or row.dataset) for row in rows}
    lines, sent = [], [read_submission(path) for path in submitted(root)]
    for one in sent:
        run = one.measured
        if (run.paper, run.variant, run.dataset) not in wanted:
            continue
        verdict = verify(one, ledger, sent, look_for_dataset=False)
        held = ", ".join(dict.fromkeys(f"{held.metric} {held.verdict}" for held in verdict.comparisons))
        numbers = [f"{one.metrics[metric]:.1f}" for metric in CHECKED]
        by = one.described["by"] + (f", {one.described['source']}" if one.described["source"] else "")
        by, idle = (re.sub(r"([\\|])", r"\\\1", text) for text in (by, ", ".join(run.idle)))  # a cell stays one
        lines.append([run.paper, run.variant, run.dataset, run.seed, *numbers, held, idle, by, one.path.name])
    header = ["Paper", "Variant", "Dataset", "Seed", "mAP", "Rank-1", "Range", "Idle", "By", "File"]
    return tabulate(lines, header, tablefmt="github", disable_numparse=True) if lines else ""


def _submit(ledger: Ledger, args: argparse.Namespace) -> None:
    _check_neutral(args.opts)
    check_text("by", args.by)
    check_text("source", args.source)
    rows, stand_in = _select(ledger, args, [args.variant])
    runs = plan_runs(ledger, [row for row in rows if row.variant.built], [args.seed], stand_in, args.opts)
    if len(runs) != 1:
        found = ", ".join(run.name for run in runs) or f"{args.variant} is not built yet"
        raise ValueError(f"one run a file, name its --paper and --dataset: {found}")
    one = pack(runs[0], ledger, args.output, Path(args.file or default_name(runs[0])), args.by, args.source)
    try:
        _say(one, verify(one, ledger, look_for_dataset=False))
    except ValueError:
        one.path.unlink()  # nobody would take it
        raise
    print(f"\nSubmission: {one.path}, {one.path.stat().st_size / 1000:.0f} kB")


def _verify(ledger: Ledger, args: argparse.Namespace) -> None:
    _check_neutral(args.opts)
    if args.weights and len(args.files) != 1:
        raise ValueError("--weights are those of one run: name one file")
    kept = [read_submission(path) for path in submitted(args.output)]
    for path in args.files:
        one = read_submission(path)
        _say(one, verify(one, ledger, kept, args.weights, args.opts))
        if args.accept:
            place = accept(one, args.output)
            kept.append(one)  # the next file must be of the same test images
            print(f"\nKept: {place}")


def _check_neutral(opts: Sequence[str]) -> None:
    changing = [key for key, _ in word_pairs(opts) if key not in NEUTRAL_KEYS]
    if changing:
        raise ValueError(
            f"{', '.join(changing)} would make it another experiment: --opts says where and how fast it runs"
        )


def _say(one: Submission, verdict: Verdict) -> None:
    print(f"{one.path.name}: {one.name}, by {one.described['by']}, {one.described['date']}")
    print("\n".join(f"  {name} {value:.2f}" for name, value in one.metrics.items()))
    print("\n".join([*(f"  ok: {line}" for line in verdict.checked), *(f"  open: {line}" for line in verdict.open)]))
    print("\n".join(f"  {held}" for held in verdict.comparisons) or "  no paper reports on this dataset")
    if one.measured.idle:
        print(f"  idle: {', '.join(one.measured.idle)}, so that the number is not one of this mechanism")
