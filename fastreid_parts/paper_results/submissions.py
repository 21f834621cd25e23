"""Results that others send: a finished run packed into one small file, and what such a file shows by itself.

A file holds the run's result, its training log, the list of test images, and the rank of every match in the list of
every query. From these, CMC, mAP and mINP are computed anew, so no metric is taken from what somebody wrote down. What
cannot be seen without the weights is said: that these ranks are the model's.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import platform
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from fastreid.config import CfgNode, get_cfg
from torch import nn

from ..analysis.trained_models import load_test_images
from ..config import flat_keys, nested_keys
from ..data.build import load_dataset
from ..evaluation import Features, MatchRanks, Ranking, extract
from ..evaluation.ranks import Relevance
from ..files import atomic_write, csv_bytes, sealed, unsealed, write_bytes
from ..folders import RunFolder, changed_keys, dumped_keys
from ..retrieval.fingerprint import model_fingerprint
from ..visualization.curves import read_log
from .compare import Comparison, check_metrics
from .ledger import Ledger
from .measured import Measured, ResultError
from .runner import METRIC_NAMES, Run, load_trained, make_config, metrics_of, plan_runs

_FORMAT = 1
_MANIFEST, _RESULT, _RANKS, _IMAGES, _LOG = "manifest.json", "result.json", "ranks.npz", "test_list.csv", "metrics.json"
_NEEDED, _OPTIONAL = {_MANIFEST, _RESULT, _RANKS, _IMAGES}, {_LOG}
_COLUMNS = ("role", "image", "identity", "camera")
_LARGEST = 256 * 2**20  # bytes in all, unpacked; MSMT17 needs 10 MB
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the same content gives the same file
# What a file raises that is not one: NotImplementedError and RuntimeError are zipfile's, OverflowError is NumPy's
_UNREADABLE: tuple[type[Exception], ...] = (ValueError, TypeError, LookupError, AttributeError, OSError, EOFError)
_UNREADABLE += (
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    csv.Error,
    OverflowError,
    RecursionError,
    MemoryError,
)
# Of the manifest, and how many characters they have at most
_TEXTS = {"by": 100, "source": 500, "date": 40, "fingerprint": 128, "features": 128}
_PLACES = ("OUTPUT_DIR", "MODEL.BACKBONE.PRETRAIN_PATH")  # neutral keys that name a place on somebody's machine
_LENGTH = 0.02  # by which the length of a training may differ: copies of a dataset differ by some images
#: Percentage points by which a second evaluation of the same weights may differ, on another device for example.
TOLERANCE = 0.1


class SubmissionError(ValueError):
    """A submitted file cannot be used, or shows something else than it says."""


@dataclass(frozen=True)
class ImageList:
    """The images of a test set, queries first, each part in the order of their names.

    Attributes:
        images: N paths, which begin below the folder that holds them all.
        pids: (N,) int64 identities.
        camids: (N,) int64 cameras, counted from 0.
        num_query: how many of them are queries.
    """

    images: Sequence[str]
    pids: np.ndarray
    camids: np.ndarray
    num_query: int

    @classmethod
    def of(cls, items: Sequence[tuple[Any, ...]], num_query: int) -> tuple[ImageList, np.ndarray]:
        """Order the items of a test set.

        Args:
            items: N tuples (path, identity, camera), queries first.
            num_query: how many of them are queries.

        Returns:
            The list, and (N,) int64, the place in `items` of each of its images.
        """
        paths = [PurePath(os.path.abspath(item[0])).as_posix() for item in items]
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
        names = [os.path.relpath(path, root).replace(os.sep, "/") for path in paths]
        order = np.array(sorted(range(len(names)), key=lambda place: (place >= num_query, names[place])), np.int64)
        pids, camids = (np.array([item[part] for item in items], np.int64)[order] for part in (1, 2))
        return cls([names[place] for place in order], pids, camids, num_query), order

    def to_csv(self) -> bytes:
        """Write it as a table with the columns role, image, identity and camera."""
        roles = ["query"] * self.num_query + ["gallery"] * (len(self.images) - self.num_query)
        return csv_bytes(_COLUMNS, zip(roles, self.images, self.pids.tolist(), self.camids.tolist()))

    @classmethod
    def from_csv(cls, content: bytes) -> ImageList:
        """Read what `to_csv` wrote.

        Raises:
            ValueError: it is something else.
        """
        header, *rows = csv.reader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline=""))
        roles, images, pids, camids = zip(*rows)
        num_query = roles.count("query")
        read = cls(list(images), np.array(pids, np.int64), np.array(camids, np.int64), num_query)
        if tuple(header) != _COLUMNS or read.to_csv() != content:
            raise ValueError(f"{_IMAGES} is no list of test images, queries first")
        (entry, times), *_ = Counter(zip(roles, images)).most_common(1)
        if times > 1:  # each would be found at once by the other
            raise ValueError(f"{_IMAGES} has {' '.join(entry)} {times} times")
        return read

    @property
    def digest(self) -> str:
        """SHA-256 of the table."""
        return hashlib.sha256(self.to_csv()).hexdigest()

    def relevance(self) -> Relevance:
        """Tell which gallery images are right for each query."""
        query, gallery = slice(self.num_query), slice(self.num_query, None)
        return Relevance(self.pids[query], self.pids[gallery], self.camids[query], self.camids[gallery])


@dataclass(frozen=True)
class Submission:
    """A submitted file that is whole.

    Attributes:
        path: the file.
        measured: the run.
        ranks: of the matches of each query.
        images: the test set.
        described: `by`, who sends it; `source`, where more is said; `date`; `fingerprint`, of the model; `features`,
            SHA-256 of the test set's features; `environment`.
        log: the training log, empty where the model is another run's.
    """

    path: Path
    measured: Measured
    ranks: MatchRanks
    images: ImageList
    described: Mapping[str, Any]
    log: bytes = b""

    @property
    def metrics(self) -> dict[str, float]:
        """mAP, rank1, rank5, rank10 and mINP, in percent, computed from the ranks."""
        return metrics_of(self.ranks.results(), str(self.path))

    @property
    def name(self) -> str:
        """Its run, for people."""
        one = self.measured
        return f"{one.paper}/{one.dataset}/{one.variant}, seed {one.seed}"


@dataclass(frozen=True)
class Verdict:
    """What a submission shows.

    Attributes:
        checked: what was checked and is right.
        open: what could not be checked here, each with what would.
        comparisons: with the ranges of the ledger; none where no paper reports on the dataset.
    """

    checked: Sequence[str]
    open: Sequence[str]
    comparisons: Sequence[Comparison]


def default_name(run: Run) -> str:
    """Name the file of a run."""
    return "-".join((run.variant.paper, run.dataset, run.variant.name, f"seed{run.seed}")) + ".zip"


def pack(run: Run, ledger: Ledger, root: str | Path, path: str | Path, by: str, source: str = "") -> Submission:
    """Pack a finished run into a file, which must not be there; the test set is evaluated once more for it.

    Args:
        run: of the ledger; its `extra` are keys of this evaluation, such as MODEL.DEVICE.
        ledger: that it is of.
        root: the results folder.
        path: the file to write.
        by: who sends it.
        source: a page that says more.

    Raises:
        FileExistsError: the file is there.
        FileNotFoundError: the run is not finished, or its weights or the dataset are not there.
        ResultError: it ran with other settings, or its weights give other results now.
    """
    path, folder = Path(path), run.folder(root)
    if path.exists():
        raise FileExistsError(f"'{path}' is there already: name another file (--file), or remove it")
    if not (folder / _RESULT).is_file():
        raise FileNotFoundError(f"{run.name} is not finished in '{root}': `reproduce run` trains it")
    measured = Measured.load(folder / _RESULT)
    run = replace(own := _check_settings(measured, ledger), extra=(*own.extra, *run.extra))
    trained = folder if run.trained is None else run.trained.folder(root)
    weights = trained / "weights_final.pth"
    cfg, model = load_trained(run, weights, folder)
    ranks, images, features = _evaluate(cfg, model, ledger.measured_on(run.dataset))
    _check_agreement(metrics_of(ranks.results(), run.name), measured.metrics, f"{folder / _RESULT}", "weights")
    extra, resolved = _nowhere(measured.extra_overrides), nested_keys(_nowhere(flat_keys(measured.resolved_config)))
    described = {
        "format": _FORMAT,
        "by": by,
        "source": source,
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "fingerprint": model_fingerprint(cfg, model),
        "features": features,
        "environment": {"system": platform.platform(), "cuda": torch.version.cuda or "", **measured.versions},
    }
    files = {
        _RESULT: _json(asdict(replace(measured, extra_overrides=extra, resolved_config=resolved))),
        _RANKS: _ranks_to_bytes(ranks),
        _IMAGES: images.to_csv(),
    }
    if (folder / _LOG).is_file():
        files[_LOG] = (folder / _LOG).read_bytes()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files[_MANIFEST] = _json(sealed({**described, "files": digests}))
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda file: _write_zip(file, files))
    try:
        return read_submission(path)
    except SubmissionError:
        path.unlink()  # nobody would take it
        raise


def read_submission(path: str | Path) -> Submission:
    """Read a submitted file.

    Raises:
        FileNotFoundError: there is none.
        SubmissionError: it is none, truncated, changed after it was packed, or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file '{path}'")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if len(names) != len(set(names)) or not _NEEDED <= set(names) <= _NEEDED | _OPTIONAL:
                raise ValueError(f"it holds {', '.join(names) or 'nothing'}")
            if sum(entry.file_size for entry in entries) > _LARGEST:
                raise ValueError("it is too large")
            files = {name: archive.read(name) for name in names}
        described = json.loads(files.pop(_MANIFEST))
        if described.get("format") != _FORMAT:
            raise ValueError(f"it is of format {described.get('format')}, and this version reads {_FORMAT}")
        described = unsealed(described)
        for name, content in files.items():
            if described["files"].get(name) != hashlib.sha256(content).hexdigest():
                raise ValueError(f"{name} was changed after it was packed")
        if described["files"].keys() != files.keys():
            raise ValueError(f"{', '.join(described['files'].keys() - files.keys())} was taken out of it")
        if wrong := [name for name in _TEXTS if not isinstance(described.get(name), str)]:
            raise ValueError(f"its manifest does not say {', '.join(wrong)}")
        for name in _TEXTS:
            check_text(name, described[name])
        measured = Measured.of(json.loads(files[_RESULT]))
        for name in measured.mechanisms:
            check_text("a mechanism's name", name)
        if not 0 <= measured.seed < 2**32:
            raise ValueError(f"no training has the seed {measured.seed}")
        ranks, images = _ranks_from_bytes(files[_RANKS]), ImageList.from_csv(files[_IMAGES])
    except _UNREADABLE as error:
        raise SubmissionError(f"'{path}' is refused as a submission: {error}") from error
    return Submission(path, measured, ranks, images, described, files.get(_LOG, b""))


