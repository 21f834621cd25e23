"""fast-reid's ViT as stages: the same function, its class token, grids of any size, stripes that stay apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from fastreid.modeling.backbones import build_backbone
from fastreid.modeling.backbones.vision_transformer import VisionTransformer

from fastreid_parts.backbones import StagedBackbone, Tokens, build_parts_backbone, spatial, stages_of
from fastreid_parts.backbones.tokens import resize_positions, set_up
from fastreid_parts.methods.rmgl import partition, reassemble

SIZE = (96, 32)
VIT = (
    "MODEL.BACKBONE.NAME", "build_vit_backbone",
    "MODEL.BACKBONE.DEPTH", "small",
    "INPUT.SIZE_TRAIN", list(SIZE),
    "INPUT.SIZE_TEST", list(SIZE),
)  # fmt: skip


@pytest.fixture
def cfg(tiny_cfg: Callable[..., CfgNode]) -> Callable[..., CfgNode]:
    return lambda *overrides: tiny_cfg(*VIT, *overrides)


@pytest.mark.parametrize("stride", [(16, 16), (12, 12)])
def test_with_its_class_token_alone_it_is_fast_reids(cfg: Callable, stride: tuple[int, int]) -> None:
    built = cfg("MODEL.BACKBONE.STRIDE_SIZE", stride, "MODEL.BACKBONE.READOUT", "token")
    torch.manual_seed(0)
    host = build_backbone(built).eval()
    torch.manual_seed(0)
    ours = build_parts_backbone(built).eval()
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        assert torch.allclose(ours(images), host(images), atol=1e-6) and ours(images).shape == (2, 768, 1, 1)


def test_readout(cfg: Callable) -> None:
    maps = {}
    for how in ("ignore", "add", "token"):
        torch.manual_seed(0)
        net = build_parts_backbone(cfg("MODEL.BACKBONE.READOUT", how)).eval()
        torch.manual_seed(1)
        with torch.no_grad():
            maps[how] = net(torch.randn(2, 3, *SIZE))
    assert maps["ignore"].shape == (2, 768, 6, 2)
    assert torch.equal(maps["add"], maps["ignore"] + maps["token"]) and maps["token"].abs().min() > 0


def test_patches_stand_where_they_are_in_the_image(cfg: Callable) -> None:
    """An image that is black but for one patch: the stem's map differs there alone."""
    stem = stages_of(build_parts_backbone(cfg()))["stem"].eval()
    images = torch.zeros(2, 3, *SIZE)
    images[1, :, 48:64, 16:32] = 1  # row 3, column 1
    with torch.no_grad():
        x = stem(images).map
    assert (x[0] - x[1]).abs().sum(0).nonzero().tolist() == [[3, 1]]


def test_another_size_at_test_has_positions_of_its_own(cfg: Callable) -> None:
    stem = stages_of(build_parts_backbone(cfg()))["stem"].eval()
    with torch.no_grad():
        blank = stem(torch.zeros(1, 3, 192, 64)).map - stem.project(torch.zeros(1, 3, 192, 64))
    table = stem.position.detach().transpose(1, 2).unflatten(2, (6, 2))
    assert torch.allclose(blank, F.interpolate(table, (12, 4), mode="bicubic", antialias=True), atol=1e-6)
    assert resize_positions(stem.position, (6, 2), (6, 2)) is stem.position


@pytest.mark.parametrize("readout", ["ignore", "add"])
def test_attention_does_not_cross_stripes_after_the_cut(cfg: Callable, readout: str) -> None:
    """RMGL's receptive partition: no gradient from one stripe's output to another's patches, and one before the cut."""
    stages = stages_of(build_parts_backbone(cfg("MODEL.BACKBONE.READOUT", readout)).eval())
    images = torch.randn(1, 3, *SIZE, requires_grad=True)
    state = stages["layer1"](stages["stem"](images))
    cut = state.map.detach().requires_grad_()
    x = state._replace(map=partition(cut, 3), extra=state.extra.detach().repeat(3, 1, 1))
    for name in ("layer2", "layer3", "layer4"):
        x = stages[name](x)
    whole = reassemble(x, 3)
    # The middle one of three stripes; one channel, as the norm at the end leaves no gradient in the sum of all
    (gradient,) = torch.autograd.grad(whole[:, 0, 2:4].sum(), cut)
    touched = gradient.abs().sum(dim=(0, 1, 3)) > 0
    assert touched.tolist() == [False, False, True, True, False, False]
    (gradient,) = torch.autograd.grad(spatial(state)[:, :, 2:4].sum(), images)
    assert (gradient.abs().sum(dim=(0, 1, 3)) > 0).all()


