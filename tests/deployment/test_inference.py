"""The module that is exported: the features of `extract`, whatever the pixels are, and nothing of training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model

from fastreid_parts.checkpoints import needed_in_evaluation
from fastreid_parts.config import config_of, flat_keys
from fastreid_parts.deployment import InferenceModel
from fastreid_parts.deployment.inference import CALIBRATED, as_pixels
from fastreid_parts.deployment.loading import for_inference
from fastreid_parts.evaluation import extract
from fastreid_parts.retrieval import model_fingerprint

from ..methods.test_rrid import OVERRIDES as RRID
from .models import MODELS, build

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def images(height: int, width: int, number: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (number, 3, height, width), generator=torch.Generator().manual_seed(0)).float()


def as_fed(raw: torch.Tensor, pixels: str, colors: str) -> torch.Tensor:
    """What somebody feeds who has the raw RGB images `raw`."""
    fed = {"raw": raw, "unit": raw / 255, "imagenet": (raw / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)}[pixels]
    return fed[:, [2, 1, 0]] if colors == "BGR" else fed


FEEDS = (("raw", "RGB"), ("unit", "BGR"), ("imagenet", "RGB"))


@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_of_extract(tiny_cfg: Callable[..., CfgNode], name: str) -> None:
    cfg, model = build(tiny_cfg, name, "TEST.FLIP.ENABLED", True)
    raw = images(*MODELS[name][:2])
    batch = {"images": raw, "targets": torch.zeros(3), "camids": torch.zeros(3), "img_paths": ["a", "b", "c"]}
    expected = torch.from_numpy(extract(model, [batch], flip=True).features)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    feeds = FEEDS if name == "BagTricks" else FEEDS[len(name) % 3 :][:1]
    for pixels, colors in feeds:
        exported = InferenceModel(cfg, model, pixels=pixels, colors=colors)
        fed = as_fed(raw, pixels, colors)
        features = exported(given := fed.clone())
        assert features.dtype == torch.float32 and torch.equal(given, fed)
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        torch.testing.assert_close(as_pixels(raw, pixels, colors), fed, rtol=0, atol=1e-6)
    exported.normalize = True
    torch.testing.assert_close(exported(fed), torch.nn.functional.normalize(expected, dim=1), rtol=1e-4, atol=1e-5)
    description = exported.describe(threshold=0.5)
    assert description.dimension == expected.shape[1] and description.flip and description.threshold == 0.5
    assert (description.pixels, description.size, description.normalized) == (pixels, MODELS[name][:2], True)
    assert max(last for _, last in description.features.values()) == description.dimension
    assert description.fingerprint == model_fingerprint(cfg, model)
    # Nothing of training is left in it, and the model that was given is whole
    left = exported.model.state_dict().keys()
    assert left == set(needed_in_evaluation(model, model.state_dict())) and len(left) < len(model.state_dict())
    assert not any(parameter.requires_grad for parameter in exported.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_chosen_features_have_their_columns(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg, model = build(tiny_cfg, "RRID")
    every = InferenceModel(cfg, model)
    columns = every.describe().features
    names = [list(columns)[2], list(columns)[0]]
    cfg.TEST.FEATURES = names
    chosen = build_model(cfg)
    chosen.load_state_dict(model.state_dict())
    description = InferenceModel(cfg, chosen).describe()
    assert list(description.features) == names
    features, raw = every(images(96, 24)), images(96, 24)
    for name, (first, last) in description.features.items():
        torch.testing.assert_close(InferenceModel(cfg, chosen)(raw)[:, first:last], features[:, slice(*columns[name])])


def test_the_config_of_a_description_builds_the_model_and_names_no_path(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg, model = build(tiny_cfg, "RRID", "TEST.FLIP.ENABLED", True, "INPUT.RESIZE", "bilinear")
    description = InferenceModel(cfg, model).describe()
    again = config_of(description.config)
    assert again.TEST.FLIP.ENABLED and "market" not in description.config.replace("Market", "")
    other = build_model(for_inference(again)).eval()
    other.load_state_dict(InferenceModel(cfg, model).model.state_dict(), strict=False)
    assert model_fingerprint(again, other) == description.fingerprint
    assert not any(str(value).startswith("/") for value in flat_keys(again).values())
    assert (description.resize, description.method) == ("bilinear", f"{cfg.MODEL.META_ARCHITECTURE}, {RRID[3]}")


def test_sizes(tiny_cfg: Callable[..., CfgNode]) -> None:
    model = build_model(tiny_cfg("MODEL.HEADS.NUM_CLASSES", 2)).eval()
    for keys, expected in (
        (("INPUT.SIZE_TEST", [64, 32]), ((64, 32), (64, 32))),
        (("INPUT.SIZE_TEST", [64, 32], "INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [48, 24]), ((48, 24), (64, 32))),
        (("INPUT.SIZE_TEST", [0], "INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [48, 24]), ((48, 24), ())),
    ):
        description = InferenceModel(tiny_cfg(*keys), model).describe()
        assert (description.size, description.resized) == expected
    with pytest.raises(ValueError, match="set a height and a width"):
        InferenceModel(tiny_cfg("INPUT.SIZE_TEST", [64]), model).describe()


def test_a_threshold_between_features_as_they_are_is_none_of_unit_length(tiny_cfg: Callable[..., CfgNode]) -> None:
    model = build_model(tiny_cfg("MODEL.HEADS.NUM_CLASSES", 2)).eval()
    cosine, euclidean = (tiny_cfg("TEST.METRIC", metric) for metric in ("cosine", "euclidean"))
    for cfg, normalize, expected in ((cosine, True, 0.5), (euclidean, False, 0.5), (euclidean, True, None)):
        setattr(model, CALIBRATED, (0.5, model_fingerprint(cfg, model), cfg.TEST.METRIC))  # as it is loaded
        assert InferenceModel(cfg, model, normalize=normalize).describe().threshold == expected
    assert InferenceModel(cosine, model, normalize=True).describe(threshold=0.7).threshold == 0.7
    with pytest.raises(ValueError, match="these have unit length: leave the threshold or the normalization out"):
        InferenceModel(euclidean, model, normalize=True).describe(threshold=0.7)
    assert InferenceModel(euclidean, model).describe().threshold == 0.5
    assert InferenceModel(cosine, model).describe().threshold is None  # compared by another metric
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert InferenceModel(euclidean, model).describe().threshold is None  # other features


def test_refuses_ranges_and_orders_that_do_not_exist(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg = tiny_cfg()
    with pytest.raises(ValueError, match="no range of pixels '0-1'; it is one of raw, unit, imagenet"):
        InferenceModel(cfg, torch.nn.Linear(1, 1), pixels="0-1")
    with pytest.raises(ValueError, match="no order of colors 'rgb'; it is one of RGB, BGR"):
        InferenceModel(cfg, torch.nn.Linear(1, 1), colors="rgb")
