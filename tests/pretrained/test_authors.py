"""Files of a method's authors: their tensors, under our names, and nothing of theirs is run."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fastreid.modeling import build_model
from torch import nn

from fastreid_parts.checkpoints import CheckpointError
from fastreid_parts.config import load_config
from fastreid_parts.deployment.sample_images import draw_people, load_raw
from fastreid_parts.pretrained import AUTHORS, authors, convert_authors, read_tensors
from tests.commands.run import problem, run

SCALES = (2, 4, 6)
NAME = "rrid/market1501"


class Block(nn.Sequential):
    """Of theirs: convolution, norm, ReLU."""

    def __init__(self, inputs: int) -> None:
        super().__init__(nn.Conv2d(inputs, 256, 1), nn.BatchNorm2d(256), nn.ReLU())


class Theirs(nn.Module):
    """What the released code keeps, by its names; the backbone is ours, whose names are the same."""

    def __init__(self, backbone: nn.Module, classes: int = 3) -> None:
        super().__init__()
        self.base = backbone
        for p in SCALES:
            for name, inputs, number in (
                ("local_{}_conv_list", 2048, p),
                ("rest_{}_conv_list", 2048, p),
                ("relation_{}_conv_list", 512, p),
                ("global_{}_max_conv_list", 2048, 1),
                ("global_{}_rest_conv_list", 2048, 1),
                ("global_{}_pooling_conv_list", 512, 1),
            ):
                setattr(self, name.format(p), nn.ModuleList([Block(inputs) for _ in range(number)]))
            for name, number in (
                ("fc_local_{}_list", p), ("fc_rest_{}_list", p), ("fc_local_rest_{}_list", p),
                ("fc_global_{}_list", 1), ("fc_global_max_{}_list", 1), ("fc_global_rest_{}_list", 1),
            ):  # fmt: skip
                setattr(self, name.format(p), nn.ModuleList([nn.Linear(256, classes) for _ in range(number)]))


class Runs:
    """Makes a file when it is read by pickle."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


