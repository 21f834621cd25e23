"""Classifiers over fast-reid's softmax layers, against inner products and cosines."""

from __future__ import annotations

import pytest
import torch
from fastreid.layers import any_softmax

from fastreid_parts.layers import Classifier

COSINE = ["CosSoftmax", "ArcSoftmax", "CircleSoftmax"]


def test_linear_is_the_inner_product() -> None:
    x = torch.randn(5, 4)
    for classifier, scale in ((Classifier(4, 3), 1), (Classifier(4, 3, "Linear", scale=2.0), 2)):
        weight = classifier.weight.tolist()
        expected = torch.tensor([[scale * sum(a * b for a, b in zip(row, w)) for w in weight] for row in x.tolist()])
        for logits in (classifier(x), classifier(x, torch.tensor([0, 1, 2, 0, 1]))):
            assert torch.allclose(logits, expected, atol=1e-6)


@pytest.mark.parametrize("kind", COSINE)
def test_others_take_cosines_and_a_margin_in_training(kind: str) -> None:
    classifier, x = Classifier(4, 3, kind, scale=16.0, margin=0.1), torch.randn(5, 4)
    cosines = torch.stack([torch.cosine_similarity(x, w[None]) for w in classifier.weight], dim=1)
    plain = classifier(x)
    assert torch.allclose(plain, 16 * cosines, atol=1e-4)
    targets = torch.tensor([0, 1, 2, 0, 1])
    with_margin = classifier(x, targets)
    assert torch.allclose(with_margin, getattr(any_softmax, kind)(3, 16.0, 0.1)(cosines.clone(), targets), atol=1e-3)
    assert not torch.allclose(with_margin, plain, atol=1e-2)
    assert torch.equal(classifier.scores(x, with_margin), plain) and not classifier.scores(x, with_margin).requires_grad
    assert torch.equal(classifier(x), plain)  # the host's layers write into what they are given


def test_weights_start_small_and_without_identities_there_are_none() -> None:
    torch.manual_seed(0)
    assert Classifier(300, 200).weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert Classifier(4, 0).weight.shape == (0, 4)


def test_an_unknown_layer() -> None:
    with pytest.raises(ValueError, match="MODEL.HEADS.CLS_LAYER is 'NoSoftmax'; fast-reid has Linear, .*CircleSoftmax"):
        Classifier(4, 3, "NoSoftmax")
