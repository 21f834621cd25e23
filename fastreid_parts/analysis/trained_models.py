"""What the commands that look at trained models share.

Naming models, loading them, their training and test images; and a figure's file with the numbers beside it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastreid.config import CfgNode
from fastreid.modeling import build_model
from fastreid.utils.checkpoint import Checkpointer
from torch import nn
from torch.utils.data import DataLoader

from ..arguments import add_opts
from ..config import find_config, load_config, word_pairs
from ..data.build import build_reid_test_loader, build_reid_train_loader
from ..data.transforms import build_transforms
from ..files import write_numbers


@dataclass(frozen=True)
class TrainedModel:
    """A model as it is named on the command line.

    Attributes:
        name: in tables and figures.
        config_file: a path, or a name below the plugin's configs.
        weights: a checkpoint.
        opts: KEY, VALUE pairs that change the config.
    """

    name: str
    config_file: str
    weights: str
    opts: Sequence[str] = ()

    def files(self) -> dict[str, str]:
        """Say what it is made of: the paths of `config` and `weights`."""
        return {"config": find_config(self.config_file), "weights": self.weights}


def add_model_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Give a command the options --model, once for each model, and --opts, for all of them.

    Args:
        parser: of the command.
        required: at least one model has to be named.
    """
    parser.add_argument(
        "--model",
        dest="models",
        action="append",
        nargs="+",
        default=[],
        required=required,
        metavar=("NAME CONFIG WEIGHTS", "KEY VALUE"),
        help="a model: its name in table and figure, its config, its checkpoint, and config keys to change in it "
        "alone; give the option once for each model",
    )
    add_opts(parser, "in all models")


