"""The host's training engine: optimizer, mixed precision, hooks, several processes, runs that end early or late."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from fastreid.data import build as host_build
from fastreid.data.transforms import build as host_transforms
from fastreid.engine import defaults, hooks, train_loop
from fastreid.solver import build as host_solver
from fastreid.solver import optim as host_optim
from fastreid.utils import comm, events
from fastreid.utils.checkpoint import PeriodicCheckpointer
from fastreid.utils.events import EventStorage
from torch import nn

from ..data import build as data_build
from ..data import transforms as data_transforms
from ..data.loader import LoaderError
from ..engine import distributed, solver
from ..engine.checks import check_host_evaluator, check_run, check_stock_trainer, check_training
from ..engine.resume import FreshSchedule, check_resumed, check_same_start, entries
from ..engine.step import TrainStep, update_steps
from ..engine.stopping import StopFlag, Stopped, stop_flag, stop_process
from ..evaluation.evaluator import PartsEvaluator
from ..files import write_bytes
from ..folders import RunFolder
from ..seeding import seed_epoch
from ..version import versions
from .checkpoint import STOPPED
from .overlay import replace, wrap

logger = logging.getLogger(__name__)


def apply() -> None:
    """Patch the engine in place."""
    # What the plugin says goes where the host's log goes, in its form.
    logging.getLogger("fastreid_parts").parent = logging.getLogger("fastreid")
    _patch_loaders()
    _patch_solver()
    replace(train_loop, "AMPTrainer", _AMPTrainer)
    wrap(train_loop.SimpleTrainer, "__init__", _init_simple_trainer)
    _patch_launch()
    _patch_hooks()
    for writer in (events.JSONWriter, events.TensorboardXWriter):
        wrap(writer, "__init__", _init_writer_later)
        writer.__getattr__ = _init_writer_now
    train_loop.TrainerBase.train = _train_from_iteration
    _patch_default_trainer()
    wrap(host_optim.SWA, "__init__", _init_swa)


def _patch_loaders() -> None:
    """data/build.py: endless unsorted order without a seed, four workers whatever is asked, datasets without keys."""
    for name in ("build_reid_train_loader", "build_reid_test_loader"):
        replace(host_build, name, getattr(data_build, name))
    replace(host_transforms, "build_transforms", data_transforms.build_transforms)


def _patch_solver() -> None:
    """solver/build.py: flat parameters that torch 2 detaches, prefix matching, factors and decays that miss.

    The optimizer is the plugin's: no flat buffers unless asked for, and with them gradients that stay. The scheduler
    is the host's, with a clear error where it would divide by zero.
    """
    for name in ("build_optimizer", "build_lr_scheduler"):
        replace(host_solver, name, getattr(solver, name))


class _AMPTrainer(TrainStep):
    """engine/train_loop.py:335: asserts CUDA for mixed precision, with names that torch deprecates."""

    def __init__(
        self, model: nn.Module, data_loader: Any, optimizer: Any, param_wrapper: Any, grad_scaler: Any = None
    ) -> None:
        _refuse_early_optimizer(optimizer, param_wrapper)
        super().__init__(model, data_loader, optimizer, param_wrapper, amp=True, grad_scaler=grad_scaler)


def _init_simple_trainer(
    original: Callable, self: Any, model: nn.Module, data_loader: Any, optimizer: Any, param_wrapper: Any
) -> None:
    """engine/train_loop.py:248 and 346: on torch 2 no weight moves: zero_grad() drops flat parameters' gradients.

    The optimizer that the patched builder makes keeps them. One that the host's own made is refused.
    """
    _refuse_early_optimizer(optimizer, param_wrapper)
    original(self, model, data_loader, optimizer, param_wrapper)


def _refuse_early_optimizer(optimizer: Any, param_wrapper: Any) -> None:
    if isinstance(param_wrapper, train_loop.ContiguousParams) and not hasattr(optimizer, "keeps_gradient_buffers"):
        raise RuntimeError(
            "this optimizer was built by fast-reid's own build_optimizer, bound before fastreid_parts was imported; "
            "its parameters would never move on torch 2. Move `import fastreid_parts` above "
            "`from fastreid.solver import build_optimizer`."
        )


def _patch_launch() -> None:
    """engine/launch.py: asserts CUDA, knows NCCL only and not torchrun; wraps a model on the CPU with device_ids."""
    host_launch = sys.modules["fastreid.engine.launch"]  # the package has a function under the module's name
    replace(host_launch, "launch", distributed.launch)
    host_launch._distributed_worker = distributed._spawned_worker  # type: ignore[attr-defined]

    def wrap(model: nn.Module, device_ids: Any = None, **kwargs: Any) -> nn.Module:
        return distributed.wrap_distributed(model, **kwargs)

    defaults.DistributedDataParallel = wrap


def _patch_hooks() -> None:
    """engine/hooks.py: warm-up (length; AMP), freezing that evaluation undoes, evaluations unlogged, periods of 0."""
    hooks.LRScheduler.before_train = _take_warmup_length
    wrap(hooks.LRScheduler, "after_step", _warm_up_at_any_scale)
    hooks.LayerFreeze.before_step = _freeze_before_step
    wrap(hooks.EvalHook, "_do_eval", _numbered_evaluation)
    hooks.EvalHook.after_epoch = _evaluate_after_epoch
    hooks.EvalHook.after_train = _drop_evaluation
    hooks.PeriodicWriter.after_train = _write_then_close
    wrap(PeriodicCheckpointer, "step", _periodic_or_last)
    wrap(hooks.PeriodicCheckpointer, "before_train", _metric_of_any_tests)


def _take_warmup_length(self: Any) -> None:
    """engine/hooks.py: the trainer holds SOLVER.WARMUP_ITERS, whatever WARMUP_EPOCHS says; the scheduler knows."""
    warmup = self._scheduler.get("warmup_sched")
    self.trainer.warmup_iters = 0 if warmup is None else warmup.warmup_iters


def _warm_up_at_any_scale(original: Callable, self: Any) -> None:
    """engine/hooks.py: the warm-up step of an iteration that changed AMP's gradient scale is left out for good.

    The rate would stay below BASE_LR for the rest of the run.
    """
    if self.trainer.grad_scaler is not None:
        self._scale = self.trainer.grad_scaler.get_scale()
    original(self)


def _freeze_before_step(self: Any) -> None:
    """engine/hooks.py: frozen layers come loose at the first evaluation, and freezing starts over on resume.

    The host sets batch norm to evaluation mode once, looks at top-level children only, and counts the optimizer's
    frozen steps from zero again. Here it goes by the trainer's iteration, each step anew, below what the names match
    for the optimizer, which has checked them.
    """
    frozen = self.trainer.iter < self.freeze_iters
    if not frozen and not self.is_frozen:
        return
    updates = len(update_steps(self.model))
    solver.set_frozen_steps(self.trainer.optimizer, (self.freeze_iters - self.trainer.iter) * updates)
    for module in solver.modules_below(self.model, self.freeze_layers):
        if module.training == frozen:
            module.train(not frozen)
    if frozen != self.is_frozen:
        layers = ", ".join(self.freeze_layers)
        self._logger.info(
            f"Frozen for {self.freeze_iters - self.trainer.iter} iterations: {layers}"
            if frozen
            else f"Training: {layers}"
        )
    self.is_frozen = frozen


def _numbered_evaluation(original: Callable, self: Any) -> None:
    """engine/hooks.py: an evaluation has the number of the last iteration, under which metrics.json drops it."""
    self.trainer.storage.iter = self.trainer.iter
    original(self)


def _evaluate_after_epoch(self: Any) -> None:
    """engine/hooks.py: EVAL_PERIOD 0 divides by zero, and the last evaluation comes when the logs are written."""
    done = self.trainer.epoch + 1
    if done >= self.trainer.max_epoch or (self._period > 0 and done % self._period == 0):
        self._do_eval()


def _drop_evaluation(self: Any) -> None:
    del self._func  # it may hold the trainer


def _write_then_close(self: Any) -> None:
    for writer in self._writers:
        writer.write()
        writer.close()


def _metric_of_any_tests(original: Callable, self: Any) -> None:
    """engine/hooks.py:198, `PeriodicCheckpointer`: IndexError where DATASETS.TESTS is empty, to train alone."""
    if self.trainer.cfg.DATASETS.TESTS:
        original(self)
    else:
        self.max_epoch, self.metric_name = self.trainer.max_epoch, "metric"


def _periodic_or_last(original: Callable, self: Any, epoch: int, **kwargs: Any) -> None:
    """utils/checkpoint.py: CHECKPOINT_PERIOD 0 divides by zero: it means the last epoch only.

    The metric of a resumed run's best checkpoint is kept.
    """
    if self.period <= 0:
        self.period = sys.maxsize
    original(self, epoch, **{**kwargs, "best_metric": max(self.best_metric, kwargs.get("metric", -1))})


def _init_writer_later(original: Callable, self: Any, *args: Any, **kwargs: Any) -> None:
    """utils/events.py: files are opened when a trainer is built, before it is known whether OUTPUT_DIR is its own."""
    self.late = functools.partial(original, self, *args, **kwargs)


def _init_writer_now(self: Any, name: str) -> Any:
    """Python asks here for what a writer does not have, or not yet."""
    if "late" not in vars(self):
        raise AttributeError(name)
    vars(self).pop("late")()
    return getattr(self, name)


def _train_from_iteration(self: Any, start_epoch: int, max_epoch: int, iters_per_epoch: int) -> None:
    """engine/train_loop.py: a run that is asked to stop dies where it is, and could go on from an epoch's start only.

    With SIGTERM or SIGINT, all processes finish the same iteration, process 0 writes a checkpoint, and the process ends
    as is usual for the signal. What has no trainer of the host's checkpointing around it stops without one.
    """
    logging.getLogger(train_loop.__name__).info(f"Starting training from epoch {start_epoch}")
    self.iter = self.start_iter = start_epoch * iters_per_epoch + getattr(self, "start_iteration", 0)
    with stop_flag() as flag, EventStorage(self.start_iter) as self.storage:
        try:
            self.before_train()
            for self.epoch in range(start_epoch, max_epoch):
                self.before_epoch()
                while self.iter < (self.epoch + 1) * iters_per_epoch:
                    self.before_step()
                    try:
                        self.run_step()
                    except LoaderError:  # a signal to all processes ends the loader's, too
                        if comm.get_world_size() == 1:
                            _stop_if_asked(self, flag, iters_per_epoch)
                        raise
                    self.after_step()
                    self.iter += 1
                    _stop_if_asked(self, flag, iters_per_epoch)
                with _stopping_evaluations(self, flag, iters_per_epoch):
                    self.after_epoch()
        except Exception:
            train_loop.logger.exception("Exception during training:")
            raise
        finally:
            self.after_train()
        if signum := flag.agreed():
            logger.warning(f"{signal.Signals(signum).name}: asked to stop in the last evaluation; the run is finished")
            stop_process(signum)


def _stop_if_asked(trainer: Any, flag: StopFlag, iters_per_epoch: int) -> None:
    if not (signum := flag.agreed()):
        return
    checkpointer: Any = getattr(trainer, "checkpointer", None)
    name, within = signal.Signals(signum).name, trainer.iter - trainer.epoch * iters_per_epoch
    at = f"epoch {trainer.epoch + 1}, iteration {within}/{iters_per_epoch}"
    if checkpointer is None:
        logger.warning(f"{name}: stopped after {at}, without a checkpoint")
        stop_process(signum)
    best = [hook.best_metric for hook in trainer._hooks if hasattr(hook, "best_metric")]
    checkpointer.save(STOPPED, epoch=trainer.epoch - 1, iteration=within, best_metric=max(best, default=-1))
    comm.synchronize()  # the others wait for the file: a launcher ends them all when the first is gone
    if comm.is_main_process():
        path = Path(checkpointer.save_dir, f"{STOPPED}.pth")
        logger.warning(f"{name}: stopped after {at}; --resume goes on from there ({path})")
    stop_process(signum)


@contextlib.contextmanager
def _stopping_evaluations(trainer: Any, flag: StopFlag, iters_per_epoch: int) -> Iterator[None]:
    """Leave an evaluation at its next batch, and stop before it; several processes first finish it together."""

    def check(model: nn.Module, inputs: Any) -> None:
        if flag.signum and not model.training:
            raise Stopped

    alone = comm.get_world_size() == 1 and isinstance(getattr(trainer, "model", None), nn.Module)
    hook = trainer.model.register_forward_pre_hook(check) if alone else None
    try:
        yield
    except Stopped:
        _stop_if_asked(trainer, flag, iters_per_epoch)
    finally:
        if hook is not None:
            hook.remove()


def _patch_default_trainer() -> None:
    trainer = defaults.DefaultTrainer
    wrap(trainer, "__init__", _checked_run)
    wrap(trainer, "train", _train_or_evaluate)
    wrap(trainer, "resume_or_load", _resume_one_run)
    wrap(trainer, "auto_scale_hyperparams", _checked_classes)
    replace(trainer, "build_evaluator", classmethod(_build_evaluator))
    wrap(defaults, "default_setup", _seeded_setup)


def _build_evaluator(cls: Any, cfg: Any, dataset_name: str, output_dir: str | None = None) -> tuple[Any, Any]:
    """engine/defaults.py: its evaluator holds the whole matrix of distances and its order. TEST.EVALUATOR chooses."""
    check_host_evaluator(cfg)
    data_loader, num_query = cls.build_test_loader(cfg, dataset_name)
    evaluator = defaults.ReidEvaluator if cfg.TEST.EVALUATOR == "host" else PartsEvaluator
    return data_loader, evaluator(cfg, num_query, output_dir)


def _checked_run(original: Callable, self: Any, cfg: Any) -> None:
    """engine/defaults.py: what is wrong with a config shows after hours, or not at all. PartsTrainer's checks."""
    check_training(cfg)
    check_stock_trainer(cfg)
    distributed.take_gpu(cfg.MODEL.DEVICE)
    original(self, cfg)
    check_run(self.cfg, self.model, self.iters_per_epoch)


