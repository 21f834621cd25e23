from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from torch import nn

from fastreid_parts.evaluation import find_relation, part_of, part_shares, relation_maps
from fastreid_parts.evaluation.relation_maps import attribution

RRID = (
    "MODEL.META_ARCHITECTURE", "RRID",
    "MODEL.HEADS.NAME", "RRIDHead",
    "MODEL.HEADS.WITH_BNNECK", False,
    "MODEL.HEADS.EMBEDDING_DIM", 8,
    "MODEL.HEADS.NUM_CLASSES", 2,
    "MODEL.BACKBONE.LAST_STRIDE", 1,
    "MODEL.RRID.PARTS", [2, 3],
)  # fmt: skip


@pytest.fixture
def make(tiny_cfg: Callable[..., CfgNode]) -> Callable[..., nn.Module]:
    def make(*overrides: Any) -> nn.Module:
        torch.manual_seed(0)
        return build_model(tiny_cfg(*RRID, *overrides))

    return make


@pytest.fixture
def images() -> torch.Tensor:
    """Six rows of the map: of three parts each is two high."""
    return torch.randint(0, 256, (3, 3, 96, 24), generator=torch.Generator().manual_seed(0)).float()


def test_attribution_of_a_linear_output_is_what_each_position_adds() -> None:
    generator = torch.Generator().manual_seed(0)
    feature_map = torch.randn(2, 5, 4, 3, generator=generator, requires_grad=True)
    weight = torch.randn(5, generator=generator)
    output = torch.einsum("nchw,c->nhw", feature_map, weight).flatten(1)
    result, values = attribution(feature_map, output), feature_map.detach()
    for n in range(2):
        for y in range(4):
            for x in range(3):
                added = sum(float(values[n, c, y, x]) * float(weight[c]) for c in range(5))
                assert float(result[n, y, x]) == pytest.approx(max(added, 0), abs=1e-5)


@pytest.mark.parametrize("part", ["part_1_of_3", "part_2_of_3", "part_2_of_2"])
def test_the_rest_alone_never_looks_at_the_part_itself(
    make: Callable[..., nn.Module], images: torch.Tensor, part: str
) -> None:
    parts, place = int(part[1]), int(part[-1]) - 1
    shares = part_shares(relation_maps(make("MODEL.RRID.RELATION", "rest"), images, part), parts)
    assert (shares[:, place] == 0).all() and shares.sum(axis=1) == pytest.approx([1, 1, 1])
    both = part_shares(relation_maps(make(), images, part), parts)
    assert (both[:, place] > 0).all()


def test_maps_are_of_the_chosen_part_and_leave_the_model_as_it_was(
    make: Callable[..., nn.Module], images: torch.Tensor
) -> None:
    model = make().train()
    before, state = images.clone(), {name: value.clone() for name, value in model.state_dict().items()}
    first = relation_maps(model, images, "part_1_of_3")
    assert first.shape == (3, 6, 2) and first.dtype == np.float32 and first.min() >= 0
    assert np.abs(relation_maps(model, images, "part_2_of_3") - first).max() > 0.1
    assert relation_maps(model, images, "part_1_of_3", batch_size=1) == pytest.approx(first, rel=1e-4, abs=1e-4)
    assert model.training and torch.equal(images, before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_place_of_a_part(make: Callable[..., nn.Module]) -> None:
    head = find_relation(make())
    assert [part_of(head, name) for name in ("part_1_of_2", "part_2_of_2", "part_3_of_3")] == [(2, 0), (2, 1), (3, 2)]
    with pytest.raises(
        ValueError, match=r"no local feature 'global_of_3'; of MODEL.RRID.PARTS \[2, 3\] there are P2_lo"
    ):
        part_of(head, "global_of_3")


def test_refuses_models_without_relations(make: Callable[..., nn.Module], tiny_cfg: Callable[..., CfgNode]) -> None:
    with pytest.raises(ValueError, match="MODEL.RRID.RELATION is 'none'"):
        find_relation(make("MODEL.RRID.RELATION", "none"))
    with pytest.raises(ValueError, match="this model has EmbeddingHead"):
        find_relation(build_model(tiny_cfg("MODEL.HEADS.NUM_CLASSES", 2)))


def test_part_shares_is_the_loop() -> None:
    maps = np.random.default_rng(0).random((2, 6, 3)).astype(np.float32)
    maps[1] = 0
    shares = part_shares(maps, 3)
    for part in range(3):
        inside = sum(float(maps[0, y, x]) for y in (2 * part, 2 * part + 1) for x in range(3))
        assert shares[0, part] == pytest.approx(inside / float(maps[0].sum()), abs=1e-6)
    assert (shares[1] == 0).all()
    with pytest.raises(ValueError, match="cut into 7"):
        part_shares(maps, 7)
