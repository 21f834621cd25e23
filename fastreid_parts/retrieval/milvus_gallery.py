"""A gallery in Milvus, embedded or on a server: many processes and machines search it, and it grows in place.

gallery = MilvusGallery.build(load_feature_set("features"), "people.db")
with MilvusGallery.load("http://host:19530", name="shop") as gallery:
    distances, rows = gallery.search(load_feature_set("others"), k=10, where="camera != 'till'")
    print(gallery.images_of(rows[0]).paths)

A collection has an image an entity: `row`, the primary key, `path`, `identity`, `camera`, the vector as it is compared,
and the user's columns as dynamic fields: numbers, texts, times as microseconds. One property of the collection says the
rest (`State`). It is what a change commits: images are inserted under rows that the state does not count yet, which
nobody sees, and then the state counts them. Who opens the gallery to change it deletes what a killed one left there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.names import Label, columns_of, names_of
from ..evaluation import Features
from ..evaluation.exact import check_features, check_metric
from ..evaluation.search import as_compared, distances_of
from ..files import sealed, unsealed
from . import ann
from .calibration import Calibration
from .columns import check_kinds, is_known, kind_among, kind_of, unknown
from .expression import Comparison, Either, Known, Negation, parse
from .gallery import Columns, Gallery, Query, change_digest, first_of_groups, gallery_of, labels_of, named_lists
from .image_table import ImageTable, check_named, check_new, lines_of, named_rows
from .manifest import IMAGE_COLUMNS
from .milvus_connection import Connection
from .milvus_filters import among, condition, joined, literal, microseconds
from .store import FeatureSet

logger = logging.getLogger(__name__)

#: The collection, unless another is named.
NAME = "gallery"
#: Kinds of index that there are in both stores.
KINDS = ("flat", "hnsw")

_PROPERTY, _HOLD = "fastreid_parts", "fastreid_parts_held"
_FORMAT = 1
_NEW = "__new"  # of a collection that is being built
_VECTOR = "vector"
_LONGEST_TEXT = 65_535  # bytes of a VARCHAR
_LONGEST = 16_384  # hits, entities and queries of one call
_SPARE = 8  # hits beyond k: what the server's rounding orders otherwise is among them
_BLOCK = 1_000  # values of a list in an expression
_TRIES = 10  # of a search, while images are removed
_FEW_GROUPS = 100  # each a comparison in an expression
_MOST_REMOVED = 50_000  # in one step, which the state has to name
_BEAT = 1.0  # seconds within which a process that has seen a gallery free has taken it


@dataclass(frozen=True)
class State:
    """What a collection's property says of it.

    Attributes:
        kind, metric, parameters, fingerprint, config, calibration, last_change: as in `Gallery`.
        dimensions: of a feature.
        images: how many there are.
        next_row: the row of the next image; rows from there on are of a change that is not done.
        columns: name -> kind of the user's.
        removing: rows that are being removed, and no longer seen.
    """

    kind: str
    metric: str
    parameters: dict[str, int]
    fingerprint: str
    config: str
    dimensions: int
    images: int = 0
    next_row: int = 0
    columns: dict[str, str] = field(default_factory=dict)
    calibration: Calibration | None = None
    last_change: str | None = None
    removing: list[int] = field(default_factory=list)

    @property
    def removed(self) -> int:
        """How many images were removed since the gallery was built."""
        return self.next_row - self.images

    def text(self) -> str:
        """Write it as JSON, with a checksum."""
        return json.dumps(sealed({"format": _FORMAT, **asdict(self)}))

    @classmethod
    def of(cls, text: str) -> State:
        """Read what `text` wrote.

        Raises:
            ValueError: it is damaged, or of another version.
        """
        try:
            said = unsealed(json.loads(text))
            if said.pop("format") != _FORMAT:
                raise ValueError("it is of another version of this package")
            calibration = said.pop("calibration")
            return cls(**said, calibration=None if calibration is None else Calibration(**calibration))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is damaged: {error}") from error


class MissingImagesError(ValueError):
    """Images that are asked for are not in the gallery; the message names their rows."""


class MilvusGallery(Gallery):
    """Features of a gallery in a collection of Milvus.

    Use `build` or `load`, and `close`, or `with`. Changes are kept at once. In an embedded store they exclude each
    other, and searches. On a server searches go on, and see the gallery before a change or after it; of processes that
    would change it one does, and others are refused.
    """

    def __init__(self, connection: Connection, name: str, state: State) -> None:
        self._call, self.name = connection, name
        self._tuned: dict[str, int] = {}
        self._take(state)

    def _take(self, state: State) -> None:
        self._state = state
        self.kind, self.metric, self.parameters = state.kind, state.metric, {**state.parameters, **self._tuned}
        self.fingerprint, self.config, self.dimensions = state.fingerprint, state.config, state.dimensions
        self.calibration, self.last_change = state.calibration, state.last_change

    @classmethod
    def build(
        cls,
        gallery: FeatureSet,
        place: str | os.PathLike,
        kind: str = "flat",
        metric: str = "cosine",
        *,
        name: str = NAME,
        token: str = "",
        overwrite: bool = False,
        columns: Columns | None = None,
        calibration: Calibration | None = None,
        last_change: str | None = None,
        **parameters: int,
    ) -> MilvusGallery:
        """Build a collection over the gallery images of a feature set; over all of its images without queries.

        Args:
            gallery: what to search in.
            place: `NAME.db`, made where it is not there, or the address of a server.
            kind: `flat` is exact, `hnsw` quicker.
            metric: `euclidean`, or `cosine`, for which features are brought to length 1.
            name: of the collection.
            token: for a server, an API key or user:password.
            overwrite: replace a gallery that is there, when the new one is whole.
            columns: what else is known of images.
            calibration: threshold on the distance.
            last_change: digest of what was asked for.
            **parameters: of the kind, in place of those that `default_parameters` gives.

        Raises:
            OSError: the store cannot be opened or reached.
            ValueError: a kind, metric, parameter or place that cannot be; features that are not finite; there is a
                gallery or another collection of this name.
        """
        features = gallery_of(gallery)
        number, dimensions = features.features.shape
        if kind not in KINDS:
            raise ValueError(f"in Milvus the kind of an index is {' or '.join(KINDS)}, not {kind}")
        chosen = {**ann.default_parameters(kind, number, dimensions), **parameters}
        ann.check_parameters(kind, chosen, dimensions)
        check_metric(metric)
        check_features(features.features, "gallery", metric)
        state = State(kind, metric, chosen, gallery.fingerprint, gallery.config, dimensions)
        state = replace(state, columns=_kinds_of(columns), calibration=calibration, last_change=last_change)
        connection = Connection(os.fspath(place), token, make=True)
        try:
            if _property_of(connection, name) and not overwrite:
                raise ValueError(f"'{place}' has a gallery '{name}': add to it, overwrite it, or name another")
            connection("drop_collection", name + _NEW)
            _create(connection, name + _NEW, state)
            new = cls(connection, name + _NEW, state)
            new._insert(features, np.arange(number), columns)
            new._commit(replace(state, images=number, next_row=number))
            if connection("has_collection", name):
                connection("drop_collection", name)
            connection("rename_collection", name + _NEW, name)
            return cls._opened(connection, name)
        except BaseException:
            connection.close()
            raise

    @classmethod
    def load(cls, place: str | os.PathLike, name: str = NAME, token: str = "") -> MilvusGallery:
        """Open a gallery.

        Args:
            place: `NAME.db` or the address of a server.
            name: of the collection.
            token: for a server, an API key or user:password.

        Raises:
            FileNotFoundError: there is no such embedded store, or no such collection.
            OSError: the server cannot be reached.
            ValueError: the place or the collection is something else.
        """
        connection = Connection(os.fspath(place), token)
        try:
            return cls._opened(connection, name)
        except BaseException:
            connection.close()
            raise

    @classmethod
    def _opened(cls, connection: Connection, name: str) -> MilvusGallery:
        state = state_of(connection, name)
        if state is None:
            raise FileNotFoundError(f"there is no gallery '{name}' in '{connection.place}': `index build` makes one")
        connection("load_collection", name)
        return cls(connection, name, state)

    def close(self) -> None:
        """Let go of the store."""
        self._call.close()

    def __enter__(self) -> MilvusGallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._state.images

    # ---- change ---------------------------------------------------------------------------------------------

    def add(self, images: FeatureSet, columns: Columns | None = None) -> np.ndarray:
        """See `Gallery`."""
        features = self._checked_new(images)
        kinds = _kinds_of(columns)
        check_kinds(kinds, self._state.columns)
        with self._changing() as state:
            check_kinds(kinds, state.columns)
            paths = sorted(set(features.paths) - {""})
            check_new(features.paths, {image["path"] for image in self._named("path", paths, ["path"])})
            rows = np.arange(state.next_row, state.next_row + len(features))
            self._insert(features, rows, columns)
            self._commit(
                replace(
                    state,
                    images=state.images + len(rows),
                    next_row=state.next_row + len(rows),
                    columns={**state.columns, **kinds},
                    last_change=change_digest(images, columns=columns),
                )
            )
        return rows

    def remove(
        self,
        rows: Iterable[int] | None = None,
        paths: Iterable[str] | None = None,
        identities: Iterable[Label] | None = None,
    ) -> int:
        """See `Gallery`.

        Raises:
            ValueError: as there; or they are too many for one step.
        """
        rows, paths, identities = named_lists(rows, paths, identities)
        with self._changing() as state:
            known: dict[int, tuple[int, str, str]] = {}
            for name, values in (("row", rows), ("path", paths), ("identity", list(map(str, identities)))):
                for image in self._named(name, values, ["path", "identity"]):
                    known[image["row"]] = (image["row"], image["path"], image["identity"])
            gone = named_rows(list(known.values()), rows, paths, identities).tolist()
            if len(gone) > _MOST_REMOVED:
                raise ValueError(f"{len(gone)} images are too many to remove at once: at most {_MOST_REMOVED}")
            digest = change_digest(None, rows, paths, identities)
            left = state.images - len(gone)
            self._commit(replace(state, images=left, last_change=digest, removing=gone))
            self._finish()
        return len(gone)

    def label(self, table: str | os.PathLike) -> int:
        """See `Gallery`. Images take their values one batch after another: one that was killed is to be run again."""
        places, columns = labels_of(table)
        with self._changing() as state:
            lines = {}
            for images in self._all(["path"]):
                found = lines_of(places, [image["path"] for image in images])
                lines.update({image["row"]: line for image, line in zip(images, found.tolist()) if line >= 0})
            check_named(len(lines), places)
            kinds = _kinds_of((places, columns))
            check_kinds(kinds, state.columns)
            _check_field_names(kinds)
            self._commit(replace(state, columns={**state.columns, **kinds}, last_change=None))
            fields = [*IMAGE_COLUMNS, _VECTOR, *self._state.columns]
            rows = sorted(lines)
            for start in _progress(range(0, len(rows), _BLOCK), "images"):
                part = rows[start : start + _BLOCK]
                changed = []
                for image in self._named("row", part, fields):
                    line = lines[image["row"]]
                    own = {name: image[name] for name in self._state.columns if name in image and name not in columns}
                    told = _values(columns, [line])[0]
                    changed.append({**{name: image[name] for name in ("row", *IMAGE_COLUMNS, _VECTOR)}, **own, **told})
                self._call("upsert", self.name, changed)
            self._settle()
        return len(lines)

    def calibrate(self, calibration: Calibration | None) -> None:
        """Keep another threshold, or none.

        Raises:
            ValueError: it is of another metric.
        """
        if calibration is not None and calibration.metric != self.metric:
            raise ValueError(f"the threshold is of {calibration.metric} distances and the index of {self.metric}")
        with self._changing() as state:
            self._commit(replace(state, calibration=calibration, last_change=None))

    def compact(self) -> None:
        """See `Gallery`: Milvus is asked to, and does it in its own time."""
        with self._changing():
            self._call("flush", self.name)
            self._call("compact", self.name)

    def release(self) -> None:
        """Free a gallery on a server that a process held which is gone, and take back what it left."""
        self._call("alter_collection_properties", self.name, properties={_HOLD: ""})
        with self._changing():
            pass

    @contextlib.contextmanager
    def _changing(self) -> Iterator[State]:
        """Hold the gallery; begin with what it is now, without what a killed process left."""
        with contextlib.nullcontext() if self._call.embedded else self._held():
            state = self._read()
            self._call("delete", self.name, filter=f"row >= {state.next_row}")
            self._finish()
            yield self._state

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Hold a gallery of a server: Fischer's mutual exclusion (Lamport, 1987), as Milvus has no locks.

        Who finds it free writes its own name, waits for longer than others take from finding to writing, and holds it
        if the name is still its own.

        Raises:
            OSError: another process holds it.
        """
        own = {"process": secrets.token_hex(8), **_self()}
        there = self._holder()
        if there and not _gone(there):
            raise OSError(self._refusal(there))
        self._hold({**own, "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
        time.sleep(_BEAT)
        there = self._holder()
        if there.get("process") != own["process"]:
            raise OSError(self._refusal(there))
        try:
            yield
        finally:
            self._hold({})

    def _refusal(self, there: Mapping[str, Any]) -> str:
        return (
            f"another process changes '{self.name}' at {self._call.place}: {there.get('pid')} on {there.get('host')}, "
            f"since {there.get('since')}. Wait until it is done; if it was killed, `index release` frees the gallery"
        )

    def _holder(self) -> dict[str, Any]:
        text = self._call("describe_collection", self.name)["properties"].get(_HOLD, "")
        return json.loads(text) if text else {}

    def _hold(self, said: Mapping[str, Any]) -> None:
        self._call("alter_collection_properties", self.name, properties={_HOLD: json.dumps(said) if said else ""})

    def _read(self) -> State:
        """Read the state, which another process may have changed."""
        state = state_of(self._call, self.name)
        if state is None:
            raise FileNotFoundError(f"the gallery '{self.name}' is not in '{self._call.place}' any more")
        self._take(state)
        return state

    def _commit(self, state: State) -> None:
        self._settle()
        self._call("alter_collection_properties", self.name, properties={_PROPERTY: state.text()})
        self._take(state)

    def _settle(self) -> None:
        """Have an embedded store write to the disk what it was given; a server has when it answers."""
        if self._call.embedded:
            self._call("flush", self.name)

    def _finish(self) -> None:
        """Remove what the state says is being removed."""
        if self._state.removing:
            self._call("delete", self.name, ids=self._state.removing)
            self._commit(replace(self._state, removing=[]))

    def _insert(self, features: Features, rows: np.ndarray, columns: Columns | None) -> None:
        names = names_of(features.pids, features.camids, features.names)
        for texts in (features.paths, *names):
            _check_texts(texts)
        values: list[dict[str, Any]] = [{}] * len(rows)
        if columns:
            _check_field_names(columns[1])
            values = _values(columns[1], lines_of(columns[0], features.paths))
        blocks = list(ann.blocks_of(len(rows), self.dimensions, values=1 << 19))
        for block in _progress(blocks, "images"):
            vectors = as_compared(features.features[block], self.metric)
            parts = zip(rows[block].tolist(), features.paths[block], *(own[block] for own in names), vectors)
            images = [dict(zip(("row", *IMAGE_COLUMNS, _VECTOR), image)) for image in parts]
            self._call("insert", self.name, [{**image, **own} for image, own in zip(images, values[block])])

    # ---- search ---------------------------------------------------------------------------------------------

    def search(self, query: Query, k: int = 10, where: str = "", group_by: str = "") -> tuple[np.ndarray, np.ndarray]:
        """See `Gallery`. Distances are computed here, of vectors that are fetched: they are those of a flat index.

        Raises:
            OSError: a call to Milvus fails; or images are removed from a server's gallery while it is searched, every
                time it is tried.
            ValueError: as there.
        """
        if self._call.embedded:
            return self._found(query, k, where, group_by)
        for _ in range(_TRIES):
            before = self._read().removed
            try:
                found = self._found(query, k, where, group_by)
            except MissingImagesError:
                if self._read().removed == before:
                    raise
                continue
            if self._read().removed == before:
                return found
        raise OSError(f"images were removed from '{self.name}' at {self._call.place} during each of {_TRIES} searches")

    def _found(self, query: Query, k: int, where: str, group_by: str) -> tuple[np.ndarray, np.ndarray]:
        matrix = self._compared(query, k)
        self.check_question("", group_by)
        asked = self._condition(where)
        if not group_by:
            return self._nearest(matrix, min(k, len(self)), asked)
        wanted = k
        while True:
            wanted = min(4 * wanted, len(self))
            distances, rows = self._nearest(matrix, wanted, asked)
            known, places = _places(rows)
            images = self.images_of(known)
            near, found = first_of_groups(distances, places, images.groups(group_by), k)
            if (
                rows.shape[1] < wanted
                or wanted == len(self)
                or (found >= 0).all()
                or (found[:, : self._groups(images, group_by, asked)] >= 0).all()
            ):
                return near, np.where(found >= 0, known[found], -1) if len(known) else found

    def _groups(self, images: ImageTable, group_by: str, asked: str) -> int | None:
        """How many groups there are, if each has one of these images; None if not, or if these have too many to ask."""
        column = images.column(group_by)
        values = np.unique(column[is_known(column)])
        if len(values) > _FEW_GROUPS:
            return None
        same = Either([Comparison(group_by, "==", value) for value in values])
        other = condition(Either([Negation(Known(group_by)), Negation(same)]), self._state.columns)
        found = self._call("query", self.name, filter=joined([asked, other]), output_fields=["row"], limit=1)
        return None if found else len(values)

    def _nearest(self, matrix: np.ndarray, k: int, asked: str) -> tuple[np.ndarray, np.ndarray]:
        wanted = k + _SPARE
        if wanted > _LONGEST:
            return self._nearest_of_all(matrix, k, asked)
        rows = np.full((len(matrix), wanted), -1, np.int64)
        options = {"params": {"ef": max(wanted, self.parameters["efSearch"])} if self.kind == "hnsw" else {}}
        for block in ann.blocks_of(len(matrix), max(wanted, self.dimensions), values=1 << 20):
            hits = self._call(
                "search", self.name, matrix[block], filter=asked, limit=wanted, output_fields=["row"],
                anns_field=_VECTOR, search_params=options,
            )  # fmt: skip
            for line, found in enumerate(hits, start=block.start):
                rows[line, : len(found)] = [hit["row"] for hit in found]
        if self.kind == "hnsw" and (rows[:, :k] < 0).any():  # a graph may find fewer than there are
            return self._nearest_of_all(matrix, k, asked)
        known, places = _places(rows)
        if not len(known):
            return np.empty((len(matrix), 0), np.float32), rows[:, :0]
        stored, there = np.zeros((len(known), self.dimensions), np.float32), np.zeros(len(known), bool)
        for start in range(0, len(known), _BLOCK):
            part = known[start : start + _BLOCK]
            for image in self._named("row", part.tolist(), [_VECTOR]):
                at = np.searchsorted(known, image["row"])
                stored[at], there[at] = image[_VECTOR], True
        places = np.where(there[places], places, -1)
        rows = np.where(places >= 0, rows, -1)
        distances = ann.exact_distances(matrix, stored, places, self.metric)
        return _first(distances, rows, k)

    def _nearest_of_all(self, matrix: np.ndarray, k: int, asked: str) -> tuple[np.ndarray, np.ndarray]:
        """By comparing every image of which it is true, a part of them at a time."""
        distances, rows = np.empty((len(matrix), 0), np.float32), np.empty((len(matrix), 0), np.int64)
        for images in self._all([_VECTOR], asked, step=max(1, (1 << 21) // self.dimensions)):
            few = ann.make_index("flat", self.dimensions, self.metric, {})
            few.add(np.array([image[_VECTOR] for image in images], np.float32))
            scores, found = few.search(matrix, min(k, len(images)))
            own = np.array([image["row"] for image in images], np.int64)[found]
            distances = np.concatenate([distances, distances_of(scores, self.metric)], axis=1)
            distances, rows = _first(distances, np.concatenate([rows, own], axis=1), k)
        return distances, rows

    def _condition(self, where: str = "") -> str:
        """What is seen of the gallery, and asked for."""
        state = self._state
        gone = [f"not ({among('row', state.removing)})"] if state.removing else []
        asked = [condition(parse(where), state.columns)] if where else []
        return joined([f"row < {state.next_row}", *gone, *asked])

    def _named(self, name: str, values: Sequence[Any], fields: Sequence[str]) -> list[dict[str, Any]]:
        """Images that have one of some values, which are different."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(values), _BLOCK):
            asked = joined([self._condition(), among(name, values[start : start + _BLOCK])])
            if name in ("row", "path"):  # at most one image each
                found += self._call("query", self.name, filter=asked, output_fields=["row", *fields], limit=_LONGEST)
            else:
                found += [image for images in self._all(fields, asked) for image in images]
        return found

    def _all(self, fields: Sequence[str], asked: str = "", step: int = _LONGEST) -> Iterator[list[dict[str, Any]]]:
        """Images in the order of their rows, some at a time."""
        asked = asked or self._condition()
        for start in _progress(range(0, self._state.next_row, min(step, _LONGEST)), "looked through"):
            part = joined([asked, f"row >= {start} and row < {start + min(step, _LONGEST)}"])
            images = self._call("query", self.name, filter=part, output_fields=["row", *fields], limit=_LONGEST)
            if images:
                yield sorted(images, key=lambda image: image["row"])

    def tune(self, **parameters: int) -> None:
        """See `Gallery`."""
        ann.check_parameters(self.kind, parameters, self.dimensions)
        ann.check_tunable(self.kind, parameters)
        self._tuned.update(parameters)
        self.parameters.update(parameters)

    # ---- what is there --------------------------------------------------------------------------------------

    def check_question(self, where: str = "", group_by: str = "") -> None:
        """See `Gallery`."""
        self._condition(where)
        if group_by:
            kind_among(group_by, self._state.columns)

    def images_of(self, rows: np.ndarray) -> ImageTable:
        """See `Gallery`.

        Raises:
            MissingImagesError: some are not there, or not any more.
        """
        kinds = self._state.columns
        said = {image["row"]: image for image in self._named("row", rows.tolist(), [*IMAGE_COLUMNS, *kinds])}
        if missing := [row for row in rows.tolist() if row not in said]:
            raise MissingImagesError(f"rows {', '.join(map(str, missing[:10]))} are not in the gallery: search again")
        images = [said[row] for row in rows.tolist()]
        paths, identities, cameras = ([image[name] for image in images] for name in IMAGE_COLUMNS)
        table = ImageTable(np.arange(len(rows)), paths, *columns_of(identities, cameras)[:2], len(rows))
        table.names = columns_of(identities, cameras)[2]
        for name, kind in kinds.items():
            table.columns[name] = unknown(kind, len(rows))
            for place, image in enumerate(images):
                if image.get(name) is not None:
                    value = image[name]
                    table.columns[name][place] = np.datetime64(value, "us") if kind == "time" else value
        return table

    def describe(self) -> dict[str, Any]:
        """Say what is there, as `GalleryIndex.describe` does; identities and cameras are counted by looking at all."""
        state, identities, cameras = self._state, {""}, {""}
        for images in self._all(["identity", "camera"]):
            identities.update(image["identity"] for image in images)
            cameras.update(image["camera"] for image in images)
        return {
            "images": len(self),
            "identities": len(identities) - 1,
            "cameras": len(cameras) - 1,
            "dimensions": state.dimensions,
            "kind": self.kind,
            "metric": self.metric,
            "parameters": dict(self.parameters),
            "columns": dict(state.columns),
            "fingerprint": self.fingerprint,
        }


def there_is(place: str | os.PathLike, name: str = NAME, token: str = "") -> bool:
    """Tell whether there is a gallery, whole or damaged.

    Args:
        place: as `MilvusGallery.load` takes it.
        name: of the collection.
        token: for a server.

    Raises:
        OSError: the server cannot be reached.
        ValueError: the place or the collection is something else.
    """
    try:
        connection = Connection(os.fspath(place), token)
    except FileNotFoundError:
        return False
    with contextlib.closing(connection):
        return bool(_property_of(connection, name))


def state_of(connection: Connection, name: str) -> State | None:
    """Read what a gallery says of itself; finish a replacement whose new collection was whole.

    Args:
        connection: the store.
        name: of the collection.

    Returns:
        None where there is no such collection.

    Raises:
        ValueError: the collection is something else, or damaged.
    """
    text = _property_of(connection, name)
    if not text:
        return None
    try:
        return State.of(text)
    except ValueError as error:
        where = f"the gallery '{name}' in '{connection.place}'"
        raise ValueError(f"{where} cannot be read: {error}; build it again") from error


def _property_of(connection: Connection, name: str) -> str:
    """The text of a state, "" where there is no such collection."""

    def said(name: str) -> str:
        return connection("describe_collection", name)["properties"].get(_PROPERTY, "")

    if not connection("has_collection", name):
        if not (connection("has_collection", name + _NEW) and said(name + _NEW)):
            return ""
        connection("rename_collection", name + _NEW, name)
    text = said(name)
    if not text:
        where = f"the collection '{name}' in '{connection.place}'"
        raise ValueError(f"{where} is something else than a gallery of this package: name another")
    return text


def _create(connection: Connection, name: str, state: State) -> None:
    client, kinds = connection.milvus.MilvusClient, connection.milvus.DataType
    schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("row", kinds.INT64, is_primary=True)
    for column in IMAGE_COLUMNS:
        schema.add_field(column, kinds.VARCHAR, max_length=_LONGEST_TEXT)
    schema.add_field(_VECTOR, kinds.FLOAT_VECTOR, dim=state.dimensions)
    params = {name: state.parameters[name] for name in ("M", "efConstruction") if name in state.parameters}
    index = client.prepare_index_params()
    measure = "IP" if state.metric == "cosine" else "L2"  # of features of length 1
    index.add_index(_VECTOR, index_type=state.kind.upper(), metric_type=measure, params=params)
    connection("create_collection", name, schema=schema, index_params=index, consistency_level="Strong", num_shards=1)


def _kinds_of(columns: Columns | None) -> dict[str, str]:
    return {name: kind_of(values) for name, values in columns[1].items()} if columns else {}


def _values(columns: Mapping[str, np.ndarray], lines: Iterable[int]) -> list[dict[str, Any]]:
    """What a table says in some lines, of what is known; nothing in line -1."""
    told: dict[str, list[Any]] = {}
    for name, column in columns.items():
        known = is_known(column).tolist()
        values = microseconds(column) if kind_of(column) == "time" else column.tolist()
        told[name] = [value if there else None for value, there in zip(list(values), known)]
    return [
        {name: values[line] for name, values in told.items() if values[line] is not None} if line >= 0 else {}
        for line in lines
    ]


def _check_field_names(names: Iterable[str]) -> None:
    if _VECTOR in names:
        raise ValueError(f"in Milvus every image has {_VECTOR}; call the column otherwise")


def _check_texts(texts: Iterable[str]) -> None:
    for text in texts:
        literal(text)
        if len(text.encode()) > _LONGEST_TEXT:
            raise ValueError(f"Milvus keeps texts of at most {_LONGEST_TEXT} bytes: '{text[:40]}...' is longer")


def _places(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images of lists, ascending, and the place of each hit among these, -1 where there is none."""
    known = np.unique(rows[rows >= 0])
    return known, np.where(rows >= 0, np.searchsorted(known, rows), -1)


def _first(distances: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of each list, of equal distances those of the lower row; no column in which there is none."""
    order = np.lexsort((rows, distances))[:, :k]
    distances, rows = np.take_along_axis(distances, order, 1), np.take_along_axis(rows, order, 1)
    there = (rows >= 0).any(axis=0)
    return distances[:, there], rows[:, there]


def _self() -> dict[str, Any]:
    """Say which process this is: containers may share the name of their host, and each counts its processes itself."""
    counted = ""
    # Not there elsewhere than on Linux
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        counted = f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    return {"host": socket.gethostname(), "counted": counted, "pid": os.getpid()}


def _gone(there: Mapping[str, Any]) -> bool:
    """Whether a process has ended that is counted where this one is; False where that cannot be known."""
    own = _self()
    if not own["counted"] or any(there.get(name) != own[name] for name in ("host", "counted")):
        return False
    try:
        os.kill(int(there["pid"]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _progress(steps: Sequence[Any], what: str) -> Any:
    return tqdm(steps, desc=what, leave=False, disable=None if len(steps) > 1 else True)
