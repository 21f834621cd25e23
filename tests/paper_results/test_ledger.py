"""The ledger is well-formed, agrees with the papers' texts and names configs and keys that exist."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path

import pytest
import yaml
from torch import nn

import fastreid_parts  # noqa: F401  the plugin's config keys
from fastreid_parts import paper_results
from fastreid_parts.config import find_config
from fastreid_parts.data.datasets import cuhk03_np
from fastreid_parts.engine.solver import parameter_settings
from fastreid_parts.paper_results import Ledger, LedgerError, load_ledger
from fastreid_parts.paper_results.runner import make_config, plan_runs
from fastreid_parts.paper_results.tolerances import printed
from fastreid_parts.pedestrians import SCALES

ROWS = load_ledger().rows
BUILT = [row for row in ROWS if row.variant.built]
FOLDER = Path(paper_results.__file__).parent
CHECKOUT = Path(__file__).resolve().parents[2]
TEXTS = Path(os.environ.get("FASTREID_PARTS_PAPERS", CHECKOUT.parent / "shared" / "papers"))


def documents():
    rules = yaml.safe_load((FOLDER / "rules.yml").read_text())
    return rules, {paper: copy.deepcopy(document) for paper, document in load_ledger().papers.items()}


@pytest.mark.parametrize(("paper", "rows"), [("cmbn", 27), ("cge", 72), ("rrid", 77), ("can", 20), ("rmgl", 86)])
def test_it_holds_every_reported_result(paper, rows):
    assert len(load_ledger().select(paper=paper)) == rows


def test_rows_have_names_of_their_own():
    assert len({row.id for row in ROWS}) == len(ROWS)
    assert sum(row.source != "Other readings" for row in ROWS) == 265  # that the papers print


def test_metrics_are_percentages_in_an_order_that_makes_sense():
    for row in ROWS:
        assert all(0 < value <= 100 for value in row.metrics.values()), row.id
        ranks = [row.metrics[name] for name in ("rank1", "rank3", "rank5", "rank10") if name in row.metrics]
        assert ranks == sorted(ranks), row.id


def test_every_variant_is_used_and_every_alias_leads_to_one():
    used = {(row.paper, row.variant.name) for row in ROWS}
    used |= {(row.paper, row.variant.run_name) for row in ROWS}
    assert used == set(load_ledger().variants)


def test_cmbn_is_built_with_all_its_variants():
    built = {row.variant.name for row in BUILT if row.paper == "cmbn" and row.source != "Other readings"}
    assert built == {"baseline", "baseline_rb", "baseline_mg", "baseline_rb_mg", "baseline_rb_mg_cds"}


def test_cge_is_built_with_all_its_variants():
    variants = [variant for (paper, _), variant in load_ledger().variants.items() if paper == "cge"]
    assert len(variants) == 43 and all(variant.built for variant in variants)
    assert all(("upt" in v.config) == (v.pretrain == "luperson") for v in variants)


def test_rrid_is_built_with_all_its_variants():
    variants = {name: v for (paper, name), v in load_ledger().variants.items() if paper == "rrid"}
    assert len(variants) == 30 and all(variant.built for variant in variants.values())
    assert sum(variant.evaluates is None for variant in variants.values()) == 14
    assert all((v.config == "{folder}/rrid_f.yml") == (v.feature_dim == 3840) for v in variants.values())


def test_another_reading_is_held_against_the_number_of_its_row():
    for row in (row for row in ROWS if row.source == "Other readings"):
        same = [one for one in ROWS if (one.paper, one.label, one.dataset) == (row.paper, row.label, row.dataset)]
        assert any(row.metrics.items() <= one.metrics.items() for one in same if one.source != row.source), row.id


@pytest.mark.parametrize("model", ["cge_bot", "cge_agw", "cge_upt_bot", "cge_upt_agw"])
def test_other_features_at_test_are_of_the_same_training(model):
    variants = {name: v for (paper, name), v in load_ledger().variants.items() if paper == "cge"}
    for reading, overrides in {
        "cosine": {"TEST.METRIC": "cosine"},
        "bnneck": {"TEST.METRIC": "cosine", "MODEL.HEADS.TEST_FEAT": "after"},
    }.items():
        variant = variants[f"{model}_{reading}"]
        assert (variant.evaluates, variant.overrides, variant.config) == (model, overrides, variants[model].config)


def test_weight_decay_of_another_reading_is_that_of_every_parameter(tmp_path):
    for paper, name, decay in (("can", "can_decay", 5e-4), ("cmbn", "baseline_rb_mg_cds_no_decay", 0)):
        [run] = plan_runs(load_ledger(), load_ledger().select(paper=paper, variant=name))
        model = nn.ModuleDict({"layer": nn.Linear(1, 1), "norm": nn.BatchNorm2d(1)})
        cfg = make_config(run, tmp_path)
        cfg.defrost()
        cfg.MODEL.FREEZE_LAYERS = []
        assert {one["weight_decay"] for one in parameter_settings(cfg, model)} == {decay}, name


def test_single_features_are_of_a_model_that_has_them():
    """Table 3: with relation module and without it; Table 4: the four rows of Table 2 whose pooling it names."""
    variants = {name: v for (paper, name), v in load_ledger().variants.items() if paper == "rrid"}
    for name, variant in variants.items():
        if name.startswith("single_local"):
            assert variant.evaluates == ("gmp_p6" if name.endswith("no_rm") else "gcp_rm_p6")
            assert variant.overrides["TEST.FEATURES"] == [f"part_{name.split('_')[2]}_of_6"]
        elif name.startswith("single_global"):
            pool = name[len("single_global_") :]
            assert variant.evaluates == f"{pool}_rm_p6" and variant.overrides["TEST.FEATURES"] == ["global_of_6"]
            assert variant.overrides.get("MODEL.RRID.GLOBAL_POOL", "gcp") == pool
        else:
            assert variant.evaluates is None and "TEST.FEATURES" not in variant.overrides


def test_can_is_built_with_all_its_variants():
    variants = {name: v for (paper, name), v in load_ledger().variants.items() if paper == "can"}
    assert len(variants) == 17 and all(variant.built for variant in variants.values())
    for name, variant in variants.items():
        parts = [int(n) for n in name.split("_") if n.isdigit()] or [1, 3, 5, 7]
        assert variant.overrides["MODEL.CAN.PARTS"] == parts
        assert variant.overrides.get("MODEL.CAN.COLLABORATIVE_ATTENTION", True) is not name.endswith("no_ca")


def test_rmgl_is_built_with_all_its_variants(tmp_path):
    """Each name of a variant says what its config must have."""
    variants = {name: v for (paper, name), v in load_ledger().variants.items() if paper == "rmgl"}
    assert len(variants) == 38 and all(variant.built for variant in variants.values())
    assert sum(variant.evaluates is None for variant in variants.values()) == 28
    runs = {run.variant.name: run for run in plan_runs(load_ledger(), load_ledger().select(paper="rmgl"))}
    assert set(runs) == set(variants)
    for name, run in runs.items():
        cfg = make_config(run, tmp_path)
        stripes, *parts = name.split("_from_")[0].split("_")
        assert [int(n) for n in stripes.split("s") if n] == cfg.MODEL.RMGL.BRANCHES, name
        paths = ["receptive"] if "only" in parts else ["original", "receptive"] if "rp" in parts else ["original"]
        assert paths == cfg.MODEL.RMGL.PATHS, name
        assert ("test" if "abp" in parts else "off") == cfg.MODEL.ABP.MODE, name
        assert cfg.TEST.RERANK.ENABLED is ("rk" in parts) is run.variant.rerank, name
        added = {"rsa": cfg.INPUT.RSA, "rcj": cfg.INPUT.CJ, "rc": cfg.INPUT.PADDING, "re": cfg.INPUT.REA}
        assert {part: keys.ENABLED for part, keys in added.items()} == {part: part in parts for part in added}, name
        assert (["RandomCropResizeShift"] if "rcrs" in parts else []) == cfg.INPUT.EXTRA_TRANSFORMS, name
        assert run.variant.train_on == (name.split("_from_")[1] if "_from_" in name else None)


@pytest.mark.parametrize("row", BUILT, ids=lambda row: row.id)
def test_config_and_overrides_merge(row, tmp_path):
    [run] = plan_runs(load_ledger(), [row])
    find_config(run.config)
    cfg = make_config(run, tmp_path)
    assert (load_ledger().measured_on(row.dataset),) == cfg.DATASETS.TESTS
    for key, value in run.overrides.items():
        node = cfg
        for part in key.split("."):
            node = node[part]
        assert node == (tuple(value) if isinstance(node, tuple) else value)


def test_variants_of_one_paper_differ():
    for paper in load_ledger().papers:
        models = [v for (p, _), v in load_ledger().variants.items() if p == paper and v.run_name == v.name and v.built]
        settings = [(v.config, v.train_on, sorted(v.overrides.items())) for v in models]
        assert all(settings.count(one) == 1 for one in settings)


def line_with(text: str, label: str, values) -> bool:
    """Whether one line of `text` has the label, and the values in their order after one another."""
    for line in text.splitlines():
        if label not in line and label not in re.sub(r"[$\\]", "", line):
            continue
        position = 0
        for value in values:
            # The conversion glues a gain to some numbers (85.60.0 is 85.6 with +0.0).
            match = re.compile(rf"(?<![\d.]){re.escape(printed(value))}").search(line, position)
            if match is None:
                break
            position = match.end()
        else:
            return True
    return False


@pytest.mark.parametrize("paper", sorted(load_ledger().papers))
def test_every_number_stands_in_the_paper_on_the_line_of_its_label(paper):
    path = TEXTS / f"{paper}.txt"
    if not path.exists():
        pytest.skip(f"needs the paper's text as {path}; FASTREID_PARTS_PAPERS names another folder")
    text = path.read_text(encoding="utf-8")
    for table in load_ledger().papers[paper]["tables"]:
        for row in table["rows"]:
            values = [value for value in row["values"] if value is not None]
            assert line_with(text, str(row["row"]), values), (table["source"], row)


def test_the_search_in_the_text_can_fail():
    text = "BaseLine+RB 91.4 77.8 84.1"
    assert line_with(text, "BaseLine+RB", [91.4, 77.8])
    assert not line_with(text, "BaseLine+RB", [77.8, 91.4])
    assert not line_with(text, "BaseLine+RB", [91.4, 77.9])
    assert not line_with(text, "BaseLine+MG", [91.4])


def test_every_number_is_the_one_of_the_original_list():
    path = TEXTS / "reported_results.yml"
    if not path.exists():
        pytest.skip(f"needs {path}; FASTREID_PARTS_PAPERS names another folder")
    listed = yaml.safe_load(path.read_text(encoding="utf-8"))["results"]
    theirs = {(r["paper"], r["source"], r["variant"], r["dataset"]): r for r in listed}
    papers = {paper for paper, *_ in theirs}
    ours = {
        (row.paper, row.source, row.variant.name, row.dataset): row
        for row in ROWS
        if row.paper in papers and row.source != "Other readings"  # of the same numbers
    }
    assert theirs.keys() == ours.keys()
    for key, row in ours.items():
        assert dict(row.metrics) == theirs[key]["metrics"], key
        assert row.variant.pretrain == theirs[key]["pretrain"], key
        assert row.variant.rerank == theirs[key]["rerank"], key
        assert row.variant.feature_dim == theirs[key].get("feature_dim"), key
        assert row.variant.train_on == theirs[key].get("train_on"), key


# ---- a ledger that contradicts itself ---------------------------------------------------------------------------


def break_cmbn(change):
    rules, papers = documents()
    change(papers["cmbn"])
    return lambda: Ledger.from_documents(rules, papers.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["variants"].update(x={"description": "", "evaluates": "baseline"}),
            "cmbn/x: 'overrides' is missing",
        ),
        (
            lambda d: d["variants"].update(
                x={"description": "", "evaluates": "y", "overrides": {"TEST.METRIC": "cosine"}}
            ),
            "cmbn/x: evaluates must name a variant",
        ),
        (
            lambda d: d["variants"].update(x={"description": "", "evaluates": "baseline", "overrides": {"SEED": 1}}),
            "cmbn/x: it evaluates baseline; its overrides change nothing in training, but there is SEED 1",
        ),
        (
            lambda d: d["variants"].update(
                x={"description": "", "evaluates": "baseline", "overrides": {"MODEL.ABP.MODE": "always"}}
            ),
            "there is MODEL.ABP.MODE always",
        ),
        (
            lambda d: d["variants"].update(x={"description": "", "evaluates": "baseline", "overrides": {}}),
            "cmbn/x: it evaluates baseline and changes nothing",
        ),
        (
            lambda d: d["variants"].update(x={"description": "", "train_on": "Market1501", "overrides": {}}),
            "cmbn/x: 'train_on' needs 'evaluates'",
        ),
        (lambda d: d.update(color="red"), "cmbn: unknown color"),
        (lambda d: d.update(recipe="secret"), "'secret' is not among the recipes"),
        (lambda d: d["variants"]["baseline"].update(override={}), "cmbn/baseline: unknown override"),
        (lambda d: d["variants"]["baseline"].pop("description"), "cmbn/baseline: 'description' is missing"),
        (lambda d: d["variants"].update(x={"description": "", "same_as": "y"}), "cmbn/x: same_as must name"),
        (lambda d: d["tables"][3]["rows"][0].update(variant="none"), "Table 4, row 'BaseLine': no variant 'none'"),
        (lambda d: d["tables"][3]["rows"][0]["values"].pop(), "row 'BaseLine': 7 values for 8 columns"),
        (lambda d: d["tables"][3]["rows"][0]["values"].__setitem__(0, 895.0), "rank1 895.0 on Market1501"),
        (lambda d: d["tables"][3]["rows"][0]["values"].__setitem__(0, "89,5"), "rank1 89,5 on Market1501"),
        (lambda d: d["tables"][3]["rows"][0]["values"].__setitem__(1, None), "no mAP on Market1501"),
        (lambda d: d["tables"][0].update(columns={"Market": ["rank1", "mAP"]}), "'Market' is not among the datasets"),
        (lambda d: d["tables"].append(d["tables"][0]), "cmbn/Table 1/baseline_rb_mg_cds/Market1501 is there twice"),
    ],
)
def test_a_contradiction_is_named(change, message):
    with pytest.raises(LedgerError, match=re.escape(message)):
        break_cmbn(change)()


def test_an_alias_shares_the_overrides_of_its_model():
    rules, papers = documents()
    for name, entry in papers["cge"]["variants"].items():
        if name != "cge_bot" and "evaluates" not in entry:
            entry.pop("overrides", None)
    papers["cge"]["variants"]["cge_bot"]["overrides"] = {"MODEL.HEADS.NUM_CLASSES": 0}
    ledger = Ledger.from_documents(rules, papers.values())
    alias = ledger.variants["cge", "cge_bot_ce_triplet"]
    assert alias.built and alias.run_name == "cge_bot" and alias.overrides == {"MODEL.HEADS.NUM_CLASSES": 0}
    assert not ledger.variants["cge", "cge_agw"].built
    rows = [row for row in ledger.select(paper="cge", dataset="Market1501", built=True) if not row.variant.evaluates]
    assert {row.variant.name for row in rows} == {"cge_bot", "cge_bot_ce_triplet", "cge_bot_logits_level"}
    [run] = plan_runs(ledger, rows)
    assert (run.variant.name, run.config) == ("cge_bot", "Market/cge_bot.yml")


def test_a_direct_transfer_trains_on_its_source_and_tests_on_its_target():
    ledger = load_ledger()
    rows = ledger.select(paper="rmgl", source="Table IV")
    assert len(rows) == 9
    for run in plan_runs(ledger, rows):
        source, target = run.name.split("_from_")[1].split(",")[0], run.dataset
        source, read = (name.replace("unspecified", "labeled") for name in (source, target))  # M27
        assert (run.trained.dataset, run.trained.variant.name) == (source, "2s3s_rp_abp_rsa")
        assert run.config == run.trained.config == f"{ledger.datasets[source]['folder']}/rmgl.yml"
        assert run.overrides == {"DATASETS.TESTS": (read,)} and run.trained.overrides == {}
    # The transfer from CUHK03 evaluates the model of Table II
    [here] = ledger.select(paper="rmgl", source="Table II", dataset="CUHK03NP_labeled", variant="2s3s_rp_abp_rsa")
    there = ledger.select(paper="rmgl", variant="2s3s_rp_abp_rsa_from_CUHK03NP_unspecified")
    assert [run.trained for run in plan_runs(ledger, there)] == plan_runs(ledger, [here]) * 2


def test_an_evaluation_has_the_overrides_of_its_model_and_its_own():
    rules, papers = documents()
    ledger = Ledger.from_documents(rules, papers.values())
    [run] = plan_runs(ledger, ledger.select(paper="rrid", variant="single_local_3_no_rm"))
    assert (run.variant.name, run.trained.variant.name) == ("single_local_3_no_rm", "gmp_p6")
    assert run.overrides == {**run.trained.overrides, "TEST.FEATURES": ["part_3_of_6"]}
    assert run.config == run.trained.config == "Market/rrid_s.yml"
    del papers["rrid"]["variants"]["gmp_p6"]["overrides"]
    ledger = Ledger.from_documents(rules, papers.values())
    assert not ledger.variants["rrid", "single_local_3_no_rm"].built


def test_datasets_by_name_or_folder():
    assert load_ledger().dataset_name("Market") == "Market1501"
    assert load_ledger().dataset_name("SyntheticReID") == load_ledger().dataset_name("Synthetic")
    with pytest.raises(LedgerError, match="no dataset 'Markt' in the ledger; it has .*Market1501"):
        load_ledger().dataset_name("Markt")


def test_what_is_not_built_has_no_config():
    rules, papers = documents()
    del papers["rmgl"]["variants"]["2s3s_rp_abp_rsa"]["overrides"]
    ledger = Ledger.from_documents(rules, papers.values())
    for name in ("2s3s_rp_abp_rsa", "2s3s_rp_abp_rsa_rk", "2s3s_rp_abp_rsa_from_MSMT17"):
        [row, *_] = ledger.select(paper="rmgl", variant=name)
        with pytest.raises(LedgerError, match=f"rmgl/{name} is in the ledger, but it is not built yet"):
            ledger.config_of(row.variant, row.dataset)


def test_a_dataset_without_configs_is_named():
    rules, papers = documents()
    del rules["datasets"]["CUHK03NP_unspecified"]["measured_on"]
    ledger = Ledger.from_documents(rules, papers.values())
    [row, *_] = ledger.select(paper="rmgl", variant="2s3s_rp_abp_rsa_from_CUHK03NP_unspecified")
    with pytest.raises(LedgerError, match="there are no configs for CUHK03NP_unspecified"):
        ledger.config_of(row.variant, row.dataset)


def test_a_dataset_has_one_number_of_images():
    """Where the sizes of a dataset are said: the ledger, what reads CUHK03, and what is drawn as Market-1501 is."""
    datasets, market = load_ledger().datasets, SCALES["market"]
    for kind, sizes in cuhk03_np._IMAGES.items():
        for name, part in (("training", "train"), ("queries", "query"), ("gallery", "gallery")):
            assert datasets[f"CUHK03NP_{kind}"][name] == sizes[part]
    for name in ("training", "queries", "gallery"):
        both = [datasets[f"CUHK03NP_{kind}"][name] for kind in cuhk03_np._IMAGES]
        assert datasets["CUHK03NP_mixed"][name] == sum(both)
        assert datasets["CUHK03NP_unspecified"][name] == datasets["CUHK03NP_labeled"][name]
    assert datasets["Market1501"]["training"] == market.train_images
    assert datasets["Market1501"]["gallery"] == market.gallery + market.distractors
