"""What stands between a camera and the identity of a person, each with one strength."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any


def _strength(about: str) -> Any:
    return field(default=1.0, metadata={"about": about})


@dataclass(frozen=True)
class Nuisances:
    """Strengths of the nuisances: 0 switches one off, 1 is what the generator is tuned for, 2 is the most.

    A strength scales the effect and never the random numbers behind it, so that two images that differ in one
    strength differ in that nuisance alone. What each is stands beside its field.

    Raises:
        ValueError: a strength is not a number from 0 to 2.
    """

    background: float = _strength(
        "contrast of the scene behind the person and how often somebody walks there; 0 is plain gray"
    )
    occlusion: float = _strength("how often a pole, a car, a bench, a bush or another pedestrian stands in front")
    pose: float = _strength("swing of legs and arms, bent elbows, lean, turned heads; 0 is a person who stands")
    viewpoint: float = _strength("how far the heading spreads; 0 is everybody seen from the front, 1 from anywhere")
    illumination: float = _strength("changes of exposure from one image to the next, uneven light and cast shadows")
    detector: float = _strength("shift, rescale and crop of the box around the person")
    camera: float = _strength("color cast, gamma, saturation, blur, low resolution and noise, fixed for each camera")

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"nuisance '{one.name}' is {value!r}; give a number from 0 (off) to 2")
            if not 0 <= value <= 2:
                raise ValueError(f"nuisance '{one.name}' is {value}; give a number from 0 (off) to 2")
            object.__setattr__(self, one.name, float(value))

    @classmethod
    def none(cls) -> Nuisances:
        """Turn all of them off."""
        return cls(**{one.name: 0.0 for one in fields(cls)})

    def as_dict(self) -> dict[str, float]:
        """Give the strengths by name."""
        return asdict(self)
