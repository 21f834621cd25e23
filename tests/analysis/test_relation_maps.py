"""Relation maps: what each position contributes, and the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from torch import nn

from fastreid_parts.analysis import relation_maps as relation_maps_module
from fastreid_parts.analysis.relation_maps import attribution, find_relation, part_of, part_shares, relation_maps
from tests.analysis.models import CAN, RRID, numbers_of, refused
from tests.commands.run import run

COSINE = ("TEST.METRIC", "cosine")
TWO_SCALES = (
    "MODEL.META_ARCHITECTURE", "RRID",
    "MODEL.HEADS.NAME", "RRIDHead",
    "MODEL.HEADS.WITH_BNNECK", False,
    "MODEL.HEADS.EMBEDDING_DIM", 8,
    "MODEL.HEADS.NUM_CLASSES", 2,
    "MODEL.BACKBONE.LAST_STRIDE", 1,
    "MODEL.RRID.PARTS", [2, 3],
    "INPUT.SIZE_TEST", [96, 24],
)  # fmt: skip


@pytest.fixture
def save(save: Callable[..., list[str]]) -> Callable[..., list[str]]:
    return lambda name, *overrides: save(name, *COSINE, *overrides)


@pytest.fixture
def make(tiny_cfg: Callable[..., CfgNode]) -> Callable[..., nn.Module]:
    def make(*overrides: Any) -> nn.Module:
        torch.manual_seed(0)
        return build_model(tiny_cfg(*TWO_SCALES, *overrides))

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
    parts, place = int(part[-1]), int(part[5]) - 1
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
        ValueError, match=r"no local feature 'global_of_3'; of MODEL.RRID.PARTS \[2, 3\] there are part_1_of_2"
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


# ---- the command


def test_relation_maps_of_both_kinds(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    models = (*save("rest", *RRID, "MODEL.RRID.RELATION", "rest"), *save("both", *RRID))
    numbers, printed = numbers_of(capsys, "relation-maps", tmp_path / "new" / "r.png", *models, "--part", "part_2_of_3")
    assert numbers["models"]["rest"]["map"] == "R_p(r)" and numbers["models"]["both"]["map"] == "R_p(T(p, r))"
    rest, both = (numbers["models"][name]["share_of_parts"] for name in ("rest", "both"))
    assert rest[1] == 0 < both[1] and sum(rest) == pytest.approx(1) and sum(both) == pytest.approx(1)
    assert all(len(model["found"]) == 3 for query in numbers["queries"] for model in query["models"].values())
    assert "part 2 *" in printed and f" {100 * both[0]:.1f} |" in printed and "4 query images" in printed


def test_relation_maps_draws_the_maps_of_the_chosen_queries(
    save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(relation_maps_module, "draw_rank_lists", lambda examples, path, title: drawn.append(examples))
    call = ["relation-maps", *save("RRID", *RRID), "--part", "part_3_of_3", "--output", tmp_path / "r.png"]
    run(capsys, *call)
    three = drawn[0]
    assert three.marked.regions == 3 and three.marked.marked == 2
    images = three.marked.images["RRID"]
    assert len(images) == 3 and all(image.shape == (48, 24, 3) for image in images)
    monkeypatch.setattr(relation_maps_module, "_CHUNK", 1)  # the images in other batches
    path = three.query.paths[three.rows[1]]
    run(capsys, *call, "--queries", path)
    (own,) = drawn[1].marked.images["RRID"]
    assert np.abs(own.astype(int) - images[1]).max() <= 2
    assert np.abs(own.astype(int) - images[0]).max() > 10


def test_relation_maps_refuses(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output, rrid = tmp_path / "r.png", save("RRID", *RRID)
    assert "RRID: there is no local feature 'part_3_of_6'" in refused(capsys, "relation-maps", output, *rrid)
    part = ["--part", "part_1_of_3"]
    assert "none: MODEL.RRID.RELATION is 'none'" in refused(
        capsys, "relation-maps", output, *save("none", *RRID, "MODEL.RRID.RELATION", "none"), *part
    ).replace("this model has no relation module: ", "")
    assert "CAN: relation maps are of RRIDHead" in refused(capsys, "relation-maps", output, *save("CAN", *CAN), *part)
