"""Models as they are named on the command line, and their configs; the tests of the figures load them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
from fastreid.config import CfgNode

from fastreid_parts.analysis import trained_models
from fastreid_parts.analysis.trained_models import TrainedModel, chosen_models, inference_config, load_test_images


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """CONFIG WEIGHTS of --model; the weights are only looked for."""
    (tmp_path / "weights.pth").touch()
    return ["Market/cmbn.yml", str(tmp_path / "weights.pth")]


def chosen(*words: str) -> list[TrainedModel]:
    parser = argparse.ArgumentParser()
    trained_models.add_model_options(parser)
    return chosen_models(parser.parse_args(words))


def test_keys_of_all_models_come_after_those_of_one(words: list[str]) -> None:
    own = ("MODEL.DEVICE", "cuda")
    first, second = chosen("--model", "a", *words, *own, "--model", "b", *words, "--opts", "MODEL.DEVICE", "cpu")
    assert (first.name, first.config_file, first.weights) == ("a", *words)
    assert first.opts == [*own, "MODEL.DEVICE", "cpu"] and second.opts == ["MODEL.DEVICE", "cpu"]
    assert inference_config(first.config_file, first.opts).MODEL.DEVICE == "cpu"
    assert Path(first.files()["config"]).is_file() and first.files()["weights"] == words[1]


def test_what_no_model_can_be_is_refused_before_anything_is_loaded(words: list[str]) -> None:
    with pytest.raises(ValueError, match="takes NAME CONFIG WEIGHTS and then pairs KEY VALUE, got: a b"):
        chosen("--model", "a", "b")
    with pytest.raises(ValueError, match="pairs"):
        chosen("--model", "a", *words, "MODEL.DEVICE")
    with pytest.raises(ValueError, match="both models are named 'a'"):
        chosen("--model", "a", *words, "--model", "a", *words)
    with pytest.raises(FileNotFoundError, match="no weights file 'nowhere.pth'"):
        chosen("--model", "a", words[0], "nowhere.pth")
    with pytest.raises(FileNotFoundError, match="no config file 'nowhere.yml'"):
        chosen("--model", "a", "nowhere.yml", words[1])


def test_a_config_that_is_looked_at_loads_nothing_and_has_a_classifier() -> None:
    cfg = inference_config("Market/cmbn.yml", ["MODEL.BACKBONE.PRETRAIN", "True"])
    assert not cfg.MODEL.BACKBONE.PRETRAIN and cfg.MODEL.HEADS.NUM_CLASSES == 1
    assert inference_config("Market/cmbn.yml", ["MODEL.HEADS.NUM_CLASSES", "6"]).MODEL.HEADS.NUM_CLASSES == 6


def test_the_first_test_set_or_the_one_that_is_named(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg = tiny_cfg()
    loader, num_query, name = load_test_images(cfg)
    assert name == cfg.DATASETS.TESTS[0] and 0 < num_query < len(loader.dataset)
    cfg.DATASETS.TESTS = ()
    assert load_test_images(cfg, name)[1:] == (num_query, name)
    with pytest.raises(ValueError, match="names no test set"):
        load_test_images(cfg)
