"""What a method adds to a plain network, so that it can be watched while it trains and taken out of a trained model.

A module names its mechanisms in a class attribute, and its forward pass knows nothing of that:

    class CANHead(PartsHead):
        mechanisms = {"attention": Mechanism("attend", {"no neighbor": lambda head, result, blocks: blocks[:, :-1]})}

Each acts through one method of the module. `watching` a model computes figures from what that method is given and
gives; `neutral_form` has it give something else. Both last as long as a `with` block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

#: How much a mechanism changes what its method gives: |result - neutral| / |result|, of the first neutral form
CHANGE = "change"

Figures = dict[str, dict[str, list[torch.Tensor]]]  # mechanism -> figure -> one scalar a call


@dataclass(frozen=True)
class Mechanism:
    """One mechanism of a module.

    The functions take the module, what the method gave, and what it was given. Their inputs may be in half precision.

    Attributes:
        method: of the module, through which it acts. It is called in every forward pass that the mechanism is part of.
        neutral: {name: function that gives what the method would give without the mechanism}, a name for each form.
        figures: gives {name: scalar tensor} beside `CHANGE`, which every mechanism has whose method gives one tensor.
        present: whether a module, as it was built, has it.
    """

    method: str
    neutral: Mapping[str, Callable[..., Any]]
    figures: Callable[..., Mapping[str, torch.Tensor]] = lambda *_: {}
    present: Callable[[Any], bool] = lambda module: True

    def measure(self, module: nn.Module, result: Any, *arguments: Any) -> dict[str, torch.Tensor]:
        """Compute all figures of one call.

        Args:
            module: whose mechanism it is.
            result: what the method gave.
            *arguments: what it was given.
        """
        measured: dict[str, torch.Tensor] = {}
        if isinstance(result, torch.Tensor):
            neutral = next(iter(self.neutral.values()))(module, result, *arguments)
            measured[CHANGE] = relative_change(result, neutral)
        return {**measured, **self.figures(module, result, *arguments)}


def relative_change(result: torch.Tensor, neutral: torch.Tensor) -> torch.Tensor:
    """Compute |result - neutral| / |result|, a scalar; 0 where both are zero.

    Args:
        result: any shape.
        neutral: the same shape.
    """
    result = result.float()
    return (result - neutral).norm() / result.norm().clamp(min=torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class Placed:
    """A mechanism and the modules of a model that have it."""

    mechanism: Mechanism
    modules: list[nn.Module] = field(default_factory=list)


def mechanisms_of(model: nn.Module) -> dict[str, Placed]:
    """Find the mechanisms of a model, {name: mechanism and modules}; those of base classes count too."""
    found: dict[str, Placed] = {}
    for module in model.modules():
        for kind in type(module).__mro__:
            for name, mechanism in vars(kind).get("mechanisms", {}).items():
                if mechanism.present(module):
                    found.setdefault(name, Placed(mechanism)).modules.append(module)
    return found


@contextlib.contextmanager
def watching(model: nn.Module) -> Iterator[Figures]:
    """Compute figures of every mechanism of a model, off the gradient, in each call while the context is open.

    Args:
        model: it computes what it does unwatched, bit for bit.

    Yields:
        {mechanism: {figure: one scalar tensor a call}}, filled meanwhile.
    """
    seen: Figures = {}

    def watch(name: str, mechanism: Mechanism) -> Callable[..., Any]:
        @torch.no_grad()
        def measure(module: nn.Module, result: Any, *arguments: Any) -> None:
            for figure, value in mechanism.measure(module, result, *arguments).items():
                seen.setdefault(name, {}).setdefault(figure, []).append(value)

        def wrapped(module: nn.Module, result: Any, *arguments: Any) -> Any:
            measure(module, result, *arguments)
            return result

        return wrapped

    with contextlib.ExitStack() as stack:
        for name, placed in mechanisms_of(model).items():
            for module in placed.modules:
                stack.enter_context(_following(module, placed.mechanism.method, watch(name, placed.mechanism)))
        yield seen


@contextlib.contextmanager
def neutral_form(model: nn.Module, mechanism: str, form: str) -> Iterator[None]:
    """Take a mechanism out of a model while the context is open.

    Args:
        model: with the mechanism.
        mechanism: its name.
        form: one of its neutral forms.
    """
    placed = mechanisms_of(model)[mechanism]
    with contextlib.ExitStack() as stack:
        for module in placed.modules:
            stack.enter_context(_following(module, placed.mechanism.method, placed.mechanism.neutral[form]))
        yield


def is_followed(model: nn.Module) -> bool:
    """Tell whether a method of a mechanism gives something else at present, or is watched."""
    return any(
        placed.mechanism.method in vars(module) for placed in mechanisms_of(model).values() for module in placed.modules
    )


def averages(seen: Figures) -> dict[str, dict[str, float]]:
    """Average the figures that `watching` gave over its calls: {mechanism: {figure: mean}}."""
    return {
        name: {figure: float(torch.stack(values).float().mean()) for figure, values in figures.items()}
        for name, figures in seen.items()
    }


@contextlib.contextmanager
def _following(module: nn.Module, method: str, function: Callable[..., Any]) -> Iterator[None]:
    """Have a method of one instance give `function(module, result, *arguments)`."""
    own, plain = vars(module), getattr(module, method)
    before = {method: own[method]} if method in own else {}
    own[method] = lambda *arguments: function(module, plain(*arguments), *arguments)
    try:
        yield
    finally:
        del own[method]
        own.update(before)
