"""How the stem of fast-reid's ResNet pools its map."""

from __future__ import annotations

from torch import nn

from ..settings import Declares, Settings, choice


class StemSettings(Settings, section="MODEL.BACKBONE.STEM", role="features"):
    """The stem of fast-reid's ResNet; every other backbone's is its publisher's."""

    padding: int = choice(
        (0, 1),
        "pixels around the map that it pools: 0, with a window more at the end, as fast-reid and its own checkpoints; "
        "1 as torchvision and whatever was pre-trained with its ResNet. The map moves by two pixels of the image, and "
        "has the same size where the image's sides are multiples of 4",
    )


class PaddedStemPool(Declares, nn.MaxPool2d):
    """MODEL.BACKBONE.STEM.PADDING 1: maxima of 3 x 3 at stride 2 with a border of one, as torchvision's ResNet."""

    reads = {"stem": StemSettings}

    def __init__(self) -> None:
        super().__init__(kernel_size=3, stride=2, padding=1)
        self.settings = (StemSettings(padding=1),)
