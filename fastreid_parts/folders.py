"""Whose folder it is: the rule that every command follows which writes a folder.

A folder belongs to the work that it was begun with. The same work goes on there, or is found done; other work is
refused and leaves everything as it is. Training begins anew only where it is told to, and then what lies there is put
aside first, so that no later step can take it for its own.

A training says in `run.json` what it is: its config, and the versions that it was started and gone on with.
"""

from __future__ import annotations

import contextlib
import glob
import json
import logging
import os
import re
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import filelock
from fastreid.config import CfgNode
from fastreid.utils import comm

from .config import flat_keys
from .files import read_yaml, remove_leftovers, sealed, unsealed, write_bytes, write_json
from .version import versions

logger = logging.getLogger(__name__)

#: The file that says what a folder belongs to.
RECORD = "run.json"
#: Config keys that say where and how fast a run goes, not what comes out of it.
NEUTRAL_KEYS = {
    "CUDNN_BENCHMARK",
    "DATALOADER.CHECK_IMAGES",
    "DATALOADER.NUM_WORKERS",
    "MODEL.BACKBONE.PRETRAIN_PATH",
    "MODEL.DEVICE",
    "OUTPUT_DIR",
    "SOLVER.CHECKPOINT_PERIOD",
    "SOLVER.CHECKPOINTS_KEPT",
    "TEST.EVAL_PERIOD",
    "TEST.IMS_PER_BATCH",
}
#: What else to do where a folder is another's.
ELSEWHERE = "name another folder, or delete this one if it is not needed any more"

_MODELS = re.compile(r"(model|weights)_\w+\.pth|last_checkpoint")
_OTHERS = re.compile(r"metrics\.json|config\.yaml|events\.out\.tfevents\..+|" + re.escape(RECORD))
_WAIT = 15.0  # seconds; loader workers of a training that was killed hold its lock until they notice


class FolderError(ValueError):
    """A folder is another's, or in use; the message says what else to do."""


def dumped_keys(cfg: CfgNode) -> dict[str, Any]:
    """Name every key of a config in full, with values as JSON holds them: {"SECTION.KEY": value}.

    Args:
        cfg: the config.
    """
    return flat_keys(read_yaml(cfg.dump()))


def changed_keys(there: Mapping[str, Any], now: Mapping[str, Any], neutral: Collection[str] = NEUTRAL_KEYS) -> str:
    """Say which keys of two configs differ, empty where none does; a key that one of the two lacks does not count.

    Args:
        there: {name in full: value} of the config that was.
        now: of the one that is.
        neutral: keys that may differ.
    """
    return ", ".join(
        f"{key} {there[key]} (now {now[key]})"
        for key in sorted(there.keys() & now.keys())
        if there[key] != now[key]
        and key not in neutral
        # 0 stands for the number that the data have, which a trainer writes in its place
        and not (key == "MODEL.HEADS.NUM_CLASSES" and 0 in (there[key], now[key]))
    )


