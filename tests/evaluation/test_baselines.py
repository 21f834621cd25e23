from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fastreid_parts.evaluation import color_histogram, color_histogram_features
from fastreid_parts.evaluation.baselines import HSV_BINS


def test_histogram_is_the_loop() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 5, 3), dtype=np.uint8)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    counts = np.zeros(HSV_BINS)
    for row in hsv:
        for hue, saturation, value in row.tolist():
            counts[hue * HSV_BINS[0] // 180, saturation * HSV_BINS[1] // 256, value * HSV_BINS[2] // 256] += 1
    expected = np.sqrt(counts.ravel() / counts.sum())
    result = color_histogram(image)
    assert result.dtype == np.float32 and result.shape == (256,)
    assert result == pytest.approx(expected, abs=1e-6)
    assert np.linalg.norm(result) == pytest.approx(1)


def test_histogram_knows_colors_and_not_places() -> None:
    red = np.full((8, 4, 3), (200, 0, 0), np.uint8)
    blue = np.full((8, 4, 3), (0, 0, 200), np.uint8)
    assert np.linalg.norm(color_histogram(red) - color_histogram(blue)) == pytest.approx(2**0.5)
    upright, turned = np.concatenate((red, blue)), np.concatenate((blue, red))
    assert (color_histogram(upright) == color_histogram(turned)).all()


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_histogram_refuses(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected an RGB image"):
        color_histogram(image)


def test_features_of_a_dataset(tmp_path: Path) -> None:
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, np.full((8, 4, 3), (0, 0, 200), np.uint8))  # OpenCV writes BGR: the file is red
    features = color_histogram_features([(path, 5, 2), (path, 6, 3)])
    assert features.pids.tolist() == [5, 6] and features.camids.tolist() == [2, 3]
    assert features.paths == [path, path]
    assert (features.features[0] == color_histogram(np.full((8, 4, 3), (200, 0, 0), np.uint8))).all()
    with pytest.raises(ValueError, match="no images"):
        color_histogram_features([])
