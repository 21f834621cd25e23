"""CAN against its paper: windows, collaborative attention, embedding and losses as plain loops; dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fastreid.modeling import build_model
from torch import nn

from fastreid_parts.layers import ConcatPool, pool_rows, stripe_bounds, window_bounds
from fastreid_parts.methods.can import CANHead, Embedding, collaborate

from ..losses.loops import distance
from .tester import IDENTITIES, MethodTester, build_head, set_losses

SIZE = (96, 24)  # six rows of the map
OVERRIDES = (
    "MODEL.META_ARCHITECTURE", "CAN",
    "MODEL.HEADS.NAME", "CANHead",
    "MODEL.HEADS.WITH_BNNECK", False,
    "MODEL.HEADS.EMBEDDING_DIM", 8,
    "MODEL.HEADS.SCALE", 14,
    "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss", "CenterLoss"),
    "MODEL.BACKBONE.LAST_STRIDE", 1,
    "MODEL.CAN.PARTS", [1, 2, 3],
    "INPUT.SIZE_TRAIN", list(SIZE),
    "INPUT.SIZE_TEST", list(SIZE),
)  # fmt: skip


def head(feat_dim: int = 12, **overrides: Any) -> CANHead:
    return build_head(CANHead, feat_dim, **{"embedding_dim": 5, "num_classes": 4, "scale": 14.0, **overrides})


def maps(module: CANHead, channels: int = 12, rows: int = 24) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {f"parts_of_{n}": torch.randn(3, channels, rows, 4, generator=generator) for n in module.parts}


class TestCAN(MethodTester):
    overrides = OVERRIDES
    dimension = 8 * (1 + 2 + 3)
    size = SIZE
    variants = (
        (),
        ("MODEL.CAN.COLLABORATIVE_ATTENTION", False),
        ("MODEL.CAN.WINDOWS", "adaptive", "MODEL.CAN.PARTS", [1, 4]),
        ("MODEL.CAN.EMBEDDING", "conv"),
        ("MODEL.CAN.EMBEDDING", "normalized_each"),
        ("MODEL.CAN.CLUSTER", "global"),
        ("MODEL.CAN.POOL", "GeneralizedMeanPoolingP", "MODEL.HEADS.WITH_BNNECK", True),
        ("MODEL.HEADS.NAME", "CGEHead", "MODEL.CGE.HEAD", "CANHead"),
    )


class TestEquations:
    @pytest.mark.parametrize("height", [6, 8, 12, 16, 24, 25])
    @pytest.mark.proves("can", level=1)
    def test_eq_1_is_a_pooling_without_padding(self, height: int) -> None:
        feature_map = torch.randn(2, 3, height, 4)
        for n in range(1, min(height, 9) + 1):
            stride = height // n
            size = height - (n - 1) * stride
            assert window_bounds(height, n) == [(i * stride, i * stride + size) for i in range(n)]
            pooled = F.max_pool2d(feature_map, (size, 4), stride=(stride, 1))
            assert pooled.shape == (2, 3, n, 1)  # the output size that it was derived for
            average = F.avg_pool2d(feature_map, (size, 4), stride=(stride, 1))
            expected = torch.cat([pooled, average], dim=1)[..., 0].transpose(1, 2)
            assert torch.allclose(pool_rows(feature_map, window_bounds(height, n), ConcatPool()), expected, atol=1e-6)

    def test_eq_1_at_the_papers_height(self) -> None:
        # (stride, size) for 3, 5, 7 and 9 parts of 24 rows: all but 3 overlap
        got = {n: window_bounds(24, n)[1][0:1] + (window_bounds(24, n)[0][1],) for n in (3, 5, 7, 9)}
        assert got == {3: (8, 8), 5: (4, 8), 7: (3, 6), 9: (2, 8)}

    def test_collaborative_attention_pools_two_blocks_one_above_the_other(self) -> None:
        blocks = torch.randn(2, 5, 7)
        expected = F.max_pool2d(blocks.transpose(1, 2)[..., None], (2, 1), stride=1)[..., 0].transpose(1, 2)
        assert torch.equal(collaborate(blocks), expected)

    @pytest.mark.proves("can", level=1)
    def test_eq_2_to_4_one_embedding_for_all_features(self) -> None:
        module = head(embedding="conv").eval()
        features = module(maps(module)).view(3, 16, 5)
        weight = module.embedding.layers[0].weight[:, :, 0, 0]
        row = 0
        for n, feature_map in zip(module.parts, maps(module).values()):
            blocks = []
            for a, b in window_bounds(24, n):
                window = feature_map[:, :, a:b]
                blocks.append(torch.cat([window.amax(dim=(2, 3)), window.mean(dim=(2, 3))], dim=1))
            whole = torch.cat([feature_map.amax(dim=(2, 3)), feature_map.mean(dim=(2, 3))], dim=1)
            local = [torch.maximum(blocks[k], blocks[k + 1]) for k in range(n - 1)]
            for feature in [whole, *local]:
                for i in range(5):
                    expected = (weight[i] * feature).sum(dim=1)
                    assert torch.allclose(features[:, row, i], expected, atol=1e-5)
                row += 1
        assert row == 16

    def test_sec_4_6_the_classifier_takes_cosines(self) -> None:
        module = head()
        outputs = module(maps(module), torch.tensor([0, 1, 2]))
        module.eval()
        with torch.no_grad():
            pooled = torch.cat([module.pool_branch(n, x) for n, x in zip(module.parts, maps(module).values())], dim=1)
            module.embedding.train()
            features = module.embedding(pooled)
        for g, (name, logits) in enumerate(outputs.logits.items()):
            assert name == module.feature_names[g]
            for k in range(4):
                cosine = F.cosine_similarity(features[:, g], module.classifiers.weight[g, k][None], dim=1)
                assert torch.allclose(logits[:, k], 14 * cosine, atol=1e-4)

    @pytest.mark.parametrize("power", [1, 2])
    @pytest.mark.proves("can", level=1)
    def test_eq_5_to_9_as_loops(self, power: int, tiny_cfg: Callable) -> None:
        """L_CE averaged over features, L_Trip and L_C over groups, all of them over images; Eq. (7) has squares."""
        cfg = set_losses(tiny_cfg(*OVERRIDES, "MODEL.HEADS.NUM_CLASSES", IDENTITIES), "Base-CAN")
        assert not cfg.MODEL.LOSSES.TRI.SQUARED  # as in the authors' code
        cfg.MODEL.LOSSES.TRI.SQUARED = power == 2
        torch.manual_seed(0)
        model = build_model(cfg)
        targets = [0, 3, 0, 3, 0, 3]
        outputs = model.heads(model.backbone(torch.randn(6, 3, *SIZE)), torch.tensor(targets))
        assert len(outputs.logits) == 6 and len(outputs.features) == 5
        cross_entropy = triplet = center = 0.0
        for logits in outputs.logits.values():
            for row, y in zip(logits.tolist(), targets):
                q = [math.exp(z) / sum(math.exp(other) for other in row) for z in row]
                p = [float(k == y) for k in range(IDENTITIES)]
                cross_entropy -= sum(p[k] * math.log(q[k]) for k in range(IDENTITIES)) / 6 / 6
        for name, features in outputs.features.items():
            f, c = features.tolist(), model.loss_modules["center"][f"branch_{name}"].centers.normal_().tolist()
            for i in range(6):
                hardest = max(distance(f[i], f[j]) ** power for j in range(6) if targets[j] == targets[i] and j != i)
                nearest = min(distance(f[i], f[j]) ** power for j in range(6) if targets[j] != targets[i])
                triplet += max(0.0, 1.3 + hardest - nearest) / 6 / 5
                center += distance(f[i], c[targets[i]]) ** 2 / 2 / 6 / 5
        losses = model.losses(outputs, torch.tensor(targets))
        for term, expected in (("cls", cross_entropy), ("triplet", triplet), ("center", 0.0005 * center)):
            got = sum(value.item() for name, value in losses.items() if name.startswith(f"loss_{term}"))
            assert got == pytest.approx(expected, rel=1e-4) and expected > 0, term
        assert sum(losses.values()).item() == pytest.approx(cross_entropy + triplet + 0.0005 * center, rel=1e-4)


class TestEmbedding:
    def test_the_later_codes_has_no_shift(self) -> None:
        embedding = Embedding(12, 5, "BN")
        norms = [layer for layer in embedding.layers if isinstance(layer, nn.BatchNorm2d)]
        assert len(norms) == 2 and not any(norm.bias.requires_grad for norm in norms)
        assert isinstance(embedding.layers[-1], nn.PReLU)
        assert embedding(torch.randn(4, 16, 12)).shape == (4, 16, 5)

    def test_each_feature_by_itself_one_after_the_other(self) -> None:
        torch.manual_seed(0)
        embedding, x = Embedding(12, 5, "BN", order=(1, 0, 2)), torch.randn(4, 3, 12)
        before, conv, _, prelu = embedding.layers
        assert prelu.weight.shape == (5,)
        got = embedding(x)
        mean = torch.zeros(12)
        for g in (1, 0, 2):
            mean = 0.9 * mean + 0.1 * x[:, g].mean(dim=0)
            y = (x[:, g] - x[:, g].mean(dim=0)) / (x[:, g].var(dim=0, unbiased=False) + 1e-5).sqrt()
            y = F.linear(y, conv.weight[:, :, 0, 0])
            y = (y - y.mean(dim=0)) / (y.var(dim=0, unbiased=False) + 1e-5).sqrt()
            assert torch.allclose(got[:, g], F.prelu(y, prelu.weight), atol=1e-5)
        assert torch.allclose(before.running_mean, mean, atol=1e-6) and before.num_batches_tracked == 3
        state = {name: value.clone() for name, value in embedding.state_dict().items()}
        embedding.eval()
        assert torch.allclose(embedding(x)[:, 2], embedding(x[:, 2:])[:, 0], atol=1e-6)  # nothing depends on the batch
        assert all(torch.equal(value, state[name]) for name, value in embedding.state_dict().items())

    def test_the_global_features_come_first(self) -> None:
        module = head(embedding="normalized_each")
        names = [module.feature_names[g] for g in module.embedding.order]
        assert names[:4] == [f"global_of_{n}" for n in (1, 3, 5, 7)]
        assert names[4:7] == ["part_1_of_3", "part_2_of_3", "part_1_of_5"] and len(names) == 16


class TestDimensions:
    def test_of_the_papers_settings(self) -> None:
        module = head(feat_dim=2048, embedding_dim=256, num_classes=751).eval()
        inputs = {f"parts_of_{n}": torch.rand(2, 2048, 24, 8) for n in module.parts}
        assert module(inputs).shape == (2, 4096)
        assert sum("global" in name for name in module.feature_names) == 4
        assert sum("part" in name for name in module.feature_names) == 12
        count = sum(p.numel() for p in module.parameters())
        # the embedding with its norms and PReLU, sixteen classifiers without bias
        assert count == 4096 * 256 + 2 * 4096 + 2 * 256 + 1 + 16 * 256 * 751
        print(f"CAN: 4096 dimensions, {count:,} parameters in the head")

    @pytest.mark.parametrize(
        ("parts", "locals_with", "locals_without"),
        [([1, 2, 3], 3, 5), ([1, 2, 3, 4], 6, 9), ([1, 3, 5], 6, 8), ([1, 3, 5, 7], 12, 15), ([1, 3, 5, 7, 9], 20, 24)],
    )
    def test_local_features_of_tables_2_and_3(self, parts: list[int], locals_with: int, locals_without: int) -> None:
        for attention, expected in ((True, locals_with), (False, locals_without)):
            module = head(parts=parts, collaborative_attention=attention)
            assert sum(module.local_counts) == expected
            outputs = module(maps(module), torch.tensor([0, 1, 2]))
            assert len(outputs.logits) == len(parts) + expected

    def test_every_branch_has_a_last_stage_of_its_own(self, tiny_cfg: Callable) -> None:
        model = build_model(tiny_cfg(*OVERRIDES))
        assert list(model.backbone.shared) == ["stem", "layer1", "layer2", "layer3"]
        assert [list(stages) for stages in model.backbone.branches.values()] == [["layer4"]] * 3
        weights = [next(stages.parameters()) for stages in model.backbone.branches.values()]
        assert len({id(weight) for weight in weights}) == 3 and all(torch.equal(weights[0], w) for w in weights)


class TestGroups:
    def test_adaptive_windows_are_pytorchs(self) -> None:
        module = head(windows="adaptive")
        assert module.bounds is stripe_bounds
        feature_map = torch.randn(2, 12, 24, 4)
        blocks = module.pool_branch(5, feature_map)[:, 1:, :12]
        expected = F.adaptive_max_pool2d(feature_map, (5, 1))[..., 0].transpose(1, 2)
        assert torch.equal(blocks, collaborate(expected))

    def test_a_group_is_a_global_feature_or_the_local_ones_of_a_branch(self) -> None:
        features = torch.arange(16.0).view(1, 16, 1).expand(2, 16, 5)
        groups = head().group(features)
        assert {name: group[0, ::5].tolist() for name, group in groups.items()} == {
            "global_of_1": [0], "global_of_3": [1], "global_of_5": [4], "global_of_7": [9],
            "parts_of_3": [2, 3], "parts_of_5": [5, 6, 7, 8], "parts_of_7": [10, 11, 12, 13, 14, 15],
        }  # fmt: skip
        assert list(head(cluster="global").group(features)) == [f"global_of_{n}" for n in (1, 3, 5, 7)]
        assert {name: group.shape[1] for name, group in groups.items()} == head().metric_dims


class TestErrors:
    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"windows": "even"}, "MODEL.CAN.WINDOWS is 'even'; it is one of equation, adaptive"),
            ({"embedding": "mlp"}, "MODEL.CAN.EMBEDDING is 'mlp'"),
            ({"cluster": "local"}, "MODEL.CAN.CLUSTER is 'local'"),
            ({"parts": [1, 3, 3]}, r"MODEL.CAN.PARTS is \[1, 3, 3\]"),
            ({"parts": [0]}, r"MODEL.CAN.PARTS is \[0\]"),
            ({"pool": "concatt"}, "MODEL.CAN.POOL is 'concatt'; it is one of concat, GlobalAvgPool"),
            ({"pool": "Flatten"}, "MODEL.CAN.POOL is 'Flatten'"),
            ({"embedding": "normalized_each", "norm": "GN"}, "HEADS.NORM is 'GN'"),
            ({"embedding": "conv", "with_bnneck": True, "norm": "GN"}, "HEADS.NORM is 'GN'"),
            ({"embedding_dim": 0}, "EMBEDDING_DIM must be positive"),
        ],
    )
    def test_settings(self, overrides: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            head(**overrides)

    def test_more_parts_than_rows(self, tiny_cfg: Callable) -> None:
        with pytest.raises(ValueError, match=r"INPUT.SIZE_TEST is \[32, 24\], and a feature map of 2 rows"):
            build_model(tiny_cfg(*OVERRIDES, "INPUT.SIZE_TEST", [32, 24]))
        module = head()
        with pytest.raises(ValueError, match="6 rows cannot be cut into 7 windows"):
            module(maps(module, rows=6), torch.tensor([0, 1, 2]))
