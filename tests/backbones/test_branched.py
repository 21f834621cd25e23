"""The cut ResNet: the same function as the host's, branches that share nothing, every kind of ResNet."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fastreid.modeling.backbones import build_backbone
from torch import nn

from fastreid_parts.backbones import BranchedBackbone, map_shape

KINDS = {
    "18x": ("MODEL.BACKBONE.DEPTH", "18x"),
    "34x ibn": ("MODEL.BACKBONE.DEPTH", "34x", "MODEL.BACKBONE.WITH_IBN", True),
    "50x non-local": ("MODEL.BACKBONE.DEPTH", "50x", "MODEL.BACKBONE.WITH_NL", True),
    "50x se": ("MODEL.BACKBONE.DEPTH", "50x", "MODEL.BACKBONE.WITH_SE", True),
    "resnest": ("MODEL.BACKBONE.NAME", "build_resnest_backbone", "MODEL.BACKBONE.DEPTH", "50x"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", ["layer1", "layer2"])
def test_each_branch_is_the_hosts_network(tiny_cfg: Callable, kind: str, cut: str) -> None:
    torch.manual_seed(0)
    host = build_backbone(tiny_cfg(*KINDS[kind])).eval()
    images = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        expected = host(images)
        branched = BranchedBackbone(host, cut, ("a", "b")).eval()
        maps = branched(images)
    assert torch.allclose(maps["a"], expected, atol=1e-6) and torch.allclose(maps["b"], expected, atol=1e-6)
    assert map_shape(branched, (64, 32)) == tuple(expected.shape[1:])


def test_branches_share_no_weight_and_the_front_end_is_one(tiny_cfg: Callable) -> None:
    model = BranchedBackbone(build_backbone(tiny_cfg()), "layer2", ("a", "b", "c"))
    sets = [{id(p) for p in model.branches[name].parameters()} for name in "abc"]
    sets.append({id(p) for p in model.shared.parameters()})
    assert len(set.union(*sets)) == sum(map(len, sets)) == len(list(model.parameters()))


def test_what_cannot_be_cut() -> None:
    with pytest.raises(ValueError, match="those of Linear are not known"):
        BranchedBackbone(nn.Linear(2, 2), "layer2", ("a",))


def test_where_it_cannot_be_cut(tiny_cfg: Callable) -> None:
    with pytest.raises(ValueError, match="layer4"):
        BranchedBackbone(build_backbone(tiny_cfg()), "layer4", ("a",))