def _train_or_evaluate(original: Callable, self: Any) -> Any:
    """engine/defaults.py: resuming a run that is at its last epoch raises; it is evaluated instead."""
    with contextlib.closing(_run_folder(self)) as folder:
        if comm.is_main_process():
            self.checkpointer.entries = entries(self)
        if self.start_epoch < self.max_epoch:
            folder.start(self.cfg)
            return original(self)
    logger.info(f"all {self.max_epoch} epochs are done already: evaluating. Raise SOLVER.MAX_EPOCH to train on.")
    self._last_eval_results = self.test(self.cfg, self.model)
    return self._last_eval_results if comm.is_main_process() else None


def _run_folder(trainer: Any) -> RunFolder:
    """PartsTrainer's, or one for a trainer that knows of none."""
    return vars(trainer).setdefault("run_folder", RunFolder(trainer.cfg))


def _resume_one_run(original: Callable, self: Any, resume: bool = True) -> None:
    """engine/defaults.py: optimizer and schedule come from the checkpoint, all else from the config, uncompared.

    Settings that may not change are refused before anything is loaded; the schedule is stepped to where the run stands.

    engine/hooks.py: the best metric starts over when a run is resumed, so a worse model overwrites model_best.

    engine/defaults.py: whatever lies in OUTPUT_DIR, a new training writes over it.
    """
    _run_folder(self).claim(resume)
    self.start_iteration = 0
    found = resume and self.checkpointer.has_checkpoint()
    if found:
        _go_on(original, self)
    else:
        original(self, resume)
    check_same_start(self, os.path.basename(self.checkpointer.get_checkpoint_file()) if found else "no checkpoint")


