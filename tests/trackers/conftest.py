"""Models, drawn people and sequences for the tests of trackers, which run in environments of their own."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from torch import nn

from fastreid_parts.pedestrians import Studio, sample_identities, sample_view
from tools import trackers

from ..commands import run as command_line
from ..deployment.models import MODELS, build

HERE = Path(__file__).resolve().parent
EXAMPLES = trackers.ROOT / "docs" / "guides" / "trackers"


def python_of(name: str) -> Path:
    """Find the Python of an environment, and skip the test where there is none."""
    python = trackers.interpreter(name)
    if python is None:
        folder = trackers.folder(name).name
        pytest.skip(f"{folder} is not there, or not with the packages of today: make trackers ARGS={name}")
    return python


@pytest.fixture
def environment(request: pytest.FixtureRequest) -> str:
    """The name of an environment that is there, for an indirect parameter."""
    python_of(request.param)
    return request.param


@pytest.fixture
def in_environment(tmp_path: Path) -> Callable[..., None]:
    """A function that runs a script in an environment."""

    def run(name: str, script: Path, *words: object) -> None:
        offline = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
        settings = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", **offline}
        command = [str(word) for word in (python_of(name), script, *words)]
        done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]

    return run


@pytest.fixture(scope="session")
def people() -> Callable[..., list[np.ndarray]]:
    """A function that draws 30 images, BGR, of ten people under three cameras."""

    def draw(height: int, width: int) -> list[np.ndarray]:
        studio, rng = Studio(7, cameras=3, size=(height, width)), np.random.default_rng(0)
        identities = sample_identities(7, 0, 10)
        return [studio.render(one, camera, sample_view(rng), rng) for one in identities for camera in (1, 2, 3)]

    return draw


@pytest.fixture
def trained(tiny_cfg: Callable[..., CfgNode], people: Callable) -> Callable[..., tuple[CfgNode, nn.Module]]:
    """A function that builds a model of `MODELS` whose features tell the drawn people apart a little.

    Its weights are random; its statistics of batches are those of the images, without which all features are alike.
    """

    def make(name: str, *overrides: object) -> tuple[CfgNode, nn.Module]:
        height, width = MODELS[name][:2]
        cfg, model = copy.deepcopy(build(tiny_cfg, name, *overrides))  # tests of other folders have the same one
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # their mean
            norm.train()
        pixels = torch.from_numpy(np.stack(people(height, width))[..., ::-1].copy()).permute(0, 3, 1, 2).float()
        with torch.no_grad():
            model({"images": pixels})
        return cfg, model.eval()

    return make


@pytest.fixture
def save(tmp_path: Path) -> Callable[[CfgNode, nn.Module], Path]:
    """A function that writes a checkpoint with its config in it."""

    def write(cfg: CfgNode, model: nn.Module) -> Path:
        path = tmp_path / "model.pth"
        torch.save({"model": model.state_dict(), "config": cfg.dump()}, path)
        return path

    return write


@pytest.fixture
def export(save: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., Path]:
    """A function that gives the ONNX file that `fastreid-parts export` writes with these options."""

    def run(cfg: CfgNode, model: nn.Module, *options: str) -> Path:
        path = tmp_path / "model.onnx"
        command_line.run(capsys, "export", "--model", save(cfg, model), "--output", path, *options)
        return path

    return run


@pytest.fixture
def sequence(people: Callable, tmp_path: Path) -> Path:
    """30 frames as MOTChallenge lays them out: one walks to the right, one to the left, and one goes and comes back.

    The third is not seen from frame 13 to 20, and seen again elsewhere. `gt.txt` has who is where.
    """
    folder = tmp_path / "sequence"
    (folder / "img1").mkdir(parents=True)
    (folder / "det").mkdir()
    crops = people(128, 64)[::3]
    rows = []
    for frame in range(1, 31):
        image = np.full((360, 480, 3), 90, np.uint8)
        places = {1: (20 + 4 * frame, 10), 2: (400 - 4 * frame, 110)}
        if not 13 <= frame <= 20:
            places[3] = (100, 225) if frame < 13 else (300, 225)
        for person, (left, top) in places.items():
            image[top : top + 128, left : left + 64] = crops[person - 1]
            rows.append((frame, person, left, top))
        cv2.imwrite(str(folder / "img1" / f"{frame:06d}.jpg"), image)
    for path, known in ((folder / "det" / "det.txt", False), (folder / "gt.txt", True)):
        lines = (f"{f},{p if known else -1},{x + 1},{y + 1},64,128,0.9,-1,-1,-1\n" for f, p, x, y in rows)
        path.write_text("".join(lines))
    return folder
