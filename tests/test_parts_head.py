"""The contract of a head: which keys it reads, how its features are named and found, and BNNeck."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from fastreid.config import get_cfg
from torch import nn

from fastreid_parts.methods.rrid import RRIDHead
from fastreid_parts.parts_baseline import PartsBaseline
from fastreid_parts.parts_head import (
    BranchOutputs,
    HeadSettings,
    Neck,
    PartsHead,
    branch,
    check_settings_are_read,
    first_map,
    log_group,
    part,
    whole,
)


def settings(**values: object) -> HeadSettings:
    return dataclasses.replace(HeadSettings.from_cfg(get_cfg()), **values)


def test_names() -> None:
    assert (whole(6), part(3, 6), branch(6)) == ("global_of_6", "part_3_of_6", "parts_of_6")
    assert [log_group(name) for name in ("global_of_6", "part_3_of_6", "masked/global_of_2")] == [
        "global",
        "part",
        "masked",
    ]


class TestHonored:
    def test_a_key_that_a_head_does_not_read_is_refused(self, tiny_cfg: Callable) -> None:
        cfg = tiny_cfg("MODEL.HEADS.SCALE", 30, "MODEL.HEADS.NUM_CLASSES", 5, "MODEL.HEADS.WITH_BNNECK", True)
        assert HeadSettings.honored(cfg, ("SCALE", "WITH_BNNECK"), "Toy").scale == 30
        with pytest.raises(
            ValueError, match="HEADS.SCALE is 30, and Toy does not read it: leave it at 1; Toy reads WITH_BNNECK, NORM"
        ):
            HeadSettings.honored(cfg, ("WITH_BNNECK", "NORM"), "Toy")

    def test_without_bnneck_there_is_no_before_and_after(self, tiny_cfg: Callable) -> None:
        neck = ("MODEL.HEADS.TEST_FEAT", "before", "MODEL.HEADS.NECK_FEAT", "after")
        assert HeadSettings.honored(tiny_cfg(*neck, "MODEL.HEADS.WITH_BNNECK", False), (), "Toy").test_feat == "before"
        with pytest.raises(ValueError, match="MODEL.HEADS.NECK_FEAT is 'after', and Toy does not read it"):
            HeadSettings.honored(tiny_cfg(*neck, "MODEL.HEADS.WITH_BNNECK", True), ("WITH_BNNECK",), "Toy")
        assert "MODEL.HEADS.TEST_FEAT" in settings(with_bnneck=True).feature_settings()
        assert "MODEL.HEADS.TEST_FEAT" not in settings(with_bnneck=False).feature_settings()

    def test_a_method_that_reduces_needs_a_width(self) -> None:
        assert settings(embedding_dim=4).width("Toy", 256) == 4
        with pytest.raises(
            ValueError, match=r"Toy reduces its features: MODEL.HEADS.EMBEDDING_DIM must be positive \(256\)"
        ):
            settings(embedding_dim=0).width("Toy", 256)


def test_features_of_different_widths_are_found() -> None:
    head = PartsHead()
    head.feature_dims = {"global_of_2": 3, "part_1_of_2": 1, "part_2_of_2": 2}
    assert head.feature_names == ["global_of_2", "part_1_of_2", "part_2_of_2"]
    assert head.feature_columns() == {
        "global_of_2": slice(0, 3),
        "part_1_of_2": slice(3, 4),
        "part_2_of_2": slice(4, 6),
    }


def test_outputs_by_kind() -> None:
    x = torch.randn(2, 3)
    outputs = BranchOutputs({"a": x}, {"b": x}, {"a": 0.5}, {"b": 2.0})
    assert outputs.branches("logits") == ({"a": x}, {"a": 0.5}) and outputs.branches("features") == (
        {"b": x},
        {"b": 2.0},
    )
    host = BranchOutputs.from_host({"cls_outputs": x, "features": 2 * x, "pred_class_logits": 3 * x})
    assert host.logits == {"": x} and torch.equal(host.features[""], 2 * x) and host.logit_weights == {}
    assert torch.equal(host.scores, 3 * x)


class TestNeck:
    def test_without_it_all_three_are_the_feature(self) -> None:
        x = torch.randn(4, 3, 2)
        neck = Neck(settings(with_bnneck=False), 6)
        assert all(seen is x for seen in neck(x)) and list(neck.parameters()) == []

    @pytest.mark.parametrize("neck_feat", ["before", "after"])
    @pytest.mark.parametrize("test_feat", ["before", "after"])
    def test_who_sees_features_before_and_after(self, neck_feat: str, test_feat: str) -> None:
        x = torch.randn(8, 3, 2)
        neck = Neck(settings(with_bnneck=True, neck_feat=neck_feat, test_feat=test_feat), 6)
        after = (x - x.mean(dim=0)) / (x.var(dim=0, unbiased=False) + 1e-5).sqrt()
        seen = neck(x)
        assert torch.allclose(seen.classified, after, atol=1e-5)
        assert torch.equal(seen.metric, x if neck_feat == "before" else seen.classified)
        assert torch.equal(seen.evaluated, x if test_feat == "before" else seen.classified)
        assert neck.norm.weight.requires_grad and not neck.norm.bias.requires_grad and (neck.norm.weight == 1).all()


def test_the_first_map_is_what_the_representation_is_pooled_from() -> None:
    x, y = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
    assert first_map(x) is x and first_map({"a": x, "b": y}) is x


def test_a_key_of_a_method_that_nothing_reads_names_who_does(tiny_cfg: Callable) -> None:
    cfg = tiny_cfg("MODEL.ABP.MODE", "test")
    with pytest.raises(
        ValueError,
        match="ABP.MODE is 'test', and this PartsBaseline does not read it: leave it at 'off' .*RRIDHead",
    ):
        check_settings_are_read(cfg, PartsBaseline, [nn.Linear(2, 2), "no module"])
    head = object.__new__(RRIDHead)
    nn.Module.__init__(head)
    check_settings_are_read(cfg, PartsBaseline, [nn.Sequential(head)])
