"""Time of RRID's head, all parts in one batch, beside the same head as a list of small layers.

    python tools/rrid_head_cost.py [--parts 2 4 6] [--batch 64] [--rounds 20] [--device cpu]

Forward, and forward with backward as in training, at the sizes of the paper unless told otherwise. The two heads have
the same weights and take turns in one run. Each round's times are divided, so that a drift of the machine's speed meets
both; the ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import nn

from fastreid_parts.commands.cost import measure
from fastreid_parts.methods.rrid import RRIDHead

__all__ = ["PlainRRIDHead", "forward", "forward_and_backward", "main"]


def _block(width: int, reduced: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, reduced, 1), nn.BatchNorm2d(reduced), nn.ReLU())


class PlainRRIDHead(nn.Module):
    """The authors' recipe (GCP, one-vs.-rest, all features classified) in module lists: a small layer for every part.

    Args:
        head: the batched head that it takes a copy of the weights from.
    """

    def __init__(self, head: RRIDHead) -> None:
        super().__init__()
        self.scales = head.scales
        width, reduced = head.reduction.conv.weight.shape[2], head.reduction.conv.weight.shape[1]
        classes = head.classifiers.weight.shape[1]
        globals_, locals_ = len(self.scales), sum(self.scales)
        self.reductions = nn.ModuleList(_block(width, reduced) for _ in range(2 * globals_ + 2 * locals_))
        self.global_relations = nn.ModuleList(_block(2 * reduced, reduced) for _ in range(globals_))
        self.local_relations = nn.ModuleList(_block(2 * reduced, reduced) for _ in range(locals_))
        count = 3 * globals_ + 3 * locals_
        self.classifiers = nn.ModuleList(nn.Linear(reduced, classes) for _ in range(count))
        for blocks, source in (
            (self.reductions, head.reduction),
            (self.global_relations, head.global_relation),
            (self.local_relations, head.local_relation),
        ):
            # The recipe's head has all of them
            assert source is not None and source.conv.bias is not None and source.norm is not None
            for g, block in enumerate(blocks):
                share = slice(g * reduced, (g + 1) * reduced)
                block[0].weight.data.copy_(source.conv.weight.data[g, :, :, None, None])
                block[0].bias.data.copy_(source.conv.bias.data[g])
                block[1].weight.data.copy_(source.norm.weight.data[share])
                block[1].bias.data.copy_(source.norm.bias.data[share])
        assert head.classifiers.bias is not None
        for g, classifier in enumerate(self.classifiers):
            classifier.weight.data.copy_(head.classifiers.weight.data[g])
            classifier.bias.data.copy_(head.classifiers.bias.data[g])

    def forward(
        self, feature_map: torch.Tensor, targets: torch.Tensor | None = None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """(N, C, H, W) -> final features (N, c), global ones first, and logits (N, K) of all classified features."""
        maxima, contrasts, parts, rests = [], [], [], []
        for scale in self.scales:
            rows = feature_map.shape[2] // scale
            own = [feature_map[:, :, i * rows : (i + 1) * rows].amax(dim=(2, 3), keepdim=True) for i in range(scale)]
            highest = own[0]
            for part in own[1:]:
                highest = torch.maximum(highest, part)
            maxima.append(highest)
            contrasts.append((sum(own) - highest) / (scale - 1))
            parts += own
            rests += [sum(other for j, other in enumerate(own) if j != i) / (scale - 1) for i in range(scale)]
        inputs = maxima + contrasts + parts + rests
        reduced = [block(x) for block, x in zip(self.reductions, inputs)]
        s, p = len(self.scales), sum(self.scales)
        maxima, contrasts, parts, rests = (
            reduced[:s],
            reduced[s : 2 * s],
            reduced[2 * s : 2 * s + p],
            reduced[2 * s + p :],
        )
        final = [m + r(torch.cat([m, c], 1)) for m, c, r in zip(maxima, contrasts, self.global_relations)]
        final += [a + r(torch.cat([a, b], 1)) for a, b, r in zip(parts, rests, self.local_relations)]
        features = [x[..., 0, 0] for x in final + maxima + contrasts + parts + rests]
        logits = [classifier(x) for classifier, x in zip(self.classifiers, features)]
        return features[: s + p], logits


@torch.no_grad()
def forward(head: nn.Module, feature_map: torch.Tensor, targets: torch.Tensor) -> None:
    """A pass through a head as in training."""
    head(feature_map, targets)


def forward_and_backward(head: nn.Module, feature_map: torch.Tensor, targets: torch.Tensor) -> None:
    """A pass through a head and back, from the cross-entropy of all logits to the feature map."""
    head.zero_grad(set_to_none=True)
    source = feature_map.detach().requires_grad_()  # the backbone's gradient is part of the work
    outputs = head(source, targets)
    logits = outputs.logits.values() if isinstance(head, RRIDHead) else outputs[1]
    sum(F.cross_entropy(x, targets) for x in logits).backward()


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `--help`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", type=int, nargs="+", default=[2, 4, 6], help="P of each scale (default 2 4 6)")
    parser.add_argument("--batch", type=int, default=64, help="images (default 64)")
    parser.add_argument("--channels", type=int, default=2048, help="C of the feature map (default 2048)")
    parser.add_argument("--reduced", type=int, default=256, help="c of a feature (default 256)")
    parser.add_argument("--classes", type=int, default=751, help="identities (default 751, Market-1501's)")
    parser.add_argument("--map", type=int, nargs=2, default=[24, 8], help="rows and columns (default 24 8)")
    parser.add_argument("--rounds", type=int, default=20, help="timed steps of each head (default 20)")
    parser.add_argument("--device", default="cpu", help="where they run (default cpu)")
    args = parser.parse_args(argv)
    if min(args.batch, args.channels, args.reduced, args.classes, args.rounds, *args.map) < 1:
        parser.error("sizes and --rounds must be at least 1")
    if any(parts < 2 or args.map[0] % parts for parts in args.parts):
        parser.error(f"--parts are at least 2 and divide the {args.map[0]} rows of --map")
    device = torch.device(args.device)
    torch.manual_seed(0)
    batched = RRIDHead(
        feat_dim=args.channels,
        reduced_dim=args.reduced,
        num_classes=args.classes,
        norm="BN",
        parts=args.parts,
        global_pool="gcp",
        local_pool="gmp",
        relation="one_vs_rest",
        contrast="rest_mean",
        reduction="conv_bn_relu",
        classify="all",
        classifier_bias=True,
        triplet="each",
        with_bnneck=False,
        neck_feat="before",
        test_feat="after",
        abp_mode="off",
        abp_pool="layer",
    ).to(device)
    heads = {"plain": PlainRRIDHead(batched).to(device), "batched": batched}
    feature_map = torch.rand(args.batch, args.channels, *args.map, device=device)
    targets = torch.arange(args.batch, device=device) % args.classes

    table = []
    for name, step in (("forward", forward), ("forward and backward", forward_and_backward)):
        steps: dict[str, Callable[[], Any]] = {
            kind: partial(step, head, feature_map, targets) for kind, head in heads.items()
        }
        plain, own = measure(steps, args.rounds, device)
        table.append([name, plain["milliseconds"], own["milliseconds"], own["ratio"], 1 / own["ratio"]])
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(
        f"RRID's head, parts {' '.join(map(str, args.parts))}, {args.batch} maps of {args.channels} channels, "
        f"{args.map[0]}x{args.map[1]}; {where}, {args.rounds} rounds, torch {torch.__version__}"
    )
    headers = ["", "layer by layer [ms]", "one batch [ms]", "time ratio", "times faster"]
    print(tabulate(table, headers=headers, tablefmt="pipe", floatfmt=("", ".1f", ".1f", ".3f", ".2f")))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
