"""The stages of fast-reid's backbones. ResNet, ResNeXt, ResNeSt, RegNet and RepVGG come in stages as they are.

Decisions for the others:
- MobileNetV2 and V3: by the stride of the map, from 2 to 32; the last 1x1 convolutions are the end of `layer4`.
- EfficientNet: two of its seven stages for `layer3` and `layer4`, the first belongs to the stem.
- ShuffleNetV2: `layer1` is its max-pooling, which has no weights, and the three stages follow.
- OSNet has three stages of two blocks, at strides 4, 8 and 16: `layer3` and `layer4` have a block each of the last.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from fastreid.modeling.backbones.mobilenet import MobileNetV2
from fastreid.modeling.backbones.mobilenetv3 import MobileNetV3
from fastreid.modeling.backbones.osnet import OSNet
from fastreid.modeling.backbones.regnet.effnet import EffNet
from fastreid.modeling.backbones.regnet.regnet import AnyNet
from fastreid.modeling.backbones.repvgg import RepVGG
from fastreid.modeling.backbones.resnest import ResNeSt
from fastreid.modeling.backbones.resnet import ResNet
from fastreid.modeling.backbones.resnext import ResNeXt
from fastreid.modeling.backbones.shufflenet import ShuffleNetV2
from fastreid.modeling.backbones.vision_transformer import VisionTransformer
from torch import nn

from .stages import adapter, in_order
from .tokens import TokenStem, transformer_stages


class ResNetStage(nn.Module):
    """One stage of a fast-reid ResNet: its residual blocks, with the non-local blocks where the host puts them."""

    def __init__(self, blocks: nn.Sequential, non_local: Sequence[nn.Module], after: Sequence[int]) -> None:
        super().__init__()
        self.blocks = blocks
        self.non_local = nn.ModuleDict({str(i): block for i, block in zip(after, non_local)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C_in, H_in, W_in) -> (N, C, H, W)."""
        for i, block in enumerate(self.blocks):
            x = block(x)
            if str(i) in self.non_local:
                x = self.non_local[str(i)](x)
        return x

    def split(self) -> tuple[nn.Module, ResNetStage]:
        """Give the first block and the others, for a method that cuts inside a stage; no non-local block is first."""
        after = [int(i) - 1 for i in self.non_local]
        return self.blocks[0], ResNetStage(self.blocks[1:], list(self.non_local.values()), after)


@adapter(ResNet, ResNeXt, ResNeSt)
def _resnet(net: nn.Module) -> dict[str, nn.Module]:
    pooling = net.maxpool1 if isinstance(net, ResNeXt) else net.maxpool
    stages = [
        ResNetStage(
            getattr(net, f"layer{number}"),
            getattr(net, f"NL_{number}", []),
            [i for i in getattr(net, f"NL_{number}_idx", []) if i >= 0],
        )
        for number in range(1, 5)
    ]
    return in_order((net.conv1, net.bn1, net.relu, pooling), *stages)


@adapter(AnyNet)
def _regnet(net: AnyNet) -> dict[str, nn.Module]:
    return in_order(net.stem, net.s1, net.s2, net.s3, net.s4)


@adapter(EffNet)
def _efficientnet(net: EffNet) -> dict[str, nn.Module]:
    return in_order((net.stem, net.s1), net.s2, net.s3, (net.s4, net.s5), (net.s6, net.s7, net.head))


@adapter(RepVGG)
def _repvgg(net: RepVGG) -> dict[str, nn.Module]:
    return in_order(net.stage0, net.stage1, net.stage2, net.stage3, net.stage4)


#: By the number of layers of MobileNetV2, and of V3 Large and Small: where strides 4, 8, 16 and 32 begin
_MOBILENET = {18: (2, 4, 7, 14), 17: (2, 4, 7, 13), 13: (1, 2, 4, 9)}


@adapter(MobileNetV2, MobileNetV3)
def _mobilenet(net: nn.Module) -> dict[str, nn.Module]:
    layers = net.features
    a, b, c, d = _MOBILENET[len(layers)]
    return in_order(layers[:a], layers[a:b], layers[b:c], layers[c:d], (*layers[d:], net.conv))


@adapter(ShuffleNetV2)
def _shufflenet(net: ShuffleNetV2) -> dict[str, nn.Module]:
    second = net.stage_repeats[0]
    third = second + net.stage_repeats[1]
    blocks = net.features
    return in_order(
        net.first_conv, net.maxpool, blocks[:second], blocks[second:third], (*blocks[third:], net.conv_last)
    )


@adapter(OSNet)
def _osnet(net: OSNet) -> dict[str, nn.Module]:
    *blocks1, transition1 = net.conv2
    *blocks2, transition2 = net.conv3
    first, *others = net.conv4
    return in_order(
        net.conv1, (net.maxpool, *blocks1), (transition1, *blocks2), (transition2, first), (*others, net.conv5)
    )


@adapter(VisionTransformer)
def _vit(net: VisionTransformer) -> dict[str, nn.Module]:
    embed = net.patch_embed
    stem = TokenStem(
        embed.proj, net.pos_embed, [net.cls_token], (embed.num_y, embed.num_x), embed.img_size, net.pos_drop
    )
    return transformer_stages(stem, list(net.blocks), net.norm)
