"""Submitted files: what they show is computed from what is in them, and what does not fit together is refused."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from fastreid_parts.files import sealed, unsealed
from fastreid_parts.paper_results import Ledger, submissions
from fastreid_parts.paper_results.measured import Measured
from fastreid_parts.paper_results.runner import plan_runs, run_variant
from fastreid_parts.paper_results.submissions import (
    ImageList,
    SubmissionError,
    accept,
    pack,
    read_submission,
    submitted,
    verify,
)

from .test_reproduce import call

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, market_folder):
    """A ledger with a paper of one method on the tests' images, the run that it plans, and its results folder."""
    root = tmp_path_factory.mktemp("submissions")
    keys = {
        "MODEL": {"DEVICE": "cpu", "BACKBONE": {"DEPTH": "18x", "FEAT_DIM": 512}, "HEADS": {"WITH_BNNECK": True}},
        "INPUT": {"SIZE_TRAIN": [48, 24], "SIZE_TEST": [48, 24]},
        "DATASETS": {"NAMES": ["FolderReID"], "TESTS": ["FolderReID"], "FOLDER": {"ROOT": str(market_folder)}},
        "DATALOADER": {"NUM_WORKERS": 0},
        "SOLVER": {"IMS_PER_BATCH": 12, "MAX_EPOCH": 1, "WARMUP_ITERS": 0, "CHECKPOINT_PERIOD": 1},
        "TEST": {"EVAL_PERIOD": 1, "IMS_PER_BATCH": 12},
    }
    (root / "tiny.yml").write_text(json.dumps(keys))  # JSON is YAML
    ledger = Ledger.from_documents(
        {
            "datasets": {"FolderReID": {"folder": "any", "training": 36, "queries": 4, "gallery": 20}},
            "tolerance": {"spread": {"errors": 2}, "openness": {"open": {"share": 0.1}}},
        },
        [
            {
                "paper": "tiny",
                "recipe": "open",
                "recipe_reason": "it is a test",
                "config": str(root / "tiny.yml"),
                "variants": {"whole": {"description": "it", "overrides": {}}},
                "tables": [
                    {
                        "source": "Table 1",
                        "columns": {"FolderReID": ["mAP", "rank1"]},
                        "rows": [{"row": "it", "variant": "whole", "values": [70.0, 80.0]}],
                    }
                ],
            }
        ],
    )
    [run] = plan_runs(ledger, ledger.rows, (0,))
    run_variant(run, root / "results")
    return ledger, run, root / "results"


@pytest.fixture(scope="module")
def packed(trained, tmp_path_factory):
    ledger, run, root = trained
    return pack(run, ledger, root, tmp_path_factory.mktemp("packed") / "run.zip", "A. Name", "https://example.org/1")


