"""RMGL: what the receptive path sees, shared weights, features and their groups."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from fastreid.modeling import build_model
from torch import nn

from fastreid_parts.methods.rmgl import partition, reassemble

from ..losses.loops import distance
from .tester import IDENTITIES, MethodTester, batch, set_losses

SIZE = (96, 24)  # 24 rows where the receptive path is cut, six at the end
OVERRIDES = (
    "MODEL.META_ARCHITECTURE", "RMGL",
    "MODEL.HEADS.NAME", "RMGLHead",
    "MODEL.HEADS.WITH_BNNECK", False,
    "MODEL.HEADS.POOL_LAYER", "GlobalMaxPool",
    "MODEL.HEADS.WITH_BNNECK", False,
    "MODEL.HEADS.EMBEDDING_DIM", 8,
    "MODEL.BACKBONE.LAST_STRIDE", 1,
    "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"),
    "INPUT.SIZE_TRAIN", list(SIZE),
    "INPUT.SIZE_TEST", list(SIZE),
)  # fmt: skip
ORIGINAL, RECEPTIVE = ("MODEL.RMGL.PATHS", ["original"]), ("MODEL.RMGL.PATHS", ["receptive"])


class TestRMGL(MethodTester):
    overrides = OVERRIDES
    dimension = 8 * 14
    size = SIZE
    variants = (
        (),
        ORIGINAL,
        RECEPTIVE,
        ("MODEL.RMGL.BRANCHES", [1, 2]),
        ("MODEL.RMGL.BRANCHES", [3], "MODEL.RMGL.PARTITIONS", 2),
        ("MODEL.RMGL.PARTITION_AT", "stem"),
        ("MODEL.RMGL.PARTITION_AT", "stem", "MODEL.RMGL.STATISTICS", "separate"),
        ("MODEL.RMGL.PARTITION_AT", "res4", *RECEPTIVE),
        ("MODEL.RMGL.PARTITION_AT", "res5"),
        ("MODEL.ABP.MODE", "always", "MODEL.ABP.POOL", "avg"),
        ("MODEL.HEADS.NAME", "CGEHead", "MODEL.CGE.HEAD", "RMGLHead"),
    )


@pytest.fixture
def make(tiny_cfg: Callable) -> Callable[..., nn.Module]:
    def build(*overrides: object) -> nn.Module:
        torch.manual_seed(0)
        return build_model(tiny_cfg(*OVERRIDES, "MODEL.HEADS.NUM_CLASSES", IDENTITIES, *overrides))

    return build


def test_partition_stacks_stripes_and_reassemble_undoes_it() -> None:
    feature_map = torch.randn(2, 3, 12, 4)
    stripes = partition(feature_map, 3)
    assert stripes.shape == (6, 3, 4, 4)
    for k in range(3):
        assert torch.equal(stripes[2 * k : 2 * k + 2], feature_map[:, :, 4 * k : 4 * k + 4])
    assert torch.equal(reassemble(stripes, 3), feature_map)
    with pytest.raises(ValueError, match="a height that 5 divides, and it has 12 rows"):
        partition(feature_map, 5)


@pytest.mark.parametrize("stripes", [2, 3])
def test_stripes_of_the_receptive_path_do_not_see_each_other(make: Callable, stripes: int) -> None:
    backbone = make("MODEL.RMGL.BRANCHES", [stripes]).eval().backbone
    name = f"parts_of_{stripes}"
    cut = torch.randn(1, 64, 24, 6, requires_grad=True)
    stages = list(backbone.branches[name].values())

    def run(x: torch.Tensor) -> torch.Tensor:
        for stage in stages:
            x = stage(x)
        return x

    rows = 6 // stripes
    for path, output in (("original", run(cut)), ("receptive", reassemble(run(partition(cut, stripes)), stripes))):
        for k in range(stripes):
            (gradient,) = torch.autograd.grad(output[:, :, k * rows : (k + 1) * rows].sum(), cut, retain_graph=True)
            inside = torch.zeros(24, dtype=torch.bool)
            inside[k * 24 // stripes : (k + 1) * 24 // stripes] = True
            assert gradient[:, :, inside].any()
            assert bool(gradient[:, :, ~inside].any()) == (path == "original")


@pytest.mark.parametrize("position", ["stem", "res2", "res3", "res4", "res5"])
def test_the_partition_points_of_fig_9(make: Callable, position: str) -> None:
    backbone = make("MODEL.RMGL.PARTITION_AT", position).eval().backbone
    images = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        maps = backbone(images)
        for n in (2, 3):
            stages = [*backbone.shared.values(), *backbone.branches[f"parts_of_{n}"].values()]
            cut = ["stem", "res2", "res3", "res4", "res5"].index(position) + 1
            before = nn.Sequential(*stages[:cut])(images)
            whole, stripes = nn.Sequential(*stages[cut:])(before), nn.Sequential(*stages[cut:])(partition(before, n))
            assert torch.equal(maps[f"original/parts_of_{n}"], whole)
            assert torch.equal(maps[f"receptive/parts_of_{n}"], reassemble(stripes, n))


def test_paths_with_statistics_of_their_own(make: Callable) -> None:
    """The same parameters and training as with shared ones; each path's running statistics are its own."""
    shared, separate = make().train(), make("MODEL.RMGL.STATISTICS", "separate").train()
    assert sum(p.numel() for p in shared.parameters()) == sum(p.numel() for p in separate.parameters())
    images = torch.randn(4, 3, *SIZE)
    for got, expected in zip(separate.backbone(images).values(), shared.backbone(images).values()):
        assert torch.equal(got, expected)  # batch statistics are those of each pass in either case
    state = separate.backbone.state_dict()
    name = "parts_of_2.layer4.blocks.1.bn2.running_mean"
    original, receptive = (state[f"{kind}.{name}"] for kind in ("branches", "receptive"))
    assert original.any() and receptive.any() and not torch.allclose(original, receptive)
    mixed = shared.backbone.state_dict()[f"branches.{name}"]  # original first, then receptive, one tenth each
    assert torch.allclose(mixed, 0.9 * original + receptive, atol=1e-5)
    separate.eval()
    before = separate.backbone(images)
    for key, value in state.items():
        if key.startswith("receptive.") and key.endswith("running_mean"):
            value += 1
    after = separate.backbone(images)
    assert all(torch.equal(after[key], before[key]) == key.startswith("original/") for key in before)


