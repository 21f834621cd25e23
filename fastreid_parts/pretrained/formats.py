"""The public formats of weights, recognized by the names of their tensors.

| format | its tensors | here |
| --- | --- | --- |
| an entry | in `state_dict`, `model`, `model_state`, `teacher`, `target_encoder` of a checkpoint | opened |
| a wrapper | `module.`, `backbone.`, `base.`: of several GPUs, a whole re-ID model, self-distillation | taken off |
| fast-reid's MGN | a trunk by number, `backbone.4.`, and three branches | the trunk and the first branch: a ResNet |
| MoCo | `encoder_q.` | kept; the momentum encoder and the queue are left out |
| MobileNetV2 | `features.18.` is the last convolution; torchvision's has each convolution with its norm | fast-reid's |
| Swin of SOLIDER (mmcv's) | `stages.0.blocks.0.attn.w_msa.qkv`; patches are merged by channel | Swin's own |
| a convolutional stem of a ViT | TransReID-SSL's and CION's `patch_embed.conv` | for MODEL.BACKBONE.CONV_STEM |
| PASS | the class token's position apart (`cls_pos`), three part tokens | joined; part tokens left out |
| ViT at another size | `pos_embed` of a square or a 2:1 grid | bilinear, as TransReID and fast-reid do |
| others, for a model of timm's | of DINOv2, DINOv3, ConvNeXt, Swin, FastViT ... | timm's `checkpoint_filter_fn` |

Classifiers, projection heads and what else only pre-training needs are left out.
"""

from __future__ import annotations

import logging
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

logger = logging.getLogger(__name__)

# The weights of a checkpoint, the one to be preferred first
_ENTRIES = ("state_dict", "model", "model_state", "teacher", "target_encoder", "module", "student")
_WRAPPERS = ("module.", "encoder_q.", "backbone.", "base.", "encoder.")
_HEADS = re.compile(
    r"(fc|head\w*|classifier\w*|linear|output|pre_logits|bottleneck\w*|projectors?|mask_token|dist_token|part_token\d|"
    r"part\d_pos|semantic_embed_[wb]|norm[0-2])(\.|$)"
)
# A name that the backbone does not have -> one that it may have
_RENAMED = (
    (r"^features\.18\.", "conv."),
    (r"^norm3\.", "norm."),
    (r"^patch_embed\.(conv|proj)\.", r"patch_embed.proj.\1."),
)
_MGN = (
    (r"^backbone\.0\.", "backbone.conv1."),
    (r"^backbone\.1\.", "backbone.bn1."),
    (r"^backbone\.4\.", "backbone.layer1."),
    (r"^backbone\.5\.", "backbone.layer2."),
    (r"^backbone\.6\.", "backbone.layer3.0."),
    (r"^b1\.0\.(\d+)\.", lambda match: f"backbone.layer3.{int(match[1]) + 1}."),
    (r"^b1\.1\.", "backbone.layer4."),
)
_SWIN_OF_MMCV = (
    (r"^stages\.", "layers."),
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"^norm3\.", "norm."),
)

State = dict[str, torch.Tensor]


def tensors_of(content: Any) -> State:
    """Find the tensors of a checkpoint, in whichever entry they are."""
    while isinstance(content, Mapping):
        entries = [content[entry] for entry in _ENTRIES if isinstance(content.get(entry), Mapping)]
        if not entries:
            return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
        content = entries[0]
    return {}


def encoder_of(tensors: State) -> tuple[State, Counter[str]]:
    """Take off the wrappers that a backbone was trained in.

    Returns:
        The tensors of the backbone, and how many of what were beside it.
    """
    beside: Counter[str] = Counter()
    if "b1.0.0.conv1.weight" in tensors:
        tensors = {_renamed(name, _MGN): tensor for name, tensor in tensors.items()}
    while wrapper := next((one for one in _WRAPPERS if any(name.startswith(one) for name in tensors)), None):
        beside.update(name.split(".")[0] for name in tensors if not name.startswith(wrapper))
        tensors = {name.removeprefix(wrapper): t for name, t in tensors.items() if name.startswith(wrapper)}
    return tensors, beside


def is_head(name: str) -> bool:
    """Tell whether a tensor is of a classifier, a projection head, or of what else only pre-training needs."""
    return _HEADS.match(name) is not None