class RunFolder:
    """The folder of one training, OUTPUT_DIR.

    Args:
        cfg: the config as it was given.

    Attributes:
        anew: whether the training that claimed the folder begins with its first step.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.path = Path(cfg.OUTPUT_DIR)
        self.config = dumped_keys(cfg)
        self.anew = True
        self._lock: filelock.BaseFileLock | None = None
        self._claimed = self._started = False

    @property
    def record(self) -> dict[str, Any] | None:
        """What `run.json` says, None where there is none.

        Raises:
            FolderError: it cannot be read.
        """
        path = self.path / RECORD
        if not path.is_file():
            return None
        try:
            found = unsealed(json.loads(path.read_text(encoding="utf-8")))
            return {"config": dict(found["config"]), "versions": list(found["versions"])}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise FolderError(f"{path} is damaged ({error}): {ELSEWHERE}") from error

    @property
    def finished(self) -> bool:
        """Whether the training that lies here came to its end."""
        with contextlib.suppress(OSError):
            return (self.path / "last_checkpoint").read_text(encoding="utf-8").strip().endswith("_final.pth")
        return False

    def has_models(self) -> bool:
        """Tell whether checkpoints lie here."""
        return any(map(_MODELS.fullmatch, self._names()))

    def foreign(self) -> str:
        """Say why what lies here is not of a training with this config, empty where nothing lies here or it is."""
        record = self.record
        if record is not None:
            return changed_keys(record["config"], self.config)
        unknown = [name for name in self._names() if name != "config.yaml"]  # an evaluation may have left that one
        return f"{unknown[0]} of a run that left no {RECORD}" if unknown else ""

    def check(self, resume: bool = False, overwrite: bool = False) -> None:
        """Refuse to begin anew over what is finished or another's.

        Args:
            resume: go on with what lies here.
            overwrite: put aside what lies here.

        Raises:
            FolderError: one of the two, or checkpoints are to be gone on from and nothing says from which.
        """
        if resume and self.has_models() and not (self.path / "last_checkpoint").exists():
            models = [name for name in self._names() if name.endswith(".pth")]
            newest = max(models, key=lambda name: (self.path / name).stat().st_mtime)
            raise FolderError(
                f"'{self.path}' holds {newest} and no last_checkpoint, which names the one to go on from: write "
                f"'{newest}', the newest, or another one's name into a file last_checkpoint there, or put all aside "
                "and begin anew (--overwrite; in a script resume=False, overwrite=True)"
            )
        if resume or overwrite or not self._names():
            return
        foreign = self.foreign()
        if foreign or self.finished:
            what = f"another run: {foreign}" if foreign else "a finished run of this config"
            raise FolderError(
                f"'{self.path}' holds {what}. Write into a folder of its own (OUTPUT_DIR; `fastreid-parts train` "
                f"counts them with '{self.path.parent}/{{config}}-{{n}}'), go on with what is there (--resume; in a "
                "script resume=True), or put it aside and begin anew (--overwrite; overwrite=True)"
            )

    def claim(self, resume: bool = False, overwrite: bool = False) -> None:
        """Take the folder for this job, once, until `close` or the end of its main process; all processes call it.

        Args:
            resume, overwrite: as `check` takes them.

        Raises:
            FolderError: as `check`, or another process trains there.
        """
        if self._claimed:
            return
        problem = ""
        if comm.is_main_process():
            try:
                self._take(resume, overwrite)
            except FolderError as error:
                problem = str(error)
        if problem := comm.all_gather(problem)[0]:
            raise FolderError(problem)
        self._claimed = True

    def start(self, cfg: CfgNode) -> None:
        """Write down that a training starts here; what one `anew` must not meet is put aside. Once a claim.

        Args:
            cfg: the config as it is used, for `config.yaml`.

        Raises:
            FolderError: as `claim`, where nothing has claimed the folder yet.
        """
        if not self._claimed:
            self.claim()
        if self._started or not comm.is_main_process():
            return
        if self.anew and (self.has_models() or self.foreign()):
            aside = numbered(self.path / "retired-{n}")
            for name in self._names():
                os.replace(self.path / name, aside / name)
            logger.warning("what another training left in %s was moved to %s", self.path, aside)
        remove_leftovers(self.path, age=0)  # nobody else writes here now
        used = (self.record or {"versions": []})["versions"]
        if not used or {**used[-1], **versions()} != used[-1]:
            used.append({"since": datetime.now().astimezone().isoformat(timespec="seconds"), **versions()})
        write_json(self.path / RECORD, sealed({"versions": used, "config": self.config}))
        write_bytes(self.path / "config.yaml", cfg.dump().encode())
        logger.info("%s: %s", self.path, ", ".join(f"{name} {version}" for name, version in versions().items()))
        self._started = True

    def close(self) -> None:
        """Let other jobs have the folder."""
        if self._lock is not None:
            self._lock.release(force=True)
        self._lock, self._claimed, self._started = None, False, False

    def _take(self, resume: bool, overwrite: bool) -> None:
        self.check(resume, overwrite)
        self.path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.path / ".training.lock", thread_local=False, is_singleton=True)
        try:
            lock.acquire(timeout=_WAIT)
        except filelock.Timeout:
            raise FolderError(
                f"another process is training in '{self.path}': name another folder, or wait for it"
            ) from None
        self._lock = lock
        try:
            self.check(resume, overwrite)  # what the other one left while this one waited
        except FolderError:
            self.close()
            raise
        self.anew = not (resume and (self.path / "last_checkpoint").exists())
        if resume and self.anew:
            logger.warning("there is no checkpoint in %s to resume: a new training begins", self.path)

    def _names(self) -> list[str]:
        """Files of a training that lie here; `last_checkpoint` first, which a resumed one would follow."""
        names = sorted(os.listdir(self.path)) if self.path.is_dir() else []
        ours = [name for name in names if _MODELS.fullmatch(name) or _OTHERS.fullmatch(name)]
        return sorted(ours, key=lambda name: name != "last_checkpoint")


def numbered(pattern: str | os.PathLike, last: bool = False) -> Path:
    """Make the folder whose number, in place of `{n}`, is the next one, from 1.

    Args:
        pattern: of its path; one without `{n}` is the path itself.
        last: give the one with the highest number that is there, and make one only where there is none.
    """
    begin, braces, end = os.fspath(pattern).partition("{n}")
    if not braces:
        return Path(begin)
    number = re.compile(re.escape(begin) + r"(\d+)" + re.escape(end))
    there = map(number.fullmatch, glob.glob(f"{glob.escape(begin)}*{glob.escape(end)}"))
    highest = max((int(match[1]) for match in there if match), default=0)
    if last and highest:
        return Path(f"{begin}{highest}{end}")
    while True:
        highest += 1
        with contextlib.suppress(FileExistsError):  # another process was quicker
            folder = Path(f"{begin}{highest}{end}")
            folder.mkdir(parents=True)
            return folder
