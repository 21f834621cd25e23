"""The plan of the evidence: it is whole, it comes before its results, and its runs are made once each."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from fastreid.modeling import build_model

from fastreid_parts.checkpoints import safe_load
from fastreid_parts.config import load_config
from fastreid_parts.engine import PartsTrainer
from fastreid_parts.engine.memory import dry_memory
from fastreid_parts.engine.solver import parameter_settings
from fastreid_parts.mechanisms import is_followed, mechanisms_of
from fastreid_parts.paper_results import load_ledger
from fastreid_parts.paper_results.runner import load_trained
from tests.conftest import SMALLEST
from tools import evidence
from tools.evidence import EvidenceError, add_row, cell_of, cells, find_row, plan_commit, read_plan, read_rows


@pytest.fixture
def tiny_plan(market_folder, tmp_path):
    """On the tests' images: an arm that evaluates another's model, a second test, local classifiers that are read."""
    start = {
        **dict(zip(SMALLEST[::2], SMALLEST[1::2])),
        "MODEL.DEVICE": "cpu",
        "INPUT.SIZE_TRAIN": [96, 24],
        "INPUT.SIZE_TEST": [96, 24],
        "DATASETS.NAMES": ["FolderReID"],
        "DATASETS.TESTS": ["FolderReID"],
        "DATASETS.FOLDER.ROOT": str(market_folder),
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.IMS_PER_BATCH": 12,
        "SOLVER.MAX_EPOCH": 1,
        "SOLVER.STEPS": [],
        "SOLVER.CHECKPOINT_PERIOD": 1,
    }
    claim = {"bench": "rmgl", "baseline": "uniform", "method": "balanced"}
    plan = {
        "seeds": [0],
        "start": start,
        "nuisances": {"some": {"POSE": 0.5}},
        "benches": {
            "rmgl": {
                "paper": "rmgl",
                "nuisance": "some",
                "keys": {"MODEL.HEADS.EMBEDDING_DIM": 8},
                "tests": {"cosine": {"TEST.METRIC": "cosine"}},
                "arms": {"uniform": {"variant": "2s_bl"}, "balanced": {"variant": "2s_abp"}},
            },
            "cge": {
                "paper": "cge",
                "nuisance": "some",
                "all_right": True,
                "keys": {},
                "arms": {"bot": {"variant": "bot"}, "cge": {"variant": "cge_bot", "keys": {"SOLVER.MAX_EPOCH": 1}}},
            },
        },
        "claims": {
            "balanced": {"says": "it is better", "compare": claim},
            "cge": {"says": "it is, too", "compare": {"bench": "cge", "baseline": "bot", "method": "cge"}},
        },
        "curves": {"strengths": [0.0, 0.5], "seeds": [0], "of": {"rmgl": {"nuisance": "POSE", "arms": ["uniform"]}}},
    }
    path = tmp_path / "plan.yml"
    path.write_text(yaml.safe_dump(plan))
    return path


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, "-C", str(folder), *words], check=True, capture_output=True)


# ---- the plan -------------------------------------------------------------------------------------------------------


def config_of(cell):
    """The config of a run, for the images of its own test."""
    settings = cell.settings
    variant = None if "config" in settings else load_ledger().variants[settings["paper"], settings["variant"]]
    template = variant.config if variant else settings["config"]
    own = [word for pair in (variant.overrides if variant else {}).items() for word in pair]
    cfg = load_config(template.format(folder="Synthetic"), own)
    cfg.merge_from_list([str(word) for pair in settings["keys"].items() for word in pair])
    return cfg


def test_every_run_of_the_plan_is_a_config_that_this_version_has():
    """Each key exists and takes its value; arms of a claim differ, in nothing of the test, and take as many steps."""

    def steps(cfg):
        twice = cfg.MODEL.META_ARCHITECTURE == "CMBN" and cfg.MODEL.CMBN.CONTEXTUAL_DETACHMENT
        return cfg.SOLVER.MAX_EPOCH * (2 if twice else 1)

    plan = read_plan()
    configs = {}
    for cell in cells(plan):
        if cell.seed:
            continue
        cfg = config_of(cell)
        configs[cell.bench, cell.arm] = cfg, cell.settings.get("without")
        for changes in cell.settings["tests"].values():
            tested = cfg.clone()
            tested.merge_from_list([str(word) for pair in changes.items() for word in pair])
        assert cfg.MODEL.BACKBONE.PRETRAIN and cfg.INPUT.SIZE_TEST[0] >= 128, "maps of eight rows and more"
    for claim in plan["claims"].values():
        compare = claim["compare"]
        one, other = (configs[compare["bench"], compare[part]] for part in ("baseline", "method"))
        assert one != other
        (one, _), (other, _) = one, other
        assert one.DATASETS == other.DATASETS
        assert one.SOLVER.MAX_EPOCH == other.SOLVER.MAX_EPOCH or steps(one) == steps(other)


def test_models_of_the_plan_have_what_its_rows_name():
    """Parameters that learn at a rate of their own, mechanisms that have to act, forms that are trained with."""
    plan = read_plan()
    forms, built = {}, {}
    for cell in cells({**plan, "seeds": [0]}):
        cfg = config_of(cell)
        cfg.merge_from_list(["MODEL.BACKBONE.PRETRAIN", False, "MODEL.HEADS.NUM_CLASSES", 100])
        alike = cfg.MODEL.dump() + str(cfg.SOLVER.LR_FACTORS)
        if alike not in built:
            model = build_model(cfg)
            assert list(parameter_settings(cfg, model)), cell.name  # a name without a parameter raises
            built[alike] = {name: placed.mechanism.neutral for name, placed in mechanisms_of(model).items()}
        forms[cell.bench, cell.arm] = built[alike]
        for mechanism, form in cell.settings.get("without", {}).items():
            assert form in forms[cell.bench, cell.arm][mechanism], cell.name
    for name, claim in plan["claims"].items():
        compare = claim["compare"]
        if "mechanism" in compare:
            assert compare["mechanism"] in forms[compare["bench"], compare["method"]], name


def test_models_of_the_plan_take_images_of_its_sizes():
    """The method of each bench's first claim; a map may have rows that its stripes do not divide."""
    plan = read_plan()
    methods, taken = {}, set()
    for claim in plan["claims"].values():
        methods.setdefault(claim["compare"]["bench"], claim["compare"]["method"])
    assert methods.keys() == plan["benches"].keys()
    for bench, arm in methods.items():
        cfg = config_of(cell_of(plan, bench, arm, 0))
        cfg.merge_from_list(["MODEL.BACKBONE.PRETRAIN", False, "MODEL.HEADS.NUM_CLASSES", 100])
        alike = cfg.MODEL.dump() + str(cfg.INPUT.SIZE_TEST)
        if alike not in taken:
            assert dry_memory(cfg, "inference", {"images": torch.zeros(2, 3, *cfg.INPUT.SIZE_TEST)}).peak > 0
        taken.add(alike)


