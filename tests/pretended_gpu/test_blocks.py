"""On a GPU, on a machine without one: every backbone, loss, mechanism and evaluation, see `fake_device`.

What is computed there is not tested here; that no step mixes tensors of two devices is.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from torch import nn

from fastreid_parts.analysis.mechanisms import examine
from fastreid_parts.data.build import build_reid_test_loader
from fastreid_parts.deployment import Embedder
from fastreid_parts.deployment.inference import InferenceModel
from fastreid_parts.deployment.sample_images import draw_people
from fastreid_parts.evaluation import Features
from fastreid_parts.evaluation.evaluator import Ranking
from fastreid_parts.evaluation.exact import Similarity
from fastreid_parts.evaluation.feature_maps import branch_maps
from fastreid_parts.evaluation.occlusion import occlusion_maps
from fastreid_parts.losses import LOSSES, build_losses
from fastreid_parts.mechanisms import mechanisms_of, neutral_form
from fastreid_parts.methods.rrid import RRIDHead
from tests.deployment.models import MODELS, build
from tests.evaluation.random_features import random_features
from tests.methods import test_rrid
from tests.tools.load import load_tool

from .fake_device import CUDA, OnDevice, pretended, pretended_with_values
from .running import IDENTITIES, IMAGES, run_everything

backbones = load_tool("backbones")


@pytest.mark.parametrize(
    "backbone",
    # One of timm's is as another here
    [
        pytest.param(name, marks=pytest.mark.slow if name.startswith("timm") and "vit" not in name else ())
        for name in backbones.BACKBONES
    ],
)
def test_every_family_of_backbones(backbone: str) -> None:
    run_everything(backbones.config("CMBN", backbone), torch.bfloat16)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_that_leaves(tiny_cfg: Callable[..., CfgNode], name: str) -> None:
    cfg, model = build(tiny_cfg, name, "TEST.FLIP.ENABLED", True)
    with pretended(InferenceModel(cfg, model, pixels="imagenet", colors="BGR", normalize=True)) as whole:
        features = whole(torch.rand(IMAGES, 3, *cfg.INPUT.SIZE_TEST, device=CUDA))
        assert features.device == CUDA and len(features) == IMAGES


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(tiny_cfg: Callable[..., CfgNode], name: str) -> None:
    cfg = tiny_cfg("MODEL.LOSSES.NAME", (name,), "MODEL.HEADS.NUM_CLASSES", IDENTITIES)
    (loss,) = build_losses(cfg, {"": 16})
    chooses = LOSSES[name].builder.__module__.endswith("library")  # pairs, by their values
    module = loss.function if isinstance(loss.function, nn.Module) else nn.Module()
    with (pretended_with_values if chooses else pretended)(module):
        value = loss(torch.rand(IMAGES, 16, device=CUDA), torch.arange(IMAGES, device=CUDA) // 2)
        assert value.device == CUDA and value.numel() == 1


@pytest.mark.parametrize("name", MODELS)
def test_every_embedder_gives_what_it_does_on_the_cpu(tiny_cfg: Callable[..., CfgNode], name: str) -> None:
    cfg, model = build(tiny_cfg, name, "TEST.FLIP.ENABLED", True)
    people = draw_people(3)
    expected = Embedder(cfg, model)(people, batch_size=2)
    with pretended_with_values(copy.deepcopy(model)) as moved:
        assert Embedder(cfg, moved)(people, batch_size=2) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["CMBN", "CGE", "RRID", "CAN", "RMGL"])
def test_mechanisms_and_maps_are_what_they_are_on_the_cpu(
    tiny_cfg: Callable[..., CfgNode], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures, results without each mechanism, maps of branches."""
    cfg, model = build(tiny_cfg, name, "TEST.IMS_PER_BATCH", 64)
    loader, queries = build_reid_test_loader(cfg, dataset_name="FolderReID")
    images = torch.rand(2, 3, *cfg.INPUT.SIZE_TEST) * 255

    def seen(model: nn.Module) -> tuple[Any, list[torch.Tensor]]:
        return examine(model, loader, queries, cfg), list(branch_maps(model, images).values())

    expected, expected_maps = seen(copy.deepcopy(model))  # a mask that is kept is made anew
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    cfg.MODEL.DEVICE = "cuda"
    with pretended_with_values(copy.deepcopy(model)) as moved:
        found, maps = seen(moved)
        assert all(one.device == CUDA for one in maps)
        values = [one.cpu() for one in maps]
    for one, on_cpu in zip(values, expected_maps, strict=True):
        assert torch.allclose(one, on_cpu, atol=1e-4)
    assert found.results == pytest.approx(expected.results, abs=1e-4)
    assert found.mechanisms.keys() == expected.mechanisms.keys() and found.mechanisms
    for mechanism, on_cpu in expected.mechanisms.items():
        assert found.mechanisms[mechanism].figures == pytest.approx(on_cpu.figures, abs=1e-4)
        assert set(found.mechanisms[mechanism].without) == set(on_cpu.without)


