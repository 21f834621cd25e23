"""Accuracy of trained models over the strength of one nuisance at a time.

    fastreid-parts robustness --model BagTricks C W --model RRID C W --corruptions occlusion misalignment --output r.png
    fastreid-parts robustness --model RRID Synthetic/rrid_s.yml W --nuisances occlusion detector --output drawn.png

--corruptions are done to the images of any test set, by amounts that the figure states: blur, resolution, noise,
compression, exposure, occlusion, misalignment. --nuisances are those that SyntheticReID draws people with
(DATASETS.SYNTHETIC.NUISANCES): the test set is drawn once for each strength. Without either, it is every corruption.

Query and gallery are made worse together; --of query or gallery shows what one of them alone does, and the numbers
have all three. Everything is kept after each step: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from fastreid.config import CfgNode
from tabulate import tabulate
from torch import nn
from torchvision.transforms import Compose

from ..arguments import not_negative
from ..data.datasets.synthetic import SyntheticReID
from ..evaluation import Features, evaluate_features, extract
from ..evaluation.corruptions import CORRUPTIONS, Corrupt
from ..files import check_numbers, file_digest, file_state, locked, write_numbers
from ..folders import ELSEWHERE, NEUTRAL_KEYS, dumped_keys
from ..pedestrians import Nuisances
from ..visualization.style import Sheet, literal
from ..words import test_set
from .searched import tested
from .trained_models import (
    TrainedModel,
    add_figure_options,
    chosen_models,
    finish,
    load_on_test_set,
    load_test_images,
    note_different_images,
)

_MEASURES = ("mAP", "Rank-1")
#: What may be made worse.
OF = ("both", "query", "gallery")
_STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0)  # of a drawn nuisance

_PANEL, _GAP, _ROW, _COLUMNS = (2.5, 1.9), 0.55, 0.85, 3  # inches; panels beside each other


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """A model, loaded, with its test set."""

    trained: TrainedModel
    cfg: CfgNode
    model: nn.Module
    loader: Any
    num_query: int

    @functools.cached_property
    def clean(self) -> Features:
        """Features of the test set as it is; drawn nuisances need none."""
        return extract(self.model, self.loader, flip=self.cfg.TEST.FLIP.ENABLED)


def run(args: argparse.Namespace) -> None:
    """Measure and draw the models of --model.

    Raises:
        OSError, KeyError, ValueError: files, keys, or what the options name do not fit together.
    """
    models = chosen_models(args)
    steps = _steps(args)
    prepared = []
    for trained in models:
        cfg, model, loader, num_query = load_on_test_set(trained)
        if args.nuisances and cfg.DATASETS.TESTS[0] != SyntheticReID.__name__:
            raise ValueError(
                f"--nuisances are of {SyntheticReID.__name__}, and {trained.name} is tested on "
                f"{cfg.DATASETS.TESTS[0]}: take --corruptions"
            )
        prepared.append(_Prepared(trained, cfg, model, loader, num_query))
    note_different_images([one.loader for one in prepared], "test")
    described = {}
    for one in prepared:
        made_of = {
            "opts": list(one.trained.opts),
            "weights_sha256": file_digest(one.trained.weights),
            "settings_sha256": _settings_digest(one.cfg),
            "images_sha256": _images_digest(one.loader),
        }
        described[one.trained.name] = {**tested(one.trained, one.cfg), **made_of}
    numbers, folder = _begin(args, described, args.overwrite), os.path.dirname(os.path.abspath(args.output))
    replaces = args.overwrite

    def keep() -> None:
        """Write what is known, with what other calls of the command have found meanwhile."""
        nonlocal replaces
        with locked(folder):
            if not replaces:
                _take(numbers, _begin(args, described))
            write_numbers(args.output, numbers, args.command)
        replaces = False

    for one in prepared:
        model = one.trained.name
        missing = [step for step in steps if model not in _cell(numbers, *step)]
        if not missing:
            print(f"{model}: done by an earlier call", flush=True)
            continue
        print(f"{model}: {test_set(one.num_query, len(one.loader.dataset) - one.num_query)}", flush=True)
        for kind, name, value in missing:
            measure = _corrupted if kind == "corruptions" else _drawn
            found = _cell(numbers, kind, name, value)[model] = measure(one, name, value, args.seed)
            keep()
            print(f"{model}, {name} {value:g}: mAP {found['both']['mAP']:.1f}", flush=True)
    with locked(folder):
        keep()
        curves = numbers["curves"]
        table = _table(curves, args.of)
        finish(args, numbers, table, lambda path: draw_robustness(curves, path, args.of, args.title))


def _steps(args: argparse.Namespace) -> list[tuple[str, str, float]]:
    """(corruptions or nuisances, which, strength) of everything that is asked for."""
    asked = {"corruptions": args.corruptions, "nuisances": args.nuisances}
    if not any(asked.values()):
        asked["corruptions"] = list(CORRUPTIONS)
    if args.values and sum(map(len, asked.values())) != 1:
        raise ValueError("--values are strengths of one corruption or nuisance: name one")
    if args.nuisances and args.of != "both":
        raise ValueError("--nuisances draw query and gallery anew: --of is for --corruptions")
    steps = []
    for kind, names in asked.items():
        for name in dict.fromkeys(names):
            values = args.values or (CORRUPTIONS[name].values if kind == "corruptions" else _STRENGTHS)
            for value in sorted(set(values)):
                if kind == "corruptions":
                    CORRUPTIONS[name].check(value)
                else:
                    Nuisances(**{name: value})
                steps.append((kind, name, float(value)))
    return steps


def _begin(args: argparse.Namespace, described: Mapping[str, Any], overwrite: bool = False) -> dict[str, Any]:
    """The numbers of an earlier call of the same command, or none yet."""
    path = check_numbers(args.output, args.command)
    made_of = {"models": described, "seed": args.seed}
    if overwrite or not os.path.exists(path):
        if os.path.exists(args.output) and not overwrite:
            raise ValueError(f"'{args.output}' is there without its numbers: --overwrite replaces it, or {ELSEWHERE}")
        return {**made_of, "curves": {}}
    try:
        with open(path, encoding="utf-8") as file:
            there = json.load(file)
        same = {key: there[key] for key in made_of} == made_of
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"'{path}' is not of this command ({error}): {ELSEWHERE}") from error
    if not same:
        others = "other models, settings or images, or another seed"
        raise ValueError(f"'{path}' is of {others}: --overwrite replaces it, or {ELSEWHERE}")
    return there


def _take(numbers: dict[str, Any], others: Mapping[str, Any]) -> None:
    """Add what others have found; of one strength and model, one's own stays."""
    for name, curve in others["curves"].items():
        own = numbers["curves"].setdefault(name, {"unit": curve["unit"], "at": {}})
        for strength, models in curve["at"].items():
            own["at"][strength] = {**models, **own["at"].get(strength, {})}


