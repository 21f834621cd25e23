"""A trained model as one module from pixels to features: what exporters take."""

from __future__ import annotations

import copy
import itertools
import os

import torch
import yaml
from fastreid.config import CfgNode, get_cfg
from PIL import Image
from torch import nn
from torch.nn import functional as F

from ..checkpoints import needed_in_evaluation
from ..config import flat_keys, nested_keys
from ..data.transforms import TransformSettings, build_transforms
from ..evaluation.features import device_of, features_of, mean_of_mirrored
from ..parts_baseline import PartsBaseline
from ..parts_head import PartsHead
from ..retrieval.fingerprint import model_fingerprint
from ..version import versions
from .description import COLORS, PIXELS, ModelDescription
from .loading import load_model

# Of pixels in 0 to 1; torchvision's weights are documented with these numbers
#: Attribute of a model that was loaded with a threshold: that, and the fingerprint and the metric that it is of.
CALIBRATED = "_calibrated"

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# What a description says of a config, and what of that concerns one machine or training alone
_PORTABLE = ("MODEL.", "INPUT.", "TEST.", "DATASETS.")
_LEFT_OUT = (
    *("MODEL.DEVICE", "MODEL.WEIGHTS", "MODEL.BACKBONE.PRETRAIN", "DATASETS.FOLDER.ROOT"),
    "MODEL.HEADS.NUM_CLASSES",  # there are no classifiers
)


class InferenceModel(nn.Module):
    """A trained model that takes pixels in a given range and gives features, (N, 3, H, W) -> (N, D) float32.

    It holds a copy of the model in evaluation mode, without what only training needs: it may be traced and exported,
    and the model trained on. Features are those that `extract` stores; TEST.FEATURES, TEST.FLIP and the normalization
    by PIXEL_MEAN and PIXEL_STD are inside.

    Args:
        cfg: the model's config.
        model: any fast-reid meta-architecture with its weights.
        pixels: range of what comes in, one of `PIXELS`.
        colors: order of its channels, one of `COLORS`.
        normalize: give features unit length.

    Raises:
        ValueError: such a range or order does not exist.
    """

    def __init__(
        self, cfg: CfgNode, model: nn.Module, *, pixels: str = "raw", colors: str = "RGB", normalize: bool = False
    ) -> None:
        super().__init__()
        for value, choices, what in ((pixels, PIXELS, "range of pixels"), (colors, COLORS, "order of colors")):
            if value not in choices:
                raise ValueError(f"there is no {what} '{value}'; it is one of {', '.join(choices)}")
        self.cfg, self.pixels, self.colors = cfg.clone(), pixels, colors
        self.normalize, self.flip = normalize, bool(cfg.TEST.FLIP.ENABLED)
        self.model = without_training(model)
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.to(device_of(model)).eval()

    @classmethod
    def load(cls, cfg: CfgNode, weights: str | os.PathLike, **options: object) -> InferenceModel:
        """Build the model of a config with the weights of a file.

        Args:
            cfg: see `fastreid_parts.deployment.loading.inference_config`.
            weights: a checkpoint.
            **options: see the class.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file holds the weights of another model; or as the class.
        """
        return cls(cfg, load_model(cfg, os.fspath(weights)), **options)  # type: ignore[arg-type]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        images = pixels.float()
        if self.colors == "BGR":
            images = images.flip(1)
        if self.pixels == "imagenet":
            images = images * self.std + self.mean
        if self.pixels != "raw":
            images = images * 255
        features = mean_of_mirrored(lambda x: self.model({"images": x}), images, self.flip).float()
        return F.normalize(features, dim=1) if self.normalize else features

    def describe(self, threshold: float | None = None, precision: str = "float32") -> ModelDescription:
        """Describe the model; it is run once, on a black image.

        Args:
            threshold: see the function `describe`.
            precision: see `ModelDescription`.

        Raises:
            ValueError: as the function `describe`.
        """
        return describe(
            self.cfg,
            self.model,
            pixels=self.pixels,
            colors=self.colors,
            normalized=self.normalize,
            threshold=threshold,
            precision=precision,
        )


