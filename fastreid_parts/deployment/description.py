"""What a model that leaves the plugin says of itself: in the file, beside it, and in the folder that others load."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..evaluation.exact import METRICS

#: Version of what is written.
FORMAT = 1
#: Begins the names in a map of strings, where other programs write too.
PREFIX = "fastreid_parts."

#: Range of the pixels that a model takes -> what they are.
PIXELS = {
    "raw": "0 to 255",
    "unit": "0 to 1",
    "imagenet": "0 to 1, less ImageNet's mean and divided by its standard deviation, a channel each",
}
COLORS = ("RGB", "BGR")
RESIZES = ("bicubic", "bilinear")
PRECISIONS = ("float32", "float16", "int8")

_CHOICES = {"pixels": tuple(PIXELS), "colors": COLORS, "resize": RESIZES, "metric": METRICS, "precision": PRECISIONS}
_REMEDY = "export the model again, or read it with the version of fastreid_parts that wrote it"


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What is needed to use a model right, wherever it runs.

    Attributes:
        fingerprint: of the model, see `model_fingerprint`: features of equal ones can be compared.
        versions: of the plugin, with its commit where that is known, of fast-reid and of torch.
        method: META_ARCHITECTURE and the head's name.
        size: height and width of the images that the model takes.
        resized: what an image is resized to before `size` is cut out of its center; equal to `size` where nothing is
            cut off, one number for the shorter side, none where it is not resized.
        resize: interpolation, Pillow's: it smooths when it makes an image smaller, as OpenCV's does not.
        pixels: one of `PIXELS`.
        colors: order of the channels.
        dimension: of a feature.
        features: name -> first column and the one after the last.
        metric: that features were evaluated by.
        normalized: whether features have unit length.
        flip: whether a feature is the mean of an image's and its mirror image's.
        precision: of the weights: a file in less than float32 gives slightly other features under one fingerprint.
        threshold: two images show the same person if their distance by `metric` is below it; None: not calibrated.
        config: YAML of the keys that differ from their defaults, of the model and of how it is tested.

    Raises:
        ValueError: a value is of another type, is none of its choices, or does not go with another.
    """

    fingerprint: str
    versions: Mapping[str, str]
    method: str
    size: tuple[int, int]
    resized: tuple[int, ...]
    resize: str
    pixels: str
    colors: str
    dimension: int
    features: Mapping[str, tuple[int, int]]
    metric: str
    normalized: bool
    flip: bool
    precision: str = "float32"
    threshold: float | None = None
    config: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        for name in ("fingerprint", "method", "config", *_CHOICES):
            _check(isinstance(getattr(self, name), str), name, "is a text", getattr(self, name))
        for name, values in _CHOICES.items():
            _check(getattr(self, name) in values, name, f"is one of {', '.join(values)}", getattr(self, name))
        for name in ("normalized", "flip"):
            _check(isinstance(getattr(self, name), bool), name, "is true or false", getattr(self, name))
        _check(_counts(self.size) and len(self.size) == 2, "size", "is a height and a width", self.size)
        _check(_counts(self.resized) and len(self.resized) < 3, "resized", "has two numbers at most", self.resized)
        _check(_counts([self.dimension]), "dimension", "is a whole number from 1", self.dimension)
        versions = isinstance(self.versions, Mapping) and all(isinstance(v, str) for v in self.versions.values())
        _check(versions, "versions", "names a version each", self.versions)
        columns = isinstance(self.features, Mapping) and all(
            isinstance(pair, tuple) and len(pair) == 2 and _counts(pair[1:]) and 0 <= pair[0] < pair[1]
            for pair in self.features.values()
        )
        _check(columns and max((last for _, last in self.features.values()), default=0) <= self.dimension,
               "features", f"has two columns each, up to {self.dimension}", self.features)  # fmt: skip
        numeric = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        _check(self.threshold is None or (numeric and math.isfinite(self.threshold)),
               "threshold", "is a number or null", self.threshold)  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Give what JSON holds: lists for tuples, and the format."""
        return {"format": FORMAT, **json.loads(json.dumps(dataclasses.asdict(self)))}

    @classmethod
    def from_dict(cls, said: Any) -> ModelDescription:
        """Read what `to_dict` gave.

        Raises:
            ValueError: it is no description, or one that this version does not know all of.
        """
        if not isinstance(said, Mapping) or "format" not in said:
            raise ValueError(f"this describes no model of fastreid_parts (it has no 'format'): {_REMEDY}")
        if said["format"] != FORMAT:
            raise ValueError(f"the description is of format {said['format']}, this version reads {FORMAT}: {_REMEDY}")
        known = {one.name: one for one in dataclasses.fields(cls)}
        unknown = sorted(map(str, said.keys() - known.keys() - {"format"}))
        missing = [name for name, one in known.items() if one.default is dataclasses.MISSING and name not in said]
        for names, what in ((unknown, "that this version does not know"), (missing, "that are missing")):
            if names:
                raise ValueError(f"the description has entries {what} ({', '.join(names)}): {_REMEDY}")
        values = {name: said[name] for name in known if name in said}
        for name in ("size", "resized"):
            values[name] = _pair(values[name])
        if isinstance(values["features"], Mapping):
            values["features"] = {name: _pair(columns) for name, columns in values["features"].items()}
        return cls(**values)

    def to_map(self) -> dict[str, str]:
        """Give a flat map of strings, for the metadata of a file: texts as they are, all else as JSON."""
        return {
            PREFIX + name: value if isinstance(value, str) else json.dumps(value)
            for name, value in self.to_dict().items()
        }

    @classmethod
    def from_map(cls, strings: Mapping[str, str]) -> ModelDescription:
        """Read what `to_map` gave; entries of other programs are passed over.

        Raises:
            ValueError: as `from_dict`.
        """
        own = {name[len(PREFIX) :]: value for name, value in strings.items() if name.startswith(PREFIX)}
        texts = {one.name for one in dataclasses.fields(cls) if one.type == "str"}
        try:
            return cls.from_dict({name: text if name in texts else json.loads(text) for name, text in own.items()})
        except json.JSONDecodeError as error:
            raise ValueError(f"the description cannot be read ({error}): {_REMEDY}") from error


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _counts(values: Sequence[Any]) -> bool:
    return isinstance(values, (tuple, list)) and all(type(value) is int and value > 0 for value in values)


def _check(holds: bool, name: str, rule: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"the description's {name} {rule}, not {value!r}: {_REMEDY}")