def forged(packed, path, change, seal=True):
    """The file with `change(files)` applied to its members; all its checksums are made anew, as a forger would."""
    with zipfile.ZipFile(packed.path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    if seal:
        described = unsealed(json.loads(files["manifest.json"]))
        own = {name: content for name, content in files.items() if name != "manifest.json"}
        described["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in own.items()}
        files["manifest.json"] = json.dumps(sealed(described)).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def edited(name, edit):
    """A change of one member that is JSON."""

    def change(files):
        content = json.loads(files[name])
        edit(content)
        files[name] = json.dumps(content).encode()

    return change


def with_ranks(edit):
    def change(files):
        columns = dict(np.load(io.BytesIO(files["ranks.npz"])))
        edit(columns)
        file = io.BytesIO()
        np.savez_compressed(file, **columns)
        files["ranks.npz"] = file.getvalue()

    return change


def with_metrics(value):
    """What a forger would do who knows the format: result and log say it too."""

    def change(files):
        edited("result.json", lambda result: result["metrics"].update(mAP=value))(files)
        lines = [json.loads(line) for line in files["metrics.json"].decode().splitlines()]
        files["metrics.json"] = "\n".join(
            json.dumps({**line, "mAP": value} if "mAP" in line else line) for line in lines
        ).encode()

    return change


def with_iterations(more):
    """The training log as of so many more iterations."""

    def change(files):
        lines = [json.loads(line) for line in files["metrics.json"].decode().splitlines()]
        moved = [{**line, "iteration": line["iteration"] + more} for line in lines]
        files["metrics.json"] = "\n".join(json.dumps(line) for line in moved).encode()

    return change


def without_images(role, number):
    """The list of test images without the first ones of a role."""

    def change(files):
        lines = files["test_list.csv"].splitlines(keepends=True)
        gone = [line for line in lines if line.startswith(role.encode())][:number]
        files["test_list.csv"] = b"".join(line for line in lines if line not in gone)

    return change


def test_a_run_is_packed_and_verified(trained, packed):
    ledger, run, root = trained
    assert packed.metrics == pytest.approx(dict(packed.measured.metrics))
    assert packed.path.stat().st_size < 20_000
    verdict = verify(packed, ledger)
    assert len(verdict.checked) == 5 and any("on this machine" in line for line in verdict.checked)
    assert [line for line in verdict.open if "--weights" in line] == verdict.open
    assert {held.metric for held in verdict.comparisons} == {"mAP", "rank1"}
    assert "OUTPUT_DIR" in packed.measured.resolved_config and str(root) not in str(packed.measured)
    seen = verify(packed, ledger, weights=run.folder(root) / "weights_final.pth")
    assert not seen.open and len(seen.checked) == 6
    without = verify(packed, ledger, look_for_dataset=False)
    assert len(without.open) == 2


def test_packing_leaves_a_file_that_is_there(trained, packed):
    ledger, run, root = trained
    before = packed.path.read_bytes()
    with pytest.raises(FileExistsError, match="name another file"):
        pack(run, ledger, root, packed.path, "B. Name")
    assert packed.path.read_bytes() == before
    with pytest.raises(FileNotFoundError, match="is not finished"):
        pack(run, ledger, root / "none", packed.path.with_name("x.zip"), "B. Name")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_metrics(99.0), "it says mAP 99.0, and the ranks give"),
        (edited("result.json", lambda result: result["metrics"].update(rank1=12.0)), "it says rank1 12.0"),
        (edited("result.json", lambda result: result["metrics"].pop("mINP")), "it says mINP None"),
        (edited("result.json", lambda result: result.update(seed=1)), "ran with other settings.*SEED"),
        (edited("result.json", lambda result: result.update(variant="other")), "no tiny/other on FolderReID"),
        (edited("result.json", lambda result: result.update(dataset="Market1501")), "no tiny/whole on Market1501"),
        (edited("result.json", lambda result: result["extra_overrides"].update({"SOLVER.MAX_EPOCH": 9})), "MAX_EPOCH"),
        (
            edited("result.json", lambda result: result["resolved_config"]["SOLVER"].update(MAX_EPOCH=9)),
            "ran with other settings.*SOLVER.MAX_EPOCH 9",
        ),
        (lambda files: files.update({"metrics.json": b'{"iteration": 1, "mAP": 1.0}\n'}), "log does not end with it"),
        (lambda files: files.pop("metrics.json"), "no training log"),
        (with_iterations(-1), "ends after 2 iterations, and the recipe is of 3"),
        (with_iterations(30), "ends after 33 iterations, and the recipe is of 3"),
        (without_images("gallery", 1), "has 20 gallery images, and it has 19"),
        (without_images("query", 2), "has 4 queries, and it has 2"),
        (with_ranks(lambda columns: columns["ranks"].__setitem__(slice(None), 1)), "ranks are not of its test images"),
        (with_ranks(lambda columns: columns["ranks"].__iadd__(50)), "ranks are not of its test images"),
        (with_ranks(lambda columns: columns["candidates"].__iadd__(1)), "ranks are not of its test images"),
        (
            lambda files: files.update({"test_list.csv": files["test_list.csv"].replace(b",101,", b",105,")}),
            "ranks are not of its test images|not those of FolderReID",
        ),
        (
            lambda files: files.update({"test_list.csv": files["test_list.csv"].replace(b"0104_", b"0194_")}),
            "test images are not those of FolderReID on this machine",
        ),
    ],
)
def test_a_forged_file_is_refused(trained, packed, tmp_path, change, message):
    """All checksums are right: what is refused is what does not follow from the rest."""
    one = read_submission(forged(packed, tmp_path / "forged.zip", change))
    with pytest.raises(SubmissionError, match=message):
        verify(one, trained[0])


