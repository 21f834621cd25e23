"""Optimizer and schedule from a config.

The host's own builder flattens all parameters into one buffer a group, which torch 2 silently detaches from the
model when gradients are cleared, and freezes by a counter that neither evaluation nor resuming respects. This builder
reads the same keys and a few more; it serves PartsTrainer and, through `compat`, the host's trainer.
"""

from __future__ import annotations

import inspect
import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.solver import build as host_build
from fastreid.solver import optim as host_optim
from fastreid.utils.params import ContiguousParams
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..host import gradient_clipper
from ..settings import Settings, choice, host_key, key
from ..speed import SpeedSettings

#: These need more than gradients: a closure, sparse ones, another optimizer, or matrices alone as parameters
_NOT_FOR_STEPS = ("Optimizer", "LBFGS", "SparseAdam", "SWA", "Muon")


def _optimizers() -> list[str]:
    """The names that SOLVER.OPT can have, of torch's optimizers and fast-reid's."""
    found = {**vars(host_optim), **vars(torch.optim)}.items()
    classes = [name for name, one in found if isinstance(one, type) and issubclass(one, torch.optim.Optimizer)]
    return sorted(set(classes) - set(_NOT_FOR_STEPS))


class SolverSettings(Settings, section="SOLVER"):
    """Optimizer and schedule. WARMUP_METHOD takes `exponential` too: equal factors (RMGL, Sec. IV.A)."""

    amsgrad: bool = key(False, "the AMSGrad variant of SOLVER.OPT Adam or AdamW")
    freeze_epochs: int = key(
        0, "keep MODEL.FREEZE_LAYERS frozen for so many epochs, where FREEZE_ITERS counts iterations; PartsTrainer only"
    )
    warmup_epochs: int = key(0, "warm-up in epochs, where positive, instead of WARMUP_ITERS")
    steps_from_start: bool = key(
        False, "STEPS count epochs from the start of the run; else from the end of warm-up and delay, as in fast-reid"
    )
    find_unused_parameters: bool = key(
        False, "several processes, and a model of which a step leaves parameters without a gradient"
    )
    micro_batches: int = key(
        1,
        "parts that IMS_PER_BATCH is split into, which go through the model one after the other and make one optimizer "
        "step; batch norm sees a part at a time; PartsTrainer only",
        low=1,
    )
    micro_batch_losses: str = choice(
        ("exact", "approximate"),
        "MICRO_BATCHES with what is no mean over images, such as triplets: refused, or taken of each part by itself",
    )
    lr_factors: tuple = key(
        (), "pairs [name, factor] of the learning rate below a module name (a regular expression up to a dot)"
    )
    opt: str = host_key("the optimizer", choices=_optimizers)
    base_lr: float = host_key("the learning rate", above=0)
    heads_lr_factor: float = host_key("of the rate below a head", low=0)
    bias_lr_factor: float = host_key("of the rate of biases", low=0)
    momentum: float = host_key("of SOLVER.OPT SGD", low=0, high=1)
    weight_decay: float = host_key("of weights", low=0)
    weight_decay_norm: float = host_key("of norms", low=0)
    gamma: float = host_key("what a decay multiplies the rate by", above=0)
    eta_min_lr: float = host_key("where a cosine schedule ends", low=0)
    delay_epochs: int = host_key("epochs before the schedule starts", low=0)
    warmup_iters: int = host_key("warm-up in iterations", low=0)
    freeze_iters: int = host_key("iterations in which MODEL.FREEZE_LAYERS are frozen", low=0)

    def check(self) -> None:
        """See `Settings`.

        Raises:
            ValueError: LR_FACTORS are no pairs of a name and a factor, or a name is no regular expression.
        """
        for pair in self.lr_factors:
            try:
                name, factor = pair
                fits = isinstance(name, str) and float(factor) >= 0
            except (TypeError, ValueError):
                fits = False
            if not fits:
                raise ValueError(
                    f"SOLVER.LR_FACTORS has {pair!r}; it lists pairs of a module's name and a factor of 0 or more, as "
                    "[['heads', 0.1]]"
                )
            _check_pattern("SOLVER.LR_FACTORS", name)


_NORMS = (
    _BatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)
_HEADS = r"([a-z0-9]+_)?heads?"  # `heads`, and the `b1_head`, `b21_head` ... of the host's MGN


def _below(name: str) -> re.Pattern:
    """Matches parameter names below a module: `b1` is `b1.0.weight`, not `b1_head.weight`."""
    return re.compile(rf"(?:{name})(?:\.|$)")


def _check_pattern(key: str, name: str) -> None:
    try:
        _below(name)
    except re.error as error:
        raise ValueError(f"{key} names '{name}', which is no regular expression: {error}") from error