def _go_on(original: Callable, self: Any) -> None:
    schedule = FreshSchedule(self)
    self.checkpointer.examine = functools.partial(check_resumed, self)
    try:
        original(self, True)
    finally:
        del self.checkpointer.examine
    checkpoint, processes = self.checkpointer.last_extra, comm.get_world_size()
    same_order = checkpoint.get("processes", processes) == processes
    if checkpoint.get("iters_per_epoch") == self.iters_per_epoch and same_order:
        self.start_iteration = checkpoint.get("iteration", 0)
    elif "iteration" in checkpoint:
        what = "iterations" if same_order else "processes"
        logger.warning(f"epoch {self.start_epoch + 1} is started over: it has another number of {what} now")
    schedule.step_to(self.start_epoch, self.start_iteration)
    for hook in self._hooks:
        if hasattr(hook, "best_metric") and self.best_metric is not None:
            hook.best_metric = self.best_metric


def _checked_classes(original: Callable, cfg: Any, num_classes: int) -> Any:
    """engine/defaults.py: a NUM_CLASSES that is not the training set's fails deep inside a loss, or not at all."""
    configured = cfg.MODEL.HEADS.NUM_CLASSES
    if configured not in (0, num_classes):
        raise ValueError(
            f"MODEL.HEADS.NUM_CLASSES is {configured}, and the training set has {num_classes} identities. Set it to 0, "
            "which takes the number from the data."
        )
    without = cfg.clone()
    without.defrost()
    without.OUTPUT_DIR = ""  # the host writes the config there, whoever's folder it is; `RunFolder.start` does
    scaled = original(without, num_classes)
    scaled.OUTPUT_DIR = cfg.OUTPUT_DIR
    if cfg.is_frozen():
        scaled.freeze()
    return scaled


def _seeded_setup(original: Callable, cfg: Any, args: Any) -> None:
    """engine/defaults.py, `default_setup`: seeds with a number of its own, where SEED is the one that counts.

    It writes config.yaml into OUTPUT_DIR, whoever's folder it is. A training has `RunFolder.start` for that.
    """
    path = Path(cfg.OUTPUT_DIR, "config.yaml")
    before = path.read_bytes() if path.is_file() else None
    original(cfg, args)
    if getattr(args, "eval_only", False):  # of a training, `RunFolder.start` says it
        logger.info(", ".join(f"{name} {version}" for name, version in versions().items()))
    if comm.is_main_process() and cfg.OUTPUT_DIR:
        if before is not None:
            write_bytes(path, before)
        elif not getattr(args, "eval_only", False):
            path.unlink()
    if cfg.get("SEED", -1) >= 0:
        seed_epoch(cfg.SEED, -1)


def _init_swa(original: Callable, self: Any, *args: Any, **kwargs: Any) -> None:
    """solver/optim/swa.py: never calls Optimizer.__init__, whose attributes torch 2 looks for."""
    original(self, *args, **kwargs)
    torch.optim.Optimizer.__setstate__(self, {})
