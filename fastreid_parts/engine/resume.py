"""A resumed run is one run: what its config and its data may change, and where its schedule stands.

The rule: a key may change if the run so far would have been the same with the new value, or if it says how long, where
and how the run goes on. What is given then holds from the epoch reached on, and the schedule goes on as that of a run
that had it from the start, counted in epochs. Everything else is refused.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.engine import hooks
from fastreid.utils import comm

from ..config import flat_keys
from ..files import read_yaml
from ..folders import dumped_keys
from ..settings import all_keys, trains

logger = logging.getLogger(__name__)


class ResumeError(ValueError):
    """A checkpoint of a run with other settings, or of other data."""


@dataclass(frozen=True)
class Change:
    """One key whose value is not the checkpoint's.

    Attributes:
        epochs_done: finished epochs.
        same_images: the training set is that of the checkpoint; False where that is not known.
    """

    key: str
    old: Any
    new: Any
    epochs_done: int
    same_images: bool

    def __str__(self) -> str:
        return f"{self.key} is {self.new!r} and was {self.old!r}"


def _always(change: Change) -> bool:
    return True


def _decays_to_come(change: Change) -> bool:
    old, new = ([step for step in steps if step <= change.epochs_done] for steps in (change.old, change.new))
    return sorted(old) == sorted(new)


class Rule(NamedTuple):
    """What a change of some keys does to a resumed run.

    Attributes:
        keys: names, or sections with the dot at their end.
        allows: whether a change is one that the run can go on with.
        effect: what becomes of it.
    """

    keys: tuple[str, ...]
    allows: Callable[[Change], bool]
    effect: str


_EVALUATION = ("TEST.", "DATASETS.TESTS", "INPUT.SIZE_TEST")
_SAME_METRIC = ("TEST.EVAL_PERIOD", "TEST.IMS_PER_BATCH", "TEST.EVALUATOR", "TEST.BLOCK_ROWS")

#: The first that names a key counts. Keys that no training step reads (`settings.Key.role`) may change as well.
RULES = (
    Rule(("SOLVER.MAX_EPOCH",), _always, "the schedule goes on as that of a run of this length"),
    Rule(("SOLVER.STEPS",), _decays_to_come, "decays to come"),
    Rule(_EVALUATION, _always, "for evaluations from here on"),
    Rule(
        (
            *("OUTPUT_DIR", "MODEL.DEVICE", "CUDNN_BENCHMARK", "DATALOADER.NUM_WORKERS"),
            *("SOLVER.CHECKPOINT_PERIOD", "SOLVER.FIND_UNUSED_PARAMETERS"),
        ),
        _always,
        "from here on",
    ),
    Rule(
        ("DATASETS.", "DATALOADER.CHECK_IMAGES", "DATALOADER.BAD_IMAGES"),
        lambda change: change.same_images,
        "the training images are the same",
    ),
    Rule(
        ("MODEL.WEIGHTS", "MODEL.BACKBONE.PRETRAIN", "MODEL.BACKBONE.PRETRAIN_PATH"),
        lambda change: not change.new,
        "read at the start, and no more",
    ),
)


def effect_of(change: Change) -> str | None:
    """Say what becomes of a changed key, None where the run cannot go on with it."""
    for rule in RULES:
        if any(change.key == name or (name.endswith(".") and change.key.startswith(name)) for name in rule.keys):
            return rule.effect if rule.allows(change) else None
    return None if trains(change.key, change.old) or trains(change.key, change.new) else "from here on"


def changes_metric(change: Change) -> bool:
    """Tell whether metrics of before and after a change compare nothing."""
    if change.key.startswith(_EVALUATION):
        return change.key not in _SAME_METRIC
    return any(one.name == change.key and one.role == "test" for one in all_keys())


def describe_data(dataset: Any) -> dict[str, Any] | None:
    """Describe a training set by digests: of its images (name, identity, camera, bytes) and of its identities.

    The folder that all images are in does not count, so a dataset may move.

    Args:
        dataset: one of the host's, with `img_items`; None comes back for others.
    """
    items = getattr(dataset, "img_items", None)
    if not items:
        return None
    paths = [str(item[0]) for item in items]
    folder = len(os.path.dirname(os.path.commonprefix(paths)))
    images = [f"{path[folder:]} {item[1]} {item[2]} {_size(path)}" for path, item in zip(paths, items, strict=True)]
    identities = sorted({str(item[1]) for item in items})
    return {
        "images": len(images),
        "identities": len(identities),
        "digest": _digest(images),
        "classes": _digest(identities),
    }


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # no file: a dataset may read from elsewhere
        return -1


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def entries(trainer: Any) -> dict[str, Any]:
    """Collect what each checkpoint of a run carries beside its state, for the next run to compare with.

    Args:
        trainer: the host's or the plugin's.
    """
    found = {
        "config": trainer.cfg.dump(),
        "data": describe_data(trainer.data_loader.dataset),
        "iters_per_epoch": trainer.iters_per_epoch,
        "processes": comm.get_world_size(),
        "changes": getattr(trainer, "changes", []),
    }
    return {**found, "seed": trainer.seed} if hasattr(trainer, "seed") else found


def changed_keys(cfg: CfgNode, checkpoint: Mapping[str, Any], same_images: bool) -> list[Change]:
    """Compare the config with a checkpoint's, key by key.

    A key that the checkpoint's config lacks, as it is of an older version, had its default.

    Args:
        cfg: the config that is given.
        checkpoint: its entries `config`, `seed` and `epoch`.
        same_images: whether the training set is that of the checkpoint.
    """
    given, stored = dumped_keys(cfg), flat_keys(read_yaml(checkpoint["config"]))
    was = {**dumped_keys(get_cfg()), **stored}
    was["SEED"] = checkpoint.get("seed", was["SEED"])
    if given["SEED"] < 0:  # the run keeps the one that it drew
        given.pop("SEED")
    if given["SOLVER.FREEZE_EPOCHS"] > 0:  # then the other follows from it and the size of the training set
        given.pop("SOLVER.FREEZE_ITERS")
    epochs_done = checkpoint.get("epoch", -1) + 1
    return [
        Change(key, was[key], value, epochs_done, same_images)
        for key, value in given.items()
        if key in was and value != was[key]
    ]


def check_resumed(trainer: Any, checkpoint: Mapping[str, Any]) -> None:
    """Compare a run with the checkpoint that it is to go on from; what may change is logged.

    A checkpoint that carries no config, as fast-reid's own, is not compared.

    Args:
        trainer: built from the config that is given; its `changes` and `best_metric` are set.
        checkpoint: what the file holds.

    Raises:
        ResumeError: keys, or the identities of the training set, differ that the run cannot go on with.
    """
    then, now = checkpoint.get("data"), describe_data(trainer.data_loader.dataset)
    same_images = then is not None and then == now
    changes = changed_keys(trainer.cfg, checkpoint, same_images) if "config" in checkpoint else []
    refused = [str(change) for change in changes if effect_of(change) is None]
    if then and now and then["classes"] != now["classes"]:
        refused.append(f"the training set has {now['identities']} identities, not the {then['identities']} of then")
    folder = trainer.cfg.OUTPUT_DIR
    if refused:
        lines = "\n".join(f"  {line}" for line in refused)
        raise ResumeError(
            f"the run in {folder} cannot go on with other settings:\n{lines}\n"
            f"Resume it with the old values, which {folder}/config.yaml holds; or start a new run from its weights, "
            "without --resume, with MODEL.WEIGHTS and another OUTPUT_DIR."
        )
    _check_optimizer(trainer, checkpoint)
    for change in changes:
        logger.info(f"resumed with another setting: {change} ({effect_of(change)})")
    if then and now and then != now:
        logger.warning(
            f"the training set has other images than at the checkpoint, of the same identities: {now['images']} "
            f"images and {trainer.iters_per_epoch} iterations an epoch; then "
            f"{then['images']} and {checkpoint['iters_per_epoch']}"
        )
    processes = comm.get_world_size()
    before = checkpoint.get("processes", processes)
    if before != processes:
        logger.warning(
            f"the run goes on with {processes} process(es) and had {before}: each takes its own share of a batch, for "
            "batch norm and triplets, and draws its own augmentation, so it ends otherwise than an unbroken run"
        )
        changes.append(Change("processes", before, processes, checkpoint.get("epoch", -1) + 1, same_images))
    trainer.changes = [
        *checkpoint.get("changes", []),
        *({"epoch": change.epochs_done, "key": change.key, "old": change.old, "new": change.new} for change in changes),
    ]
    trainer.best_metric = checkpoint.get("best_metric")
    if trainer.best_metric is not None and any(map(changes_metric, changes)):
        logger.warning(
            f"evaluation changed: model_best is chosen anew, and the {trainer.best_metric:.4f} so far does not count"
        )
        trainer.best_metric = None


def _check_optimizer(trainer: Any, checkpoint: Mapping[str, Any]) -> None:
    """Refuse an optimizer of other parameters, which torch would after the weights are loaded."""
    state, optimizer = checkpoint.get("optimizer"), getattr(trainer, "optimizer", None)
    if state is None or optimizer is None:
        return
    then, now = ([len(one["params"]) for one in groups] for groups in (state["param_groups"], optimizer.param_groups))
    if then != now:
        raise ResumeError(
            f"the run in {trainer.cfg.OUTPUT_DIR} cannot go on: its checkpoint holds an optimizer of {sum(then)} "
            f"parameters in {len(then)} groups, and here it has {sum(now)} in {len(now)}. fast-reid alone keeps all "
            "parameters of a group in one. Begin a new run from its weights, without --resume (resume=False): "
            "MODEL.WEIGHTS, and another OUTPUT_DIR."
        )


def check_same_start(trainer: Any, checkpoint: str) -> None:
    """See that all processes begin at the same place with the same weights; collective.

    Each reads OUTPUT_DIR and MODEL.WEIGHTS on its own machine.

    Args:
        trainer: the host's or the plugin's, after it loaded what it begins with.
        checkpoint: the name of the file that it goes on from, or what stands for none.

    Raises:
        ResumeError: they do not.
    """
    if comm.get_world_size() == 1:
        return
    digest = hashlib.sha256()
    for tensor in trainer.checkpointer.model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    starts = comm.all_gather((checkpoint, trainer.start_epoch, trainer.start_iteration, digest.hexdigest()[:8]))
    if len(set(starts)) > 1:
        lines = "\n".join(
            f"  process {rank}: {name}, epoch {epoch + 1}, iteration {iteration}, weights {weights}"
            for rank, (name, epoch, iteration, weights) in enumerate(starts)
        )
        raise ResumeError(
            f"the processes do not begin at the same place:\n{lines}\nEach reads OUTPUT_DIR {trainer.cfg.OUTPUT_DIR} "
            "and MODEL.WEIGHTS on its own machine: name one folder that all see, or copy the files to every machine."
        )


class FreshSchedule:
    """The schedules as a config starts them, to be stepped to where a run goes on.

    What a checkpoint holds of them is its own length and rates; the given config's are stepped anew, as the host's hook
    steps them, so that a longer run follows its curve.

    Args:
        trainer: before a checkpoint is loaded.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.rates = [
            {name: group[name] for name in ("lr", "initial_lr") if name in group}
            for group in trainer.optimizer.param_groups
        ]
        self.states = {name: copy.deepcopy(one.state_dict()) for name, one in trainer.scheduler.items()}

    def step_to(self, epochs: int, iterations: int) -> None:
        """Step the schedules to a point of the run.

        Args:
            epochs: finished ones.
            iterations: finished ones of the next epoch.
        """
        trainer = self.trainer
        for group, rates in zip(trainer.optimizer.param_groups, self.rates, strict=True):
            group.update(rates)
        for name, state in self.states.items():
            trainer.scheduler[name].load_state_dict(copy.deepcopy(state))
        hook = hooks.LRScheduler(trainer.optimizer, trainer.scheduler)
        hook.trainer = at = SimpleNamespace(
            iter=0,
            epoch=0,
            grad_scaler=None,
            warmup_iters=trainer.warmup_iters,
            delay_epochs=trainer.delay_epochs,
            storage=SimpleNamespace(put_scalar=lambda *args, **kwargs: None),
        )
        hook.before_train()
        per_epoch = trainer.iters_per_epoch
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch misses the optimizer's steps
            for at.iter in range(epochs * per_epoch + iterations):
                hook.after_step()
                at.epoch = at.iter // per_epoch
                if (at.iter + 1) % per_epoch == 0 and at.epoch < epochs:
                    at.iter += 1  # the host counts it before an epoch ends
                    hook.after_epoch()