def _check_names(model: nn.Module, key: str, names: list[str]) -> None:
    parameters = [name for name, _ in model.named_parameters()]
    for name in names:
        _check_pattern(key, name)
        if not any(_below(name).match(p) for p in parameters):
            children = ", ".join(n for n, _ in model.named_children())
            raise ValueError(f"{key} names '{name}', and no parameter lies below it; the model has {children}")


def modules_below(model: nn.Module, names: Iterable[str]) -> list[nn.Module]:
    """List the outermost modules that names match, which are regular expressions up to a dot as for parameters.

    Args:
        model: never one of them itself.
        names: as MODEL.FREEZE_LAYERS has them.
    """
    found: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        within = any(path.startswith(f"{other}.") for other in found)
        if path and not within and any(_below(name).match(path) for name in names):
            found[path] = module
    return list(found.values())


def parameter_settings(cfg: CfgNode, model: nn.Module) -> Iterator[dict[str, Any]]:
    """List learning rate, weight decay and freezing of each trainable parameter, in the host's form.

    - lr: BASE_LR, times BIAS_LR_FACTOR for biases of layers that are no norms, HEADS_LR_FACTOR below a child named
      `heads` or `..._head`, and the factors of LR_FACTORS.
    - weight decay: WEIGHT_DECAY_NORM for norms, biases included; WEIGHT_DECAY_BIAS for other biases where it is set;
      otherwise WEIGHT_DECAY.
    - frozen: below a module of MODEL.FREEZE_LAYERS, for the first FREEZE_ITERS iterations.

    Args:
        cfg: SOLVER and MODEL.FREEZE_LAYERS are read.
        model: whose parameters.

    Raises:
        ValueError: FREEZE_LAYERS or LR_FACTORS names what the model does not have.
    """
    solver = cfg.SOLVER
    factors: list[tuple[str, float]] = [(name, float(factor)) for name, factor in solver.LR_FACTORS]
    _check_names(model, "SOLVER.LR_FACTORS", [name for name, _ in factors])
    if solver.HEADS_LR_FACTOR != 1:
        factors.append((_HEADS, solver.HEADS_LR_FACTOR))
        _check_names(model, "SOLVER.HEADS_LR_FACTOR", [_HEADS])
    frozen = list(cfg.MODEL.FREEZE_LAYERS) if solver.FREEZE_ITERS > 0 else []
    _check_names(model, "MODEL.FREEZE_LAYERS", frozen)

    seen = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            full_name = f"{module_name}.{name}" if module_name else name
            lr, decay = solver.BASE_LR, solver.WEIGHT_DECAY
            if isinstance(module, _NORMS):
                decay = solver.WEIGHT_DECAY_NORM
            elif name == "bias":
                lr = lr * solver.BIAS_LR_FACTOR
                decay = decay if solver.WEIGHT_DECAY_BIAS is None else solver.WEIGHT_DECAY_BIAS
            for pattern, factor in factors:
                if _below(pattern).match(full_name):
                    lr = lr * factor
            freeze = any(_below(pattern).match(full_name) for pattern in frozen)
            yield {
                "params": [parameter],
                "lr": lr,
                "weight_decay": decay,
                "freeze_status": "freeze" if freeze else "normal",
            }


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    """Group the parameters that share their settings: torch updates a group in one go.

    Args:
        cfg, model: as for `parameter_settings`.
    """
    groups: OrderedDict[tuple, dict[str, Any]] = OrderedDict()
    for settings in parameter_settings(cfg, model):
        key = (settings["freeze_status"], settings["lr"], settings["weight_decay"])
        if key in groups:
            groups[key]["params"].extend(settings["params"])
        else:
            groups[key] = settings
    return list(groups.values())


def build_optimizer(
    cfg: CfgNode, model: nn.Module, contiguous: bool = False
) -> tuple[torch.optim.Optimizer, ContiguousParams | list[dict[str, Any]]]:
    """Build the optimizer of SOLVER.OPT, with gradient clipping and freezing.

    Args:
        cfg: SOLVER.OPT, AMSGRAD, MOMENTUM, NESTEROV, CLIP_GRADIENTS, FREEZE_ITERS, SPEED.OPTIMIZER and what
            `parameter_settings` reads.
        model: the model, not yet wrapped for several processes.
        contiguous: keep the parameters of a group in one flat buffer, as the host does.

    Returns:
        The optimizer, and the buffers (or, without them, the parameter groups), as the host's builder returns.

    Raises:
        ValueError: the optimizer is unknown or takes no such option, or a parameter's memory layout cannot be
            flattened.
    """
    base, options = _optimizer_class(cfg)
    wrapper: ContiguousParams | list[dict[str, Any]]
    if contiguous:
        settings = list(parameter_settings(cfg, model))
        if not all(s["params"][0].is_contiguous() for s in settings):
            raise ValueError(
                "contiguous parameters need the default memory layout: build the optimizer before "
                "model.to(memory_format=torch.channels_last), or with contiguous=False"
            )
        wrapper = ContiguousParams(settings)
        groups = wrapper.contiguous()
        clipped = [s["params"][0] for s in settings]  # the views, so that a norm is a parameter's and not the buffer's
    else:
        groups = wrapper = parameter_groups(cfg, model)
        clipped = [p for group in groups for p in group["params"]]
    if not groups:
        raise ValueError("the model has no parameter to train")

    optimizer_class = type(f"Parts{base.__name__}", (_PartsOptimizer, base), {})
    optimizer = optimizer_class(groups, **options)
    optimizer.keeps_gradient_buffers = contiguous
    optimizer.clipped_parameters = clipped
    if cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
        optimizer.clip = gradient_clipper(cfg)
    set_frozen_steps(optimizer, cfg.SOLVER.FREEZE_ITERS)
    return optimizer, wrapper