@pytest.fixture(scope="module")
def models() -> tuple[nn.Module, Theirs]:
    torch.manual_seed(0)
    ours = build_model(load_config("Market/rrid_f.yml", ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.PRETRAIN", False]))
    theirs = Theirs(ours.backbone)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return ours.eval(), theirs.eval()


@pytest.fixture
def file(models: tuple[nn.Module, Theirs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As it is published: the whole model, wrapped for several GPUs, of classes that are nowhere when it is read."""
    module = types.ModuleType("authors_code")
    monkeypatch.setitem(sys.modules, "authors_code", module)
    for one in (Theirs, Block):
        monkeypatch.setattr(one, "__module__", "authors_code")
        setattr(module, one.__name__, one)
    path = tmp_path / "pretrained_weights.pth"
    torch.save(nn.DataParallel(models[1]), path, _use_new_zipfile_serialization=False)
    monkeypatch.delitem(sys.modules, "authors_code")
    yield path


def feature(theirs: Theirs, images: torch.Tensor) -> torch.Tensor:
    """Eq. (1) and (2), module by module, in our order of the features."""
    maps = theirs.base(images)
    parts = {p: [stripe.amax(dim=(2, 3), keepdim=True) for stripe in maps.chunk(p, dim=2)] for p in SCALES}
    found = []
    for p in SCALES:
        highest = torch.stack(parts[p]).amax(dim=0)
        contrast = (sum(parts[p]) - highest) / (p - 1)
        first = getattr(theirs, f"global_{p}_max_conv_list")[0](highest)
        second = getattr(theirs, f"global_{p}_rest_conv_list")[0](contrast)
        found.append(first + getattr(theirs, f"global_{p}_pooling_conv_list")[0](torch.cat((first, second), dim=1)))
    for p in SCALES:
        for i, part in enumerate(parts[p]):
            rest = (sum(parts[p]) - part) / (p - 1)
            first = getattr(theirs, f"local_{p}_conv_list")[i](part)
            second = getattr(theirs, f"rest_{p}_conv_list")[i](rest)
            found.append(first + getattr(theirs, f"relation_{p}_conv_list")[i](torch.cat((first, second), dim=1)))
    return torch.cat(found, dim=1).flatten(1)


@torch.no_grad()
def test_the_model_of_the_authors_file_gives_their_features(models: tuple[nn.Module, Theirs], file: Path) -> None:
    ours, theirs = models
    state = convert_authors(NAME, file)
    assert state["heads.classifiers.weight"].shape == (45, 3, 256)
    ours.load_state_dict({k: v for k, v in state.items() if not k.startswith("heads.classifiers.")}, strict=False)
    images = torch.rand(2, 3, 192, 64) * 255
    mean, std = (one.view(-1, 1, 1) for one in (ours.pixel_mean, ours.pixel_std))
    torch.testing.assert_close(ours(images), feature(theirs, (images - mean) / std), rtol=1e-4, atol=1e-5)
    first = state["heads.classifiers.weight"][0], state["heads.classifiers.bias"][3 + 2]
    assert torch.equal(first[0], theirs.fc_global_2_list[0].weight)
    assert torch.equal(first[1], theirs.fc_local_rest_4_list[0].bias)


@torch.no_grad()
def test_the_published_file(models: tuple[nn.Module, Theirs]) -> None:
    """Level 3, which no mark claims: whoever has the file, named by FASTREID_PARTS_RRID, sees it."""
    published = os.environ.get("FASTREID_PARTS_RRID")
    if not published:
        pytest.skip("FASTREID_PARTS_RRID names no file")
    tensors = {key.removeprefix("module."): value for key, value in read_tensors(published).items()}
    cfg = load_config("Market/rrid_f.yml", ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.PRETRAIN", False])
    ours, backbone = build_model(cfg).eval(), build_model(cfg).backbone
    theirs = Theirs(backbone, classes=tensors["fc_local_6_list.0.bias"].shape[0]).eval()
    missing, unknown = theirs.load_state_dict(tensors, strict=False)
    assert not unknown and all(name.endswith("num_batches_tracked") for name in missing)
    state = convert_authors(NAME, published)
    ours.load_state_dict({k: v for k, v in state.items() if not k.startswith("heads.classifiers.")}, strict=False)
    images = load_raw(cfg, draw_people(4))
    mean, std = (one.view(-1, 1, 1) for one in (ours.pixel_mean, ours.pixel_std))
    torch.testing.assert_close(ours(images), feature(theirs, (images - mean) / std), rtol=1e-3, atol=1e-4)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    path, made = tmp_path / "weights.pth", tmp_path / "made"
    for content in ({"a": torch.ones(2), "b": Runs(str(made))}, nn.Sequential(nn.Linear(2, 2))):
        for modern in (True, False):
            torch.save(content, path, _use_new_zipfile_serialization=modern)
            assert len(read_tensors(path)) in (1, 2) and not made.exists()


class Program(nn.Module):
    """TorchScript whose reading fails, as it would do anything else that it is written to do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        assert state[0].numel() == 0, "code of the file was run"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def test_a_program_is_refused_before_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    torch.jit.script(Program()).save(str(path))
    with pytest.raises(Exception, match="code of the file was run"):
        torch.jit.load(str(path))
    with pytest.raises(CheckpointError, match="is a TorchScript archive, a program and not weights"):
        read_tensors(path)
    monkeypatch.setattr(authors, "_is_program", lambda path: False)
    with pytest.raises(CheckpointError, match="UserWarning.*TorchScript archive"):
        read_tensors(path)


def test_files_that_are_refused(models: tuple[nn.Module, Theirs], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with pytest.raises(FileNotFoundError, match="no file"):
        convert_authors(NAME, path)
    path.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="cut short or no file of torch.save"):
        convert_authors(NAME, path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds no tensors"):
        convert_authors(NAME, path)
    state = models[1].state_dict()
    torch.save({key: value for key, value in state.items() if "relation_4" not in key}, path)
    with pytest.raises(
        ValueError, match=r"has no relation_4_conv_list.0.0.weight: it is no model of cvlab-yonsei/RRID"
    ):
        convert_authors(NAME, path)
    torch.save({key: value for key, value in state.items() if "layer4.2" not in key}, path)
    with pytest.raises(ValueError, match=r"another model than that of Market/rrid_f.yml: backbone.layer4.2.bn1.bias"):
        convert_authors(NAME, path)


def test_the_command(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert AUTHORS[NAME].url in run(capsys, "weights").out
    assert "download it and give the file with --convert" in problem(capsys, "weights", NAME)
    assert "takes one name of rrid/market1501" in problem(capsys, "weights", "mobilenetv2", "--convert", file)
    said = run(capsys, "weights", NAME, "--convert", file).out
    assert "evaluate --config-file Market/rrid_f.yml --weights weights/rrid_market1501.pth" in said
    assert torch.load("weights/rrid_market1501.pth", weights_only=True)["model"].keys() >= {
        "heads.reduction.conv.weight"
    }
    assert "--overwrite replaces it" in problem(capsys, "weights", NAME, "--convert", file)
