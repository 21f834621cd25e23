"""Where a command finds a gallery: in a folder (--index), or in Milvus (--store)."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from ..retrieval import Calibration, FeatureSet, GalleryIndex, MilvusGallery
from ..retrieval.gallery import Columns, Gallery
from ..retrieval.index_files import INDEX_FOLDER, write_calibration
from ..retrieval.milvus_gallery import NAME, there_is

TOKEN = "MILVUS_TOKEN"


def add_place(parser: argparse.ArgumentParser, folder: bool = True) -> None:
    """Give a command --index and --store, of which one is to be named, --collection and --token.

    Args:
        parser: of the command.
        folder: with --index.
    """
    place = parser.add_mutually_exclusive_group(required=True)
    if folder:
        place.add_argument("--index", default="", metavar="DIR", help="the index's folder")
    text = "in place of a folder, Milvus: a file as in people.db, or a server as in http://host:19530"
    place.add_argument("--store", default="", metavar="PLACE", help=text)
    text = f"of --store: the collection (default: {NAME})"
    parser.add_argument("--collection", default=NAME, metavar="NAME", help=text)
    text = f"of a server: an API key or user:password (default: the environment variable {TOKEN})"
    parser.add_argument("--token", default="", metavar="TOKEN", help=text)


@dataclass(frozen=True)
class InFolder:
    """An index in a folder."""

    folder: str

    def __str__(self) -> str:
        return self.folder

    @property
    def beside(self) -> str:
        """What a command's own folder beside it begins with."""
        return os.path.normpath(self.folder)

    def state(self) -> str:
        """Something of what is there, "" where nothing is."""
        return INDEX_FOLDER.state(self.folder)

    @contextlib.contextmanager
    def opened(self) -> Iterator[GalleryIndex]:
        """Give it, to look at."""
        yield GalleryIndex.load(self.folder)

    def held(self) -> AbstractContextManager[GalleryIndex]:
        """Give it, to change."""
        return GalleryIndex.held(self.folder)

    def build(
        self,
        features: FeatureSet,
        kind: str,
        metric: str,
        before: str,
        columns: Columns | None,
        calibration: Calibration | None,
        last_change: str,
        fall_back: bool = False,
        **parameters: int,
    ) -> AbstractContextManager[Gallery]:
        """Build one, and give it.

        Args:
            features: of the images.
            kind: of index.
            metric: of the distance.
            before: what `state` gave, which is replaced.
            columns: what else is known of images.
            calibration: threshold on the distance.
            last_change: digest of what was asked for.
            fall_back: see `GalleryIndex.build`.
            **parameters: of the kind.
        """
        index = GalleryIndex.build(features, kind, metric, fall_back=fall_back, **parameters)
        if columns:
            index.images.fill(*columns)
        index.calibration, index.last_change = calibration, last_change
        index.save(self.folder, before)
        return contextlib.nullcontext(index)

    def keep(self, index: Gallery) -> None:
        """Write down what was changed."""
        assert isinstance(index, GalleryIndex)
        index.save(self.folder)

    def keep_calibration(self, index: Gallery, calibration: Calibration) -> None:
        """Write down a threshold alone.

        Args:
            index: that it is of.
            calibration: the threshold.
        """
        write_calibration(self.folder, calibration)


@dataclass(frozen=True)
class InMilvus:
    """A collection in Milvus, which keeps each change at once; see `InFolder`."""

    store: str
    name: str
    token: str

    def __str__(self) -> str:
        return self.store if self.name == NAME else f"{self.store} {self.name}"

    @property
    def beside(self) -> str:
        """See `InFolder`; of a server, in the folder where the command runs."""
        place = re.sub(r"[^\w.-]+", "-", self.store) if "://" in self.store else os.path.normpath(self.store)
        return f"{place}.{self.name}"

    def state(self) -> str:
        """See `InFolder`."""
        return "a gallery" if there_is(self.store, self.name, self.token) else ""

    def opened(self) -> AbstractContextManager[MilvusGallery]:
        """See `InFolder`."""
        return MilvusGallery.load(self.store, self.name, self.token)

    held = opened

    def build(
        self,
        features: FeatureSet,
        kind: str,
        metric: str,
        before: str,
        columns: Columns | None,
        calibration: Calibration | None,
        last_change: str,
        fall_back: bool = False,
        **parameters: int,
    ) -> AbstractContextManager[Gallery]:
        """See `InFolder`."""
        rest: dict[str, Any] = {"name": self.name, "token": self.token, "overwrite": bool(before)}
        rest |= {"columns": columns, "calibration": calibration, "last_change": last_change}
        return MilvusGallery.build(features, self.store, kind, metric, **{**rest, **parameters})

    def keep(self, index: Gallery) -> None:
        """See `InFolder`."""

    def keep_calibration(self, index: Gallery, calibration: Calibration) -> None:
        """See `InFolder`."""
        assert isinstance(index, MilvusGallery)
        index.calibrate(calibration)


def place_of(args: argparse.Namespace) -> InFolder | InMilvus:
    """Name the place of a command's gallery.

    Args:
        args: with what `add_place` declares.
    """
    if args.store:
        return InMilvus(args.store, args.collection, args.token or os.environ.get(TOKEN, ""))
    return InFolder(args.index)
