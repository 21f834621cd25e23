"""Which method runs on which backbone? Each pair is built, trained for a step, evaluated, saved, loaded and deployed.

    python tools/backbones.py [--small] [--method NAME ...] [--backbone NAME ...] [--output docs/guides/backbones.md]

It prints a table; a pair that fails has the reason in its cell. With --small the smallest backbone of each family
stands for it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from fastreid.config import CfgNode
from fastreid.modeling import build_model
from fastreid.utils.events import EventStorage
from torch import nn

import fastreid_parts  # noqa: F401
from fastreid_parts.checkpoints import needed_in_evaluation
from fastreid_parts.config import load_config

METHODS = {
    "CMBN": "Market/cmbn.yml",
    "CGE": "Market/cge_bot.yml",
    "RRID": "Market/rrid_s.yml",
    "CAN": "Market/can.yml",
    "RMGL": "Market/rmgl.yml",
    "combined": "Market/parts_combined.yml",
    "fast-reid's MGN": "Synthetic/mgn.yml",
}
_SWIN: dict[str, object] = {"TIMM": "swin_tiny_patch4_window7_224", "LAST_STRIDE": 2}
#: Builder, then keys of MODEL.BACKBONE that differ from a config's: of the model that people train, and of a small one
BACKBONES: dict[str, tuple[str, dict[str, object], dict[str, object]]] = {
    "ResNet-50": ("resnet", {"DEPTH": "50x"}, {"DEPTH": "18x"}),
    "ResNet-50-IBN": ("resnet", {"DEPTH": "50x", "WITH_IBN": True}, {"DEPTH": "18x", "WITH_IBN": True}),
    "OSNet": ("osnet", {"DEPTH": "x1_0"}, {"DEPTH": "x0_5"}),
    "MobileNetV2": ("mobilenetv2", {"DEPTH": "1.0x"}, {"DEPTH": "0.25x"}),
    "MobileNetV3": ("mobilenetv3", {"DEPTH": "Large"}, {"DEPTH": "Small"}),
    "ResNeXt-50": ("resnext", {"DEPTH": "50x"}, {"DEPTH": "50x"}),
    "ResNeSt-50": ("resnest", {"DEPTH": "50x"}, {"DEPTH": "50x"}),
    "RegNet": ("regnet", {"DEPTH": "400y"}, {"DEPTH": "200y"}),
    "EfficientNet": ("effnet", {"DEPTH": "b0"}, {"DEPTH": "b0"}),
    "ShuffleNetV2": ("shufflenetv2", {"DEPTH": "1.0x"}, {"DEPTH": "0.5x"}),
    "RepVGG": ("repvgg", {"DEPTH": "A0"}, {"DEPTH": "A0"}),
    "fast-reid's ViT": ("vit", {"DEPTH": "base"}, {"DEPTH": "small"}),
    "timm resnet50": ("timm", {"TIMM": "resnet50"}, {"TIMM": "resnet18"}),
    "timm convnext_tiny": ("timm", {"TIMM": "convnext_tiny"}, {"TIMM": "test_convnext"}),
    "timm vit_small_patch16_224": ("timm", {"TIMM": "vit_small_patch16_224"}, {"TIMM": "test_vit"}),
    "timm swin_tiny": ("timm", _SWIN, _SWIN),
    "timm repvit_m1_0": ("timm", {"TIMM": "repvit_m1_0"}, {"TIMM": "repvit_m0_9"}),
    "timm efficientnet_b0": ("timm", {"TIMM": "efficientnet_b0"}, {"TIMM": "test_efficientnet"}),
}
_IDENTITIES = 3
_ABOUT = f"""# Methods and backbones

