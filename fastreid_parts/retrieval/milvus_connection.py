"""A way to Milvus: `people.db`, embedded (milvus-lite), or `http://host:19530`, a server or cluster.

milvus-lite keeps a folder, which one process at a time can open. It answers through a port of this machine, without a
password, for as long as it is open.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from typing import Any

from ..extras import optional
from ..files import LOCK, locked

#: How long a server may take to answer when it is called first, in seconds.
PATIENCE = 10.0

_users: Counter[str] = Counter()  # of each embedded store in this process


class Connection:
    """What Milvus's client does, with errors that say where; closed by `close`.

    Args:
        place: `NAME.db` or an address.
        token: an API key, or user:password.
        make: make an embedded store that is not there.

    Attributes:
        place: as it was given.
        embedded: no server.
        milvus: the package pymilvus.

    Raises:
        FileNotFoundError: there is no such embedded store.
        ImportError: pymilvus or milvus-lite is not installed.
        OSError: no server answers there, or it refuses.
        ValueError: the place is neither, or holds something else.
    """

    def __init__(self, place: str, token: str = "", make: bool = False) -> None:
        self.place = os.fspath(place)
        self.embedded = "://" not in self.place
        if not self.place.endswith(".db") if self.embedded else not self.place.startswith(("http://", "https://")):
            raise ValueError(f"'{place}' is no store: name a folder as in people.db, or http://host:19530")
        self.milvus = milvus = optional("pymilvus", "milvus", "a gallery in Milvus")
        self._key = os.path.realpath(self.place)
        self._stack = contextlib.ExitStack()
        for name in ("pymilvus", "milvus_lite", "grpc._server"):  # what they would print is in the errors
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            if self.embedded:
                optional("milvus_lite", "milvus", f"the embedded store {place}")
                self._check_folder(make)
                self._stack.enter_context(locked(self.place))
                _users[self._key] += 1
                self._stack.callback(self._release)
            try:
                self._client = milvus.MilvusClient(self.place, token=token, timeout=PATIENCE)
            except milvus.MilvusException as error:
                raise OSError(f"{self._reason()} ({error.message})") from error
            self._stack.callback(self._client.close)
        except BaseException:
            self._stack.close()
            raise

    def _check_folder(self, make: bool) -> None:
        if os.path.isdir(self.place):
            if set(os.listdir(self.place)) - {LOCK} and not os.path.isdir(os.path.join(self.place, "collections")):
                raise ValueError(f"'{self.place}' holds something else than a store of milvus-lite 3")
        elif os.path.exists(self.place):
            raise ValueError(f"'{self.place}' is a file; a store of milvus-lite 3 is a folder: name another")
        elif not make:
            raise FileNotFoundError(f"there is no store '{self.place}': `index build` makes one")

    def _reason(self) -> str:
        if self.embedded:
            return f"'{self.place}' cannot be opened: another program has it open, or it is damaged"
        return f"no Milvus server answers at {self.place}, or it refuses: start it, or correct address and token"

    def _release(self) -> None:
        _users[self._key] -= 1
        if not _users[self._key]:
            optional("milvus_lite", "milvus", self.place).server_manager_instance.release_server(self.place)

    def __call__(self, method: str, *words: Any, **options: Any) -> Any:
        """Call a method of Milvus's client.

        Args:
            method: its name.
            *words: its arguments.
            **options: its arguments.

        Raises:
            OSError: it fails.
        """
        try:
            return getattr(self._client, method)(*words, **options)
        except self.milvus.MilvusException as error:
            raise OSError(f"Milvus at {self.place}, {method}: {error.message}") from error

    def close(self) -> None:
        """Let go of the store; an embedded one is shut down when its last user does."""
        self._stack.close()