def verify(
    submission: Submission,
    ledger: Ledger,
    others: Sequence[Submission] = (),
    weights: str | Path | None = None,
    opts: Sequence[str] = (),
    look_for_dataset: bool = True,
) -> Verdict:
    """Check what a submitted file says against what can be computed here.

    Args:
        submission: the file's content.
        ledger: of the papers' results.
        others: submissions on the same dataset, which must be of the same test images.
        weights: the run's weights, to evaluate once more.
        opts: config keys of that evaluation and their values, alternating, such as MODEL.DEVICE.
        look_for_dataset: compare the test images with the dataset's, where it is on this machine.

    Raises:
        FileNotFoundError: there are no such weights, or with weights no dataset.
        SubmissionError: something is not what it says.
    """
    one, images, where = submission.measured, submission.images, f"'{submission.path}' is refused"
    try:
        run = _check_settings(one, ledger)
    except (ValueError, KeyError, TypeError) as error:
        raise SubmissionError(f"{where}: {error.args[0] if error.args else error}") from error
    cfg = make_config(run, "")
    checked = [f"the settings are those of {one.paper}/{one.variant} with seed {one.seed} on {one.dataset}"]
    _check_ranks(submission, ledger.datasets[one.dataset], where)
    checked.append(f"the ranks are of {len(submission.ranks)} queries in these {len(images.images)} test images")
    try:
        _check_agreement(submission.metrics, one.metrics, where, "ranks")
        checked.append("the metrics follow from the ranks")
        if submission.log:
            _check_log(submission.log, one, cfg, ledger.training_images(cfg.DATASETS.NAMES), where)
            checked.append("the training log ends with these metrics")
        elif run.trained is None:
            raise SubmissionError(f"{where}: there is no training log in it")
    except ResultError as error:
        raise SubmissionError(str(error)) from error
    unseen: list[str] = []
    for other in others:
        same = ledger.measured_on(other.measured.dataset) == ledger.measured_on(one.dataset)
        if same and other.images.digest != images.digest:
            raise SubmissionError(f"{where}: its test images are not those of '{other.path}', which is on the same set")
        _check_twice(submission, other, where)
    dataset = ledger.measured_on(one.dataset)
    _check_images(images, cfg, dataset, look_for_dataset, where, checked, unseen)
    if weights is None:
        unseen.append("whether the ranks are this model's (--weights FILE evaluates it, where the dataset is)")
    else:
        _check_weights(submission, replace(run, extra=(*run.extra, *opts)), weights, dataset, where)
        checked.append("the weights give these ranks, query by query")
    rows = [
        row for row in ledger.select(one.paper, dataset=one.dataset, built=True) if row.variant.run_name == one.variant
    ]
    return Verdict(checked, unseen, [held for row in rows for held in check_metrics(row, submission.metrics)])


