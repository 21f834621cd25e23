"""How well single stripes of an image tell who it is: CGE's local classifiers, read on a data set.

Xi et al., Pattern Recognition 134, 2023, Sec. 4.2: the hardness levels of Fig. 4 and the precision of each local
classifier of Tables 1b and 2. The classifiers are a CGE model's own memories, or, for any other model, memories built
from its features in one pass: the normalized mean of each identity's local features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..evaluation.feature_maps import backbone_map
from ..layers import full_precision, pool_stripes
from ..methods.cge import LocalClassifiers, update_memory
from ..parts_baseline import head_of


@dataclass(frozen=True)
class LocalDecisions:
    """Which of n local classifiers name the right identity of each of N images.

    Attributes:
        correct: (N, n) bool, stripes from the top of the image to the bottom.
    """

    correct: np.ndarray

    def precision(self) -> np.ndarray:
        """Give the share of the images that each classifier gets right, (n,), as in Tables 1b and 2."""
        return self.correct.mean(axis=0)

    def level_shares(self) -> np.ndarray:
        """Give the share of the images that n, n - 1, ..., 0 of the classifiers get right, (n + 1,), as in Fig. 4.

        For n = 3 these are the easiest, mid-easy, mid-hard and hardest images.
        """
        stripes = self.correct.shape[1]
        counts = np.bincount(self.correct.sum(axis=1), minlength=stripes + 1)
        return counts[::-1] / len(self.correct)


def find_local_classifiers(model: nn.Module) -> LocalClassifiers | None:
    """Find the local classifiers that a model was trained with; None where it has none."""
    return next((module for module in model.modules() if isinstance(module, LocalClassifiers)), None)


@torch.no_grad()
def build_local_classifiers(
    model: nn.Module, loader: Iterable[dict], num_classes: int, stripes: int, name: str = ""
) -> LocalClassifiers:
    """Build local classifiers from one pass over a data set, in evaluation mode.

    A slot is the mean of the local features of all images of its identity, normalized: Eq. (1) with alpha = 0 and every
    image in one batch.

    Args:
        model: any fast-reid meta-architecture with a feature map and one head.
        loader: batches with `images` (N, 3, H, W) in 0 to 255 and `targets` (N,), from 0 to `num_classes` - 1.
        num_classes: K.
        stripes: n.
        name: of the model, for the progress bar.

    Raises:
        ValueError: see `local_decisions`.
    """
    sums: torch.Tensor | None = None  # of the same direction as the means
    for local, targets in _local_features(model, loader, stripes, num_classes, f"memories {name}"):
        if sums is None:
            sums = local.new_zeros(num_classes, *local.shape[1:])
        sums.index_add_(0, targets, local)
    assert sums is not None  # an empty loader has raised
    classifiers = LocalClassifiers(stripes, num_classes, sums.shape[2]).to(sums.device)
    classifiers.memory.copy_(update_memory(classifiers.memory, sums.transpose(0, 1), alpha=0.0))
    return classifiers


@torch.no_grad()
def local_decisions(
    model: nn.Module, loader: Iterable[dict], classifiers: LocalClassifiers, name: str = ""
) -> LocalDecisions:
    """Decide which local classifiers get which images right: the slot of the highest cosine is the one of the identity.

    Args:
        model: any fast-reid meta-architecture with a feature map and one head; it runs in evaluation mode.
        loader: see `build_local_classifiers`.
        classifiers: of as many identities as `targets` counts.
        name: of the model, for the progress bar.

    Raises:
        ValueError: the loader is empty or numbers its identities beyond the classifiers', or the model has no feature
            map, fewer rows in it than there are stripes, or no single pooling layer.
    """
    stripes, num_classes, channels = classifiers.memory.shape
    correct = []
    for local, targets in _local_features(model, loader, stripes, num_classes, f"reading {name}"):
        if local.shape[2] != channels:
            raise ValueError(f"the feature map has {local.shape[2]} channels, the memories {channels}")
        cosines = classifiers.to(local.device).read(local)  # (N, n, K)
        correct.append((cosines.argmax(dim=2) == targets[:, None]).cpu().numpy())
    return LocalDecisions(np.concatenate(correct))


def _local_features(
    model: nn.Module, loader: Iterable[dict], stripes: int, num_classes: int, what: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of local features (N, n, C) and identities (N,), on the device of the model."""
    head = head_of(model)
    if head is None:
        raise ValueError(
            f"stripes are pooled as the global feature is, and {type(model).__name__} has no head that says how: it "
            "takes a PartsHead or fast-reid's EmbeddingHead"
        )
    empty = True
    for batch in tqdm(loader, desc=what.strip(), unit="batch", leave=False, disable=None):
        empty = False
        feature_map = backbone_map(model, batch["images"])
        targets = batch["targets"].to(feature_map.device)
        if targets.max() >= num_classes:
            raise ValueError(f"the images are of more identities than the {num_classes} of the local classifiers")
        with full_precision(feature_map):
            yield pool_stripes(feature_map, stripes, head.pool_layer), targets
    if empty:
        raise ValueError("the loader gave no batch: there are no images to classify")
