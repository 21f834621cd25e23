"""The meta-architecture that all methods share: a backbone, heads with named branches, and one sum of losses."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from fastreid.config import CfgNode, configurable, get_cfg
from fastreid.modeling.heads import build_heads
from fastreid.modeling.heads.embedding_head import EmbeddingHead
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.modeling.meta_arch.baseline import Baseline
from torch import nn

from .backbones import State, Tokens, TokenStem, build_parts_backbone, has_stages, input_size, map_shape, stages_of
from .host import log_scalar, write_deferred
from .layers import full_precision, widened
from .losses import BranchLoss, BranchModules, build_losses
from .mechanisms import is_followed
from .parts_head import BranchOutputs, PartsHead, check_pooling, check_settings_are_read, first_map, log_group
from .settings import Declares, Settings, key
from .speed import SpeedSettings, check_compiler, checkpoint_stages


class EvaluatedFeatures(Settings, section="TEST"):
    """Which features evaluation gives."""

    for_any_model = True

    features: tuple = key(
        (), "evaluate these features of a head that has several, by name; empty: all concatenated", role="test"
    )


@META_ARCH_REGISTRY.register()
class PartsBaseline(Declares, nn.Module):
    """Backbone -> heads -> losses, for fast-reid's own heads and for heads with named branches.

    In training the model returns {`loss_<term>` or `loss_<term>_<branch>`: scalar}, in evaluation one (N, D) tensor.
    The losses of several branches are summed to the entries that `parts_head.log_group` names: many parts, one number.
    The batch that comes in is never written to.

    Losses with parameters of their own are the child `loss_modules`, where there are any, as `<term>.branch_<name>`:
    they are trained, saved and found by SOLVER.LR_FACTORS as every other module is. They are built for the head's
    `metric_dims`; one of fast-reid's own heads has one branch without a name.

    Args:
        backbone: images (N, 3, H, W) -> what `heads` takes.
        heads: (features, targets) -> `BranchOutputs` or the host's dictionary in training, (N, D) in evaluation.
        losses: the terms of the objective.
        pixel_mean: mean of the three channels, in 0 to 255.
        pixel_std: standard deviation of the three channels, in 0 to 255.
        test_features: names of the features that evaluation gives, of the head's `feature_dims`; none: all.
        speed: how training is computed; None: by the defaults.

    Raises:
        ValueError: the head has no feature of a name in `test_features`, or the backbone no stages to checkpoint.
    """

    #: Optimizer steps of one iteration, by name; PartsTrainer runs one forward, backward and step for each of them.
    update_steps: tuple[str, ...] = ("joint",)

    reads = {"test_features": EvaluatedFeatures, "speed": SpeedSettings}
    training_only = ("heads.weight", "loss_modules")

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        heads: nn.Module,
        losses: list[BranchLoss],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        test_features: Sequence[str] = (),
        speed: SpeedSettings | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads
        self.loss_terms = losses
        modules = {loss.term: loss.function for loss in losses if isinstance(loss.function, BranchModules)}
        if modules:
            self.loss_modules = nn.ModuleDict(modules)
        known = heads.feature_names if isinstance(heads, PartsHead) else []
        unknown = [name for name in test_features if name not in known]
        if unknown:
            raise ValueError(
                f"TEST.FEATURES has {', '.join(unknown)}; the features of this head are "
                f"{', '.join(known) or 'one without a name, so leave it empty'}"
            )
        self.has_cameras = any(isinstance(m, TokenStem) and m.cameras is not None for m in backbone.modules())
        self.test_features = tuple(test_features)
        self.settings = (EvaluatedFeatures(features=self.test_features),)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(1, -1, 1, 1), persistent=False)
        self.speed = speed = speed or SpeedSettings.from_cfg(get_cfg())
        if speed.channels_last:
            self.to(memory_format=torch.channels_last)
        self._checkpoints = False
        self._compiled: Callable[..., dict[str, torch.Tensor]] | None = None
        if speed.checkpoint:
            stages_of(backbone)  # raises where it has none

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the arguments of the class from a config."""
        cfg = cfg.clone()
        cfg.defrost()
        cfg.INPUT.SIZE_TRAIN = list(input_size(cfg))
        backbone = cls.build_backbone(cfg)
        # The width that was built, whatever FEAT_DIM says: a config that only changes the backbone works.
        if has_stages(backbone):
            shape = map_shape(backbone, cfg.INPUT.SIZE_TRAIN)
            cfg.MODEL.BACKBONE.FEAT_DIM = shape[0]
        heads = build_heads(cfg)
        check_settings_are_read(cfg, cls, [backbone, heads])
        if has_stages(backbone):
            check_pooling(cfg, shape)
            _check_test_size(cfg, cls, backbone, heads)
        return {
            "backbone": backbone,
            "heads": heads,
            "losses": build_losses(cfg, heads.metric_dims if isinstance(heads, PartsHead) else None),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "test_features": EvaluatedFeatures.from_cfg(cfg).features,
            "speed": SpeedSettings.from_cfg(cfg),
        }

    @classmethod
    def build_backbone(cls, cfg: CfgNode) -> nn.Module:
        """Build the backbone of the config; a method that branches it overrides this."""
        return build_parts_backbone(cfg)

    @classmethod
    def check_size(cls, backbone: nn.Module, heads: nn.Module, size: Sequence[int]) -> None:
        """Check that images of a size can be evaluated, without computing anything; `PartsHead.check_rows` decides.

        Args:
            backbone: of a family that has stages.
            heads: what is to take its map.
            size: height and width of the images.

        Raises:
            ValueError: they cannot.
        """
        if isinstance(heads, PartsHead):
            heads.check_rows(map_shape(backbone, size)[1])

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: dict[str, Any] | torch.Tensor, step: str | None = None
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Losses in training, features (N, D) in evaluation.

        Args:
            batched_inputs: {"images": (N, 3, H, W) in 0 to 255, "targets": (N,), ...}, or the images alone.
            step: the name of the optimizer step, one of `update_steps`; None outside PartsTrainer.

        Raises:
            ValueError: see `training_targets`.
        """
        images = self.with_cameras(self.preprocess_image(batched_inputs), batched_inputs)
        if not self.training:
            features = self.heads(self.compute_features(images, step))
            if not self.test_features:
                return features
            columns = self.heads.feature_columns()
            return torch.cat([features[:, columns[name]] for name in self.test_features], dim=1)
        targets = training_targets(batched_inputs, self.device)
        if self.speed.checkpoint and not self._checkpoints:  # not before: a model that leaves is as it was built
            checkpoint_stages(self.backbone)
            self._checkpoints = True
        # A watched pass has other methods than the compiled one, and one without gradients no backward pass to compile
        if self.speed.compile == "off" or not torch.is_grad_enabled() or is_followed(self):
            return self.training_pass(images, targets, step)
        for module in self.modules():
            if isinstance(module, Declares):
                module.before_compiled_pass()
        if self._compiled is None:
            check_compiler(self.speed.compile, self.device)
            # Batches of a training have one size; another one would be compiled for any, which is slower
            self._compiled = torch.compile(_apart(self.training_pass), backend=self.speed.compile, dynamic=False)
        losses = self._compiled(images, targets, step)
        write_deferred()
        return losses

    def training_pass(self, images: State, targets: torch.Tensor, step: str | None) -> dict[str, torch.Tensor]:
        """Compute the losses of a batch, what SPEED.COMPILE compiles: nothing in it waits for a value.

        Args:
            images: see `compute_features`.
            targets: (N,), identity indices.
            step: see `forward`.
        """
        outputs = self.heads(self.compute_features(images, step), targets)
        if isinstance(outputs, dict):
            outputs = BranchOutputs.from_host(outputs)
        return self.losses(outputs, targets)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was compiled: it would run the model that a copy is of."""
        return {**self.__dict__, "_compiled": None}

    def with_cameras(self, images: torch.Tensor, batched_inputs: dict[str, Any] | torch.Tensor) -> State:
        """Put the cameras of a batch beside its images, for a backbone with MODEL.BACKBONE.CAMERAS; others get images.

        Args:
            images: normalized, (N, 3, H, W).
            batched_inputs: see `forward`; without `camids` no camera is known.
        """
        if not self.has_cameras or not isinstance(batched_inputs, dict) or "camids" not in batched_inputs:
            return images
        return Tokens(images, batched_inputs["camids"].to(self.device).view(-1, 1, 1))

    def compute_features(self, images: State, step: str | None) -> Any:
        """Compute what the heads take, the backbone's output.

        Args:
            images: normalized, (N, 3, H, W), or with their cameras, see `with_cameras`.
            step: see `forward`.
        """
        return self.backbone(images)

    def feature_map(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the map (N, C, H, W) that the representation is pooled from, for images (N, 3, H, W) in 0 to 255."""
        return first_map(self.compute_features(self.preprocess_image(images), None))

    def preprocess_image(self, batched_inputs: dict[str, Any] | torch.Tensor) -> torch.Tensor:
        """Images on the model's device, normalized, in a tensor of their own."""
        images = batched_inputs["images"] if isinstance(batched_inputs, dict) else batched_inputs
        images = images.to(self.device, non_blocking=True)
        if self.speed.channels_last and self.training:  # in evaluation, and when it is exported, the weights decide
            images = images.contiguous(memory_format=torch.channels_last)
        return (images - self.pixel_mean) / self.pixel_std

    def losses(self, outputs: BranchOutputs, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """Give the terms of the objective: each loss over each branch that offers what it applies to, with its weight.

        Eq. (9), (10) of CGE, Eq. (3) of RRID, Eq. (5) of CAN and Eq. (4) of RMGL are their sum.

        Args:
            outputs: the head's.
            targets: (N,).

        Raises:
            ValueError: a configured loss finds no branch to apply to.
        """
        assert outputs.scores is not None
        predicted = outputs.scores.detach().argmax(dim=1)
        log_scalar("cls_accuracy", (predicted == targets).float().mean())
        result: dict[str, torch.Tensor] = {}
        for term in self.loss_terms:
            branches, weights = outputs.branches(term.applies_to)
            if not branches:
                raise ValueError(f"loss '{term.term}' applies to {term.applies_to}, which this head does not offer")
            for branch, tensor in branches.items():
                weight = term.weight * weights.get(branch, 1.0)
                with full_precision(tensor):
                    value = term(widened(tensor), targets, branch) * weight
                name = f"loss_{term.term}_{log_group(branch)}" if branch else f"loss_{term.term}"
                result[name] = result[name] + value if name in result else value
        return result


def training_targets(batched_inputs: Any, device: torch.device) -> torch.Tensor:
    """Take the identity indices (N,) of a batch for training.

    Args:
        batched_inputs: the batch.
        device: that the model is on.

    Raises:
        ValueError: it has none, or a negative one, and is to be learned from.
    """
    if not isinstance(batched_inputs, dict) or "targets" not in batched_inputs:
        raise ValueError('training needs identities: a batch is {"images": ..., "targets": ...}')
    targets = batched_inputs["targets"]
    if not torch.is_grad_enabled():
        # Batches that only re-estimate batch-norm statistics (PreciseBN) have other identities, or -1
        return targets.to(device).clamp(min=0)
    # Nothing waits for the values of a GPU, where the loss fails at such an index; tensors without content have none
    if type(targets) is torch.Tensor and targets.device.type == "cpu" and (targets < 0).any():
        raise ValueError(
            f"the batch has the target {int(targets.min())}: identities of a training set are 0, 1, 2 ..., and -1 "
            "marks images to take batch-norm statistics of, without gradients"
        )
    return targets.to(device)


def head_of(model: nn.Module) -> PartsHead | EmbeddingHead | None:
    """Give a model's head where it has one that says how it pools, None elsewhere (fast-reid's MGN has several)."""
    head = model.heads if isinstance(model, (PartsBaseline, Baseline)) else None
    return head if isinstance(head, (PartsHead, EmbeddingHead)) else None


def _check_test_size(cfg: CfgNode, architecture: type[PartsBaseline], backbone: nn.Module, heads: nn.Module) -> None:
    """Refuse a size that the first evaluation would fail at, which may be epochs away; the first batch tells others."""
    cropped = cfg.INPUT.CROP.ENABLED
    size = list(cfg.INPUT.CROP.SIZE if cropped else cfg.INPUT.SIZE_TEST)
    if len(size) != 2 or min(size) <= 0:
        return  # it depends on the image
    try:
        architecture.check_size(backbone, heads, size)
    except ValueError as error:
        raise ValueError(f"INPUT.{'CROP.SIZE' if cropped else 'SIZE_TEST'} is {size}, and {error}") from error


def _apart(method: Any) -> Any:
    """Give a method code of its own: torch.compile counts by code, and after eight models in a process it gave up."""
    function = method.__func__
    own = types.FunctionType(
        function.__code__.replace(), function.__globals__, closure=function.__closure__, argdefs=function.__defaults__
    )
    return types.MethodType(own, method.__self__)