def check_text(name: str, text: str) -> None:
    """Refuse a text that is printed and could pass for something else, such as a line of `reproduce verify`.

    Args:
        name: of the text, for the message.
        text: what somebody wrote.

    Raises:
        ValueError: it is too long, or has line breaks or other characters that are not printed; or a name without a
            letter.
    """
    most = _TEXTS.get(name, 100)
    if not text.isprintable() or len(text) > most:
        raise ValueError(f"{name} is one line of at most {most} characters, all of them printed, not {text[:60]!a}")
    if name == "by" and not any(letter.isalnum() for letter in text):
        raise ValueError(f"by {text!r} has no letter: it is the name of who measured")


def submitted(root: str | Path) -> list[Path]:
    """List the submitted files that a results folder keeps."""
    return sorted((Path(root) / "submitted").glob("*.zip"))


def accept(submission: Submission, root: str | Path) -> Path:
    """Keep a verified file among those of a results folder; one that is there stays.

    Args:
        submission: the file's content.
        root: the results folder.

    Raises:
        FileExistsError: another file of the run, by the same person, is there.
    """
    one, content = submission.measured, submission.path.read_bytes()
    who = re.sub(r"\W+", "_", by := submission.described["by"]).strip("_")[:60]
    if who != by:  # `A B` and `A_B` are two people
        who += f"-{hashlib.sha256(by.encode()).hexdigest()[:6]}"
    run = f"{one.paper}-{one.dataset}-{one.variant}-seed{one.seed}-"
    place = Path(root) / "submitted" / f"{run}{who}.zip"
    for path in (path for path in submitted(root) if path.name.startswith(run)):
        with contextlib.suppress(SubmissionError):
            if read_submission(path).described["by"] == by:
                place = path  # whatever an earlier version called it
    if place.exists() and place.read_bytes() != content:
        raise FileExistsError(f"'{place}' is there already, with other content: remove it first")
    write_bytes(place, content)
    return place