def test_rmgl_on_it_does_cut(cfg: Callable) -> None:
    """In the model: what the lower half of an image shows does not reach the upper stripe's map beyond the cut."""
    model = build_model(
        cfg(
            "MODEL.META_ARCHITECTURE", "RMGL", "MODEL.HEADS.NAME", "RMGLHead", "MODEL.HEADS.EMBEDDING_DIM", 8,
            "MODEL.RMGL.BRANCHES", [2], "MODEL.RMGL.PARTITION_AT", "stem",
        )
    ).eval()  # fmt: skip
    images = torch.rand(1, 3, *SIZE) * 255
    other = images.clone()
    other[:, :, 48:] = 0
    with torch.no_grad():
        first, second = (model.backbone(model.preprocess_image(x)) for x in (images, other))
    receptive, original = "receptive/parts_of_2", "original/parts_of_2"
    assert torch.equal(first[receptive][:, :, :3], second[receptive][:, :, :3])
    assert not torch.equal(first[receptive][:, :, 3:], second[receptive][:, :, 3:])
    assert not torch.equal(first[original][:, :, :3], second[original][:, :, :3])


def test_a_key_that_no_token_reads_is_refused(tiny_cfg: Callable) -> None:
    with pytest.raises(ValueError, match="MODEL.BACKBONE.READOUT is 'add', and this PartsBaseline does not read it"):
        build_model(tiny_cfg("MODEL.META_ARCHITECTURE", "PartsBaseline", "MODEL.BACKBONE.READOUT", "add"))


def test_cameras_are_fast_reids_side_information(cfg: Callable) -> None:
    built = cfg("MODEL.BACKBONE.CAMERAS", 3, "MODEL.BACKBONE.READOUT", "token", "MODEL.BACKBONE.SIE_COE", 2.5)
    host = VisionTransformer(
        img_size=SIZE, stride_size=16, depth=8, num_heads=8, mlp_ratio=3.0, qkv_bias=False, qk_scale=768**-0.5,
        camera=3, sie_xishu=2.5,
    ).eval()  # fmt: skip
    images, cameras = torch.randn(2, 3, *SIZE), torch.tensor([2, 0])
    stages = stages_of(host)
    set_up(stages.values(), built)
    stages["stem"].cameras.data = host.sie_embed.data[:, 0]
    ours = StagedBackbone(stages)
    with torch.no_grad():
        expected = host(images, cameras)
        assert torch.allclose(ours(Tokens(images, cameras.view(2, 1, 1))), expected, atol=1e-6)
        unknown = ours(images)
        assert torch.equal(ours(Tokens(images, torch.full((2, 1, 1), -1))), unknown)
        assert not torch.allclose(unknown, expected, atol=1e-3)
    with pytest.raises(ValueError, match="of camera 4, and MODEL.BACKBONE.CAMERAS is 3"):
        ours(Tokens(images, torch.tensor([3, 0]).view(2, 1, 1)))


@pytest.mark.parametrize("method", ["RMGL", "CMBN"])
def test_a_model_sees_the_cameras_of_its_batch(cfg: Callable, method: str) -> None:
    model = build_model(
        cfg(
            "MODEL.META_ARCHITECTURE", method, "MODEL.HEADS.NAME", f"{method}Head", "MODEL.HEADS.EMBEDDING_DIM", 8,
            "MODEL.BACKBONE.CAMERAS", 2, "MODEL.HEADS.POOL_LAYER", "GlobalAvgPool",
        )
    ).eval()  # fmt: skip
    images = torch.rand(2, 3, *SIZE) * 255
    with torch.no_grad():
        first, second = (model({"images": images, "camids": torch.tensor(c)}) for c in ([0, 1], [0, 0]))
        alone = model(images)
    assert torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])
    assert not torch.equal(alone[0], first[0]) and not torch.equal(alone[1], second[1])
