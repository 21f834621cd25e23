"""PartsTrainer: fast-reid's trainer, repeatable and resumable, with what the plugin's methods need of it."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.engine import hooks
from fastreid.engine.defaults import DefaultTrainer
from fastreid.engine.train_loop import TrainerBase
from fastreid.utils import comm
from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.events import EventWriter, JSONWriter, TensorboardXWriter
from fastreid.utils.logger import setup_logger
from torch import nn

from ..cpus import keep_freed_memory
from ..data.build import build_reid_train_loader
from ..devices import available
from ..files import write_bytes
from ..folders import RunFolder
from ..seeding import draw_seed, iteration_seed, seed_epoch, seed_generators
from .checks import check_run, check_training
from .distributed import take_gpu, wrap_distributed
from .hooks import EpochCheckpointer, ProgressLine, RateWatch, SeededPreciseBN
from .solver import build_lr_scheduler, build_optimizer
from .step import TrainStep

logger = logging.getLogger(__name__)

_WRITTEN_EVERY = 20  # iterations; an epoch's last one is written too


class PartsTrainer(DefaultTrainer):
    """Train and evaluate a config.

    Beside what `DefaultTrainer` does:

    - every iteration is a function of (SEED, epoch, iteration) and the weights it starts from, so a run repeats exactly
      on the CPU, with any number of workers, and one that was killed or stopped and resumed ends with the weights of
      one that was not;
    - a run resumes as itself: other settings are obeyed where they may change and refused by name where not (`resume`);
    - a model can take several optimizer steps on one mini-batch (`update_steps`);
    - FREEZE_EPOCHS, AMSGRAD, LR_FACTORS, mixed precision without a GPU, several processes without a GPU;
    - checkpoints carry the config, the seed, a digest of the training set and the best metric;
    - mistakes in the config, and in the data that are trained or tested on, are found before training starts.

    Args:
        cfg: the config; it is not changed.
        resume: the run goes on from a checkpoint of OUTPUT_DIR if there is one, so that the weights that it began with
            need not be there any more.

    Raises:
        ValueError: the config, the data or the model do not fit together; the message says which key to change.
    """

    def __init__(self, cfg: CfgNode, resume: bool = False) -> None:
        TrainerBase.__init__(self)
        if not logging.getLogger("fastreid").isEnabledFor(logging.INFO):
            setup_logger()
        self._goes_on = resume and os.path.isfile(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"))
        check_training(cfg, begins=not self._goes_on)
        take_gpu(cfg.MODEL.DEVICE)
        self.run_folder = RunFolder(cfg)
        self.seed = draw_seed(cfg.SEED)
        seed_epoch(self.seed, -1)  # a dataset may draw its items, and a sampler draws the order before the first epoch

        data_loader = self.build_train_loader(cfg)
        cfg = self.auto_scale_hyperparams(cfg, data_loader.dataset.num_classes)
        self.iters_per_epoch = len(data_loader.dataset) // cfg.SOLVER.IMS_PER_BATCH
        cfg = _freeze_iterations(cfg, self.iters_per_epoch)
        data_loader.batch_sampler.num_batches = self.iters_per_epoch
        for name in cfg.DATASETS.TESTS:  # whatever TEST.EVAL_PERIOD is, a run ends with an evaluation
            self.build_test_loader(cfg, name)  # raises where that evaluation would

        seed_epoch(self.seed, -1)  # the weights do not depend on what reading the data drew
        model = self.build_model(_without_pretraining(cfg) if self._goes_on else cfg)
        check_run(cfg, model, self.iters_per_epoch)
        optimizer, param_wrapper = self.build_optimizer(cfg, model)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer, self.iters_per_epoch)
        model = wrap_distributed(model, cfg)
        self._trainer = TrainStep.from_cfg(cfg, model, data_loader, optimizer, param_wrapper)
        states = {"optimizer": optimizer, **self.scheduler}
        if self.grad_scaler is not None:
            states["grad_scaler"] = self.grad_scaler
        self.checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, save_to_disk=comm.is_main_process(), **states)

        self.start_epoch = 0
        self.start_iteration = self._logged_iterations = 0
        self.max_epoch = cfg.SOLVER.MAX_EPOCH
        self.max_iter = self.max_epoch * self.iters_per_epoch
        self.warmup_iters = cfg.SOLVER.WARMUP_ITERS
        self.delay_epochs = cfg.SOLVER.DELAY_EPOCHS
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    # ---- what it is made of -----------------------------------------------------------------------------------

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Build the loader of DATASETS.NAMES."""
        return build_reid_train_loader(cfg, combineall=cfg.DATASETS.COMBINEALL)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
        """Build the optimizer; see `solver.build_optimizer`.

        Args:
            cfg: the config.
            model: to be trained.
        """
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer, iters_per_epoch: int) -> dict[str, Any]:
        """Build the schedules; see `solver.build_lr_scheduler`.

        Args:
            cfg: the config.
            optimizer: whose rates they set.
            iters_per_epoch: iterations of an epoch.
        """
        return build_lr_scheduler(cfg, optimizer, iters_per_epoch)

    def build_hooks(self) -> list[hooks.HookBase]:
        """Build the host's hooks in the host's order, with a checkpointer that survives resuming."""
        cfg = self.cfg
        result: list[hooks.HookBase] = [
            hooks.IterationTimer(),
            hooks.LRScheduler(self.optimizer, self.scheduler),
        ]
        if cfg.TEST.PRECISE_BN.ENABLED and hooks.get_bn_modules(self.model):
            precise = cfg.clone()
            precise.defrost()
            precise.DATALOADER.NUM_WORKERS = 0
            precise.DATASETS.NAMES = (cfg.TEST.PRECISE_BN.DATASET,)
            loader = self.build_train_loader(precise)
            result.append(SeededPreciseBN(self.model, loader, cfg.TEST.PRECISE_BN.NUM_ITER))
        if len(cfg.MODEL.FREEZE_LAYERS) and cfg.SOLVER.FREEZE_ITERS > 0:
            result.append(hooks.LayerFreeze(self.model, cfg.MODEL.FREEZE_LAYERS, cfg.SOLVER.FREEZE_ITERS))

        def evaluate() -> dict[str, Any]:
            self._last_eval_results = self.test(self.cfg, self.model)
            return self._last_eval_results

        result.append(hooks.EvalHook(cfg.TEST.EVAL_PERIOD, evaluate))
        if comm.is_main_process():
            metric = f"{cfg.DATASETS.TESTS[0]}/metric" if len(cfg.DATASETS.TESTS) > 1 else "metric"
            kept = cfg.SOLVER.CHECKPOINTS_KEPT
            result.append(EpochCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, metric, kept))
            result += [ProgressLine(cfg.SOLVER.IMS_PER_BATCH), RateWatch()]
            result.append(hooks.PeriodicWriter(self.build_writers(), period=_WRITTEN_EVERY))
        return result

    def build_writers(self) -> list[EventWriter]:
        """Build those of metrics.json and tensorboard; `ProgressLine` talks to the person who waits."""
        directory = self.cfg.OUTPUT_DIR
        os.makedirs(directory, exist_ok=True)
        return [
            JSONWriter(os.path.join(directory, "metrics.json")),
            TensorboardXWriter(directory),
        ]

    # ---- running ------------------------------------------------------------------------------------------------

    def resume_or_load(self, resume: bool = True, overwrite: bool = False) -> None:
        """Resume from the last checkpoint of OUTPUT_DIR if there is one, otherwise load MODEL.WEIGHTS if set.

        Args:
            resume: look for a checkpoint.
            overwrite: put a finished run, or another one, in OUTPUT_DIR aside as soon as the training starts.

        Raises:
            ResumeError: the checkpoint is of a run with other settings or data than this one may go on with.
            ValueError: OUTPUT_DIR holds a run that this one may not write over, or another process trains there; or the
                trainer was built with `resume` and is not to.
        """
        if self._goes_on and not (resume and self.checkpointer.has_checkpoint()):
            raise ValueError("this trainer was built to resume, without pre-trained weights, and begins: build it anew")
        self.run_folder.claim(resume, overwrite)
        super().resume_or_load(resume)
        if not (resume and self.checkpointer.has_checkpoint()):
            return
        file, checkpoint = self.checkpointer.get_checkpoint_file(), self.checkpointer.last_extra
        if self.start_epoch < self.max_epoch and os.path.basename(file).startswith("weights_"):
            raise ValueError(
                f"the run in {self.cfg.OUTPUT_DIR} kept its weights alone (SOLVER.CHECKPOINTS_KEPT 0) and cannot go on "
                f"to epoch {self.max_epoch}: MODEL.WEIGHTS {file} and another OUTPUT_DIR begin a training with them"
            )
        self.seed = checkpoint.get("seed", self.seed)
        before = checkpoint.get("iters_per_epoch", self.iters_per_epoch)
        self._logged_iterations = self.start_epoch * before + self.start_iteration

    def train(self) -> dict[str, Any] | None:
        """Run to the last epoch; a run that is there already is only evaluated.

        Returns:
            The results of the last evaluation on the main process, in the host's form, None on others.
        """
        logger.info(
            f"seed {self.seed}: epochs {self.start_epoch} to {self.max_epoch}, {self.iters_per_epoch} iterations each"
        )
        if available(self.cfg.MODEL.DEVICE).type == "cpu":
            keep_freed_memory()
        if self.start_epoch < self.max_epoch:
            self.run_folder.start(self.cfg)
        if comm.is_main_process():
            self._go_on_with_metrics(self.start_epoch * self.iters_per_epoch + self.start_iteration)
        return super().train()

    def before_epoch(self) -> None:
        """Seed the epoch, and have its loader leave out what a stopped run has done of it."""
        seed_epoch(self.seed, self.epoch)
        done = self.iter - self.epoch * self.iters_per_epoch
        self.data_loader.batch_sampler.set_epoch(self.seed, self.epoch, done)
        self._trainer.start_epoch()
        super().before_epoch()

    def before_step(self) -> None:
        """Seed the iteration; one that is written to the logs computes what mechanisms do as well."""
        within = self.iter - self.epoch * self.iters_per_epoch
        seed_generators(iteration_seed(self.seed, self.epoch, within, purpose=0))
        self._trainer.watched = (self.iter + 1) % _WRITTEN_EVERY == 0 or within + 1 == self.iters_per_epoch
        super().before_step()

    def _go_on_with_metrics(self, iteration: int) -> None:
        """Drop the lines of metrics.json that this run writes again.

        Where an epoch has another number of iterations than before, iterations of before are counted anew, so that the
        file goes on at the same epoch.
        """
        logged = self._logged_iterations
        path = os.path.join(self.cfg.OUTPUT_DIR, "metrics.json")
        if not os.path.isfile(path):
            return
        with open(path) as file:
            lines = file.readlines()
        kept = []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:  # cut off by a kill
                continue
            # An evaluation is logged under the first iteration after it.
            if entry["iteration"] < logged or (entry["iteration"] == logged and "mAP" in line):
                if logged != iteration:
                    line = json.dumps({**entry, "iteration": entry["iteration"] * iteration // logged}) + "\n"
                kept.append(line)
        if kept != lines:
            write_bytes(path, "".join(kept).encode())


def _without_pretraining(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.PRETRAIN = False
    cfg.freeze()
    return cfg


def _freeze_iterations(cfg: CfgNode, iters_per_epoch: int) -> CfgNode:
    """FREEZE_EPOCHS in iterations, which is what the host counts in."""
    if cfg.SOLVER.FREEZE_EPOCHS <= 0:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.FREEZE_ITERS = cfg.SOLVER.FREEZE_EPOCHS * iters_per_epoch
    cfg.freeze()
    return cfg