def _settings_digest(cfg: CfgNode) -> str:
    """SHA-256 of the keys that results depend on: a config file may have changed since the earlier call."""
    keys = {key: value for key, value in dumped_keys(cfg).items() if key not in NEUTRAL_KEYS}
    return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()


def _images_digest(loader: Any) -> str:
    """SHA-256 of the test images' names, identities, cameras, and of what shows that a file changed."""
    items = [
        (os.path.basename(item[0]), *map(str, item[1:3]), file_state(item[0])) for item in loader.dataset.img_items
    ]
    return hashlib.sha256(json.dumps(items).encode()).hexdigest()


def _cell(numbers: dict[str, Any], kind: str, name: str, value: float) -> dict[str, Any]:
    """Where the results of the models are at one strength."""
    unit = CORRUPTIONS[name].unit if kind == "corruptions" else "strength of the drawings, 1 as usual"
    curve = numbers["curves"].setdefault(f"{name}, drawn" if kind == "nuisances" else name, {"unit": unit, "at": {}})
    return curve["at"].setdefault(f"{value:g}", {})


def _corrupted(one: _Prepared, name: str, value: float, seed: int) -> dict[str, dict[str, float]]:
    """Results with the corruption in both, in the queries and in the gallery alone."""
    if value == CORRUPTIONS[name].values[0]:
        return dict.fromkeys(OF, _results(one, one.clean))
    dataset = one.loader.dataset
    before = dataset.transform
    dataset.transform = Compose([Corrupt(name, value, seed), before])
    try:
        worse = extract(one.model, one.loader, flip=one.cfg.TEST.FLIP.ENABLED)
    finally:
        dataset.transform = before
    is_query = (np.arange(len(worse)) < one.num_query)[:, None]
    mixed = {
        "both": worse.features,
        "query": np.where(is_query, worse.features, one.clean.features),
        "gallery": np.where(is_query, one.clean.features, worse.features),
    }
    return {of: _results(one, dataclasses.replace(worse, features=features)) for of, features in mixed.items()}