def fitted(tensors: State, backbone: nn.Module) -> State:
    """Name the tensors as a backbone names them, and give those that depend on the image's size the backbone's.

    Args:
        tensors: of a file, without wrappers.
        backbone: whose names and sizes count.
    """
    own = backbone.state_dict()
    tensors = _mobilenet_v2(_swin(_positions(_pass(tensors), backbone, own)))
    tensors = {_own_name(name, own): tensor for name, tensor in tensors.items()}
    if type(backbone).__module__.startswith("timm."):
        tensors = _by_timm(tensors, backbone)
    renamed = {}
    for name, tensor in tensors.items():
        name = _own_name(name, own)
        if name.endswith("patch_embed.proj.weight") and name in own and tensor.numel() == own[name].numel():
            tensor = tensor.reshape(own[name].shape)  # a linear layer over patches
        renamed[name] = tensor
    return renamed


def _own_name(name: str, own: Mapping[str, torch.Tensor]) -> str:
    return name if name in own else next((new for old in _RENAMED if (new := re.sub(*old, name)) in own), name)


def _renamed(name: str, patterns: Iterable[tuple[str, Any]]) -> str:
    for pattern, new in patterns:
        name = re.sub(pattern, new, name)
    return name


def _by_timm(tensors: State, model: nn.Module) -> State:
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        return convert(dict(tensors), model)
    except (AttributeError, KeyError, RuntimeError, ValueError, IndexError):
        return tensors  # of another model, as counting its tensors will say


def _pass(tensors: State) -> State:
    if "cls_pos" not in tensors:
        return tensors
    rest = {name: tensor for name, tensor in tensors.items() if name != "cls_pos"}
    return {**rest, "pos_embed": torch.cat([tensors["cls_pos"], tensors["pos_embed"]], dim=1)}


def _swin(tensors: State) -> State:
    if not any(".attn.w_msa." in name for name in tensors):
        return tensors
    renamed = {}
    for name, tensor in tensors.items():
        name = _renamed(name, _SWIN_OF_MMCV)
        if ".downsample." in name:  # (..., C x 2 x 2), columns first -> (..., 4 x C), rows first
            tensor = tensor.unflatten(-1, (-1, 4)).transpose(-1, -2)[..., [0, 2, 1, 3], :].flatten(-2)
        renamed[name] = tensor
    return renamed


def _mobilenet_v2(tensors: State) -> State:
    """Name torchvision's layers as fast-reid's, where a convolution, a norm and an activation have a number each.

    torchvision has features.i.conv.k.0 and .1 for a convolution and its norm, but for the last, which stand alone.
    """
    paired = re.compile(r"(features\.(\d+)\.conv)\.(\d)\.([01])\.(\w+)$")
    pairs = Counter(match[2] for name in tensors if (match := paired.match(name)) and match[5] == "running_var")
    if not pairs:
        return tensors
    renamed = {}
    for name, tensor in tensors.items():
        if match := paired.match(name):
            name = f"{match[1]}.{3 * int(match[3]) + int(match[4])}.{match[5]}"
        elif match := re.match(r"(features\.(\d+)\.conv)\.(\d)\.(\w+)$", name):
            name = f"{match[1]}.{int(match[3]) + 2 * pairs[match[2]]}.{match[4]}"
        renamed[name] = tensor
    return renamed


def _positions(tensors: State, backbone: nn.Module, own: Mapping[str, torch.Tensor]) -> State:
    """Position embeddings (1, T + h w, C) on the grid of the backbone; as they are where theirs cannot be told."""
    old, new = tensors.get("pos_embed"), own.get("pos_embed")
    patches = getattr(backbone, "patch_embed", None)
    if old is None or new is None or patches is None or old.shape == new.shape or old.ndim != 3:
        return tensors
    if "dist_token" in tensors and "dist_token" not in own:
        old = torch.cat([old[:, :1], old[:, 2:]], dim=1)
    grid = patches.grid_size if hasattr(patches, "grid_size") else (patches.num_y, patches.num_x)
    extra = new.shape[1] - grid[0] * grid[1]
    number = old.shape[1] - extra
    width = next((w for w in range(1, number + 1) if number in (w * w, 2 * w * w)), 0)
    if not width:
        return tensors
    logger.info(
        "positions of %d patches are taken as of %d x %d, and resized to %d x %d", number, number // width, width, *grid
    )
    maps = old[:, extra:].transpose(1, 2).unflatten(2, (number // width, width))
    maps = F.interpolate(maps.float(), size=tuple(grid), mode="bilinear")
    return {**tensors, "pos_embed": torch.cat([old[:, :extra], maps.flatten(2).transpose(1, 2).to(old)], dim=1)}