def _optimizer_class(cfg: CfgNode) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    name = cfg.SOLVER.OPT
    SolverSettings.check_value("opt", name)
    base = getattr(torch.optim, name, None) or getattr(host_optim, name)
    options: dict[str, Any] = {}
    if name == "SGD":
        options = {"momentum": cfg.SOLVER.MOMENTUM, "nesterov": cfg.SOLVER.NESTEROV}
    if cfg.SOLVER.AMSGRAD:
        if name not in ("Adam", "AdamW"):
            raise ValueError(f"SOLVER.AMSGRAD is a variant of Adam and AdamW, not of {name}")
        options["amsgrad"] = True
    return base, {**options, **_implementation(base, SpeedSettings.from_cfg(cfg).optimizer)}


def _implementation(base: type[torch.optim.Optimizer], name: str) -> dict[str, bool]:
    """The options of an optimizer that choose what SPEED.OPTIMIZER names."""
    known = {option for option in ("foreach", "fused") if option in inspect.signature(base).parameters}
    if name == "auto":
        return {}
    if name == "loop":
        return dict.fromkeys(known, False)
    if name not in known:
        kinds = [(n, c) for n, c in vars(torch.optim).items() if isinstance(c, type)]
        having = ", ".join(sorted(n for n, c in kinds if name in inspect.signature(c).parameters))
        raise ValueError(f"SPEED.OPTIMIZER is '{name}', and SOLVER.OPT {base.__name__} has no such form; {having} do")
    return {name: True}


class _PartsOptimizer(torch.optim.Optimizer):
    """Mixed into a torch optimizer: clips each parameter's gradient and leaves frozen groups alone.

    How many steps a frozen group still has to wait is an entry of the group, so that it is saved and restored with the
    optimizer. A group that waits gets no update of any kind: no momentum, no weight decay, no moment estimate.
    """

    keeps_gradient_buffers = False
    clipped_parameters: list[torch.Tensor] = []
    clip: Any = None

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        if self.clip is not None:
            for parameter in self.clipped_parameters:
                if parameter.grad is not None:
                    self.clip(parameter)
        hidden = []
        for group in self.param_groups:
            if group.get("frozen_steps", 0) > 0:
                group["frozen_steps"] -= 1
                for parameter in group["params"]:
                    hidden.append((parameter, parameter.grad))
                    parameter.grad = None
        try:
            return super().step(closure)
        finally:
            for parameter, grad in hidden:
                parameter.grad = grad

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # What a state holds of them is how the optimizer that wrote it went through the parameters
        own = [{name: group[name] for name in ("foreach", "fused") if name in group} for group in self.param_groups]
        groups = [{**group, **mine} for group, mine in zip(state_dict["param_groups"], own)]
        super().load_state_dict({**state_dict, "param_groups": groups} if len(groups) == len(own) else state_dict)
        for parameter, state in self.state.items():
            for name, value in state.items():
                # A fused kernel reads all of a parameter's tensors in the order of memory
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.dim():
                    state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    def zero_grad(self, set_to_none: bool = True) -> None:
        # Without its gradient buffer a flat parameter never moves again, and nothing says so.
        super().zero_grad(set_to_none=set_to_none and not self.keeps_gradient_buffers)