Each cell is a model that was built, took a training step with a gradient on every parameter, was evaluated, saved and
loaded, and whose deployed form gives the same features; or it says why not. Random weights, four images. Made by
`python tools/backbones.py --output docs/guides/backbones.md` with torch {torch.__version__.partition("+")[0]}.
"""


def config(method: str, backbone: str, small: bool = True) -> CfgNode:
    """Give the config of a pair, at a size that all parts of all methods fit.

    Args:
        method: of `METHODS`.
        backbone: of `BACKBONES`.
        small: the smallest model of its family.
    """
    builder, usual, smallest = BACKBONES[backbone]
    keys = {"NAME": f"build_{builder}_backbone", "WITH_NL": False, "PRETRAIN": False, **(smallest if small else usual)}
    size = [384, 64] if keys.get("LAST_STRIDE") == 2 else [192, 64]
    cfg = load_config(METHODS[method], [word for key in keys for word in (f"MODEL.BACKBONE.{key}", keys[key])])
    # No image of 64 columns is cut: what is tried here is the network
    cfg.merge_from_list(["INPUT.SIZE_TRAIN", size, "INPUT.SIZE_TEST", size, "MODEL.DEVICE", "cpu"])
    return cfg


def check(cfg: CfgNode) -> str:
    """Try a model, and say what is wrong with it, or "".

    It takes a training step with a gradient on every parameter. Evaluated, its features are those of the same weights
    in a model that was built anew, and in one that is built without identities and without what only training needs.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.HEADS.NUM_CLASSES = _IDENTITIES
    torch.manual_seed(0)
    model = build_model(cfg).train()
    with torch.no_grad():
        for parameter in model.parameters():  # some networks start with layers that give zero
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    images = torch.rand(4, 3, *cfg.INPUT.SIZE_TRAIN) * 255
    with EventStorage():
        losses = model({"images": images, "targets": torch.tensor([0, 0, 1, 1])})
    torch.stack(list(losses.values())).sum().backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    idle = [name for name, parameter in trained.items() if parameter.grad is None or not parameter.grad.any()]
    if idle:
        return f"no gradient reaches {len(idle)} parameters, {idle[0]} first"
    features = _features(model, images)
    if not torch.isfinite(features).all():
        return "features are not finite"
    torch.manual_seed(1)
    other = build_model(cfg)
    if torch.equal(_features(other, images), features):
        return "another model's features are the same"
    other.load_state_dict(model.state_dict())
    if not torch.equal(_features(other, images), features):
        return "features differ after saving and loading"
    cfg.MODEL.HEADS.NUM_CLASSES = 0
    if cfg.MODEL.META_ARCHITECTURE == "CMBN":
        cfg.MODEL.CMBN.INFERENCE_ONLY = True
    deployed = build_model(cfg)
    state = model.state_dict()
    needed = needed_in_evaluation(model, state)
    missing, _ = deployed.load_state_dict({name: state[name] for name in needed}, strict=False)
    if needed_in_evaluation(deployed, missing):
        return f"the deployed form lacks {missing[0]}"
    return "" if torch.equal(_features(deployed, images), features) else "the deployed form's features differ"


def _features(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()({"images": images})


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see `--help`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="the smallest model of each family")
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    parser.add_argument("--backbone", nargs="+", choices=BACKBONES, default=list(BACKBONES), help="default: all")
    parser.add_argument("--output", type=Path, help="a file for the table")
    args = parser.parse_args(argv)
    rows, failed = [], 0
    for backbone in args.backbone:
        cells = []
        for method in args.method:
            start = time.perf_counter()
            try:
                problem = check(config(method, backbone, args.small))
            except Exception as error:  # what it is stands in the cell
                problem = f"{type(error).__name__}: {error}"
            print(f"{method} on {backbone}: {problem or 'yes'} ({time.perf_counter() - start:.0f} s)", file=sys.stderr)
            cells.append(problem or "yes")
            failed += bool(problem)
        rows.append(f"| {backbone} | {' | '.join(cells)} |")
    rule = "|---" * (len(args.method) + 1)
    table = "\n".join([f"| backbone | {' | '.join(args.method)} |", f"{rule}|", *rows])
    print(table)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(f"{_ABOUT}\n{table}\n", encoding="utf-8")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
