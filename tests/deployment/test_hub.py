"""Folders for others: they load as they were saved, claim what was measured, and run no code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from fastreid.config import CfgNode

from fastreid_parts import Embedder, PartsTrainer
from fastreid_parts.deployment.hub import FILES
from fastreid_parts.folders import FolderError
from fastreid_parts.retrieval import list_images

from ..commands.run import run
from .models import build


@pytest.fixture
def embedder(tiny_cfg: Callable[..., CfgNode]) -> Embedder:
    return Embedder(*build(tiny_cfg, "CMBN", "TEST.FLIP.ENABLED", True))


def header(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def results(folder: Path) -> dict[str, float]:
    """What the page claims, by dataset and measure."""
    return {
        f"{one['dataset']['name']} {metric['type']}": metric["value"]
        for model in header(folder).get("model-index", [])
        for one in model["results"]
        for metric in one["metrics"]
    }


def test_a_folder_loads_as_it_was_saved_and_claims_nothing(
    embedder: Embedder, tmp_path: Path, market_folder: Path, tiny_cfg: Callable[..., CfgNode]
) -> None:
    folder, images = tmp_path / "my-model", list_images(market_folder / "query")
    embedder.save_pretrained(folder, threshold=0.3)
    assert {path.name for path in folder.iterdir()} == set(FILES)
    again = Embedder.from_pretrained(folder, device="cpu")
    assert again.fingerprint == embedder.fingerprint
    np.testing.assert_array_equal(again(images), embedder(images))
    said = json.loads((folder / "model.json").read_text())
    assert (said["fingerprint"], said["threshold"]) == (embedder.fingerprint, 0.3)
    page = (folder / "README.md").read_text()
    assert results(folder) == {} and "None were measured" in page and "stated no license" in page
    assert "\n# my-model\n" in page and "Trained on FolderReID." in page and "mirror image's" in page
    assert not any(str(market_folder) in path.read_text(errors="ignore") for path in folder.iterdir())
    before = (folder / "README.md").read_bytes()
    (folder / ".gitattributes").write_text("mine")
    other = Embedder(*build(tiny_cfg, "CMBN"))
    with pytest.raises(FolderError, match=r"holds model\.safetensors, .*name another folder, or overwrite"):
        other.save_pretrained(folder)
    assert (folder / "README.md").read_bytes() == before
    other.save_pretrained(folder, overwrite=True, license="mit", name="Other")
    assert header(folder)["license"] == "mit" and "stated no license" not in (folder / "README.md").read_text()
    assert Embedder.from_pretrained(folder).fingerprint == other.fingerprint != embedder.fingerprint
    assert (folder / ".gitattributes").read_text() == "mine"
    again.save_pretrained(tmp_path / "twice")  # what was loaded from a folder may be saved to another
    assert Embedder.load(tmp_path / "twice").fingerprint == embedder.fingerprint


def test_the_threshold_of_a_folder_stays_with_its_model_as_long_as_it_holds(embedder: Embedder, tmp_path: Path) -> None:
    embedder.save_pretrained(tmp_path / "first", threshold=0.3)
    for opts, expected in (
        ([], 0.3),
        (["TEST.IMS_PER_BATCH", "3"], 0.3),
        (["TEST.METRIC", "euclidean"], None),
        (["TEST.FLIP.ENABLED", str(not embedder.cfg.TEST.FLIP.ENABLED)], None),
    ):
        there = Embedder.from_pretrained(tmp_path / "first", opts=opts)
        assert there.description.threshold == expected
        there.save_pretrained(tmp_path / "again", overwrite=True)
        assert json.loads((tmp_path / "again" / "model.json").read_text())["threshold"] == expected
    there.save_pretrained(tmp_path / "again", overwrite=True, threshold=0.4)
    assert Embedder.from_pretrained(tmp_path / "again").description.threshold == 0.4


def test_the_page_has_the_results_of_the_very_checkpoint(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cfg = tiny_cfg("TEST.EVAL_PERIOD", 1)
    measured = dict(PartsTrainer(cfg).train() or {})
    run_folder = Path(cfg.OUTPUT_DIR)
    Embedder.load(run_folder).save_pretrained(tmp_path / "last")
    names = ("mAP", "mINP", "Rank-1", "Rank-5", "Rank-10")
    assert results(tmp_path / "last") == pytest.approx({f"FolderReID {name}": measured[name] for name in names})
    assert "TEST.METRIC cosine" in (tmp_path / "last" / "README.md").read_text()
    log = run_folder / "metrics.json"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    first = next(line for line in lines if "mAP" in line)
    assert first["iteration"] < lines[-1]["iteration"]
    Embedder.load(run_folder / "model_0000.pth").save_pretrained(tmp_path / "first")
    assert results(tmp_path / "first") == pytest.approx({f"FolderReID {name}": first[name] for name in names})
    # Other settings than those of the training give other numbers, which nobody measured ...
    other = Embedder.load(run_folder, opts=["TEST.FLIP.ENABLED", "True"])
    other.save_pretrained(tmp_path / "other")
    assert results(tmp_path / "other") == {}
    # ... until somebody does
    model = ["--config-file", run_folder / "config.yaml", "--weights", run_folder / "model_final.pth"]
    run(capsys, "evaluate", *model, "--output", tmp_path / "it.json", "--opts", "TEST.FLIP.ENABLED", "True")
    evaluated = json.loads((tmp_path / "it.json").read_text())["evaluated"][0]["results"]
    other.save_pretrained(tmp_path / "other", results=[tmp_path / "it.json"], overwrite=True)
    assert results(tmp_path / "other") == pytest.approx({f"FolderReID {name}": evaluated[name] for name in names})
    both = Embedder.load(run_folder)
    run(capsys, "evaluate", *model, "--output", tmp_path / "both.json", "--opts", "TEST.METRIC", "euclidean")
    both.save_pretrained(tmp_path / "both", results=[tmp_path / "both.json"])
    page = (tmp_path / "both" / "README.md").read_text()
    assert "TEST.METRIC euclidean" in page and "TEST.METRIC cosine" in page  # of evaluate, and of the training
    with pytest.raises(ValueError, match="results of another model"):
        both.save_pretrained(tmp_path / "wrong", results=[tmp_path / "it.json"])
    (tmp_path / "no.json").write_text('{"evaluated": [{}]}')
    with pytest.raises(ValueError, match="is not what `evaluate --output` writes"):
        other.save_pretrained(tmp_path / "wrong", results=[tmp_path / "no.json"])
    assert not (tmp_path / "wrong").exists()


def test_what_is_changed_or_pickled_is_refused(embedder: Embedder, tmp_path: Path) -> None:
    embedder.save_pretrained(tmp_path / "a")
    text = (tmp_path / "a" / "config.yaml").read_text()
    (tmp_path / "a" / "config.yaml").write_text(text.replace("CMBNHead", "EmbeddingHead"))
    with pytest.raises(ValueError, match=r"config\.yaml' was changed .* change keys with opts"):
        Embedder.from_pretrained(tmp_path / "a")
    (tmp_path / "a" / "config.yaml").write_text(text + "MINE: 1\n")
    with pytest.raises(ValueError, match="not known here .*MINE"):
        Embedder.from_pretrained(tmp_path / "a")
    (tmp_path / "b").mkdir()
    torch.save({"model": embedder.model.state_dict()}, tmp_path / "b" / "model.pth")
    with pytest.raises(ValueError, match="can run code of whoever wrote them"):
        Embedder.from_pretrained(tmp_path / "b")


def test_only_the_named_files_are_fetched_from_the_hub(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder.save_pretrained(tmp_path / "there")
    asked: list[tuple] = []

    def fetch(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(tmp_path / "there")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert Embedder.from_pretrained("someone/model", revision="v1").fingerprint == embedder.fingerprint
    assert asked == [("someone/model", "v1", list(FILES))]
    for error in (OSError("401 Client Error.\nmore"), ValueError("Repo id must be ...")):

        def fail(*_args: object, error: Exception = error, **_kwargs: object) -> str:
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        with pytest.raises(
            OSError, match="'someone/model' is no folder here, and cannot be had from the hub: (401|Repo)"
        ):
            Embedder.from_pretrained("someone/model")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'fastreid_parts\[hub\]'"):
        Embedder.from_pretrained("someone/model")