def add_figure_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Give the command of a figure the options of `add_model_options`, --output and --title.

    Args:
        parser: of the command.
        required: at least one model has to be named.
    """
    add_model_options(parser, required)
    parser.add_argument("--output", required=True, help="the PNG to write; the numbers stand beside it as .json")
    parser.add_argument("--title", default="", help="a line above the figure")


def finish(figure: str, numbers: Mapping[str, Any], table: str) -> None:
    """Write numbers beside a figure, and print its table and where both are.

    Args:
        figure: its PNG.
        numbers: what it shows.
        table: to print.
    """
    print(f"\n{table}\n\nFigure: {figure}, numbers: {write_numbers(figure, numbers)}")


def chosen_models(args: argparse.Namespace) -> list[TrainedModel]:
    """Read the models of --model, with --opts after each one's own keys.

    Raises:
        FileNotFoundError: a config or a weights file is not there.
        ValueError: a model is not named as --model takes it, or two have one name.
    """
    models = []
    for words in args.models:
        if len(words) < 3:
            raise ValueError(f"--model takes NAME CONFIG WEIGHTS and then pairs KEY VALUE, got: {' '.join(words)}")
        name, config_file, weights, *opts = words
        word_pairs(opts)
        models.append(TrainedModel(name, config_file, weights, [*opts, *args.opts]))
    check_models(models)
    return models


def check_models(models: Sequence[TrainedModel]) -> None:
    """Check what can be checked before anything is loaded.

    Raises:
        FileNotFoundError: a config or a weights file is not there.
        ValueError: two models have one name.
    """
    names = [model.name for model in models]
    for model in models:
        if names.count(model.name) > 1:
            raise ValueError(f"both models are named '{model.name}': give each a name of its own")
        find_config(model.config_file)
        _check_weights(model.weights)


def inference_config(config_file: str, opts: Sequence[str]) -> CfgNode:
    """Read the config of a trained model that is looked at, not trained.

    Args:
        config_file: see `config.load_config`.
        opts: see `config.load_config`.

    Raises:
        FileNotFoundError: there is no such config file.
        KeyError: a key does not exist.
        ValueError: a value does not fit its key.
    """
    cfg = load_config(config_file, opts)
    cfg.MODEL.BACKBONE.PRETRAIN = False
    if cfg.MODEL.HEADS.NUM_CLASSES == 0:
        cfg.MODEL.HEADS.NUM_CLASSES = 1  # the classifier must be there, but a feature map does not depend on it
    return cfg


def load_model(cfg: CfgNode, weights: str) -> nn.Module:
    """Build the model of a config with trained weights, in evaluation mode.

    Args:
        cfg: the config.
        weights: a checkpoint.

    Raises:
        FileNotFoundError: there is no such weights file.
        ValueError: the file holds the weights of another model.
    """
    return load_with_missing(cfg, weights)[0]


def load_with_missing(cfg: CfgNode, weights: str, trained_as: str = "") -> tuple[nn.Module, set[str]]:
    """Load a model as `load_model` does, and name what the file lacks.

    Args:
        cfg: the config; its MODEL.WEIGHTS becomes the checkpoint, as what is stored with features says what made them.
        weights: a checkpoint.
        trained_as: name of a model that is to have as many identities as in its training.

    Returns:
        The model; the names of its tensors that the file does not hold, which evaluation does not need.

    Raises:
        FileNotFoundError: there is no such weights file.
        ValueError: the file holds the weights of another model.
    """
    _check_weights(weights)
    model = build_model(cfg)
    checkpointer = Checkpointer(model)
    try:
        checkpointer.load(weights)
    finally:  # it says more than the error that there may be
        if trained_as:
            _check_identities(checkpointer, weights, trained_as, cfg)
    cfg.MODEL.WEIGHTS = os.path.abspath(weights)
    return model.eval(), set(checkpointer.last_incompatible.missing_keys)


def load_on_test_set(trained: TrainedModel) -> tuple[CfgNode, nn.Module, DataLoader, int]:
    """Load a model in evaluation mode with the test images of its config: the first dataset of DATASETS.TESTS.

    Returns:
        The config; the model; a loader of batches {"images", "targets", "camids", "img_paths"} with the query images
        first; the number of queries.

    Raises:
        FileNotFoundError: there is no such config or weights file.
        KeyError: a key does not exist.
        ValueError: no dataset is named or it cannot be read, or the file holds the weights of another model.
    """
    cfg = inference_config(trained.config_file, trained.opts)
    loader, num_query, _ = load_test_images(cfg)
    return cfg, load_model(cfg, trained.weights), loader, num_query


def load_test_images(cfg: CfgNode, dataset: str = "", evaluated: bool = True) -> tuple[DataLoader, int, str]:
    """Load the images of a dataset, query images first.

    Args:
        cfg: the config.
        dataset: its name, by default the first of DATASETS.TESTS.
        evaluated: queries are to be scored, so that one at least must have a match.

    Returns:
        A loader, the number of queries, and the name.

    Raises:
        ValueError: no dataset is named or it cannot be read.
    """
    names = [dataset] if dataset else cfg.DATASETS.TESTS
    if not names:
        raise ValueError("the config names no test set: set DATASETS.TESTS, or name a dataset")
    return *build_reid_test_loader(cfg, dataset_name=names[0], evaluated=evaluated), names[0]


def load_on_training_set(trained: TrainedModel) -> tuple[nn.Module, DataLoader, set[str]]:
    """Load a model in evaluation mode with everything that it was trained with, and its training images.

    The images come as in a test: in the order of the dataset, each once, without augmentation, in INPUT.SIZE_TEST.
    Identities are numbered as in training.

    Returns:
        The model; a loader of batches {"images", "targets", "camids", "img_paths"}, whose dataset has `num_classes`;
        names of the model's tensors that the file does not hold.

    Raises:
        FileNotFoundError: there is no such config or weights file.
        KeyError: a key does not exist.
        ValueError: the dataset cannot be read, or the file holds the weights of another model or of a training on
            another number of identities.
    """
    cfg = inference_config(trained.config_file, trained.opts)
    train_set = build_reid_train_loader(cfg, transforms=build_transforms(cfg, is_train=False)).dataset
    cfg.MODEL.HEADS.NUM_CLASSES = train_set.num_classes
    model, missing = load_with_missing(cfg, trained.weights, trained.name)
    loader, _ = build_reid_test_loader(cfg, test_set=train_set, num_query=0)
    return model, loader, missing


def note_different_images(loaders: Sequence[DataLoader]) -> None:
    """Print a line where models are not measured on the same training images."""
    if len({tuple(item[0] for item in loader.dataset.img_items) for loader in loaders}) > 1:
        print("The training images differ: each model is measured on those of its own config", flush=True)


def _check_identities(checkpointer: Any, weights: str, name: str, cfg: CfgNode) -> None:
    """A classifier or a memory whose length differs along one axis, the identities."""
    incompatible, identities = checkpointer.last_incompatible, cfg.MODEL.HEADS.NUM_CLASSES
    for key, in_file, in_model in incompatible.incorrect_shapes if incompatible is not None else ():
        differing = [(a, b) for a, b in zip(in_file, in_model) if a != b]
        if len(in_file) == len(in_model) and len(differing) == 1 and differing[0][1] == identities:
            raise ValueError(
                f"'{weights}' was trained on {differing[0][0]} identities ({key}), but {name}'s "
                f"training set, DATASETS.NAMES {', '.join(cfg.DATASETS.NAMES)}, has {identities}: use the config and "
                "the dataset of the training"
            )


def _check_weights(weights: str) -> None:
    if not os.path.isfile(weights):
        raise FileNotFoundError(f"no weights file '{weights}'")
