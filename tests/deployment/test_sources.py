"""Where a model is loaded from: the folder of a training, checkpoints with and without config, safetensors."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode

from fastreid_parts import Embedder, extras
from fastreid_parts.checkpoints import save_weights
from fastreid_parts.deployment import InferenceModel, load_safetensors, save_safetensors
from fastreid_parts.retrieval import list_images, model_fingerprint

from .models import MODELS, build


@pytest.fixture
def trained(tiny_cfg: Callable[..., CfgNode]) -> tuple[CfgNode, torch.nn.Module]:
    return build(tiny_cfg, "CMBN")


@pytest.fixture
def run_folder(trained: tuple[CfgNode, torch.nn.Module], tmp_path: Path) -> Path:
    """What a training leaves, as far as it is of interest here."""
    (cfg, model), folder = trained, tmp_path / "run"
    folder.mkdir()
    save_weights(model, folder / "weights_final.pth", config=cfg.dump(), epoch=1)
    torch.save({"model": model.state_dict()}, folder / "bare.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "last_checkpoint").write_text("weights_final.pth")
    return folder


def test_every_way_gives_the_same_features(
    trained: tuple[CfgNode, torch.nn.Module], run_folder: Path, tmp_path: Path, market_folder: Path
) -> None:
    images = list_images(market_folder / "query")
    expected, fingerprint = Embedder(*trained)(images), model_fingerprint(*trained)
    moved = shutil.copy(run_folder / "weights_final.pth", tmp_path / "moved.pth")
    bare = shutil.copy(run_folder / "bare.pth", tmp_path / "bare.pth")
    save_safetensors(InferenceModel(*trained), tmp_path / "new" / "model.safetensors")
    for source, config in (
        (run_folder, ""), (str(run_folder / "bare.pth"), ""), (moved, ""), (bare, run_folder / "config.yaml"),
        (bare, trained[0]), (tmp_path / "new", ""),
    ):  # fmt: skip
        embedder = Embedder.load(source, config, device="cpu")
        np.testing.assert_array_equal(embedder(images), expected, err_msg=str(source))
        assert embedder.fingerprint == fingerprint
        assert Path(embedder.cfg.MODEL.WEIGHTS).is_file()
    changed = Embedder.load(run_folder, opts=["TEST.FLIP.ENABLED", "True"])
    assert changed.fingerprint != fingerprint and not np.allclose(changed(images), expected)
    again = Embedder.load(tmp_path / "new", opts=["TEST.FLIP.ENABLED", "True"])
    np.testing.assert_array_equal(again(images), changed(images))


def test_what_cannot_be_loaded_is_refused(
    run_folder: Path, tmp_path: Path, trained: tuple[CfgNode, torch.nn.Module], tiny_cfg: Callable[..., CfgNode]
) -> None:
    (tmp_path / "empty").mkdir()
    bare = shutil.copy(run_folder / "bare.pth", tmp_path / "bare.pth")
    other = tiny_cfg("MODEL.HEADS.NUM_CLASSES", 5, "MODEL.BACKBONE.DEPTH", "34x")
    save_safetensors(InferenceModel(*trained), kept := tmp_path / "model.safetensors")
    for source, config, problem in (
        (tmp_path / "nothing", "", "neither a file nor a folder"),
        ("someone/model", "", "of the hub is loaded by from_pretrained"),
        (tmp_path / "empty", "", "holds neither last_checkpoint of a training nor model.safetensors"),
        (bare, "", "name the config of its training"),
        (bare, tmp_path / "none.yml", "no config file"),
        (bare, other, "weights of another model"),
        (kept, other, "holds its config"),
    ):
        with pytest.raises((FileNotFoundError, ValueError), match=problem):
            Embedder.load(source, config)
    (run_folder / "last_checkpoint").write_text("model_0007.pth")
    with pytest.raises(FileNotFoundError, match=r"model_0007\.pth"):
        Embedder.load(run_folder)


@pytest.mark.parametrize("name", MODELS)
def test_safetensors_hold_what_features_depend_on(tiny_cfg: Callable[..., CfgNode], tmp_path: Path, name: str) -> None:
    cfg, model = build(tiny_cfg, name)
    path = tmp_path / "model.safetensors"
    save_safetensors(InferenceModel(cfg, model), path)
    there, loaded = load_safetensors(path)
    assert model_fingerprint(there, loaded) == model_fingerprint(cfg, model)
    assert str(path) == there.MODEL.WEIGHTS and not loaded.training


def test_damaged_safetensors(trained: tuple[CfgNode, torch.nn.Module], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_safetensors(model := InferenceModel(*trained), path := tmp_path / "model.safetensors")
    whole, said = path.read_bytes(), model.describe().to_map()
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}  # not mapped from the file
    name, first, config = *next(iter(tensors.items())), "fastreid_parts.config"

    def written(changed: dict[str, torch.Tensor], said: dict[str, str]) -> None:
        save_file(changed, path, said)

    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: path.write_bytes(whole[: len(whole) // 2]), "cut short or no file of safetensors"),
        (lambda: path.write_bytes(b"PK\x03\x04"), "cut short or no file"),
        (lambda: written(tensors, {}), "describes no model of fastreid_parts"),
        (lambda: written({**tensors, name: first + 1}, said), "does not hold the model that it describes"),
        (lambda: written({name: first}, said), f"weights of another model: {len(tensors) - 1} tensors"),
        (lambda: written({**tensors, name: first[:1]}, said), "weights of another model: 1 tensors"),
        (lambda: written(tensors, {**said, config: "MODEL: [1"}), "the config that is kept"),
        (lambda: written(tensors, {**said, config: "MODEL: {MINE: 1}"}), r"not known here .*MODEL\.MINE.*: import"),
        (
            lambda: written(tensors, {**said, config: "MODEL: {META_ARCHITECTURE: Mine}"}),
            "not known here .*'Mine'.*: import",
        ),
    ]
    for damage, problem in cases:
        damage()
        with pytest.raises(ValueError, match=problem):
            load_safetensors(path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_safetensors(tmp_path / "none.safetensors")


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ImportError, match=r"needs safetensors: pip install 'fastreid_parts\[hub\]'"):
        Embedder.load(tmp_path)
    assert extras.optional("json", "hub", "it").dumps([]) == "[]"