def set_frozen_steps(optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Let the groups of MODEL.FREEZE_LAYERS skip the next steps.

    Args:
        optimizer: of `build_optimizer`.
        steps: how many; none if negative.
    """
    for group in optimizer.param_groups:
        if group.get("freeze_status") == "freeze":
            group["frozen_steps"] = max(int(steps), 0)


# SOLVER.WARMUP_METHOD -> what the host's scheduler calls it. Its "exp" multiplies every group's own base rate by
# WARMUP_FACTOR ** (1 - i / WARMUP_ITERS) in iteration i: RMGL's "exponential warmup from 1e-5 to 0.01" (Sec. IV.A).
_WARMUP_METHODS = {"constant": "constant", "linear": "linear", "exponential": "exp", "exp": "exp"}


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer, iters_per_epoch: int) -> dict[str, Any]:
    """Build the host's schedulers, with lengths in epochs where the config says so, after checks of what it divides by.

    The host steps `warmup_sched` each iteration, and `lr_sched` at the end of each epoch after warm-up and delay; so it
    counts STEPS from there, and a decay "after 40 epochs" behind a warm-up of 10 comes after 49, as the tenth counts
    already. With STEPS_FROM_START it comes after 40.

    Args:
        cfg: SOLVER.SCHED, STEPS, STEPS_FROM_START, GAMMA, MAX_EPOCH, WARMUP_METHOD (constant, linear, exponential),
            WARMUP_FACTOR, WARMUP_ITERS or WARMUP_EPOCHS, DELAY_EPOCHS ...
        optimizer: its groups' learning rates are scheduled.
        iters_per_epoch: iterations of an epoch.

    Returns:
        {"lr_sched": ..., "warmup_sched": ... where the warm-up has a length}.

    Raises:
        ValueError: an epoch has no iteration, the schedule or the warm-up is of no known kind, an exponential warm-up
            starts at a rate of 0, a decay comes before the warm-up ends, or warm-up and delay leave a cosine schedule
            nothing to do.
    """
    solver = cfg.SOLVER
    if iters_per_epoch < 1:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} is more than the training set holds: an epoch would have no "
            "iteration. Use smaller batches or more images."
        )
    if solver.SCHED not in ("MultiStepLR", "CosineAnnealingLR"):
        raise ValueError(f"SOLVER.SCHED is '{solver.SCHED}'; it is MultiStepLR or CosineAnnealingLR")
    if solver.WARMUP_EPOCHS < 0:
        raise ValueError(f"SOLVER.WARMUP_EPOCHS is {solver.WARMUP_EPOCHS}; it is 0 (WARMUP_ITERS counts) or more")
    warmup_iters = solver.WARMUP_EPOCHS * iters_per_epoch or solver.WARMUP_ITERS
    if warmup_iters > 0:
        _check_warmup(solver.WARMUP_METHOD, solver.WARMUP_FACTOR)
    before = max(math.ceil(warmup_iters / iters_per_epoch), solver.DELAY_EPOCHS)
    if solver.SCHED == "CosineAnnealingLR" and before >= solver.MAX_EPOCH:
        raise ValueError(
            f"warm-up and delay take {before} epochs of SOLVER.MAX_EPOCH {solver.MAX_EPOCH}: the cosine schedule has "
            "none left. Lower WARMUP_EPOCHS, WARMUP_ITERS or DELAY_EPOCHS, or train longer."
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.WARMUP_ITERS = warmup_iters
    cfg.SOLVER.WARMUP_METHOD = _WARMUP_METHODS.get(solver.WARMUP_METHOD, solver.WARMUP_METHOD)
    if solver.SCHED == "MultiStepLR" and solver.STEPS_FROM_START:
        skipped = max(warmup_iters // iters_per_epoch, solver.DELAY_EPOCHS)
        if any(step <= skipped for step in solver.STEPS):
            raise ValueError(
                f"SOLVER.STEPS {list(solver.STEPS)} start in the {skipped} epochs of warm-up and delay, in which the "
                "rate cannot decay. Lower WARMUP_EPOCHS, WARMUP_ITERS or DELAY_EPOCHS, or decay later."
            )
        # `lr_sched` does not see the end of an epoch that warm-up goes on after; it sees that at which warm-up ends
        unseen = max(max(warmup_iters - 1, 0) // iters_per_epoch, solver.DELAY_EPOCHS)
        cfg.SOLVER.STEPS = [step - unseen for step in solver.STEPS]
    return _host_build_lr_scheduler(cfg, optimizer, iters_per_epoch)


def _check_warmup(method: str, factor: float) -> None:
    if method not in _WARMUP_METHODS:
        raise ValueError(f"SOLVER.WARMUP_METHOD is '{method}'; it is constant, linear or exponential")
    if factor < 0:
        raise ValueError(f"SOLVER.WARMUP_FACTOR is {factor}; it is the share of the rate that warm-up starts at")
    if _WARMUP_METHODS[method] == "exp" and factor == 0:
        raise ValueError(
            "SOLVER.WARMUP_FACTOR is 0, and no factor leads from there to BASE_LR: an exponential warm-up starts above "
            "0, for example at 0.001 of it"
        )


_host_build_lr_scheduler = host_build.build_lr_scheduler  # bound before `compat` puts the checked one in its place
