"""The contract of a head: what it gives, how its features are called, and which of fast-reid's keys it honors.

One scheme of names serves all methods. A feature is `global`, or `global_of_6` for that of one of several branches or
scales, by its number of parts; `part_3_of_6` is its third part from the top. `parts_of_6` are all parts of a branch
concatenated, `all_of_6` its global feature and parts, `all` every feature. A prefix says which of several such features
it is: `original/` and `receptive/` of two paths, `masked/`, `reversal/`, `rest/` ... A branch of losses has the name of
the feature that it sees; fast-reid's own heads have a single one without a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.layers import any_softmax, pooling
from fastreid.layers.weight_init import weights_init_kaiming
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.heads.embedding_head import EmbeddingHead
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .host import registered_names
from .layers import norm_of_parts
from .settings import Declares, Settings, choice, host_key, unread_key


def whole(parts: int) -> str:
    """Name the global feature of the branch or scale with so many parts."""
    return f"global_of_{parts}"


def part(number: int, parts: int) -> str:
    """Name a part of a branch or scale.

    Args:
        number: of the part, from 1 at the top.
        parts: how many there are.
    """
    return f"part_{number}_of_{parts}"


def branch(parts: int) -> str:
    """Name the branch with so many parts, and its parts concatenated."""
    return f"parts_of_{parts}"


def log_group(branch: str) -> str:
    """Name the log's entry for the losses of a branch: its prefix, or else what kind of feature it is."""
    return branch.split("/")[0] if "/" in branch else branch.split("_")[0]


#: What fast-reid's `get_norm` makes.
NORMS = ("BN", "syncBN", "GhostBN", "FrozenBN", "GN")


class HeadSettings(Settings, section="MODEL.HEADS", role="features"):
    """What any head is built from; a head names in `honors` those that it reads."""

    num_classes: int = host_key("identities of the training set; 0 builds a model for evaluation", role="training")
    embedding_dim: int = host_key("width of a feature after its reduction")
    # A new layer that is frozen would do nothing for ever
    norm: str = host_key("the norm of reductions and of BNNeck", "", [norm for norm in NORMS if norm != "FrozenBN"])
    pool_layer: str = host_key("global pooling", "", pooling.__all__)
    cls_layer: str = host_key("the classifiers' softmax layer", "", any_softmax.__all__, role="training")
    scale: float = host_key("factor on the logits of a softmax layer", role="training")
    margin: float = host_key("margin of a softmax layer", role="training")
    with_bnneck: bool = host_key("a batch norm before the classifiers")
    neck_feat: str = host_key(
        "metric losses see features before or after BNNeck", "", ("before", "after"), role="training"
    )
    test_feat: str = choice(("after", "before"), "evaluation gives features after or before BNNeck", role="test")
    norm_init: str = choice(
        ("ones", "uniform"),
        "initial weights of the norms of reductions; uniform: drawn from 0 to 1, as torch did before 1.0",
        role="training",
    )

    @classmethod
    def honored(cls, cfg: CfgNode, honors: Sequence[str], head: str) -> HeadSettings:
        """Read the section, and refuse what is set and has no effect on a head.

        Args:
            cfg: the config.
            honors: the keys that the head reads, besides NAME and NUM_CLASSES.
            head: its name.

        Raises:
            ValueError: another key differs from its default, or a value is not one of its choices.
        """
        for name, default in get_cfg().MODEL.HEADS.items():
            value = cfg.MODEL.HEADS[name]
            if name in ("NECK_FEAT", "TEST_FEAT") and not cfg.MODEL.HEADS.WITH_BNNECK:
                continue  # there is no before and after
            if name not in ("NAME", "NUM_CLASSES", *honors) and value != default:
                raise ValueError(
                    f"MODEL.HEADS.{name} is {value!r}, and {head} does not read it: leave it at {default!r}; "
                    f"{head} reads {', '.join(honors)}"
                )
        return cls.from_cfg(cfg)

    def width(self, method: str, usual: int) -> int:
        """Give EMBEDDING_DIM to a method that cannot do without.

        Args:
            method: its name.
            usual: its paper's width.

        Raises:
            ValueError: it is not positive.
        """
        if self.embedding_dim <= 0:
            raise ValueError(f"{method} reduces its features: MODEL.HEADS.EMBEDDING_DIM must be positive ({usual})")
        return self.embedding_dim

    def init_norms(self, head: nn.Module) -> None:
        """Draw the initial weights of a head's norms by NORM_INIT; those of its `neck` stay.

        Args:
            head: whose norms are built.
        """
        for name, module in head.named_modules():
            if self.norm_init == "uniform" and isinstance(module, _BatchNorm) and not name.startswith("neck"):
                nn.init.uniform_(module.weight)

    def feature_settings(self) -> dict[str, Any]:
        """See `Settings`; without BNNeck there is nothing to be before or after."""
        settings = super().feature_settings()
        if not self.with_bnneck:
            del settings["MODEL.HEADS.TEST_FEAT"]
        return settings


