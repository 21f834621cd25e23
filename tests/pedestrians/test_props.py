"""Things that stand around, cut out of their surroundings."""

from __future__ import annotations

from collections import Counter

import numpy as np

from fastreid_parts.pedestrians.props import make_props, paint


def test_cut_out_close_and_the_same_for_a_seed() -> None:
    props = make_props(0)
    assert Counter(prop.kind for prop in props) == {"pole": 2, "car": 6, "bench": 3, "bush": 3}
    for prop in props:
        assert prop.image.shape == (*prop.mask.shape, 3) and set(np.unique(prop.mask)) <= {0, 255}
        assert all(edge.any() for edge in (prop.mask[0], prop.mask[-1], prop.mask[:, 0], prop.mask[:, -1]))
        assert not (prop.image[prop.mask > 0] == (255, 0, 255)).all(axis=1).any()
        height, width = prop.mask.shape
        assert height > 3 * width if prop.kind == "pole" else width > height
    same, other = make_props(0), make_props(1)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(props, same))
    assert not any(a.image.shape == b.image.shape and np.array_equal(a.image, b.image) for a, b in zip(props, other))


def test_colors_are_muted_and_of_any_hue() -> None:
    rng = np.random.default_rng(0)
    colors = np.array([paint(rng) for _ in range(200)])
    assert colors.min() >= 15 and colors.max() <= 240
    assert all((colors.argmax(axis=1) == channel).mean() > 0.2 for channel in range(3))
