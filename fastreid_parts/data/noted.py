"""What random augmentations did to an image, from where they do it to the batch that the image is part of."""

from __future__ import annotations

from typing import Any

from fastreid.data.common import CommDataset

#: Of the image that this process reads now: augmentation -> share of its pixels
_noted: dict[str, float] = {}


def note(augmentation: str, share: float) -> None:
    """Note what an augmentation did to the image that is being read.

    Args:
        augmentation: its `NOTES`.
        share: of the pixels that it replaced, above 0.
    """
    _noted[augmentation] = share


class NotingDataset(CommDataset):
    """fast-reid's dataset, whose items have `augmented`, {name: share of pixels}, where a transform has `NOTES`.

    `NOTES` is the name under which a transform of the dataset calls `note`. An image that it leaves alone has share 0.
    """

    def __getitem__(self, index: int) -> dict[str, Any]:
        """An item as fast-reid's dataset gives it, with what was noted."""
        names = [step.NOTES for step in getattr(self.transform, "transforms", ()) if hasattr(step, "NOTES")]
        _noted.clear()
        item = super().__getitem__(index)
        return {**item, "augmented": {name: _noted.get(name, 0.0) for name in names}} if names else item
