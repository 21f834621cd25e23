"""A masked head: when its static mask follows the weights."""

from __future__ import annotations

import torch
from torch import nn

from fastreid_parts.layers import MaskedHead


class Head(MaskedHead):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))
        self.keep_mask(torch.full((4,), 0.5), is_current=not classes)

    def compute_mask(self) -> torch.Tensor:
        return self.weight.sigmoid()


def test_it_follows_the_weights_when_training_pauses() -> None:
    head = Head()
    assert head.train().training and (head.mask == 0.5).all()
    assert not head.eval().training and torch.equal(head.mask, head.weight.sigmoid())
    before = head.mask.clone()
    head.weight.data += 1
    head.train().eval()
    assert torch.equal(head.mask, before)  # no step was announced
    head.mask_is_current = False
    assert torch.equal(head.state_dict()["mask"], head.weight.sigmoid()) and not torch.equal(head.mask, before)
    assert head.mask_is_current and not head.mask.requires_grad


def test_a_loaded_mask_is_not_computed_from_weights_that_were_not() -> None:
    state = Head().state_dict()
    for kept in (state, {"mask": state["mask"]}):
        head = Head()
        head.load_state_dict(kept, strict=False)
        assert torch.equal(head.eval().mask, state["mask"])
    head = Head()
    head.load_state_dict({"weight": state["weight"]}, strict=False)
    assert torch.equal(head.eval().mask, state["weight"].sigmoid())


def test_below_another_module_too() -> None:
    outer, other = nn.ModuleDict({"heads": Head()}), nn.ModuleDict({"heads": Head()})
    other.load_state_dict({"heads.mask": outer.state_dict()["heads.mask"]}, strict=False)
    assert torch.equal(other.eval()["heads"].mask, outer["heads"].weight.sigmoid())


def test_without_identities_the_mask_stays_as_it_is() -> None:
    assert (Head(classes=0).eval().mask == 0.5).all()