def of_result(**changes):
    return edited("result.json", lambda result: result.update(changes))


def of_ranks(columns):
    def change(files):
        file = io.BytesIO()
        np.savez_compressed(file, **columns)
        files["ranks.npz"] = file.getvalue()

    return change


@pytest.mark.parametrize(
    "change",
    [
        of_result(metrics=[]),
        of_result(metrics={"mAP": "100", "rank1": 50}),
        of_result(metrics={"mAP": float("nan"), "rank1": 50}),
        of_result(metrics={"rank1": 50}),
        of_result(extra_overrides=[]),
        of_result(extra_overrides={"NO.SUCH_KEY": 1}),
        of_result(extra_overrides={"MODEL.DEVICE": [1]}),
        of_result(resolved_config=[]),
        of_result(resolved_config={}),
        of_result(resolved_config={"MODEL": []}),
        of_result(dataset=["m"]),
        of_result(seed="0/1"),
        of_result(seed=True),
        of_result(mechanisms={"m": {}}),
        of_result(mechanisms={"m": "idle"}),
        of_result(more=1),
        of_result(seed=-1),
        of_result(seed=2**32),
        of_result(mechanisms={"m\n  ok: x": {"idle": True}}),
        lambda files: files.update({"result.json": b"[]"}),
        lambda files: files.update({"test_list.csv": b"role,image,identity,camera\r\nquery," + b"a" * 200_000}),
        lambda files: files.update(
            {"test_list.csv": files["test_list.csv"].replace(b",101,", b"," + b"9" * 23 + b",")}
        ),
        lambda files: files.update(
            {"metrics.json": files["metrics.json"].replace(b'"iteration": ', b'"iteration": "a')}
        ),
        lambda files: files.update({"metrics.json": json.dumps({"iteration": 10**40, "mAP": 1}).encode()}),
        lambda files: files.update({"metrics.json": json.dumps({"iteration": 10, "mAP": 10**400}).encode()}),
        lambda files: files.update({"metrics.json": b"[" * 100_000}),
        lambda files: files.update({"metrics.json": b'{"iteration": null, "mAP": 1.0}\n{"iteration": "a", "mAP": 2}'}),
        with_ranks(lambda columns: columns.update(ranks=columns["ranks"][None])),
        with_ranks(lambda columns: columns.update(ranks=columns["ranks"].astype(float))),
        with_ranks(lambda columns: columns.update(more=columns["ranks"])),
        with_ranks(lambda columns: columns.pop("ranks")),
        of_ranks({"ranks": np.zeros(0, np.int32)}),
    ],
)
def test_what_is_of_another_kind_is_refused(trained, packed, tmp_path, change):
    """With all checksums right; never with what Python says of a value that it did not expect."""
    path = forged(packed, tmp_path / "forged.zip", change)
    with pytest.raises(SubmissionError, match=r"forged\.zip' is refused"):
        verify(read_submission(path), trained[0])


@pytest.mark.parametrize("name", ["by", "source", "date", "fingerprint", "features"])
@pytest.mark.parametrize("value", [None, 3])
def test_a_manifest_says_who_and_when(packed, tmp_path, name, value):
    def change(files):
        described = unsealed(json.loads(files["manifest.json"]))
        described.pop(name)
        files["manifest.json"] = json.dumps(sealed({**described, **({name: value} if value else {})})).encode()

    with pytest.raises(SubmissionError, match=f"does not say {name}"):
        read_submission(forged(packed, tmp_path / "forged.zip", change))


def of_manifest(**changes):
    def change(files):
        described = unsealed(json.loads(files["manifest.json"]))
        files["manifest.json"] = json.dumps(sealed({**described, **changes})).encode()

    return change


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("by", "A. Name, 2026-01-01\n  mAP 80.10\n  ok: the weights give these ranks\n("),
        ("by", "A. Name\x1b[8m"),
        ("by", "A. Name\u2028  ok: x"),
        ("by", "\ud800x"),
        ("by", "A" * 5000),
        ("by", "///"),
        ("by", ""),
        ("source", "https://example.org\r  ok: x"),
        ("source", "https://example.org/" + "a" * 5000),
        ("fingerprint", "a\tb"),
    ],
)
def test_a_text_that_could_pass_for_something_else_is_refused(packed, tmp_path, name, value):
    with pytest.raises(SubmissionError, match=f"forged.zip' is refused as a submission: {name} ") as refused:
        read_submission(forged(packed, tmp_path / "forged.zip", of_manifest(**{name: value})))
    assert str(refused.value).isprintable() and len(str(refused.value)) < 1000