@pytest.mark.parametrize(("branches", "passes"), [([2, 3], 2), ([1, 2, 3], 3)])
def test_without_an_original_path_no_shared_stage_sees_the_map_that_is_not_cut(
    make: Callable, branches: list, passes: int
) -> None:
    model = make("MODEL.RMGL.PARTITION_AT", "stem", "MODEL.RMGL.BRANCHES", branches, *RECEPTIVE).train()
    model.backbone(torch.randn(4, 3, *SIZE))
    assert int(model.backbone.shared["layer1"].blocks[0].bn1.num_batches_tracked) == passes


def test_both_paths_hold_one_set_of_parameters(make: Callable) -> None:
    counts = {paths[1][0] if len(paths[1]) == 1 else "both": sum(p.numel() for p in make(*paths).backbone.parameters())
              for paths in (ORIGINAL, RECEPTIVE, ("MODEL.RMGL.PATHS", ["original", "receptive"]))}  # fmt: skip
    assert len(set(counts.values())) == 1, counts


@pytest.mark.parametrize("position", ["stem", "res2", "res3", "res4", "res5"])
def test_each_path_alone_is_what_it_is_beside_the_other(make: Callable, position: str) -> None:
    images = batch(size=SIZE)["images"]
    both = make("MODEL.RMGL.PARTITION_AT", position).eval()
    maps = both.backbone(both.preprocess_image(images))
    assert list(maps) == ["original/parts_of_2", "receptive/parts_of_2", "original/parts_of_3", "receptive/parts_of_3"]
    for paths in (ORIGINAL, RECEPTIVE):
        alone = make("MODEL.RMGL.PARTITION_AT", position, *paths).eval()
        for name, feature_map in alone.backbone(alone.preprocess_image(images)).items():
            assert torch.equal(feature_map, maps[name])
    same = torch.equal(maps["original/parts_of_2"], maps["receptive/parts_of_2"])
    assert same == (position == "res5")


@pytest.mark.proves("rmgl", level=1)
def test_features_and_groups_of_eq_1_and_3(make: Callable) -> None:
    model = make()
    head = model.heads
    assert len(head.feature_names) == 14 and head.feature_names[:3] == [
        "original/global_of_2", "original/part_1_of_2", "original/part_2_of_2",
    ]  # fmt: skip
    assert head.metric_dims == {"all_of_2": 6 * 8, "all_of_3": 8 * 8}
    images = batch(size=SIZE)
    outputs = head(model.backbone(model.preprocess_image(images)), images["targets"])
    assert len(outputs.logits) == 14 and {k: v.shape[1] for k, v in outputs.features.items()} == head.metric_dims