# ---- packing ------------------------------------------------------------------------------------------------------


def _evaluate(cfg: CfgNode, model: nn.Module, dataset: str) -> tuple[MatchRanks, ImageList, str]:
    """Ranks in the order of the test list, the list, and a digest of the features in this order."""
    loader, num_query, _ = load_test_images(cfg, dataset)
    images, order = ImageList.of(loader.dataset.img_items, num_query)
    features = extract(model, loader, flip=cfg.TEST.FLIP.ENABLED).take(order)
    features = Features(features.features, images.pids, images.camids, list(images.images))
    digest = hashlib.sha256(np.ascontiguousarray(features.features, np.float32)).hexdigest()
    return Ranking(features, num_query, cfg).ranks(), images, digest


def _nowhere(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {key: "" if key in _PLACES else value for key, value in keys.items()}


def _ranks_to_bytes(ranks: MatchRanks) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **{name: column.astype(np.int32) for name, column in asdict(ranks).items()})
    return file.getvalue()


def _ranks_from_bytes(content: bytes) -> MatchRanks:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
            raise ValueError(f"{_RANKS} is too large")
    with np.load(io.BytesIO(content), allow_pickle=False) as columns:
        loaded = {name: columns[name] for name in columns.files}
    if any(column.ndim != 1 or column.dtype.kind != "i" for column in loaded.values()):
        raise ValueError(f"{_RANKS} is no list of ranks")
    ranks = MatchRanks(**{name: column.astype(np.int64) for name, column in loaded.items()})
    ends = ranks.offsets
    fits = len(ends) == len(ranks) + 1 and ends[0] == 0 and ends[-1] == len(ranks.ranks)
    if not fits or (np.diff(ends) < 0).any():
        raise ValueError(f"{_RANKS} is no list of ranks")
    return ranks


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def _write_zip(file: Any, files: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), content, zipfile.ZIP_DEFLATED)


