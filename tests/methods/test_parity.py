"""RRID and CAN against their authors' released code, by numbers of it: `parity/SOURCE.md` says where those are from.

Weights and images follow a rule that both sides computed. Two runs, as each hides faults of the other: in training the
batch norm after a convolution hides a factor, in evaluation running statistics hide how they came about.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling import build_model
from torch import nn

from fastreid_parts.config import configs_root
from fastreid_parts.engine.solver import build_optimizer
from fastreid_parts.losses.center import CenterLoss
from fastreid_parts.losses.triplet import batch_hard_triplet
from fastreid_parts.methods.can import CANHead
from fastreid_parts.methods.rrid import RRIDHead

from .tester import losses_of

PARITY = Path(__file__).parent / "parity"
FACTS = json.loads((PARITY / "facts.json").read_text())
TARGETS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])

# ---- the rule -------------------------------------------------------------------------------------------------------


def draws(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform in [0, 1): multiples of 2**-53 from the bits of PCG64, the same on every machine."""
    return np.random.Generator(np.random.PCG64(seed)).random(shape)


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """What fills an entry of the state dict, by the name that it had when the numbers were made."""
    name = re.sub(r"^backbone\.branches\.parts_of_(\d)\.", r"backbone.branches.part\1.", name)
    if name.startswith("loss_modules.") or name.endswith("num_batches_tracked"):
        return np.zeros(shape)  # class centers, counters
    if name in ("heads.embedding.layers.0.bias", "heads.embedding.layers.2.bias"):
        return np.zeros(shape)  # shifts that are not learned
    if name == "heads.embedding.layers.3.weight":
        return np.full(shape, 0.25)  # PReLU
    u = draws(zlib.crc32(name.encode()), shape)
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        return 0.5 + u
    if name.endswith(("running_mean", "bias")):
        return 0.4 * u - 0.2
    fan_in = shape[2] if len(shape) == 3 else math.prod(shape[1:])  # (G, out, in): of one layer
    return math.sqrt(6 / fan_in) * (2 * u - 1)


def images() -> np.ndarray:
    """(8, 3, 192, 64), whole numbers 0 to 255: blocks of 16 x 16 pixels and noise."""
    blocks = draws(0, (8, 3, 12, 4)).repeat(16, axis=2).repeat(16, axis=3)
    return np.floor(160 * blocks + 96 * draws(1, (8, 3, 192, 64)))


BATCH = {"images": torch.from_numpy(images()), "targets": TARGETS}


@pytest.mark.parametrize("name", FACTS["rule_checks"])
def test_the_rule_is_theirs(name: str) -> None:
    expected = FACTS["rule_checks"][name]
    got = images() if name == "images" else value(name, tuple(expected["shape"]))
    assert zlib.crc32(np.ascontiguousarray(got).tobytes()) == expected["crc32_of_float64_bytes"]


# ---- models ---------------------------------------------------------------------------------------------------------

#: What is not of the recipe: where and how large; center loss is compared by itself, its centers are redrawn there
SMALL = ("MODEL.DEVICE", "cpu", "MODEL.BACKBONE.PRETRAIN", False, "MODEL.HEADS.NUM_CLASSES", 23)
LOSSES = ("MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"))


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def recipe(name: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(configs_root() / "Market" / f"{name}.yml"))
    cfg.merge_from_list([*SMALL, *LOSSES])
    return cfg


def filled(cfg: CfgNode) -> nn.Module:
    model = build_model(cfg).double()
    state = {name: torch.from_numpy(value(name, tuple(v.shape))) for name, v in model.state_dict().items()}
    model.load_state_dict(state)
    return model


class Numbers:
    """The arrays of a file, and the comparison: float64 to 1e-9 of themselves, float32 to 1e-6 of the largest entry."""

    def __init__(self, name: str) -> None:
        self.arrays = dict(np.load(PARITY / f"{name}.npz"))

    def check(self, name: str, got: Any, rel: float = 1e-9) -> None:
        expected = self.arrays[name]
        got = got.detach().numpy() if isinstance(got, torch.Tensor) else np.asarray(got)
        assert got.shape == expected.shape and got.dtype == np.float64, name
        largest = np.abs(expected).max()
        if expected.dtype == np.float32:
            assert np.abs(got - expected).max() <= 1e-6 * largest, name
        else:
            assert np.allclose(got, expected, rtol=rel, atol=1e-3 * rel * largest), name