def test_what_judges_a_claim_comes_whole_before_the_next_and_controls_come_last():
    plan = read_plan()
    first, *_ = plan["claims"]
    everything, alone = list(cells(plan)), list(cells(plan, [first]))
    control = plan["claims"][first]["compare"]["control"]
    judged = [cell for cell in alone if cell.arm != control]
    assert everything[: len(judged)] == judged and {cell.seed for cell in judged} == set(plan["seeds"])
    assert alone[len(judged) :] == [cell for cell in alone if cell.arm == control] and len(judged) < len(alone)
    assert len({cell.name for cell in everything}) == len(everything)
    with pytest.raises(EvidenceError, match="no claim 'x'; there are"):
        list(cells(plan, ["x"]))


def test_a_claim_of_what_is_not_there_is_refused(tiny_plan):
    plan = yaml.safe_load(tiny_plan.read_text())
    with pytest.raises(EvidenceError, match="cge is because of other, which is no claim"):
        tiny_plan.write_text(yaml.safe_dump({**plan, "claims": {"cge": {**plan["claims"]["cge"], "because": "other"}}}))
        read_plan(tiny_plan)
    for change, message in (({"method": "other"}, "compares other"), ({"test": "other"}, "a test set other")):
        broken = json.loads(json.dumps(plan))
        broken["claims"]["balanced"]["compare"].update(change)
        tiny_plan.write_text(yaml.safe_dump(broken))
        with pytest.raises(EvidenceError, match=message):
            read_plan(tiny_plan)