def test_one_run_is_not_two(trained, packed):
    """Neither as another seed nor as another person's, also where the digests were made up anew."""
    ledger, _, _ = trained
    config = packed.measured.resolved_config
    again = replace(packed, measured=replace(packed.measured, seed=1, resolved_config={**config, "SEED": 1}))
    refused = pytest.raises(SubmissionError, match="the same .* as '.*run.zip', which is tiny/.*seed 0.*, by A. Name")
    for one in (again, replace(packed, described={**packed.described, "by": "B. Name"})):
        assert verify(one, ledger)
        with refused:
            verify(one, ledger, [packed])
    assert verify(packed, ledger, [packed])
    evaluated = replace(again, measured=replace(again.measured, variant="re-ranked"))  # of the very same weights
    submissions._check_twice(evaluated, packed, "it")
    other = replace(again, described={**packed.described, "features": "0" * 64, "fingerprint": "0" * 64})
    verify(other, ledger, [packed])  # which finds everything, as several seeds may
    late = replace(packed.ranks, ranks=packed.ranks.ranks + 1)
    with refused:
        submissions._check_twice(replace(other, ranks=late), replace(packed, ranks=late), "it")


def test_a_list_of_ranks_that_unpacks_without_end_is_not_read(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(submissions, "_LARGEST", 60_000)
    change = with_ranks(lambda columns: columns.update(ranks=np.ones(100_000, np.int32)))
    with pytest.raises(SubmissionError, match="too large"):
        read_submission(forged(packed, tmp_path / "forged.zip", change))


def test_ranks_that_belong_to_other_queries_are_not_the_weights(trained, packed, monkeypatch):
    """All means are as they were: what one query lost another has."""
    _, run, root = trained
    weights = run.folder(root) / "weights_final.pth"

    def worse(query):
        ranks, ends = packed.ranks.ranks.copy(), packed.ranks.offsets
        ranks[ends[query] : ends[query + 1]] += 1
        return replace(packed.ranks, ranks=ranks)

    assert worse(0).results() == pytest.approx(worse(1).results())
    monkeypatch.setattr(submissions, "_evaluate", lambda *_: (worse(0), packed.images, ""))
    submissions._check_weights(replace(packed, ranks=worse(0)), run, weights, run.dataset, "it is refused")
    with pytest.raises(SubmissionError, match="it is refused: the weights give other ranks: average precision differs"):
        submissions._check_weights(replace(packed, ranks=worse(1)), run, weights, run.dataset, "it is refused")


def test_a_file_names_no_place_of_its_sender(trained, tmp_path, monkeypatch):
    ledger, run, root = trained
    place = run.folder(root) / "result.json"
    own = Measured.load(place)
    keys = {**own.resolved_config, "MODEL": {**own.resolved_config["MODEL"]}}
    keys["MODEL"]["BACKBONE"] = {**keys["MODEL"]["BACKBONE"], "PRETRAIN_PATH": "/home/alice/w.pth"}
    extra = {"MODEL.BACKBONE.PRETRAIN_PATH": "/home/alice/w.pth"}
    before = place.read_bytes()
    replace(own, resolved_config=keys, extra_overrides=extra).save(place.parent)
    try:
        one = pack(run, ledger, root, tmp_path / "run.zip", "A. Name")
    finally:
        place.write_bytes(before)
    assert "alice" not in str(one.measured) and verify(one, ledger)


def another_test_set(files):
    """Perfect ranks in a list of eight other images; all of it is whole."""
    items = [(f"set/{name}", pid, camera) for name, pid, camera in zip("abcdefgh", [1, 2, 3, 4] * 2, [0] * 4 + [1] * 4)]
    images, _ = ImageList.of(items, 4)

    files["test_list.csv"] = images.to_csv()
    with_ranks(
        lambda columns: columns.update(
            ranks=np.ones(4, np.int32), offsets=np.arange(5, dtype=np.int32), candidates=np.full(4, 4, np.int32)
        )
    )(files)
    perfect = dict.fromkeys(("mAP", "rank1", "rank5", "rank10", "mINP"), 100.0)
    edited("result.json", lambda result: result.update(metrics=perfect))(files)
    hosts = dict.fromkeys(("mAP", "Rank-1", "Rank-5", "Rank-10", "mINP"), 100.0)
    files["metrics.json"] = json.dumps({"iteration": 1, **hosts}).encode()


def test_ranks_of_another_test_set_are_refused(trained, packed, tmp_path):
    """With a list of their own they are whole; another file on the same set tells that it is not the same."""
    ledger = replace(trained[0], datasets={"FolderReID": {"folder": "any"}})  # of which only the names are known
    one = read_submission(forged(packed, tmp_path / "other.zip", another_test_set))
    assert len(verify(one, ledger, look_for_dataset=False).open) == 2  # alone and without the dataset nobody can tell
    with pytest.raises(SubmissionError, match="its test images are not those of '.*run.zip'"):
        verify(one, ledger, [packed], look_for_dataset=False)
    with pytest.raises(SubmissionError, match="test images are not those of FolderReID on this machine"):
        verify(one, ledger)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edited("result.json", lambda result: result.update(seed=1)), "result.json was changed after it was packed"),
        (edited("manifest.json", lambda described: described.update(by="B")), "it was changed after it was written"),
        (edited("manifest.json", lambda described: described.update(format=2)), "it is of format 2"),
        (lambda files: files.pop("ranks.npz"), "it holds"),
        (lambda files: files.pop("metrics.json"), "metrics.json was taken out of it"),
        (lambda files: files.update({"more.txt": b""}), "it holds"),
        (lambda files: files.update({"manifest.json": b"[]"}), "refused as a submission"),
    ],
)
def test_an_edited_file_is_refused(packed, tmp_path, change, message):
    with pytest.raises(SubmissionError, match=message):
        read_submission(forged(packed, tmp_path / "edited.zip", change, seal=False))


