"""What the commands that look at trained models share.

Naming models, loading them, their training and test images; and a figure's file with the numbers beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastreid.config import CfgNode
from torch import nn
from torch.utils.data import DataLoader

from ..arguments import add_opts, png_file
from ..config import find_config, word_pairs
from ..data.build import build_reid_test_loader, build_reid_train_loader
from ..data.transforms import build_transforms
from ..deployment.loading import check_weights, inference_config, load_model, load_with_missing
from ..files import check_numbers, write_numbers


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
    command = parser.prog.rpartition(" ")[2]
    parser.set_defaults(command=command)
    text = "the PNG to write; the numbers stand beside it as .json"
    parser.add_argument("--output", type=partial(_figure_file, command), required=True, metavar="PNG", help=text)
    parser.add_argument("--title", default="", help="a line above the figure")


def _figure_file(command: str, text: str) -> str:
    png_file(text)
    try:
        check_numbers(text, command)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def finish(args: argparse.Namespace, numbers: Mapping[str, Any], table: str, draw: Callable[[str], object]) -> None:
    """Print a table, write numbers, draw the figure, and print where both are: what was measured stays if one fails.

    Args:
        args: with the options of `add_figure_options`.
        numbers: what the figure shows.
        table: to print.
        draw: draws the figure, by its path.
    """
    print(f"\n{table}\n", flush=True)
    path = write_numbers(args.output, numbers, args.command)
    draw(args.output)
    print(f"Figure: {args.output}, numbers: {path}")


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
        check_weights(model.weights)


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


def note_different_images(loaders: Sequence[DataLoader], which: str = "training") -> None:
    """Print a line where models are not measured on the same images.

    Args:
        loaders: of the images, one a model.
        which: images, for people.
    """
    if len({tuple(item[0] for item in loader.dataset.img_items) for loader in loaders}) > 1:
        print(f"The {which} images differ: each model is measured on those of its own config", flush=True)