def test_a_curve_of_what_is_not_there_is_refused(tiny_plan):
    plan = yaml.safe_load(tiny_plan.read_text())
    for bench, arm in (("rmgl", "whole"), ("none", "uniform")):
        plan["curves"]["of"] = {bench: {"nuisance": "POSE", "arms": [arm]}}
        tiny_plan.write_text(yaml.safe_dump(plan))
        with pytest.raises(EvidenceError, match=f"curves are of {arm}, which the bench {bench} has not"):
            read_plan(tiny_plan)


def test_a_plan_comes_before_its_results(tiny_plan):
    with pytest.raises(EvidenceError, match="is not committed as it stands"):
        plan_commit(tiny_plan)
    git(tiny_plan.parent, "init")
    git(tiny_plan.parent, "add", "plan.yml")
    with pytest.raises(EvidenceError, match="a plan comes before its results"):
        plan_commit(tiny_plan)
    git(tiny_plan.parent, "commit", "-m", "plan")
    assert len(plan_commit(tiny_plan)) == 40
    tiny_plan.write_text(tiny_plan.read_text() + "# more\n")
    with pytest.raises(EvidenceError, match="is not committed as it stands"):
        plan_commit(tiny_plan)


def test_a_row_of_an_earlier_plan_is_not_taken(tiny_plan):
    plan = read_plan(tiny_plan)
    cell = cell_of(plan, "rmgl", "uniform", 0)
    row = {"bench": "rmgl", "arm": "uniform", "seed": 0, "settings": cell.digest}
    assert find_row([row], cell) == row and find_row([row], cell_of(plan, "rmgl", "uniform", 1)) is None
    plan["benches"]["rmgl"]["arms"]["uniform"]["keys"] = {"SOLVER.MAX_EPOCH": 2}
    with pytest.raises(EvidenceError, match="was measured under an earlier plan: remove its row"):
        find_row([row], cell_of(plan, "rmgl", "uniform", 0))


# ---- running --------------------------------------------------------------------------------------------------------


def _kept_in(results, plan, monkeypatch):
    for function in (evidence.read_plan, evidence.plan_commit):
        monkeypatch.setattr(function, "__defaults__", (plan,))
    for function in (evidence.read_rows, evidence.add_row, evidence.add_curve):
        monkeypatch.setattr(function, "__defaults__", (results,))