def test_a_truncated_or_foreign_file_is_refused(packed, tmp_path):
    content = packed.path.read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.zip").write_bytes(content[:size])
        with pytest.raises(SubmissionError, match="refused as a submission"):
            read_submission(tmp_path / "cut.zip")
    place = len(content) // 3
    (tmp_path / "bit.zip").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(SubmissionError):
        read_submission(tmp_path / "bit.zip")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_submission(tmp_path / "none.zip")


def test_weights_of_another_run_are_refused(trained, packed, tmp_path):
    ledger, run, root = trained
    state = torch.load(run.folder(root) / "weights_final.pth", weights_only=True)
    model = state.get("model", state)
    for name in model:
        if name.endswith("running_mean"):
            model[name] = model[name] + 1
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(SubmissionError, match="another model than the one"):
        verify(packed, ledger, weights=tmp_path / "other.pth")


def test_what_is_accepted_stands_in_the_table_with_its_origin(trained, packed, tmp_path, monkeypatch, capsys):
    ledger, _, _ = trained
    place = accept(packed, tmp_path)
    assert submitted(tmp_path) == [place] == [accept(packed, tmp_path)]
    place.write_bytes(b"other")
    with pytest.raises(FileExistsError, match="with other content"):
        accept(packed, tmp_path)
    place.write_bytes(packed.path.read_bytes())
    monkeypatch.setattr("fastreid_parts.commands.reproduce.load_ledger", lambda: ledger)
    code, out = call(capsys, "table", "--paper", "tiny", "--output", tmp_path)
    [line] = [line for line in out.splitlines() if "A. Name" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert code == 0 and cells[:4] == ["tiny", "whole", "FolderReID", "0"]
    assert cells[4] == f"{packed.metrics['mAP']:.1f}" and cells[-2:] == ["A. Name, https://example.org/1", place.name]
    place.unlink()
    accept(read_submission(forged(packed, tmp_path / "pipe.zip", of_manifest(by="A \\| Name"))), tmp_path)
    code, out = call(capsys, "table", "--paper", "tiny", "--output", tmp_path)
    assert code == 0 and r"| A \\\| Name, https" in out, "a cell stays one"
    ours = [line for line in out.splitlines() if "tiny, Table 1" in line]
    assert "| 70.0 |  |" in ours[0], "what others sent is not ours"


def test_a_list_that_has_an_image_twice_is_refused(packed, tmp_path):
    def change(files):
        header, first, *rest = files["test_list.csv"].splitlines(keepends=True)
        files["test_list.csv"] = b"".join([header, first, first, *rest])

    with pytest.raises(SubmissionError, match=r"test_list.csv has query .* 2 times"):
        read_submission(forged(packed, tmp_path / "twice.zip", change))


def test_names_that_differ_in_what_no_file_name_has_are_two_people(packed, tmp_path):
    names = ("A_Name", "A Name", "A-Name", "A" * 90, "A" * 91)
    sent = [
        read_submission(forged(packed, tmp_path / f"{number}.zip", of_manifest(by=name)))
        for number, name in enumerate(names)
    ]
    assert len({accept(one, tmp_path) for one in sent}) == 5
    assert max(len(path.name) for path in submitted(tmp_path)) < 150
    old = tmp_path / "submitted" / accept(sent[1], tmp_path).name.replace("-" + accept(sent[1], tmp_path).stem[-6:], "")
    accept(sent[0], tmp_path).unlink()
    accept(sent[1], tmp_path).rename(old)  # as an earlier version called it
    assert accept(sent[1], tmp_path) == old and len(submitted(tmp_path)) == 4


def test_the_commands(trained, packed, tmp_path, monkeypatch, capsys):
    ledger, _, root = trained
    monkeypatch.setattr("fastreid_parts.commands.reproduce.load_ledger", lambda: ledger)
    words = ["submit", "whole", "--paper", "tiny", "--by", "A. Name", "--output", root, "--file", tmp_path / "a.zip"]
    code, out = call(capsys, *words)
    assert code == 0 and "ok: the metrics follow from the ranks" in out and "a.zip" in out
    code, out = call(capsys, "verify", tmp_path / "a.zip", "--output", tmp_path, "--accept")
    assert code == 0 and "open: whether the ranks are this model's" in out and len(submitted(tmp_path)) == 1
    code, out = call(capsys, *words, "--opts", "TEST.METRIC", "cosine")
    assert code == 2 and "TEST.METRIC would make it another experiment" in out
    code, out = call(capsys, *words, "--by", "///", "--file", tmp_path / "c.zip")
    assert code == 2 and "by '///' has no letter" in out and not (tmp_path / "c.zip").exists()
    with monkeypatch.context() as patch:
        patch.setattr(submissions, "_check_ranks", lambda *_: (_ for _ in ()).throw(SubmissionError("other ranks")))
        code, out = call(capsys, *words, "--file", tmp_path / "d.zip")
        assert code == 2 and "other ranks" in out and not (tmp_path / "d.zip").exists()
    code, out = call(capsys, "verify", forged(packed, tmp_path / "b.zip", with_metrics(99.0)))
    assert code == 2 and "it says mAP 99.0" in out


def test_files_are_held_against_those_that_were_kept_before_them(trained, packed, tmp_path, monkeypatch, capsys):
    """In one call too, where the dataset is not at hand."""
    unknown = replace(trained[0], datasets={"FolderReID": {"folder": "any"}})
    monkeypatch.setattr("fastreid_parts.commands.reproduce.load_ledger", lambda: unknown)
    monkeypatch.setattr(submissions, "load_dataset", lambda *_: (_ for _ in ()).throw(ValueError("not here")))
    other = forged(packed, tmp_path / "other.zip", another_test_set)
    code, out = call(capsys, "verify", packed.path, other, "--output", tmp_path, "--accept")
    assert code == 2 and "its test images are not those of" in out and len(submitted(tmp_path)) == 1


def test_the_form_of_an_issue_is_one():
    """As GitHub takes it: each field has a name of its own, and the commands in it exist."""
    form = yaml.safe_load((ROOT / "docs/results/submission-form.yml").read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) >= 5
    assert all(field["type"] in ("input", "textarea", "checkboxes", "dropdown") for field in fields)
    assert all(field["attributes"]["label"] for field in fields)
