"""Stages of every family of fast-reid's: the network itself, in five steps of a known stride."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fastreid.modeling.backbones import BACKBONE_REGISTRY, build_backbone
from torch import nn

from fastreid_parts.backbones import (
    STAGES,
    StagedBackbone,
    Tokens,
    build_parts_backbone,
    map_shape,
    on_map,
    output_shape,
    spatial,
    stages,
    stages_of,
    take_stride,
)
from fastreid_parts.backbones.stages import by_stride
from fastreid_parts.host import registered_names

#: Builder and DEPTH; columns of each stage's map for an image of 64
FAMILIES = {
    "resnet 18x": [16, 16, 8, 4, 2],
    "resnext 50x": [16, 16, 8, 4, 2],
    "resnest 50x": [16, 16, 8, 4, 2],
    "osnet x0_25": [32, 16, 8, 4, 4],
    "mobilenetv2 0.25x": [32, 16, 8, 4, 2],
    "mobilenetv3 Small": [32, 16, 8, 4, 2],
    "mobilenetv3 Large": [32, 16, 8, 4, 2],
    "regnet 200y": [32, 16, 8, 4, 2],
    "effnet b0": [32, 16, 8, 4, 2],
    "shufflenetv2 0.5x": [32, 16, 8, 4, 2],
    "repvgg A0": [32, 16, 8, 4, 2],
}


def build(tiny_cfg: Callable, family: str, *overrides: object) -> nn.Module:
    name, depth = family.split()
    torch.manual_seed(0)
    cfg = tiny_cfg("MODEL.BACKBONE.NAME", f"build_{name}_backbone", "MODEL.BACKBONE.DEPTH", depth, *overrides)
    return build_backbone(cfg).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_stages_in_order_are_the_network(tiny_cfg: Callable, family: str) -> None:
    net = build(tiny_cfg, family, "MODEL.BACKBONE.LAST_STRIDE", 2)
    images = torch.randn(2, 3, 96, 64)
    columns, x = [], images
    with torch.no_grad():
        for stage in stages_of(net).values():
            x = stage(x)
            columns.append(x.shape[3])
        assert torch.equal(x, net(images))
    assert columns == FAMILIES[family] and tuple(stages_of(net)) == STAGES
    # No layer is in two stages or in none
    held = [id(p) for stage in stages_of(net).values() for p in stage.parameters()]
    assert sorted(held) == sorted(id(p) for p in net.parameters())
    assert map_shape(net, (96, 64)) == tuple(x.shape[1:])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_stride_is_obeyed_in_every_family(tiny_cfg: Callable, family: str) -> None:
    name, depth = family.split()
    rows = {}
    for stride in (1, 2):
        cfg = tiny_cfg(
            "MODEL.BACKBONE.NAME", f"build_{name}_backbone", "MODEL.BACKBONE.DEPTH", depth,
            "MODEL.BACKBONE.LAST_STRIDE", stride, "INPUT.SIZE_TRAIN", [96, 64],
        )  # fmt: skip
        net = build_parts_backbone(cfg).eval()
        with torch.no_grad():
            rows[stride] = net(torch.randn(1, 3, 96, 64)).shape[2]
    assert rows == {1: 6, 2: 6 if name == "osnet" else 3}


def test_every_builder_of_fast_reid_is_a_family_that_is_known(tiny_cfg: Callable) -> None:
    names = {name.removeprefix("build_").removesuffix("_backbone") for name in registered_names(BACKBONE_REGISTRY)}
    assert names - {family.split()[0] for family in FAMILIES} == {"vit", "timm"}, "give the new one an adapter"


def test_measuring_leaves_a_network_as_it_was(tiny_cfg: Callable) -> None:
    net = build(tiny_cfg, "resnet 18x").train()
    net.layer2.eval()
    state = copy.deepcopy(net.state_dict())
    random = torch.get_rng_state()
    map_shape(net, (64, 32))
    assert net.training and net.layer1.training and not net.layer2.training
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


class Pooled(nn.Module):
    """What it gives depends on attributes of several kinds, none of which is a layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.sizes, self.more = 1, [2, 2], {}
        self.function: Any = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pool = self.function or F.max_pool2d
        return pool(images, self.sizes, self.step)[:, :: self.more.get("channels", 1)]