def as_pixels(raw: torch.Tensor, pixels: str, colors: str) -> torch.Tensor:
    """Bring images to what an `InferenceModel` takes.

    Args:
        raw: (N, 3, H, W), RGB, 0 to 255.
        pixels: of the model, one of `PIXELS`.
        colors: of the model, one of `COLORS`.
    """
    images = raw.float() if pixels == "raw" else raw.float() / 255
    if pixels == "imagenet":
        images = (images - torch.tensor(_IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(_IMAGENET_STD).view(3, 1, 1)
    return images.flip(1) if colors == "BGR" else images


def without_training(model: nn.Module) -> nn.Module:
    """Copy a model in evaluation mode, without the tensors that its features do not depend on, such as classifiers."""
    model = copy.deepcopy(getattr(model, "module", model)).eval()
    state = model.state_dict(keep_vars=True)
    for name in state.keys() - set(needed_in_evaluation(model, state)):
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, None)
    return model.requires_grad_(False)


@torch.no_grad()
def describe(
    cfg: CfgNode,
    model: nn.Module,
    *,
    pixels: str = "raw",
    colors: str = "RGB",
    normalized: bool = False,
    threshold: float | None = None,
    precision: str = "float32",
) -> ModelDescription:
    """Describe a model; it is run once, on a black image.

    Args:
        cfg: its config.
        model: any fast-reid meta-architecture with its weights, in evaluation mode.
        pixels, colors, normalized, precision: see `ModelDescription`.
        threshold: see `ModelDescription`; by default the one that the model was loaded with, see `load_safetensors`,
            as long as it gives the same features and they are compared by the same metric.

    Raises:
        ValueError: the images of the config's tests have no fixed size, the model gives no features, or the threshold
            is not of features that are made unit length.
    """
    scaled = normalized and cfg.TEST.METRIC != "cosine"  # distances are others than those that were calibrated
    if scaled and threshold is not None:
        raise ValueError(
            f"the threshold is of {cfg.TEST.METRIC} distances between features as they are, and these have unit "
            "length: leave the threshold or the normalization out"
        )
    fingerprint = model_fingerprint(cfg, model)
    if threshold is None and not scaled:
        loaded, *of = getattr(model, CALIBRATED, (None,))
        threshold = loaded if of == [fingerprint, cfg.TEST.METRIC] else None
    size = input_size(cfg)
    device = device_of(model)
    dimension = features_of(model, {}, torch.zeros(1, 3, *size, device=device)).shape[1]
    head = getattr(model, "heads", None)
    return ModelDescription(
        fingerprint=fingerprint,
        versions=versions(),
        method=f"{cfg.MODEL.META_ARCHITECTURE}, {type(head).__name__ if head is not None else 'heads of its own'}",
        size=size,
        resized=_resized(cfg, size),
        resize=TransformSettings.from_cfg(cfg).resize,
        pixels=pixels,
        colors=colors,
        dimension=dimension,
        features=_columns(model, dimension),
        metric=cfg.TEST.METRIC,
        normalized=normalized,
        flip=bool(cfg.TEST.FLIP.ENABLED),
        precision=precision,
        threshold=threshold,
        config=portable_config(cfg),
    )


def input_size(cfg: CfgNode) -> tuple[int, int]:
    """Find height and width of the images that the config's tests give to a model.

    Raises:
        ValueError: they depend on the image.
    """
    transform = build_transforms(cfg, is_train=False)
    tall, wide = (tuple(transform(Image.new("RGB", size)).shape[1:]) for size in ((10, 30), (40, 20)))
    if tall != wide:
        raise ValueError(
            f"with INPUT.SIZE_TEST {list(cfg.INPUT.SIZE_TEST)} the size of what the model takes depends on the image: "
            "set a height and a width"
        )
    return tall


def portable_config(cfg: CfgNode) -> str:
    """Write the keys that say what a model is and how it is tested, where they are not at their defaults, as YAML.

    Paths and devices of one machine stay out.
    """
    default = flat_keys(get_cfg())
    changed = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in flat_keys(cfg).items()
        if key.startswith(_PORTABLE) and not key.startswith(_LEFT_OUT) and default.get(key, value) != value
    }
    return yaml.safe_dump(nested_keys(changed))


def _resized(cfg: CfgNode, size: tuple[int, int]) -> tuple[int, ...]:
    if not cfg.INPUT.CROP.ENABLED:
        return size
    return tuple(cfg.INPUT.SIZE_TEST) if cfg.INPUT.SIZE_TEST[0] > 0 else ()


def _columns(model: nn.Module, dimension: int) -> dict[str, tuple[int, int]]:
    """Name -> columns of what evaluation gives; one of fast-reid's heads has all under one name."""
    head = getattr(model, "heads", None)
    if not isinstance(head, PartsHead):
        return {"all": (0, dimension)}
    names = (model.test_features if isinstance(model, PartsBaseline) else ()) or head.feature_names
    ends = list(itertools.accumulate((head.feature_dims[name] for name in names), initial=0))
    return dict(zip(names, itertools.pairwise(ends)))