# ---- checks -------------------------------------------------------------------------------------------------------


def _check_settings(measured: Measured, ledger: Ledger) -> Run:
    """The run of the ledger that a result is of; refuse one with other settings."""
    rows = [
        row for row in ledger.select(measured.paper) if row.variant.run_name == measured.variant and row.variant.built
    ]
    on_it = [row for row in rows if row.dataset == measured.dataset]
    stand_in = "queries" not in ledger.datasets.get(measured.dataset, {"queries": 0})
    if not rows or not (on_it or stand_in):
        raise ResultError(f"the ledger has no {measured.paper}/{measured.variant} on {measured.dataset}")
    extra = [str(word) for pair in measured.extra_overrides.items() for word in pair]
    dataset = measured.dataset if stand_in else None
    [run] = plan_runs(ledger, (on_it or rows)[:1], (measured.seed,), dataset, extra)
    # A key that is not there is of a later version than the run, which had what is the default now
    there = {**dumped_keys(get_cfg()), **flat_keys(measured.resolved_config)}
    changed = changed_keys(there, RunFolder(make_config(run, "")).config)
    if measured.departures or changed:
        departures = ", ".join(f"{key} {value}" for key, value in measured.departures.items())
        raise ResultError(f"it ran with other settings than {run.name}: {departures or changed}")
    return run


def _check_ranks(submission: Submission, sizes: Mapping[str, Any], where: str) -> None:
    """Refuse a test list that is not of the dataset's size, and ranks that cannot be of the list."""
    ranks, images = submission.ranks, submission.images
    gallery = len(images.images) - images.num_query
    for part, number, what in (("queries", images.num_query, "queries"), ("gallery", gallery, "gallery images")):
        if sizes.get(part, number) != number:
            raise SubmissionError(
                f"{where}: {submission.measured.dataset} has {sizes[part]} {what}, and it has {number}"
            )
    relevance = images.relevance()
    lines = np.repeat(np.arange(len(ranks)), ranks.matches)
    later = np.diff(ranks.ranks)[np.diff(lines) == 0]
    if (
        not np.array_equal(relevance.candidates, ranks.candidates)
        or not np.array_equal(relevance.matches, ranks.matches)
        or (later < 1).any()
        or (ranks.ranks < 1).any()
        or (ranks.ranks > ranks.candidates[lines]).any()
    ):
        raise SubmissionError(f"{where}: its ranks are not of its test images")


