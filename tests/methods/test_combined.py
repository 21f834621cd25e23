"""RMGL with the parts of other papers on its global features, and what its keys of cost leave unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling import build_model
from torch import nn

from fastreid_parts.checkpoints import training_only
from fastreid_parts.config import configs_root
from fastreid_parts.layers import run_checkpointed
from fastreid_parts.speed import checkpoint_stages

from .test_rmgl import OVERRIDES, SIZE
from .tester import IDENTITIES, MethodTester, batch, losses_of

GCP = ("MODEL.RMGL.GLOBAL_POOL", "gcp")
MASK = ("MODEL.RMGL.MASK", True)
HEAD = ("MODEL.HEADS.NAME", "CombinedHead")
REVISE = ("MODEL.HEADS.NAME", "CGEHead", "MODEL.CGE.HEAD", "CombinedHead")
BALANCED = ("MODEL.ABP.MODE", "test")
ALL = (*GCP, *MASK, *REVISE, *BALANCED)
GLOBALS = [f"{path}/global_of_{n}" for n in (2, 3) for path in ("original", "receptive")]


class TestCombination(MethodTester):
    overrides = (*OVERRIDES, *ALL)
    dimension = 8 * 14
    size = SIZE
    variants = (
        (),
        HEAD,
        ("MODEL.RMGL.MASK", False),
        ("MODEL.RMGL.GLOBAL_POOL", "layer"),
        ("MODEL.RMGL.PATHS", ["receptive"]),
        ("MODEL.HEADS.POOL_LAYER", "GeneralizedMeanPoolingP", "MODEL.ABP.MODE", "always", "MODEL.ABP.POOL", "layer"),
        ("MODEL.RMGL.GLOBAL_POOL", "layer", "MODEL.RMGL.BRANCHES", [1, 2], "MODEL.CMBN.DETACH_MASK", True),
        ("MODEL.RMGL.CHECKPOINT", True, "MODEL.RMGL.CHANNELS_LAST", True),
    )


@pytest.fixture
def make(tiny_cfg: Callable[..., CfgNode]) -> Callable[..., nn.Module]:
    def build(*overrides: object) -> nn.Module:
        torch.manual_seed(0)
        return build_model(tiny_cfg(*OVERRIDES, *HEAD, "MODEL.HEADS.NUM_CLASSES", IDENTITIES, *overrides))

    return build


def outputs_of(model: nn.Module) -> Any:
    """What the head returns in training."""
    data = batch(size=SIZE)
    return model.heads(model.backbone(model.preprocess_image(data)), data["targets"])


@pytest.mark.parametrize("parts", [GCP, MASK, REVISE, BALANCED, (*GCP, *MASK)])
def test_a_part_leaves_the_weights_that_are_rmgls_as_they_are_without_it(make: Callable, parts: tuple) -> None:
    plain, combined = make().state_dict(), make(*parts).state_dict()
    assert all(torch.equal(value, combined[name]) for name, value in plain.items())


@pytest.mark.parametrize("kind", ["rest_mean", "avg_minus_max"])
@pytest.mark.parametrize("pool_layer", ["GlobalMaxPool", "GlobalAvgPool"])
def test_contrastive_global_features_as_a_loop(make: Callable, kind: str, pool_layer: str) -> None:
    head = make(*GCP, "MODEL.RRID.CONTRAST", kind, "MODEL.HEADS.POOL_LAYER", pool_layer).heads.eval()
    generator = torch.Generator().manual_seed(0)
    maps = {f"{path}/parts_of_{n}": torch.rand(3, 512, 6, 4, generator=generator)
            for n in (2, 3) for path in ("original", "receptive")}  # fmt: skip
    for module in (head.contrast_reduction, head.reduction):
        module.norm.running_mean.uniform_(-1, 1, generator=generator)
    with torch.no_grad():
        got = head.represent(maps)
        number = 0  # of the global feature
        for n in (2, 3):
            for path in ("original", "receptive"):
                stripes = [s.amax(dim=(2, 3)) for s in maps[f"{path}/parts_of_{n}"].split(6 // n, dim=2)]
                highest, mean = torch.stack(stripes).amax(dim=0), torch.stack(stripes).mean(dim=0)
                rest = (sum(stripes) - highest) / (n - 1) if kind == "rest_mean" else mean - highest
                row = head.feature_names.index(f"{path}/global_of_{n}")

                def apply(block: nn.Module, g: int, x: torch.Tensor) -> torch.Tensor:
                    x = x @ block.conv.weight[g].t() + block.conv.bias[g]
                    width = x.shape[1]
                    own = slice(g * width, (g + 1) * width)
                    return (x - block.norm.running_mean[own]) / (block.norm.running_var[own] + 1e-5).sqrt()

                base, contrasted = apply(head.reduction, row, highest), apply(head.contrast_reduction, number, rest)
                support = apply(head.global_relation, number, torch.cat([base, contrasted], dim=1)).relu()
                assert torch.allclose(got[:, row], base + support, atol=1e-4)
                number += 1
        # Local features are RMGL's
        local = [i for i in range(14) if i not in head.global_rows]
        plain = make("MODEL.HEADS.POOL_LAYER", pool_layer).heads.eval()
        plain.load_state_dict(head.state_dict(), strict=False)
        assert len(local) == 10 and torch.equal(got[:, local], plain.represent(maps)[:, local])


def test_the_masked_features_and_their_logits(make: Callable) -> None:
    model = make(*MASK)
    head = model.heads
    data = batch(size=SIZE)
    maps = model.backbone(model.preprocess_image(data))
    outputs = head(maps, data["targets"])
    assert list(outputs.logits)[:14] == head.feature_names
    assert list(outputs.logits)[14:] == [f"masked/{name.replace('/', '_')}" for name in GLOBALS]
    assert set(head.global_branches) == {*GLOBALS, *list(outputs.logits)[14:]}
    expected = head.represent(maps).clone()
    for i, name in enumerate(GLOBALS):
        row = head.feature_names.index(name)
        w_id, generator = head.classifiers.weight[row], head.generators[i]
        mask = torch.sigmoid(w_id.t() @ generator.weight[0] + generator.bias)
        unmasked = expected[:, row].clone()
        assert torch.allclose(outputs.logits[name], unmasked @ w_id.t() + head.classifiers.bias[row], atol=1e-5)
        expected[:, row] = unmasked * mask
        second = (unmasked * mask) @ head.masked_classifiers.weight[i].t() + head.masked_classifiers.bias[i]
        assert torch.allclose(outputs.logits[f"masked/{name.replace('/', '_')}"], second, atol=1e-5)
    assert torch.allclose(torch.cat(list(outputs.features.values()), dim=1), expected.flatten(1), atol=1e-5)


def test_the_static_mask_is_that_of_the_last_weights(make: Callable) -> None:
    model = make(*MASK)
    assert "heads.mask" not in make().state_dict()
    losses_of(model, batch(size=SIZE))
    with torch.no_grad():
        model.heads.classifiers.weight.normal_()
    state = model.state_dict()
    locals_ = [i for i in range(14) if i not in model.heads.global_rows]
    assert torch.equal(state["heads.mask"], model.heads.compute_mask())
    assert (state["heads.mask"][locals_] == 1).all() and not (state["heads.mask"][model.heads.global_rows] == 0.5).any()

    deployed = make(*MASK, "MODEL.HEADS.NUM_CLASSES", 0)  # as evaluation builds it, without identities
    kept = {name: value for name, value in state.items() if not name.startswith(tuple(training_only(model)))}
    assert {name for name in state if name not in kept} >= {
        "heads.masked_classifiers.weight",
        "heads.generators.0.bias",
    }
    deployed.load_state_dict(kept, strict=False)
    images = batch(size=SIZE)
    assert torch.equal(deployed.eval()(images), model.eval()(images))
    maps = model.backbone(model.preprocess_image(images))
    assert torch.allclose(model(images), (model.heads.represent(maps) * state["heads.mask"]).flatten(1), atol=1e-6)


def test_a_detached_mask_stops_the_second_loss_from_reaching_the_first_classifier(make: Callable) -> None:
    for detach in (False, True):
        model = make(*MASK, "MODEL.CMBN.DETACH_MASK", detach)
        outputs = outputs_of(model)
        masked = sum(logits.sum() for name, logits in outputs.logits.items() if name.startswith("masked/"))
        (gradient,) = torch.autograd.grad(masked, model.heads.classifiers.weight, allow_unused=True)
        assert (gradient is None or not gradient.any()) == detach


def test_cge_revises_the_logits_of_global_features_alone(make: Callable) -> None:
    with torch.no_grad():
        plain, revised = outputs_of(make(*GCP, *MASK)), outputs_of(make(*GCP, *MASK, *REVISE))
    for name, logits in plain.logits.items():
        # With an empty memory all weights are one half
        factor = 0.5 if name in GLOBALS or name.startswith("masked/") else 1.0
        assert torch.allclose(revised.logits[name], factor * logits, atol=1e-6), name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.RMGL.GLOBAL_POOL", "gmp"), "MODEL.RMGL.GLOBAL_POOL is 'gmp'; it is one of layer, gcp"),
        ((*GCP, "MODEL.RMGL.BRANCHES", [1, 2]), "a single stripe has no rest"),
        ((*GCP, "MODEL.RRID.CONTRAST", "max"), "MODEL.RRID.CONTRAST is 'max'"),
    ],
)
def test_errors(make: Callable, overrides: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(*overrides)


# ---- cost -------------------------------------------------------------------------------------------------------


def step_of(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Losses and gradients of one step."""
    losses = losses_of(model, batch(size=SIZE))
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in model.named_parameters()}


