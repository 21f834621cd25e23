"""Who walks there: bodies, hair, garments from a limited wardrobe, shoes, bags and hats.

Identities come in groups of look-alikes. A group shares its upper and its lower garment; its members differ in details
(hair, hat, shoes, bag, print, build and skin), every two of them in at least `MIN_DIFFERENCES` of these.
All colors are (blue, green, red), all lengths are fractions of the body height.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np

from .color import Color

T = TypeVar("T")

GROUP_SIZE = 4
MIN_DIFFERENCES = 4
_TOPS, _BOTTOMS = 18, 10


class Pattern(NamedTuple):
    """What a fabric shows: a kind, a second color, the repeat `pitch` and where it starts (`phase`, 0 to 1)."""

    kind: str = "plain"  # plain, stripes, bars, checks, dots, two_tone
    second: Color = (255, 255, 255)
    pitch: float = 0.06
    phase: float = 0.0


class Print(NamedTuple):
    """A print on the chest, a small logo on the left breast, or a print on the back."""

    kind: str = "none"  # none, logo, disc, square, triangle, band, letter
    color: Color = (255, 255, 255)
    on_back: bool = False


class Garment(NamedTuple):
    """A garment. `length` is the sleeve for tops (fraction of the arm) and the leg for bottoms (of the leg)."""

    kind: str  # shirt, vest, jumper, jacket, coat, dress; trousers, shorts, skirt
    color: Color
    pattern: Pattern
    length: float
    hem: float = 0.5  # height where a top ends
    inner: Color = (255, 255, 255)  # what an open jacket or coat shows
    fit: float = 1.0  # width of trouser legs


class Body(NamedTuple):
    """Proportions relative to the average body, and the color of the skin."""

    girth: float
    shoulders: float
    hips: float
    head: float
    legs: float
    skin: Color


class Hair(NamedTuple):
    """Hair: bald, buzz, short, parted, bob, long, ponytail, bun or afro."""

    kind: str
    color: Color


class Hat(NamedTuple):
    """Headwear: none, cap, beanie or brim."""

    kind: str
    color: Color


class Shoes(NamedTuple):
    """Shoes: trainers (light sole), flats or boots."""

    kind: str
    color: Color


class Bag(NamedTuple):
    """A bag: none, backpack, handbag or shoulder."""

    kind: str
    color: Color
    trim: Color
    size: float


@dataclass(frozen=True)
class Identity:
    """All that stays the same from one image of a person to the next; `key` seeds the folds of the clothes."""

    key: int
    body: Body
    hair: Hair
    hat: Hat
    top: Garment
    printed: Print
    bottom: Garment
    shoes: Shoes
    bag: Bag


def _palette(*names: str) -> tuple[Color, ...]:
    """Colors written as RRGGBB."""
    return tuple((int(n[4:], 16), int(n[2:4], 16), int(n[:2], 16)) for n in names)


SKINS = _palette("f3d3bd", "e6b998", "cf9a72", "a9744f", "7d5236", "573a28")
HAIRS = _palette("1d1815", "43301f", "7a5230", "b98d4f", "dcc48a", "8c8985", "8a3a20")
CLOTHES = _palette(
    "22242b",
    "2b3a63",
    "8a1f2b",
    "e9e7e1",
    "7d8288",
    "2f6b45",
    "c9a227",
    "6f4a8e",
    "c96f8f",
    "3f86b5",
    "b5632e",
    "5d4636",
)
BOTTOM_COLORS = _palette("23252c", "2c3c5e", "5b7596", "83776a", "4a4d52", "b9a987", "52593f", "6d2f35", "d4d2cb")
ACCENTS = _palette("f2f2ee", "d8342c", "f0c330", "2aa198", "1b1b1d", "3a62c4", "e98fb0", "74b84a", "ef7f2d")
SHOE_COLORS = _palette("f0efec", "1c1c1e", "7b4a2a", "c22f2f", "2d4f9e", "8f9498", "e2b93b")
BAG_COLORS = _palette("1d1d20", "7d4b2a", "b3262e", "24406e", "3d7a4c", "d9b13b", "8a8d92", "d56f9c")


def _pick(rng: np.random.Generator, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
    shares = None if weights is None else np.asarray(weights, float) / np.sum(weights)
    return options[int(rng.choice(len(options), p=shares))]


def _contrasting(rng: np.random.Generator, colors: Sequence[Color], against: Color) -> Color:
    far = [c for c in colors if sum(abs(a - b) for a, b in zip(c, against)) > 190]
    return _pick(rng, far)


def _sample_top(rng: np.random.Generator) -> Garment:
    kind = _pick(rng, ("shirt", "vest", "jumper", "jacket", "coat", "dress"), (9, 2, 4, 5, 2, 2))
    color = _pick(rng, CLOTHES)
    patterned = ("plain", "stripes", "bars", "checks", "dots", "two_tone")
    name = _pick(rng, patterned, (5, 3, 1.5, 2, 1.5, 2) if kind not in ("jacket", "coat") else (8, 0, 1, 1, 0, 2))
    pattern = Pattern(name, _contrasting(rng, CLOTHES, color), float(rng.uniform(0.045, 0.085)), 0.0)
    sleeve = {"shirt": 0.42, "vest": 0.0, "jumper": 1.0, "jacket": 1.0, "coat": 1.0, "dress": 0.3}[kind]
    hem = {"coat": 0.33, "dress": 0.31}.get(kind, float(rng.uniform(0.485, 0.53)))
    return Garment(kind, color, pattern, sleeve, hem, _contrasting(rng, CLOTHES, color))


def _sample_bottom(rng: np.random.Generator) -> Garment:
    kind = _pick(rng, ("trousers", "shorts", "skirt"), (6, 2, 2))
    color = _pick(rng, BOTTOM_COLORS)
    name = _pick(rng, ("plain", "checks", "bars"), (8, 1, 1))
    pattern = Pattern(name, _contrasting(rng, BOTTOM_COLORS, color), float(rng.uniform(0.04, 0.06)), 0.0)
    length = {"trousers": 1.0, "shorts": float(rng.uniform(0.36, 0.5)), "skirt": float(rng.uniform(0.38, 0.66))}[kind]
    return Garment(kind, color, pattern, length, fit=float(_pick(rng, (0.82, 1.0, 1.25))))


def _sample_body(rng: np.random.Generator) -> Body:
    curvy = rng.random() < 0.5
    return Body(
        girth=float(rng.uniform(0.86, 1.25)),
        shoulders=float(rng.uniform(0.88, 0.97) if curvy else rng.uniform(0.98, 1.08)),
        hips=float(rng.uniform(1.0, 1.12) if curvy else rng.uniform(0.9, 1.0)),
        head=float(rng.uniform(0.95, 1.08)),
        legs=float(rng.uniform(0.96, 1.04)),
        skin=_pick(rng, SKINS, (4, 4, 3, 2, 2, 2)),
    )


def _sample_hair(rng: np.random.Generator) -> Hair:
    kinds = ("bald", "buzz", "short", "parted", "bob", "long", "ponytail", "bun", "afro")
    return Hair(_pick(rng, kinds, (0.6, 1, 3, 2, 2, 3, 2, 1.2, 1)), _pick(rng, HAIRS, (4, 4, 3, 2, 2, 1.5, 1)))


def _sample_hat(rng: np.random.Generator) -> Hat:
    return Hat(_pick(rng, ("none", "cap", "beanie", "brim"), (6, 2, 2, 0.8)), _pick(rng, ACCENTS))


def _sample_shoes(rng: np.random.Generator) -> Shoes:
    return Shoes(_pick(rng, ("trainers", "flats", "boots"), (5, 3, 2)), _pick(rng, SHOE_COLORS))


def _sample_bag(rng: np.random.Generator) -> Bag:
    kind = _pick(rng, ("none", "backpack", "handbag", "shoulder"), (3, 3.2, 2, 2))
    color = _pick(rng, BAG_COLORS)
    return Bag(kind, color, _contrasting(rng, BAG_COLORS + ACCENTS, color), float(rng.uniform(0.85, 1.2)))


def _sample_print(rng: np.random.Generator, top: Garment) -> Print:
    kinds: tuple[str, ...] = ("none", "logo", "disc", "square", "triangle", "band", "letter")
    if top.kind in ("jacket", "coat"):  # worn open: only what is small or on the back stays visible
        kinds = ("none", "logo", "band")
    color = _contrasting(rng, ACCENTS, top.color)
    return Print(_pick(rng, kinds), color, bool(rng.random() < 0.55))


def _sample_phases(rng: np.random.Generator, identity: Identity) -> Identity:
    top = identity.top._replace(pattern=identity.top.pattern._replace(phase=float(_pick(rng, (0.0, 0.33, 0.67)))))
    bottom = identity.bottom._replace(pattern=identity.bottom.pattern._replace(phase=float(_pick(rng, (0.0, 0.5)))))
    return replace(identity, top=top, bottom=bottom)


def _differences(a: Identity, b: Identity) -> int:
    """In how many details two identities of a group differ so that a person would name it."""
    return sum(
        (
            a.hair.kind != b.hair.kind,
            a.hair.color != b.hair.color,
            a.hat != b.hat,
            a.shoes.color != b.shoes.color,
            a.bag[:2] != b.bag[:2] and not a.bag.kind == b.bag.kind == "none",
            a.printed != b.printed,
            a.body.skin != b.body.skin,
        )
    )


def _look_alike(rng: np.random.Generator, base: Identity, key: int) -> Identity:
    """`base` with some of its details drawn again."""
    member = _sample_phases(rng, replace(base, key=key, body=_sample_body(rng)))
    fresh = rng.random(6) < (0.75, 0.55, 0.75, 0.7, 0.55, 0.6)
    if fresh[0]:
        member = replace(member, hair=_sample_hair(rng))
    if fresh[1]:
        member = replace(member, hat=_sample_hat(rng))
    if fresh[2]:
        member = replace(member, shoes=_sample_shoes(rng))
    if fresh[3]:
        member = replace(member, bag=_sample_bag(rng))
    if fresh[4]:
        member = replace(member, printed=_sample_print(rng, member.top))
    if not fresh[5]:
        member = replace(member, body=member.body._replace(skin=base.body.skin))
    return member


def sample_identities(seed: int, split: int, count: int) -> list[Identity]:
    """Draw the identities of a split, the same ones for the same arguments, a longer list starting like a shorter one.

    Args:
        seed: of the dataset; it also decides the wardrobe that all splits share.
        split: number of the split; different splits have different people.
        count: how many identities.

    Returns:
        `count` identities; `GROUP_SIZE` neighbours form a group of look-alikes.
    """
    wardrobe = np.random.default_rng([seed, 1])
    tops = [_sample_top(wardrobe) for _ in range(_TOPS)]
    bottoms = [_sample_bottom(wardrobe) for _ in range(_BOTTOMS)]
    people: list[Identity] = []
    while len(people) < count:
        rng = np.random.default_rng([seed, 2, split, len(people)])
        top, bottom = _pick(rng, tops), _pick(rng, bottoms)
        base = Identity(
            key=0,
            body=_sample_body(rng),
            hair=_sample_hair(rng),
            hat=_sample_hat(rng),
            top=top,
            printed=_sample_print(rng, top),
            bottom=bottom,
            shoes=_sample_shoes(rng),
            bag=_sample_bag(rng),
        )
        group: list[Identity] = []
        while len(group) < GROUP_SIZE:
            member = _look_alike(rng, base, key=int(rng.integers(1 << 30)))
            if all(_differences(member, other) >= MIN_DIFFERENCES for other in group):
                group.append(member)
        people += group
    return people[:count]