def _check_twice(submission: Submission, other: Submission, where: str) -> None:
    """Refuse a run that was sent before, as another seed or by somebody else."""
    if (submission.name, submission.described["by"]) == (other.name, other.described["by"]):
        return
    kinds = [(one.measured.paper, one.measured.variant, one.measured.dataset) for one in (submission, other)]
    if kinds[0] != kinds[1]:  # a variant that only evaluates has another one's model
        return
    same = [name for name in ("fingerprint", "features") if submission.described[name] == other.described[name] != ""]
    ranks, theirs = submission.ranks, other.ranks
    found_all = np.nanmin(ranks.average_precision(), initial=1.0) == 1  # which several seeds may do
    if not found_all and np.array_equal(ranks.ranks, theirs.ranks) and np.array_equal(ranks.offsets, theirs.offsets):
        same.append("ranks")
    if same:
        raise SubmissionError(
            f"{where}: it has the same {', '.join(same)} as '{other.path}', which is {other.name}, by "
            f"{other.described['by']}: one run is one submission"
        )


def _check_agreement(computed: Mapping[str, float], said: Mapping[str, float], where: str, source: str) -> None:
    for name, value in computed.items():
        if not abs(said.get(name, np.nan) - value) <= TOLERANCE:
            raise ResultError(f"{where}: it says {name} {said.get(name)}, and the {source} give {value:.4f}")


def _check_log(log: bytes, measured: Measured, cfg: CfgNode, images: int | None, where: str) -> None:
    """Refuse a training log that does not end with the result, or not where the recipe ends."""
    try:
        curves = read_log(log.decode())
    except _UNREADABLE as error:
        raise SubmissionError(f"{where}: its training log cannot be read: {error}") from error
    for name, ours in METRIC_NAMES.items():
        said = measured.metrics.get(ours, np.nan)
        if name not in curves or not abs(curves[name][1][-1] - said) <= TOLERANCE:
            raise SubmissionError(f"{where}: its result says {name} {said}, and its training log does not end with it")
    if images is not None:
        planned = cfg.SOLVER.MAX_EPOCH * (images // cfg.SOLVER.IMS_PER_BATCH)
        done = int(curves["mAP"][0][-1])
        if not abs(done - planned) <= _LENGTH * planned:
            raise SubmissionError(
                f"{where}: its training log ends after {done} iterations, and the recipe is of {planned}"
            )


def _check_images(
    images: ImageList, cfg: CfgNode, dataset: str, look: bool, where: str, checked: list[str], unseen: list[str]
) -> None:
    """Hold the test images against the dataset's, where these are here, and note which of the two it is."""
    here = f"whether they are {dataset}'s own images: the dataset is not on this machine"
    if look:
        try:
            found = load_dataset(dataset, cfg)
        except (ValueError, OSError):
            look = False
        else:
            own, _ = ImageList.of([*found.query, *found.gallery], len(found.query))
            if own.digest != images.digest:
                raise SubmissionError(f"{where}: its test images are not those of {dataset} on this machine")
            checked.append(f"the test images are those of {dataset} on this machine")
    if not look:
        unseen.append(here)


def _check_weights(submission: Submission, run: Run, weights: str | Path, dataset: str, where: str) -> None:
    """Evaluate the weights once more and refuse a submission that is not of them, or whose queries do otherwise."""
    cfg, model = load_trained(run, weights, "")
    if model_fingerprint(cfg, model) != submission.described["fingerprint"]:
        raise SubmissionError(f"{where}: '{weights}' is another model than the one that it is of (fingerprint)")
    ranks, images, _ = _evaluate(cfg, model, dataset)
    if images.digest != submission.images.digest:
        raise SubmissionError(f"{where}: its test images are not those of {dataset} on this machine")
    for name, (ours, theirs) in {
        "average precision": (ranks.average_precision(), submission.ranks.average_precision()),
        "first rank": (ranks.first_match() == 1, submission.ranks.first_match() == 1),
    }.items():
        apart = 100 * float(np.nanmean(np.abs(ours.astype(np.float64) - theirs)))
        if not apart <= TOLERANCE:
            raise SubmissionError(
                f"{where}: the weights give other ranks: {name} differs by {apart:.2f} points a query"
            )