def check_evaluation(numbers: Numbers, model: nn.Module) -> None:
    """Features of an image and its mirror image, summed and of length 1; the model is as before."""
    model.eval()
    with torch.no_grad():
        features = F.normalize(model(BATCH["images"]) + model(BATCH["images"].flip(3)))
    numbers.check("test_feature_sums", features.unflatten(1, (-1, 256)).sum(dim=2))
    numbers.check("test_feature", features[:4])
    numbers.check("test_distances", (features[:, None] - features).norm(dim=2))


def check_training(numbers: Numbers, model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """One forward and backward pass: gradients and running statistics; gives the losses and what the head gave."""
    seen: dict[str, Any] = {}
    model.train().heads.register_forward_hook(lambda module, _, output: seen.update(outputs=output))
    losses = losses_of(model, BATCH)
    sum(losses.values()).backward()
    old_names = {re.sub(r"parts_of_(\d)\.", r"part\1.", name): p for name, p in model.named_parameters()}
    gradients = {name: old_names[name].grad for name in numbers.arrays["grad_names"]}
    numbers.check("grad_norms", [float(g.norm()) for g in gradients.values()])
    for name in numbers.arrays:
        kind, _, entry = name.partition("/")
        if kind == "grad_norms_each":
            numbers.check(name, gradients[entry].flatten(1).norm(dim=1))
        if kind == "statistics":
            numbers.check(name, model.state_dict()[entry])
    return losses, seen["outputs"]


@pytest.mark.parametrize("name", ["rrid_f", "rrid_s"])
@pytest.mark.proves("rrid", level=2)
def test_rrid(name: str, float64: None) -> None:
    numbers, cfg = Numbers(name), recipe(name)
    assert cfg.TEST.FLIP.ENABLED
    model = filled(cfg)
    check_evaluation(numbers, model)
    losses, outputs = check_training(numbers, model)
    assert len(outputs.features) == len(numbers.arrays["feature_names"])
    features = torch.stack(list(outputs.features.values()))
    numbers.check("features", features)
    numbers.check("feature_norms", features.norm(dim=2))
    kinds = {"q": "", "max": "max/", "contrast": "contrast/", "p": "part/", "r": "rest/"}
    logits = []
    for theirs in numbers.arrays["logit_names"]:
        kind, of, number = re.fullmatch(r"(\w+)/P(\d)_(global|local\d)", theirs).groups()
        ours = f"global_of_{of}" if number == "global" else f"part_{number[-1]}_of_{of}"
        logits.append(outputs.logits[kinds[kind] + ours])
    assert len(logits) == len(outputs.logits) == {"rrid_f": 45, "rrid_s": 21}[name]
    numbers.check("logits", torch.stack(logits))

    def summed(losses: dict[str, torch.Tensor]) -> list[float]:
        triplet = sum(v.item() for n, v in losses.items() if "triplet" in n)
        total = sum(v.item() for v in losses.values())
        return [total, triplet, (total - triplet) / 2]

    numbers.check("loss", summed(losses))
    optimizer, _ = build_optimizer(cfg, model)  # the recipe's: SGD, 1e-3 and 1e-2, momentum 0.9, decay 5e-4 on all
    optimizer.step()
    numbers.check("loss_second_step", summed(losses_of(model, BATCH)), rel=1e-6)


@pytest.mark.proves("can", level=2)
def test_can(float64: None) -> None:
    numbers, cfg = Numbers("can"), recipe("can")
    assert cfg.TEST.FLIP.ENABLED
    model = filled(cfg)
    check_evaluation(numbers, model)
    losses, outputs = check_training(numbers, model)
    numbers.check("logits", torch.stack(list(outputs.logits.values())))
    metric = outputs.features
    locals_ = {n: metric[f"parts_of_{n}"].unflatten(1, (-1, 256)).unbind(1) for n in (3, 5, 7)}
    features = torch.stack([f for n in (1, 3, 5, 7) for f in (metric[f"global_of_{n}"], *locals_.get(n, ()))])
    numbers.check("features", features)
    numbers.check("feature_norms", features.norm(dim=2))
    each = [F.cross_entropy(logits, TARGETS).item() for logits in outputs.logits.values()]
    numbers.check("cross_entropy_each", each)
    groups = [re.sub(r"(global|local)/part(\d)", r"\1 \2", name).split() for name in numbers.arrays["group_names"]]
    metric = [metric[f"global_of_{n}" if kind == "global" else f"parts_of_{n}"] for kind, n in groups]
    margin = cfg.MODEL.LOSSES.TRI.MARGIN
    numbers.check("triplet_each", [batch_hard_triplet(x, TARGETS, margin).item() for x in metric], rel=2e-6)
    triplet = sum(v.item() for n, v in losses.items() if "triplet" in n)
    total = sum(v.item() for v in losses.values())
    numbers.check("loss", [total, total - triplet, triplet])
    numbers.check("grad_prelu", model.heads.embedding.layers[3].weight.grad)
    # At centers of 0 theirs is twice ours: Eq. (9) has the factor 1/2
    center = np.mean([CenterLoss(23, x.shape[1])(x, TARGETS).item() for x in metric])
    numbers.check("center_zero", 2 * center)


@pytest.mark.parametrize("row", FACTS["triplet_on_given_features"]["rows"], ids=lambda row: f"s={row['s']}")
def test_both_triplet_losses_where_margins_are_kept(row: dict[str, Any]) -> None:
    """On all 8, on 4 and on none of 8 anchors."""
    given = row["s"] * draws(2, (4, 256))[TARGETS] + draws(3, (8, 256))
    for name, expected in row.items():
        if name == "s":
            continue
        features = torch.from_numpy(given).requires_grad_()
        loss = batch_hard_triplet(features, TARGETS, margin=float(name.rpartition("_")[2]))
        assert loss.dtype is torch.float64
        assert loss.item() == pytest.approx(expected["loss"], rel=1e-12, abs=1e-15)
        loss.backward()
        assert features.grad.norm().item() == pytest.approx(expected["gradient_norm"], rel=1e-12, abs=1e-15)


# ---- initial weights ------------------------------------------------------------------------------------------------


def test_initial_weights_of_rrid() -> None:
    facts = FACTS["initial_weights"]["rrid"]
    torch.manual_seed(0)
    head = RRIDHead(**RRIDHead.from_config(recipe("rrid_f")))
    for layers, of in (
        (head.reduction, "reduction_conv_{}_2048_to_256"),
        (head.local_relation, "local_relation_conv_{}_512_to_256"),
        (head.global_relation, "global_relation_conv_{}_512_to_256"),
    ):
        assert layers.conv.weight.std().item() == pytest.approx(facts[of.format("weight")]["std"], rel=0.002)
        assert layers.conv.weight.abs().max().item() <= layers.conv.weight.shape[2] ** -0.5
        assert layers.conv.bias.std().item() == pytest.approx(facts[of.format("weight")]["std"], rel=0.05)
        norm = layers.norm.weight  # of torch 0.4.1; the run of the facts had a newer one
        assert 0 <= norm.min() < 0.01 and 0.99 < norm.max() < 1 and norm.mean().item() == pytest.approx(0.5, abs=0.05)
        assert not layers.norm.bias.any()
    assert head.classifiers.weight.std().item() == pytest.approx(facts["classifier_weight"]["std"], rel=0.01)
    assert not head.classifiers.bias.any()


def test_initial_weights_of_can() -> None:
    facts = FACTS["initial_weights"]["can"]
    torch.manual_seed(0)
    head = CANHead(**CANHead.from_config(recipe("can")))
    before, conv, after, prelu = head.embedding.layers
    assert conv.weight.std().item() == pytest.approx(facts["embedding_conv_weight_std"], rel=0.005)
    for norm in (before, after):
        assert 0 <= norm.weight.min() < 0.02 and norm.weight.mean().item() == pytest.approx(0.5, abs=0.05)
    assert prelu.weight.tolist() == [0.25] * 256
    assert head.classifiers.weight.std().item() == pytest.approx(facts["classifier_weight_std_23_identities"], rel=0.01)
    assert head.scale == facts["classifier_scale"]