def test_runs_are_made_once_and_go_on(tiny_plan, tmp_path, monkeypatch, capsys):
    """What fails leaves the rows that there are; the next call makes the rest, and a third nothing."""
    results = tmp_path / "evidence.json"
    monkeypatch.setattr(evidence, "PLAN", tiny_plan)
    _kept_in(results, tiny_plan, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(evidence, "plan_commit", lambda: "c" * 40)
        done = []

        def call(words, stdin, stdout, stderr, env):
            if len(done) == 2:
                done.append(None)
                return 1
            *own, last = words[words.index("one") :]
            assert last == "--until-stdin-closes" and stdin == subprocess.PIPE
            done.append(own)
            return evidence.main(["--root", str(tmp_path / "runs"), *own])

        patch.setattr(evidence.subprocess, "call", call)
        assert evidence.main(["--root", str(tmp_path / "runs"), "run", "--claims", "balanced", "cge"]) == 2
        assert "failed: " in capsys.readouterr().err and len(read_rows()) == 2
        assert evidence.main(["--root", str(tmp_path / "runs"), "run"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("2 of 4 runs are there") and "left" in out and "mAP images" in out
        made = len(done)
        assert evidence.main(["--root", str(tmp_path / "runs"), "run"]) == 0 and len(done) == made
    rows = read_rows()
    assert len(rows) == 4 and {row["plan"] for row in rows} == {"c" * 40}
    found = {(row["arm"], row["seed"]): row for row in rows}
    assert set(found["uniform", 0]["tests"]) == {"images", "cosine"}
    trained = list((tmp_path / "runs/rmgl").glob("*/rmgl/SyntheticReID/*/seed0/model_final.pth"))
    assert len(trained) == 1, "the balanced stripes are of the model with uniform ones"
    assert "balanced_stripes" in found["balanced", 0]["mechanisms"]
    assert 0 <= found["cge", 0]["all_right"] <= 100 and found["cge", 0]["mechanisms"].keys() == {"weights"}
    assert evidence.main(["list"]) == 0 and "2 of 2  balanced: it is better" in capsys.readouterr().out
    _curves_are_measured(found["uniform", 0], [row for key, row in found.items() if key != ("uniform", 0)], tmp_path)


def _curves_are_measured(row, others, tmp_path):
    """With the run, or later while its model is there; what was tested at a strength is not tested again."""
    curve = row["curve"]["mAP"]
    assert curve.keys() == {"0", "0.5"} and curve["0.5"] == row["tests"]["images"]["mAP"]
    assert row["curve"]["nuisance"] == "POSE"
    assert not any("curve" in other for other in others)
    results, curves = tmp_path / "evidence.json", ["--root", str(tmp_path / "runs"), "curves"]
    whole = results.read_bytes()
    assert evidence.main(curves) == 0 and results.read_bytes() == whole
    without = {name: value for name, value in row.items() if name != "curve"}
    results.write_text(json.dumps({"rows": [without, *others]}))
    assert evidence.main(curves) == 0 and read_rows() == [row, *others]
    results.write_text(json.dumps({"rows": [without]}))
    assert evidence.main(["--root", str(tmp_path / "elsewhere"), "curves"]) == 0 and read_rows() == [without]
    gone = {**without, "arm": "an arm that the plan has no more"}
    results.write_text(json.dumps({"rows": [gone, without]}))
    assert evidence.main(curves) == 0 and read_rows() == [gone, row]


def test_a_curve_is_the_one_that_the_plan_has_now(tiny_plan):
    plan = read_plan(tiny_plan)
    row = {"bench": "rmgl", "arm": "uniform", "seed": 0}
    row["curve"] = {"nuisance": "POSE", "mAP": {"0": 3.0, "0.5": 2.0, "2": 1.0}}
    assert evidence.curve_of(plan, row) == {"0": 3.0, "0.5": 2.0}
    assert evidence.curve_of(plan, {**row, "seed": 1}) is None is evidence.curve_of(plan, {**row, "arm": "balanced"})
    for changes in ({"strengths": [0.0, 1.0]}, {"of": {"rmgl": {"nuisance": "DETECTOR", "arms": ["uniform"]}}}):
        assert evidence.curve_of({**plan, "curves": {**plan["curves"], **changes}}, row) is None


def test_rows_that_are_there_are_of_the_plan():
    """Judged is what was measured under the plan as it is."""
    plan, rows = read_plan(), read_rows()
    assert rows and sum(find_row(rows, cell) is not None for cell in cells(plan)) > 50


def test_seeds_of_an_arm_are_of_one_config(tiny_plan, tmp_path, monkeypatch, capsys):
    """A variant keeps its name when its keys change; what was measured before is no seed of it."""
    results = tmp_path / "evidence.json"
    _kept_in(results, tiny_plan, monkeypatch)
    monkeypatch.setattr(evidence, "plan_commit", lambda: "c" * 40)
    measured = []
    monkeypatch.setattr(evidence, "wants_curve", lambda *_: False)

    def measure(cell, root):
        measured.append(cell.seed)
        return {"bench": cell.bench, "arm": cell.arm, "seed": cell.seed, "settings": cell.digest}

    monkeypatch.setattr(evidence, "measure", measure)
    tiny_plan.write_text(tiny_plan.read_text().replace("seeds:\n- 0\n", "seeds: [0, 1]\n", 1))
    assert read_plan()["seeds"] == [0, 1]
    assert evidence.main(["one", "cge", "cge", "0"]) == 0 and evidence.main(["one", "cge", "cge", "1"]) == 0
    first, second = read_rows()
    assert first["config"] == second["config"] and measured == [0, 1]
    assert evidence.main(["one", "cge", "cge", "1"]) == 2
    assert "cge/cge, seed 1 is measured: remove its row" in capsys.readouterr().err
    results.write_text(json.dumps({"rows": [{**first, "config": "of another variant"}]}))
    assert evidence.main(["one", "cge", "cge", "1"]) == 2 and measured == [0, 1]
    assert "cge/cge is another config than with the seeds 0" in capsys.readouterr().err
    results.write_text(json.dumps({"rows": [{name: value for name, value in first.items() if name != "config"}]}))
    assert evidence.main(["one", "cge", "cge", "1"]) == 0, "older rows do not say it"


def test_nothing_is_measured_under_a_plan_that_is_not_committed(tiny_plan, tmp_path, monkeypatch, capsys):
    _kept_in(tmp_path / "evidence.json", tiny_plan, monkeypatch)
    monkeypatch.setattr(evidence, "measure", lambda *_: pytest.fail("it was measured"))
    assert evidence.main(["one", "cge", "cge", "0"]) == 2
    assert "a plan comes before its results" in capsys.readouterr().err


def test_an_arm_is_trained_without_a_mechanism(tiny_plan, tmp_path):
    """In a folder of its own, to other weights, and without figures of what had no part in it."""
    plan = read_plan(tiny_plan)
    arms = plan["benches"]["cge"]["arms"]
    arms["mean"] = {**arms["cge"], "without": {"weights": "their mean"}}
    plan["benches"]["cge"]["all_right"] = False
    rows = {arm: evidence.measure(cell_of(plan, "cge", arm, 0), tmp_path) for arm in ("cge", "mean")}
    assert rows["cge"]["mechanisms"].keys() == {"weights"} and rows["mean"]["mechanisms"] == {}
    one, other = (safe_load(path)["model"] for path in tmp_path.glob("cge/*/cge/*/*/seed0/model_final.pth"))
    assert one.keys() == other.keys()
    assert not all(torch.equal(one[name], other[name]) for name in one if name.endswith("weight"))


def test_what_an_arm_is_trained_without_is_no_part_of_its_tests_either(tiny_plan, tmp_path, monkeypatch):
    """Where the mechanism acts in evaluation as well: every model that is trained or tested has the neutral form."""
    plan = read_plan(tiny_plan)
    plan["benches"]["rmgl"]["arms"]["without"] = {"variant": "2s_rp", "without": {"partition": "no partition"}}
    tested, test = [], PartsTrainer.test.__func__

    def follow(cls, cfg, model, *others):
        tested.append(is_followed(model))
        return test(cls, cfg, model, *others)

    monkeypatch.setattr(PartsTrainer, "test", classmethod(follow))
    cell = cell_of(plan, "rmgl", "without", 0)
    row = evidence.measure(cell, tmp_path)
    assert row["mechanisms"].keys() == {"paths"}
    assert len(tested) == 2 and all(tested), "after the training, and the other test set"
    [path] = tmp_path.rglob("model_final.pth")
    images = torch.rand(2, 3, 96, 24) * 255
    features = []
    for trainer in (evidence._trainer(cell), PartsTrainer):
        _, model = load_trained(evidence._run_of(cell), path, tmp_path, trainer)
        with torch.no_grad():
            features.append(model.eval()({"images": images.clone()}))
    assert not torch.allclose(*features)


@pytest.mark.parametrize(("mechanism", "form"), [("attention", "no neighbour"), ("attend", "no neighbor")])
def test_what_no_model_can_be_without_is_refused_before_training(tiny_plan, tmp_path, mechanism, form):
    plan = read_plan(tiny_plan)
    bench = plan["benches"]["rmgl"] | {"paper": "can", "arms": {"can": {"variant": "part_1_2_3_ca"}}, "tests": {}}
    bench["arms"]["can"]["without"] = {mechanism: form}
    plan["benches"]["can"] = bench
    message = f"'without' of {mechanism} is none of the model's forms, .*'no neighbor'"
    with pytest.raises(EvidenceError, match=message):
        evidence.measure(cell_of(plan, "can", "can", 0), tmp_path)
    assert not list(tmp_path.rglob("model_*.pth")), "nothing was trained"


def test_workers_share_the_runs(tiny_plan, tmp_path, monkeypatch):
    """Each run is made once, by one of four workers, and those of a bench and a seed one after the other."""
    plan = yaml.safe_load(tiny_plan.read_text()) | {"seeds": [0, 1]}
    tiny_plan.write_text(yaml.safe_dump(plan))
    monkeypatch.setattr(evidence.read_plan, "__defaults__", (tiny_plan,))
    for function in (evidence.read_rows, evidence.add_row):
        monkeypatch.setattr(function, "__defaults__", (tmp_path / "evidence.json",))
    monkeypatch.setattr(evidence, "plan_commit", lambda: "c" * 40)
    running, most = [], []

    def call(words, stdin, stdout, stderr, env):
        bench, arm, seed = words[words.index("one") + 1 :][:3]
        assert (bench, seed) not in running
        running.append((bench, seed))
        most.append(len(running))
        time.sleep(0.2)
        cell = cell_of(read_plan(), bench, arm, int(seed))
        add_row({"bench": bench, "arm": arm, "seed": int(seed), "settings": cell.digest, "tests": {}})
        running.remove((bench, seed))

    monkeypatch.setattr(evidence.subprocess, "call", call)
    root = ["--root", str(tmp_path / "runs")]
    with ThreadPoolExecutor() as pool:  # two calls of the script
        codes = list(pool.map(evidence.main, 2 * [[*root, "run", "--jobs", "2"]]))
    assert codes == [0, 0] and len(read_rows()) == len(most) == 8 and max(most) > 1


@pytest.mark.parametrize("ends_by_itself", [True, False])
def test_a_run_does_not_outlive_who_started_it(ends_by_itself):
    """However that ended: the pipe that it held is closed then. One that ends before ends well."""
    rest = "" if ends_by_itself else "; import time; time.sleep(60)"
    code = f"from tools.evidence import _stop_with_stdin as stop; stop(); print(1, flush=True){rest}"
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None and child.stdout is not None and child.stdout.readline() == b"1\n"
        if ends_by_itself:
            assert child.wait(30) == 0
            return
        assert child.poll() is None
        child.stdin.close()
        assert child.wait(30) == -signal.SIGTERM


def test_rows_are_added_whole(tmp_path):
    path = tmp_path / "evidence.json"
    assert read_rows(path) == []
    for seed in range(3):
        add_row({"seed": seed}, path)
    assert [row["seed"] for row in read_rows(path)] == [0, 1, 2]


def test_a_trial_is_no_evidence(tiny_plan, tmp_path, monkeypatch, capsys):
    """A seed that the plan has not is printed alone."""
    monkeypatch.setattr(evidence.read_plan, "__defaults__", (tiny_plan,))
    monkeypatch.setattr(evidence, "measure", lambda cell, root: {"seed": cell.seed})
    monkeypatch.setattr(evidence, "add_row", lambda row: pytest.fail("it was kept"))
    assert evidence.main(["one", "cge", "bot", "100"]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 100