def _drawn(one: _Prepared, name: str, value: float, seed: int) -> dict[str, dict[str, float]]:
    """Results on a test set that is drawn with one strength; people, places and cameras are the config's."""
    cfg = one.cfg.clone()
    cfg.defrost()
    cfg.merge_from_list([f"DATASETS.SYNTHETIC.NUISANCES.{name.upper()}", value])
    loader, num_query, _ = load_test_images(cfg)
    features = extract(one.model, loader, flip=cfg.TEST.FLIP.ENABLED)
    return {"both": _results(dataclasses.replace(one, num_query=num_query), features)}


def _results(one: _Prepared, features: Features) -> dict[str, float]:
    found = evaluate_features(features, one.num_query, one.cfg)
    return {measure: float(found[measure]) for measure in _MEASURES}


def _lines(curve: Mapping[str, Any], of: str) -> Iterator[tuple[str, list[float], list[float]]]:
    """(model, strengths, mAP) of every model of a curve."""
    strengths = sorted(curve["at"], key=float)
    for model in dict.fromkeys(name for strength in strengths for name in curve["at"][strength]):
        there = [strength for strength in strengths if of in curve["at"][strength].get(model, {})]
        yield model, [float(s) for s in there], [curve["at"][s][model][of]["mAP"] for s in there]


def _table(curves: Mapping[str, Any], of: str) -> str:
    """mAP at each strength, a row for each curve and model."""
    rows = []
    for name, curve in curves.items():
        for model, strengths, values in _lines(curve, of):
            cells = "  ".join(f"{strength:g}: {value:.1f}" for strength, value in zip(strengths, values))
            rows.append([name, curve["unit"], model, cells])
    return tabulate(rows, headers=["what", "strength", "model", f"mAP [%] at each strength, {of}"], tablefmt="pipe")


def draw_robustness(curves: Mapping[str, Any], path: str | os.PathLike, of: str = "both", title: str = "") -> None:
    """Draw mAP over strength, a panel a nuisance, a line a model.

    Args:
        curves: name -> `unit`, and `at`: strength -> model -> one of `OF` -> measures in percent.
        path: the PNG to write.
        of: which of `OF` is drawn.
        title: a line above the plots.

    Raises:
        ValueError: there is nothing to draw.
    """
    drawn = {name: curve for name, curve in curves.items() if any(values for *_, values in _lines(curve, of))}
    if not drawn:
        raise ValueError(f"there is no curve of {of} to draw")
    columns = min(_COLUMNS, len(drawn))
    rows = -(-len(drawn) // columns)
    width, height = (_PANEL[0] + _GAP) * columns, (_PANEL[1] + _ROW) * rows
    sheet, top = Sheet.titled(width, height, title)
    for place, (name, curve) in enumerate(drawn.items()):
        left, above = 0.55 + (place % columns) * (_PANEL[0] + _GAP), top + 0.3 + (place // columns) * (_PANEL[1] + _ROW)
        axes = sheet.axes(left, above, *_PANEL, name)
        for model, strengths, values in _lines(curve, of):
            axes.plot(strengths, values, marker="o", markersize=3, label=literal(model))
        axes.set(ylim=(0, max(1, 1.05 * axes.dataLim.ymax)), ylabel="mAP [%]" if place % columns == 0 else "")
        axes.set_xlabel(curve["unit"], fontsize=7)
        if place == 0:
            axes.legend(loc="lower left", frameon=False, fontsize=7)
    sheet.save(path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    add_figure_options(parser)
    units = "; ".join(f"{name}: {one.unit}" for name, one in CORRUPTIONS.items()).replace("%", "%%")
    parser.add_argument("--corruptions", nargs="+", default=[], choices=tuple(CORRUPTIONS), metavar="NAME", help=units)
    names = [one.name for one in dataclasses.fields(Nuisances)]
    text = f"what SyntheticReID is drawn with, from 0 to 2: {', '.join(names)}"
    parser.add_argument("--nuisances", nargs="+", default=[], choices=names, metavar="NAME", help=text)
    parser.add_argument("--values", nargs="+", type=float, default=[], metavar="STRENGTH", help="of one of them")
    parser.add_argument("--of", choices=OF, default="both", help="the images that are made worse (default: both)")
    parser.add_argument("--seed", type=not_negative, default=0, help="of the corruptions (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace numbers of other models")