def test_checkpointed_stages_change_no_result(make: Callable) -> None:
    plain, saving = make(*ALL), make(*ALL, "MODEL.RMGL.CHECKPOINT", True)
    losses, gradients = step_of(plain)
    own_losses, own_gradients = step_of(saving)
    assert all(torch.equal(value, own_losses[name]) for name, value in losses.items())
    assert all(torch.equal(value, own_gradients[name]) for name, value in gradients.items())
    state = saving.state_dict()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, state[name]), name
    passes = state["backbone.branches.parts_of_2.layer3.blocks.0.bn1.num_batches_tracked"]
    assert passes == 2  # one for each path, and none for the second computation


def test_checkpointed_stages_keep_less(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[bool, list[int]] = {False: [], True: []}
    for checkpointed, kept in sizes.items():
        model = make("MODEL.RMGL.CHECKPOINT", checkpointed)

        def pack(tensor: torch.Tensor, kept: list[int] = kept) -> torch.Tensor:
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            losses_of(model, batch(size=SIZE))
    assert sum(sizes[True]) < sum(sizes[False]) / 3
    model = make()
    calls = []
    original = run_checkpointed
    monkeypatch.setattr("fastreid_parts.speed.run_checkpointed", lambda *a, **k: calls.append(a) or original(*a, **k))
    checkpoint_stages(model.backbone)
    losses_of(model, batch(size=SIZE))
    assert len(calls) == 2 + 2 * 2 * 3  # stem and res2, then res3 to res5 of two paths in two branches


def test_channels_last_changes_the_layout_alone(make: Callable) -> None:
    plain, pixelwise = make(*ALL), make(*ALL, "MODEL.RMGL.CHANNELS_LAST", True)
    assert all(torch.equal(value, pixelwise.state_dict()[name]) for name, value in plain.state_dict().items())
    weights = [m.weight for m in pixelwise.backbone.modules() if isinstance(m, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    maps = pixelwise.backbone(pixelwise.preprocess_image(batch(size=SIZE)))
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in maps.values())
    losses, gradients = step_of(plain)
    own_losses, own_gradients = step_of(make(*ALL, "MODEL.RMGL.CHANNELS_LAST", True))
    assert all(torch.allclose(value, own_losses[name], rtol=1e-4) for name, value in losses.items())
    for name, value in gradients.items():
        difference = (value - own_gradients[name]).norm()
        assert difference <= 0.01 * value.norm() + 1e-5, name


# ---- configs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["Market", "Duke", "CUHK03-labeled", "CUHK03-detected", "MSMT17", "Synthetic"])
def test_configs_of_the_combination(folder: str) -> None:
    def load(name: str) -> CfgNode:
        cfg = get_cfg()
        cfg.merge_from_file(str(configs_root() / folder / f"{name}.yml"))
        return cfg

    combined, rmgl = load("parts_combined"), load("rmgl")
    assert combined.DATASETS == rmgl.DATASETS and combined.INPUT == rmgl.INPUT
    assert combined.MODEL.RMGL.GLOBAL_POOL == "gcp" and combined.MODEL.RMGL.MASK and combined.MODEL.ABP.MODE == "test"
    assert (combined.MODEL.HEADS.NAME, combined.MODEL.CGE.HEAD) == ("CGEHead", "CombinedHead")
    combined.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.PRETRAIN", False, "MODEL.HEADS.NUM_CLASSES", 3])
    combined.merge_from_list(["MODEL.BACKBONE.DEPTH", "18x", "MODEL.BACKBONE.FEAT_DIM", 512])
    assert all(torch.isfinite(loss) for loss in losses_of(build_model(combined), batch(size=SIZE)).values())
