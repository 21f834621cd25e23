"""Occlusion maps: the plain loop, what they see, and that nothing of the caller's is touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fastreid_parts.evaluation import occlusion_maps

ROWS, COLUMNS, HIGH, WIDE = 16, 8, 3, 2


class Cells(nn.Module):
    """Its feature is the mean of each cell, times a weight: one for each of 16 x 8 cells, and a constant."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, batch: dict) -> torch.Tensor:
        cells = nn.functional.adaptive_avg_pool2d(batch["images"].mean(dim=1), (ROWS, COLUMNS))
        batch["images"].zero_()  # as a model that normalizes in place
        cells = (cells * self.weights).flatten(1)
        return torch.cat([cells, torch.full((len(cells), 1), 50.0)], dim=1)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 40, 24), generator=torch.Generator().manual_seed(0)).float()


def by_loop(model: nn.Module, image: torch.Tensor) -> np.ndarray:
    height, width = image.shape[1:]
    plain = model({"images": image[None].clone()})[0]
    found: list[list[list[float]]] = [[[] for _ in range(COLUMNS)] for _ in range(ROWS)]
    for top in range(-HIGH + 1, ROWS):
        for left in range(-WIDE + 1, COLUMNS):
            rows = [row for row in range(top, top + HIGH) if 0 <= row < ROWS]
            columns = [column for column in range(left, left + WIDE) if 0 <= column < COLUMNS]
            covered = image.clone()
            for y in range(rows[0] * height // ROWS, (rows[-1] + 1) * height // ROWS):
                for x in range(columns[0] * width // COLUMNS, (columns[-1] + 1) * width // COLUMNS):
                    covered[:, y, x] = image.mean(dim=(1, 2))
            feature = model({"images": covered[None]})[0]
            distance = 1 - float(feature @ plain / feature.norm() / plain.norm())
            for row in rows:
                for column in columns:
                    found[row][column].append(distance)
    return np.array([[np.mean(values) for values in row] for row in found])


def test_maps_are_those_of_a_plain_loop(images: torch.Tensor) -> None:
    model = Cells(torch.rand(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))).train()
    before = images.clone()
    maps = occlusion_maps(model, images, batch_size=7)
    assert torch.equal(images, before) and model.training
    with torch.no_grad():
        for one, image in zip(maps, images):
            assert one.numpy() == pytest.approx(by_loop(model, image), abs=1e-5)


def test_they_are_high_where_the_model_looks_and_nowhere_else() -> None:
    images = torch.zeros(2, 3, 3 * ROWS, 3 * COLUMNS)
    images[:, :, 30:33, 15:18] = 255
    weights = torch.zeros(ROWS, COLUMNS)
    weights[10, 5] = 1
    maps = occlusion_maps(Cells(weights), images)
    near = torch.zeros(ROWS, COLUMNS, dtype=torch.bool)
    near[10 - HIGH + 1 : 10 + HIGH, 5 - WIDE + 1 : 5 + WIDE] = True
    for one in maps:
        assert one.argmax() == 10 * COLUMNS + 5
        assert one[near].min() > 1e-6 and one[~near].abs().max() < 1e-6


def test_images_smaller_than_the_map_are_refused() -> None:
    with pytest.raises(ValueError, match=r"16 x 8 cells, and the images are 12 x 24: set a larger INPUT.SIZE_TEST"):
        occlusion_maps(Cells(torch.ones(ROWS, COLUMNS)), torch.zeros(1, 3, 12, 24))