def test_a_structure_is_measured_once_and_another_one_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[nn.Module] = []
    run = stages._run_on_meta
    monkeypatch.setattr(stages, "_run_on_meta", lambda module, x: runs.append(module) or run(module, x))
    monkeypatch.setattr(stages, "_measured", {})
    assert output_shape(Pooled(), (8, 8)) == output_shape(Pooled(), (8, 8)) == (3, 7, 7) and len(runs) == 1
    assert output_shape(Pooled(), (8, 6)) == (3, 7, 5)
    changed = Pooled()
    changed.step = 2
    assert output_shape(changed, (8, 8)) == (3, 4, 4)
    changed.sizes[0] = 4
    assert output_shape(changed, (8, 8)) == (3, 3, 4)
    changed.more["channels"] = 2
    assert output_shape(changed, (8, 8)) == (2, 3, 4)
    for size in (3, 5):  # of one name, and nothing tells them apart
        changed.function = lambda images, sizes, step, size=size: images[..., :size]
        assert output_shape(changed, (8, 8)) == (2, 8, size)
    pool = nn.MaxPool2d(2)
    assert output_shape(nn.Sequential(pool), (8, 8)) == (3, 4, 4)
    assert output_shape(nn.Sequential(pool, pool), (8, 8)) == (3, 2, 2)
    for size in (1, 2):  # a cell of a notebook that is run again
        code = f"class Net(nn.Module):\n    def forward(self, x):\n        return x[..., :{size}]"
        exec(code, names := {"nn": nn})
        assert output_shape(names["Net"](), (8, 8)) == (3, 8, size)
    monkeypatch.setattr(Pooled, "forward", lambda self, images: images)
    assert output_shape(Pooled(), (8, 8)) == (3, 8, 8)
    monkeypatch.undo()
    hooked = Pooled()
    hooked.register_forward_hook(lambda module, inputs, output: output[..., :1])
    assert output_shape(hooked, (8, 8)) == (3, 7, 1)


def test_an_even_kernel_keeps_the_size_without_its_stride() -> None:
    def stages() -> dict[str, nn.Module]:
        layers = [nn.Conv2d(3, 4, 3, 2, 1), *(nn.Conv2d(4, 4, 3, 2, 1) for _ in range(3)), nn.Conv2d(4, 4, 2, 2)]
        return by_stride(layers)

    changed = stages()
    take_stride(changed, (64, 32))
    assert StagedBackbone(changed)(torch.zeros(1, 3, 64, 32)).shape == (1, 4, 4, 2)
    assert StagedBackbone(stages())(torch.zeros(1, 3, 64, 32)).shape == (1, 4, 2, 1)


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(ValueError, match="those of Linear are not known.*ResNet.*register an adapter"):
        stages_of(nn.Linear(2, 2))
    layers = [nn.Conv2d(3, 4, 3, 2, 1), *(nn.Conv2d(4, 4, 3, 2, 1) for _ in range(3)), nn.PixelUnshuffle(2)]
    with pytest.raises(ValueError, match="LAST_STRIDE is 1.*set it to 2"):
        take_stride(by_stride(layers), (64, 32))
    with pytest.raises(ValueError, match="stride of layer4"):
        by_stride(layers[:-1])


def test_tokens_go_with_the_pieces_of_their_map() -> None:
    state = Tokens(torch.arange(8.0).view(2, 1, 4, 1), torch.tensor([[[10.0]], [[20.0]]]))
    pieces = on_map(state, lambda x: torch.cat(x.split(2, dim=2)), copies=2)
    assert isinstance(pieces, Tokens)
    assert pieces.map.flatten().tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
    assert pieces.extra.flatten().tolist() == [10, 20, 10, 20]  # top stripes of both images, then the lower ones
    assert torch.equal(spatial(state), state.map) and torch.equal(on_map(state.map, torch.neg), -state.map)