@dataclass
class BranchOutputs:
    """What a head returns in training.

    Attributes:
        logits: {branch: (N, K)}, for the losses over logits.
        features: {branch: (N, D)}, for the losses over features.
        logit_weights, feature_weights: {branch: factor of its losses}; a branch that is not listed has factor 1.
        scores: (N, K), whose accuracy is logged; by default the first of `logits`.
    """

    logits: dict[str, torch.Tensor]
    features: dict[str, torch.Tensor] = field(default_factory=dict)
    logit_weights: dict[str, float] = field(default_factory=dict)
    feature_weights: dict[str, float] = field(default_factory=dict)
    scores: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.scores is None:
            self.scores = next(iter(self.logits.values()), None)

    def branches(self, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """Give the branches of one kind, `logits` or `features`, and the factors of their losses."""
        return (self.logits, self.logit_weights) if kind == "logits" else (self.features, self.feature_weights)

    @classmethod
    def from_host(cls, outputs: dict[str, torch.Tensor]) -> BranchOutputs:
        """Take the output of one of fast-reid's own heads as a single branch without a name.

        Its scores have no margin, which a margin softmax takes from the right class alone, and are not revised.
        """
        logits, features = {"": outputs["cls_outputs"]}, {"": outputs["features"]}
        return cls(logits, features, scores=outputs.get("pred_class_logits"))


class PartsHead(Declares, nn.Module):
    """Base of the heads that give several features.

    `forward(maps, targets)` takes what the backbone gives, a map (N, C, H, W) or {branch: map}, and returns
    `BranchOutputs` in training and one (N, D) tensor in evaluation, `feature_dims` concatenated.

    Attributes:
        honors: keys of MODEL.HEADS that it reads, besides NAME and NUM_CLASSES; others are refused where they are set.
        feature_dims: {name: width} of the features that evaluation gives, in their order; widths may differ.
        metric_dims: {branch: width} of what metric losses see.
        global_branches: branches of logits that classify the whole image, which CGE revises.
        pool_layer: what pools a map to a global feature, (N, C, H, W) -> (N, `pooled_dim`, 1, 1).
        pooled_dim: the width of that.

    What it adds to a plain network it names in `mechanisms`, as any other module may (see `mechanisms.py`).
    """

    honors: ClassVar[Sequence[str]] = ()
    feature_dims: Mapping[str, int]
    metric_dims: Mapping[str, int]
    global_branches: Sequence[str] = ()
    pool_layer: nn.Module
    pooled_dim: int

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read the arguments of the class: the map's channels, MODEL.HEADS, and each class of `reads`.

        Raises:
            ValueError: a key is out of range, or set and not read.
        """
        return {
            "feat_dim": cfg.MODEL.BACKBONE.FEAT_DIM,
            "heads": HeadSettings.honored(cfg, cls.honors, cls.__name__),
            **{name: declared.from_cfg(cfg) for name, declared in cls.reads.items()},
        }

    @property
    def feature_names(self) -> list[str]:
        """The names of `feature_dims`."""
        return list(self.feature_dims)

    def check_rows(self, rows: int) -> None:
        """Check, when a model is built, that evaluation can cut a map into parts; a head that cuts none takes any.

        Args:
            rows: of the map at the size of INPUT.SIZE_TEST.

        Raises:
            ValueError: it cannot.
        """

    def feature_columns(self) -> dict[str, slice]:
        """Find each feature in what evaluation gives: {name: columns}."""
        columns, first = {}, 0
        for name, width in self.feature_dims.items():
            columns[name] = slice(first, first + width)
            first += width
        return columns


class Necked(NamedTuple):
    """A feature before its classifier, and as metric losses and evaluation see it."""

    classified: torch.Tensor
    metric: torch.Tensor
    evaluated: torch.Tensor


class Neck(nn.Module):
    """BNNeck, a batch norm without shift before the classifiers, and who sees features before or after it.

    Args:
        heads: WITH_BNNECK, NORM, NECK_FEAT and TEST_FEAT of MODEL.HEADS.
        width: channels in all.
        features: how many features they are of.

    Raises:
        ValueError: see `norm_of_parts`.
    """

    def __init__(self, heads: HeadSettings, width: int, features: int = 1) -> None:
        super().__init__()
        self.norm = norm_of_parts(heads.norm, features, width, bias_freeze=True) if heads.with_bnneck else None
        self.neck_feat, self.test_feat = heads.neck_feat, heads.test_feat
        self.apply(weights_init_kaiming)

    def forward(self, before: torch.Tensor) -> Necked:
        """Features (N, D) or (N, G, D), with `width` channels in all, to three of the same shape."""
        if self.norm is None:
            return Necked(before, before, before)
        after = self.norm(before.flatten(1)[..., None, None]).view_as(before)  # the host's norms are 2-d
        chosen = {"before": before, "after": after}
        return Necked(after, chosen[self.neck_feat], chosen[self.test_feat])


def first_map(maps: torch.Tensor | Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Give the map (N, C, H, W) that the representation is pooled from: the only one, or the first of several."""
    return maps if isinstance(maps, torch.Tensor) else next(iter(maps.values()))


def check_settings_are_read(cfg: CfgNode, architecture: type, modules: Iterable[Any]) -> None:
    """Check that a model reads every key of a method, and of MODEL.HEADS, that is set.

    Args:
        cfg: the config.
        architecture: the class of the model.
        modules: what it is built of; anything else among them is passed over.

    Raises:
        ValueError: it does not read one; the message names the key, its default and what reads it.
    """
    children = [child for module in modules if isinstance(module, nn.Module) for child in module.modules()]
    declaring = [architecture, *map(type, children)]
    unread = unread_key(cfg, [one for kind in declaring if issubclass(kind, Declares) for one in kind.reads.values()])
    if unread is not None:
        one, value = unread
        readers = [
            name
            for registry in (META_ARCH_REGISTRY, REID_HEADS_REGISTRY)
            for name in registered_names(registry)
            if isinstance(kind := registry.get(name), type) and issubclass(kind, Declares)
            if any(one.name in [other.name for other in declared.declared_keys()] for declared in kind.reads.values())
        ]
        raise ValueError(
            f"{one.name} is {value!r}, and this {architecture.__name__} does not read it: leave it at "
            f"{list(one.default) if isinstance(one.default, tuple) else one.default!r} (it is read by "
            f"{', '.join(readers)})"
        )
    for child in children:
        if isinstance(child, EmbeddingHead) and not isinstance(child, PartsHead):
            HeadSettings.honored(cfg, _HOST_HONORS, type(child).__name__)


def check_pooling(cfg: CfgNode, shape: Sequence[int]) -> None:
    """Refuse a POOL_LAYER that does not pool where the backbone gives a map: heads go on with its first position.

    Args:
        cfg: its MODEL.HEADS.POOL_LAYER is read.
        shape: channels, rows and columns of what the backbone gives.

    Raises:
        ValueError: the pooling layer leaves a map as it is.
    """
    layer, positions = cfg.MODEL.HEADS.POOL_LAYER, tuple(shape[1:])
    if layer in ("Identity", "Flatten") and positions != (1, 1):
        raise ValueError(
            f"MODEL.HEADS.POOL_LAYER is '{layer}', which does not pool, and the backbone gives a map of "
            f"{positions[0]} x {positions[1]}, of which one position would be read: set it to GlobalAvgPool or another "
            "pooling, or for a ViT MODEL.BACKBONE.READOUT token, which is no map"
        )


#: What fast-reid's own heads read
_HOST_HONORS = [one.attribute.upper() for one in HeadSettings.declared_keys() if one.of_host]