def test_occlusion_maps(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg, model = build(tiny_cfg, "BagTricks")
    with pretended(copy.deepcopy(model)) as moved:
        maps = occlusion_maps(moved, torch.rand(1, 3, *cfg.INPUT.SIZE_TEST, device=CUDA) * 255)
        assert maps.device == CUDA and maps.shape == (1, 16, 8)


# ---- evaluation -----------------------------------------------------------------------------------------------------

SETTINGS = {
    "cosine": [],
    "euclidean": ["TEST.METRIC", "euclidean"],
    "half": ["TEST.HALF", True],
    "euclidean, half": ["TEST.METRIC", "euclidean", "TEST.HALF", True],
    "query expansion": ["TEST.AQE.ENABLED", True],
    "re-ranking": ["TEST.RERANK.ENABLED", True],
    "re-ranking with the gallery alone": ["TEST.RERANK.ENABLED", True, "TEST.QUERIES", "alone"],
    "GNN re-ranking": ["TEST.RERANK.ENABLED", True, "TEST.RERANK.METHOD", "gnn"],
    "GNN re-ranking with the gallery alone": [
        *("TEST.RERANK.ENABLED", True, "TEST.RERANK.METHOD", "gnn", "TEST.QUERIES", "alone")
    ],
    "centralization": ["TEST.NFC.ENABLED", True],
    "ROC": ["TEST.ROC.ENABLED", True],
}


def ranked(images: Features, queries: int, cfg: CfgNode) -> tuple[dict[str, float], Any]:
    ranking = Ranking(images, queries, cfg)
    return ranking.results(ranking.ranks()), ranking.distances([0, 3])


@pytest.mark.parametrize("name", SETTINGS)
def test_every_evaluation_gives_what_it_does_on_the_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images, queries = random_features(0)
    cfg = get_cfg()
    cfg.merge_from_list(SETTINGS[name])
    results, distances = ranked(images, queries, cfg)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    made: list[OnDevice] = []
    monkeypatch.setattr(OnDevice, "__init__", lambda self, values: made.append(values))
    cfg.MODEL.DEVICE = "cuda"
    with pretended_with_values():
        on_gpu, distances_on_gpu = ranked(images, queries, cfg)
    assert len(made) > 10
    assert on_gpu == pytest.approx(results, abs=1e-5)
    assert distances_on_gpu == pytest.approx(distances, abs=1e-5)


# ---- what must fail -------------------------------------------------------------------------------------------------


class TestMisplaced:
    """A tensor on the CPU among those on the GPU."""

    def test_in_a_model(self, tiny_cfg: Callable[..., CfgNode], monkeypatch: pytest.MonkeyPatch) -> None:
        cfg = tiny_cfg(*test_rrid.OVERRIDES, "INPUT.SIZE_TRAIN", [96, 24])
        run_everything(cfg)
        relate = RRIDHead.relate
        monkeypatch.setattr(RRIDHead, "relate", lambda self, made_of: relate(self, made_of) + torch.zeros(8))
        with pytest.raises(RuntimeError, match=r"cuda:0.*cpu|cpu.*cuda:0"):
            run_everything(cfg)

    def test_in_a_loss(self) -> None:
        loss = functools.partial(torch.nn.functional.cross_entropy, weight=torch.ones(IDENTITIES))
        with pretended(nn.Module()), pytest.raises((RuntimeError, AssertionError), match=r"cpu|convert all Tensors"):
            loss(torch.rand(IMAGES, IDENTITIES, device=CUDA), torch.arange(IMAGES, device=CUDA) // 2)

    def test_in_a_form_without_a_mechanism(
        self, tiny_cfg: Callable[..., CfgNode], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def neutral(head: nn.Module, masked: torch.Tensor, *arguments: Any) -> torch.Tensor:
            return masked * torch.ones(masked.shape)

        cfg, model = build(tiny_cfg, "RMGL")
        with pretended(copy.deepcopy(model)) as moved, torch.no_grad():
            (placed, *_) = mechanisms_of(moved).values()
            form = next(iter(placed.mechanism.neutral))
            monkeypatch.setitem(placed.mechanism.neutral, form, neutral)
            with neutral_form(moved, "partition", form), pytest.raises((RuntimeError, AssertionError)):
                moved(torch.rand(2, 3, *cfg.INPUT.SIZE_TEST, device=CUDA))

    def test_in_an_evaluation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        images, queries = random_features(0)
        cfg = get_cfg()
        cfg.MODEL.DEVICE = "cuda"
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        blocks = Similarity.blocks

        def misplaced(self: Similarity, *arguments: Any, **options: Any) -> Any:
            return ((rows, scores + torch.zeros(scores.shape)) for rows, scores in blocks(self, *arguments, **options))

        monkeypatch.setattr(Similarity, "blocks", misplaced)
        with pretended_with_values(), pytest.raises(RuntimeError, match="same device"):
            ranked(images, queries, cfg)

    def test_in_a_buffer_that_is_none(self) -> None:
        class Scaled(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = torch.ones(3)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x * self.scale

        with pretended(Scaled()) as module, pytest.raises(AssertionError, match="convert all Tensors"):
            module(torch.ones(2, 3, device=CUDA))

    def test_with_values(self) -> None:
        with pretended_with_values():
            there = torch.ones(2, 3, device="cuda")
            assert (there + torch.tensor(1.0)).sum().item() == 12 and there.cpu().numpy().sum() == 6
            with pytest.raises(RuntimeError, match="same device"):
                there + torch.ones(3)
            with pytest.raises(RuntimeError, match="numpy"):
                there.numpy()
