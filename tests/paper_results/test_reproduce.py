"""The reproduce command."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import yaml

from fastreid_parts import paper_results
from fastreid_parts.commands import reproduce
from fastreid_parts.paper_results import Ledger, load_ledger

from ..commands.run import run
from .results import write_result

TABLE_4 = ["--paper", "cmbn", "--table", "Table 4"]


def rules():
    return yaml.safe_load((Path(paper_results.__file__).parent / "rules.yml").read_text())


def call(capsys, *words):
    answer = run(capsys, "reproduce", *words, code=None)
    return answer.code, answer.out + answer.err


def test_list_everything(capsys):
    code, out = call(capsys, "list")
    assert code == 0
    rows = load_ledger().rows
    built = sum(row.variant.built for row in rows)
    assert f"{len(rows)} rows, {built} of built methods." in out and built >= 265
    assert out.count("not built") == len(rows) - built


def test_list_a_selection(capsys):
    code, out = call(capsys, "list", *TABLE_4, "--dataset", "Duke")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert ["cmbn", "Table", "4", "baseline", "DukeMTMC", "62.3", "80.2", "Duke/cmbn.yml"] in lines
    assert out.count("DukeMTMC") == 5 and "Market1501" not in out


def test_list_on_the_generated_dataset_has_no_numbers(capsys):
    _, out = call(capsys, "list", *TABLE_4, "--dataset", "Synthetic")
    assert "Synthetic/cmbn.yml" in out and "70.7" not in out


def test_show(capsys, tmp_path):
    limits = load_ledger().select(paper="cmbn", source="Table 4", variant="baseline_mg")[0].ranges["mAP"]
    write_result(tmp_path, "baseline_mg", mAP=77.7, rank1=90.0)
    code, out = call(capsys, "show", "baseline_mg", "--paper", "cmbn", "--output", tmp_path)
    assert code == 0
    assert "override MODEL.CMBN.REVERSAL_BRANCH False" in out
    assert f"mAP 78.9, tolerated {limits.low:.1f} to {limits.high:.1f}" in out
    assert "3368 queries" in out and "because total epochs" in out
    assert "note: Rank-1 84.8 ties the full CMBN." in out
    assert "ours: mAP 77.7, rank1 90.0 with seed 0" in out
    assert out.count("not measured") == 3


def test_show_what_is_an_alias(capsys):
    _, out = call(capsys, "show", "bot_logits_level", "--paper", "cge")
    assert "the same model as bot, trained once" in out and "Market/cge_bot.yml" in out
    assert "override MODEL.HEADS.NAME GlobalHead" in out and "not built yet" not in out


def test_show_what_evaluates_the_model_of_another(capsys):
    _, out = call(capsys, "show", "single_local_2_rm", "--paper", "rrid")
    assert "evaluates the trained model of gcp_rm_p6" in out
    assert "override TEST.FEATURES ['part_2_of_6']" in out and "Market/rrid_s.yml" in out
    _, out = call(capsys, "show", "2s3s_rp_abp_rsa_from_Market1501", "--paper", "rmgl")
    assert "evaluates the trained model of 2s3s_rp_abp_rsa, trained on Market1501" in out
    assert "CUHK03NP_unspecified, measured on CUHK03NP_labeled" in out and "DukeMTMC, measured" not in out


def test_a_dry_run_of_a_transfer_says_whose_model_it_evaluates(capsys, tmp_path):
    code, out = call(capsys, "run", "--paper", "rmgl", "--table", "Table IV", "--dry-run", "--output", tmp_path)
    lines = [line for line in out.splitlines() if line.startswith("[")]
    assert code == 0 and len(lines) == 9
    assert lines[0].endswith(
        f"Market/rmgl.yml {tmp_path}/rmgl/DukeMTMC/2s3s_rp_abp_rsa_from_Market1501/seed0, the model of "
        "rmgl/Market1501/2s3s_rp_abp_rsa, seed 0"
    )


def test_a_stand_in_has_no_transfers(capsys):
    _, out = call(capsys, "list", "--paper", "rmgl", "--dataset", "Synthetic")
    assert "Synthetic/rmgl.yml" in out and "_from_" not in out


def test_dry_run_names_every_run(capsys, tmp_path):
    code, out = call(
        capsys, "run", *TABLE_4, "--dataset", "Synthetic", "--seed", 0, 1, "--dry-run", "--output", tmp_path
    )
    assert code == 0
    lines = [line for line in out.splitlines() if line.startswith("[")]
    assert len(lines) == 10
    assert f"Synthetic/cmbn.yml {tmp_path}/cmbn/SyntheticReID/baseline_rb_mg_cds/seed1" in lines[-1]
    assert not list(tmp_path.iterdir())
    code, out = call(capsys, "run", *TABLE_4, "--dataset", "Synthetic", "--seed", -1, "--dry-run", "--output", tmp_path)
    assert code == 2 and "--seed: must be at least 0, got '-1'" in out


def test_run_trains_and_then_skips(capsys, tmp_path, monkeypatch):
    given = []

    def run_variant(run, root):
        given.append((run.variant.name, run.seed, run.extra, root))
        measured = write_result(root, run.variant.name, run.dataset, run.seed) if len(given) == 1 else None
        return measured or given_result, len(given) > 1

    given_result = write_result(tmp_path / "other")
    monkeypatch.setattr(reproduce, "run_variant", run_variant)
    words = ["run", "baseline", "--paper", "cmbn", "--dataset", "Market", "--output", tmp_path]
    code, out = call(capsys, *words, "--opts", "MODEL.DEVICE", "cpu")
    assert code == 0 and "mAP 70.7, Rank-1 89.5 (1 s)" in out
    assert given == [("baseline", 0, ("MODEL.DEVICE", "cpu"), tmp_path)]
    code, out = call(capsys, *words)
    assert code == 0 and "(done already)" in out


def test_check_fails_out_of_range_only(capsys, tmp_path):
    words = ["check", *TABLE_4, "--dataset", "Market1501", "--output", tmp_path]
    code, out = call(capsys, *words)
    assert code == 0 and "10 missing" in out
    write_result(tmp_path, "baseline")
    code, out = call(capsys, *words)
    assert code == 0 and "2 within, 0 below, 0 above, 8 missing" in out
    write_result(tmp_path, "baseline_mg", mAP=60.0, rank1=99.0)
    code, out = call(capsys, *words)
    assert code == 1 and "2 within, 1 below, 1 above, 6 missing" in out
    assert "cmbn/Table 4/baseline_mg/Market1501 mAP: 60.0 is below; reported 78.9" in out
    assert "rank1: 99.0 is above; reported 91.7" in out


def test_what_is_not_built_is_left_out(capsys, tmp_path, monkeypatch):
    papers = {paper: copy.deepcopy(document) for paper, document in load_ledger().papers.items()}
    del papers["rmgl"]["config"]
    ledger = Ledger.from_documents(rules(), papers.values())
    monkeypatch.setattr(reproduce, "load_ledger", lambda: ledger)
    _, out = call(capsys, "list")
    built = sum(row.variant.built for row in ledger.rows)
    assert f"{len(ledger.rows)} rows, {built} of built methods." in out
    assert out.count("not built") == len(ledger.rows) - built >= 84
    _, out = call(capsys, "show", "2s3s_rp_abp_rsa", "--paper", "rmgl")
    assert "not built yet" in out
    code, out = call(capsys, "check", "--paper", "rmgl", "--output", tmp_path)
    assert code == 0 and "86 rows of methods that are not built yet were left out." in out
    code, out = call(capsys, "run", "--paper", "rmgl")
    assert code == 2 and "not built yet: rmgl/2s3s_rp_abp_rsa" in out


def test_table(capsys, tmp_path):
    write_result(tmp_path, "baseline", "SyntheticReID", mAP=44.0, rank1=55.0)
    write_result(tmp_path, "baseline_rb", "SyntheticReID", mAP=45.0, rank1=56.0)
    code, out = call(capsys, "table", *TABLE_4, "--dataset", "Synthetic", "--output", tmp_path)
    assert code == 0
    assert "| cmbn, Table 4 | baseline | SyntheticReID |  | 44.0 |  | 55.0 | 0 |" in out
    assert "No paper reports results on SyntheticReID." in out
    assert "By mAP the variants stand in the paper's order for Market1501." in out
    code, out = call(capsys, "table", *TABLE_4, "--output", tmp_path)
    assert "| cmbn, Table 4 | BaseLine+RB | DukeMTMC | 67.5 |  | 84.1 |  |  |" in out
    assert "44.0" not in out


def test_missing_weights_stop_before_anything_trains(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "run_variant", lambda *_: pytest.fail("trained"))
    words = ["run", "--paper", "cge", "--table", "Table 9", "--dataset", "Market", "--output", tmp_path]
    code, out = call(capsys, *words)
    assert code == 2 and "PRETRAIN_PATH luperson/resnet50 is not here" in out
    assert "https://github.com/DengpanFu/LUPerson" in out
    code, out = call(capsys, *words, "--dry-run")
    assert code == 0 and "Market/cge_upt_agw.yml" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "name a variant, or select with"),
        (["run", "baselin", "--paper", "cmbn"], "no variant 'baselin' in this selection, which has baseline"),
        (["run", "2s3s_rp_abp_rsa_from_MSMT17", "--dataset", "Synthetic"], "no variant '2s3s_rp_abp_rsa_from_MSMT17'"),
        (["run", "baseline", "--opts", "SOLVER.MAX_EPOCH"], "'SOLVER.MAX_EPOCH' has no value"),
        (["run", "baseline", "--dataset", "MSMT17"], "no row for this selection|no variant 'baseline'"),
        (["run", "baseline", "--dry-run", "--opts", "SOLVER.MAX_EPOCHS", "3"], "SOLVER.MAX_EPOCHS"),
        (["list", "--paper", "mgn"], "no paper 'mgn'; the ledger has"),
        (["list", "--table", "Table 99"], "no source 'Table 99'; the ledger has"),
        (["show", "x"], "no variant 'x'"),
        (["check", "--dataset", "Synthetic"], "nothing to check"),
        (["check", "--opts", "MODEL.DEVICE", "cpu"], "unrecognized arguments: --opts"),
        (["table", "--dataset", "Makret"], "no dataset 'Makret' in the ledger"),
    ],
)
def test_a_request_that_makes_no_sense_is_explained(capsys, words, message):
    code, out = call(capsys, *words)
    assert code == 2
    assert re.search(message, out), out


def test_a_damaged_result_is_named(capsys, tmp_path):
    write_result(tmp_path, "baseline")
    path = tmp_path / "cmbn" / "Market1501" / "baseline" / "seed0" / "result.json"
    path.write_text("{")
    code, out = call(capsys, "check", "--paper", "cmbn", "--output", tmp_path)
    assert code == 2 and f"{path} is no usable result" in out