@pytest.mark.proves("rmgl", level=1)
def test_eq_2_to_4_as_loops(tiny_cfg: Callable) -> None:
    """Both sums are means over the images here, and the minus before Eq. (3) is a misprint."""
    cfg = set_losses(tiny_cfg(*OVERRIDES, "MODEL.HEADS.NUM_CLASSES", IDENTITIES), "Base-RMGL")
    torch.manual_seed(0)
    model = build_model(cfg)
    maps = model.backbone(torch.randn(6, 3, *SIZE))
    persons, images = [0, 1], range(3)  # P = 2 persons with K = 3 images each, 3 i + a the a-th of the i-th
    targets = torch.tensor(persons).repeat_interleave(3)
    outputs = model.heads(maps, targets)
    distances = classes = 0.0
    for f in (f.tolist() for f in outputs.features.values()):  # branches b, all of their features concatenated
        for i in persons:
            for a in images:
                hardest = max(distance(f[3 * i + a], f[3 * i + p]) for p in images if p != a)
                nearest = min(distance(f[3 * i + a], f[3 * j + n]) for n in images for j in persons if j != i)
                distances += max(0.0, 0.6 + hardest - nearest) / 6
    for s in (s.tolist() for s in outputs.logits.values()):  # branches b, paths p and stripes s
        for row, y in zip(s, targets.tolist()):
            classes -= math.log(math.exp(row[y]) / sum(math.exp(z) for z in row)) / 6
    losses = model.losses(outputs, targets)
    triplet = sum(value.item() for name, value in losses.items() if name.startswith("loss_triplet"))
    assert triplet == pytest.approx(distances, rel=1e-4) and distances > 0
    assert sum(losses.values()).item() == pytest.approx(distances + classes, rel=1e-4)
    both_paths = torch.cat(list(outputs.features.values()), dim=1)
    assert torch.equal(both_paths, model.heads.represent(maps).flatten(1))


def test_balanced_stripes_at_test_on_the_original_path_alone(make: Callable) -> None:
    feature_map = torch.rand(3, 512, 6, 4, generator=torch.Generator().manual_seed(0))
    feature_map[:, :, 5] += 1  # all maxima are in the last row: balanced, the first stripes end above it
    balanced = torch.stack([feature_map[:, :, :5].amax(dim=(2, 3)), feature_map[:, :, 5:].amax(dim=(2, 3))], dim=1)
    uniform = torch.stack([feature_map[:, :, :3].amax(dim=(2, 3)), feature_map[:, :, 3:].amax(dim=(2, 3))], dim=1)
    for mode, training, path, expected in (
        ("test", False, "original", balanced),
        ("test", True, "original", uniform),
        ("test", False, "receptive", uniform),
        ("off", False, "original", uniform),
        ("always", True, "original", balanced),
    ):
        head = make("MODEL.ABP.MODE", mode).heads.train(training)
        assert torch.equal(head.pool(feature_map, 2, path)[:, 1:], expected), (mode, training, path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.RMGL.PATHS", ["both"]), r"MODEL.RMGL.PATHS is \['both'\]"),
        (("MODEL.RMGL.BRANCHES", [2, 2]), r"MODEL.RMGL.BRANCHES is \[2, 2\]"),
        (("MODEL.RMGL.PARTITION_AT", "res6"), "MODEL.RMGL.PARTITION_AT is 'res6'"),
        (("MODEL.RMGL.PARTITIONS", -1), "MODEL.RMGL.PARTITIONS is -1"),
        (("MODEL.ABP.MODE", "train"), "MODEL.ABP.MODE is 'train'"),
        (("MODEL.ABP.POOL", "sum"), "MODEL.ABP.POOL is 'sum'"),
        (("INPUT.SIZE_TEST", [80, 24]), r"INPUT.SIZE_TEST is \[80, 24\], and receptive partition into 3 stripes"),
        (("INPUT.SIZE_TEST", [32, 24], *ORIGINAL), r"\[32, 24\], and a feature map of 2 rows cannot be cut into 3"),
        (
            ("INPUT.SIZE_TEST", [32, 24], "MODEL.RMGL.PARTITIONS", 2, *RECEPTIVE),
            r"\[32, 24\], and a feature map of 2 rows cannot be cut into 3",
        ),
    ],
)
def test_errors(make: Callable, overrides: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(*overrides)
