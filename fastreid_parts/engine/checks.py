"""What is wrong with a config is said before anything is built from it, and what would waste a run before it starts."""

from __future__ import annotations

import logging
import os

from fastreid.config import CfgNode, get_cfg
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.utils import comm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..config import flat_keys
from ..data.build import load_dataset
from ..data.checks import check_named_once
from ..evaluation.evaluator import check_test_keys
from ..losses import LOSSES
from ..losses.cross_entropy import CrossEntropySettings
from ..parts_baseline import PartsBaseline
from ..pretrained import check_weights
from ..settings import Declares, Settings
from ..speed import SpeedSettings, check_compiler
from .amp import AMPSettings
from .solver import SolverSettings

logger = logging.getLogger(__name__)

#: Losses that compare images of one identity, of which a batch must hold two.
_OF_PAIRS = ("TripletLoss", "WRTLoss", "CircleLoss", "Cosface", "LiftedLoss", "ContrastiveLoss")
_RANDOM_SAMPLERS = ("TrainingSampler", "ImbalancedDatasetSampler")


def check_config(cfg: CfgNode, begins: bool = True) -> None:
    """Check the settings that would otherwise fail late, or not at all.

    Args:
        cfg: the config.
        begins: whether a training starts from the weights of MODEL.BACKBONE.PRETRAIN_PATH; nothing else reads them.

    Raises:
        ValueError: the message names the key and its choices.
        FileNotFoundError: there are no weights where MODEL.BACKBONE.PRETRAIN_PATH says.
    """
    check_test_keys(cfg)
    check_host_evaluator(cfg)
    if begins and cfg.MODEL.BACKBONE.PRETRAIN and cfg.MODEL.BACKBONE.PRETRAIN_PATH:
        check_weights(cfg.MODEL.BACKBONE.PRETRAIN_PATH)
    if not cfg.OUTPUT_DIR:
        raise ValueError("OUTPUT_DIR is empty: checkpoints and logs need a folder")
    if os.path.exists(cfg.OUTPUT_DIR) and not os.path.isdir(cfg.OUTPUT_DIR):
        raise ValueError(f"OUTPUT_DIR is '{cfg.OUTPUT_DIR}', which is a file: checkpoints and logs need a folder")
    if cfg.SOLVER.MAX_EPOCH < 1:
        raise ValueError(f"SOLVER.MAX_EPOCH is {cfg.SOLVER.MAX_EPOCH}; a run has at least one epoch")
    world_size = comm.get_world_size()
    for key, batch in (("SOLVER", cfg.SOLVER.IMS_PER_BATCH), ("TEST", cfg.TEST.IMS_PER_BATCH)):
        if batch < 1 or batch % world_size:
            raise ValueError(
                f"{key}.IMS_PER_BATCH is {batch}; it is shared by {world_size} process(es), so it must be a positive "
                "multiple of that"
            )
    if not len(cfg.DATASETS.NAMES):
        raise ValueError("DATASETS.NAMES needs at least one dataset")
    for key in ("NAMES", "TESTS"):
        check_named_once(f"DATASETS.{key}", cfg.DATASETS[key])


def check_host_evaluator(cfg: CfgNode) -> None:
    """Refuse what fast-reid's evaluator, where TEST.EVALUATOR asks for it, would pass over in silence.

    Raises:
        ValueError: the message names the key.
    """
    test = cfg.TEST
    unread = {
        "TEST.NFC.ENABLED": test.NFC.ENABLED,
        "TEST.RERANK.METHOD": test.RERANK.ENABLED and test.RERANK.METHOD != "k-reciprocal",
        "TEST.QUERIES": test.QUERIES != "together" and (test.RERANK.ENABLED or test.AQE.ENABLED),
    }
    for name in (name for name, used in unread.items() if used and test.EVALUATOR == "host"):
        raise ValueError(f"{name} is for the plugin's evaluator, and TEST.EVALUATOR is host: set that to blocked")


def check_training(cfg: CfgNode, begins: bool = True) -> None:
    """Check what `check_config` does, and the settings that only a training reads.

    Args:
        cfg, begins: as `check_config` takes them.

    Raises:
        ValueError: the message names the key and its choices.
        FileNotFoundError: as `check_config`.
    """
    check_config(cfg, begins)
    for declared in (SolverSettings, AMPSettings, SpeedSettings, CrossEntropySettings):
        declared.from_cfg(cfg)
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_VALUE <= 0:
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_VALUE is {clip.CLIP_VALUE}, which leaves no gradient: raise it")
    for name, value in flat_keys(cfg.INPUT, "INPUT.").items():
        if name.endswith(".PROB") and not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; a probability is between 0 and 1")
    if min(cfg.MODEL.PIXEL_STD) <= 0:
        raise ValueError(f"MODEL.PIXEL_STD is {list(cfg.MODEL.PIXEL_STD)}; images are divided by it, so it is above 0")
    if cfg.SOLVER.SCHED == "CosineAnnealingLR" and cfg.SOLVER.ETA_MIN_LR > cfg.SOLVER.BASE_LR:
        rates = f"SOLVER.ETA_MIN_LR {cfg.SOLVER.ETA_MIN_LR} is above SOLVER.BASE_LR {cfg.SOLVER.BASE_LR}"
        raise ValueError(f"{rates}: the cosine schedule would climb")
    if cfg.TEST.PRECISE_BN.ENABLED:
        _check_precise_bn(cfg)


def _check_precise_bn(cfg: CfgNode) -> None:
    precise = cfg.TEST.PRECISE_BN
    if precise.NUM_ITER < 1:
        raise ValueError(f"TEST.PRECISE_BN.NUM_ITER is {precise.NUM_ITER}; the statistics need at least one batch")
    if precise.DATASET in cfg.DATASETS.NAMES:
        return
    try:
        load_dataset(precise.DATASET, cfg)
    except ValueError as error:
        raise ValueError(
            f"TEST.PRECISE_BN.DATASET, whose images batch norm takes its statistics from after the last epoch: {error} "
            f"The training set would be TEST.PRECISE_BN.DATASET {cfg.DATASETS.NAMES[0]}."
        ) from error


def check_run(cfg: CfgNode, model: nn.Module, iters_per_epoch: int) -> None:
    """Check a run whose data and model are there; what part of it would waste is logged.

    Args:
        cfg: the config, with the number of identities in MODEL.HEADS.NUM_CLASSES.
        model: that it trains.
        iters_per_epoch: iterations of an epoch.

    Raises:
        ValueError: it cannot train, or all of it would be wasted; the message says which key to change.
    """
    if cfg.MODEL.HEADS.NUM_CLASSES < 2:
        raise ValueError(
            f"the training set, DATASETS.NAMES {', '.join(cfg.DATASETS.NAMES)}, has a single identity: it needs two "
            "or more"
        )
    solver, iterations = cfg.SOLVER, cfg.SOLVER.MAX_EPOCH * iters_per_epoch
    warmup = solver.WARMUP_EPOCHS * iters_per_epoch or solver.WARMUP_ITERS
    if warmup and warmup >= iterations:
        key = "WARMUP_EPOCHS" if solver.WARMUP_EPOCHS else "WARMUP_ITERS"
        raise ValueError(
            f"the warm-up of {warmup} iterations (SOLVER.{key}) is as long as the run or longer, which has {iterations}"
            f" ({solver.MAX_EPOCH} epochs of {iters_per_epoch}): it would end before it reaches SOLVER.BASE_LR. Lower "
            f"SOLVER.{key} or raise SOLVER.MAX_EPOCH."
        )
    if solver.IMS_PER_BATCH // comm.get_world_size() == 1:
        norms = [name for name, module in model.named_modules() if _normalizes_features(name, module)]
        if norms:
            raise ValueError(
                "SOLVER.IMS_PER_BATCH gives each process one image, of whose features batch norm "
                f"({norms[0]}) cannot take statistics: set it to 2 for each process or more"
            )
    speed = SpeedSettings.from_cfg(cfg)
    ignored = [
        name for name in ("channels_last", "checkpoint", "compile") if getattr(speed, name) not in (False, "off")
    ]
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    if ignored and SpeedSettings not in getattr(architecture, "reads", {}).values():
        raise ValueError(
            f"SPEED.{ignored[0].upper()} is for the plugin's models, and MODEL.META_ARCHITECTURE is "
            f"{cfg.MODEL.META_ARCHITECTURE}: PartsBaseline trains fast-reid's own heads with it"
        )
    if isinstance(model, PartsBaseline):
        check_compiler(speed.compile, model.device)
    terms = getattr(model, "loss_terms", ())
    if terms and not any(term.weight for term in terms):
        raise ValueError("every loss of MODEL.LOSSES.NAME has the weight 0 (SCALE), so nothing would be learned")
    check_micro_batches(cfg, model)
    if cfg.INPUT.RPT.ENABLED:
        logger.warning(
            "INPUT.RPT pastes pieces of the images that the same process read before: the run depends on "
            "DATALOADER.NUM_WORKERS, and when it is stopped and resumed it does not end as an unbroken one"
        )
    for line in wasted(cfg, iters_per_epoch):
        logger.warning(line)
    layers = ", ".join(cfg.MODEL.FREEZE_LAYERS)
    if layers and not (solver.FREEZE_EPOCHS or solver.FREEZE_ITERS):
        # No warning: it is how a config switches off what its base freezes
        logger.info(f"MODEL.FREEZE_LAYERS {layers} are not frozen: SOLVER.FREEZE_EPOCHS and FREEZE_ITERS are 0")


def check_micro_batches(cfg: CfgNode, model: nn.Module) -> None:
    """Check that a batch may be split as SOLVER.MICRO_BATCHES says.

    Args:
        cfg: the config.
        model: that it trains.

    Raises:
        ValueError: a part has a single image, or what is learned would be another thing and that was not asked for.
    """
    solver = cfg.SOLVER
    parts, images = solver.MICRO_BATCHES, solver.IMS_PER_BATCH // comm.get_world_size()
    if parts == 1:
        return
    if images < 2 * parts:
        raise ValueError(
            f"SOLVER.MICRO_BATCHES is {parts}, and a process has {images} images of SOLVER.IMS_PER_BATCH: leave each "
            "part two or more, of which batch norm can take statistics"
        )
    names = cfg.MODEL.LOSSES.NAME
    names = (names,) if isinstance(names, str) else names
    losses = [name for name in names if name not in LOSSES or not LOSSES[name].averages]
    modules = [module.of_whole_batch for module in model.modules() if isinstance(module, Declares)]
    whole = [*losses, *dict.fromkeys(name for name in modules if name)]
    if not whole:
        return
    if solver.MICRO_BATCH_LOSSES == "exact":
        raise ValueError(
            f"SOLVER.MICRO_BATCHES is {parts}, and {', '.join(whole)}: no mean over images, but of the whole batch, so "
            "that its parts give something else. SOLVER.MICRO_BATCH_LOSSES approximate takes each part as a batch; to "
            "save memory and change nothing there is SPEED.CHECKPOINT"
        )
    instances = cfg.DATALOADER.NUM_INSTANCE
    if any(name in _OF_PAIRS for name in losses) and images % (parts * instances):
        raise ValueError(
            f"SOLVER.MICRO_BATCHES {parts} splits a batch of {images} images within identities, of which "
            f"DATALOADER.NUM_INSTANCE {instances} follow each other: take a divisor of {images // instances}"
        )


def check_stock_trainer(cfg: CfgNode) -> None:
    """Refuse, for fast-reid's own trainer, what only PartsTrainer does.

    What the plugin's recipes set is said: they train with that trainer too.

    Raises:
        ValueError: the message names the key.
    """
    for one, declared in _OF_PARTS_TRAINER:
        value = getattr(declared.from_cfg(cfg), one)
        default = next(key.default for key in declared.declared_keys() if key.attribute == one)
        if value != default:
            name = f"{declared.section}.{one.upper()}"
            raise ValueError(
                f"{name} is {value!r}, which fast-reid's DefaultTrainer does not know: train with `fastreid-parts "
                f"train` or PartsTrainer, or leave it at {default!r}"
            )
    left_out = {
        "FREEZE_EPOCHS": "freezes nothing by it; FREEZE_ITERS are iterations",
        "CHECKPOINTS_KEPT": "keeps every checkpoint",
    }
    for name, what in left_out.items():
        if cfg.SOLVER[name] != get_cfg().SOLVER[name]:
            logger.warning(f"SOLVER.{name} is {cfg.SOLVER[name]}, and fast-reid's DefaultTrainer {what}")


_OF_PARTS_TRAINER: tuple[tuple[str, type[Settings]], ...] = (
    ("micro_batches", SolverSettings),
    ("find_unused_parameters", SolverSettings),
    ("dtype", AMPSettings),
    ("cpu_dtype", AMPSettings),
    ("tf32", SpeedSettings),
)


def _normalizes_features(name: str, module: nn.Module) -> bool:
    """Whether it is a batch norm that trains in a head, whose input has one value a channel and image."""
    return isinstance(module, _BatchNorm) and module.training and "head" in name.split(".")[0]


def wasted(cfg: CfgNode, iters_per_epoch: int) -> list[str]:
    """Say what a config asks for and a run of it never does, or does in vain.

    Args:
        cfg: the config.
        iters_per_epoch: iterations of an epoch.

    Returns:
        A line for each such thing.
    """
    solver, epochs = cfg.SOLVER, cfg.SOLVER.MAX_EPOCH
    run = f"the run of {epochs} epochs (SOLVER.MAX_EPOCH)"
    lines = []
    if solver.SCHED == "MultiStepLR":
        warmup = solver.WARMUP_EPOCHS * iters_per_epoch or solver.WARMUP_ITERS
        before = max(warmup // iters_per_epoch, solver.DELAY_EPOCHS)  # epochs whose end the schedule does not see
        late = [step for step in solver.STEPS if step + (0 if solver.STEPS_FROM_START else before) >= epochs]
        if late:
            after = "" if solver.STEPS_FROM_START or not before else f", counted after {before} of warm-up and delay,"
            lines.append(f"SOLVER.STEPS {late}{after} never come in {run}: the rate does not decay there")
    for key, period, what in (
        ("TEST.EVAL_PERIOD", cfg.TEST.EVAL_PERIOD, "evaluation"),
        ("SOLVER.CHECKPOINT_PERIOD", solver.CHECKPOINT_PERIOD, "checkpoint"),
    ):
        if period > epochs:
            lines.append(f"{key} {period} never comes in {run}: there is one {what}, at its end")
    frozen = solver.FREEZE_EPOCHS * iters_per_epoch or solver.FREEZE_ITERS
    layers = ", ".join(cfg.MODEL.FREEZE_LAYERS)
    if layers and frozen >= epochs * iters_per_epoch:
        lines.append(f"MODEL.FREEZE_LAYERS {layers} are frozen to the end of {run} and never trained")
    elif frozen and not layers:
        lines.append("SOLVER.FREEZE_EPOCHS or FREEZE_ITERS freezes nothing: MODEL.FREEZE_LAYERS is empty")
    pairs = [name for name in cfg.MODEL.LOSSES.NAME if name in _OF_PAIRS]
    sampler, instances = cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.NUM_INSTANCE
    if pairs and (sampler in _RANDOM_SAMPLERS or instances == 1):
        how = f"of DATALOADER.SAMPLER_TRAIN {sampler}" if sampler in _RANDOM_SAMPLERS else "with NUM_INSTANCE 1"
        lines.append(f"{', '.join(pairs)} compare images of one identity, of which a batch {how} has few or none")
    both = [name for name in cfg.DATASETS.NAMES if name in cfg.DATASETS.TESTS]
    if cfg.DATASETS.COMBINEALL and both:
        lines.append(f"DATASETS.COMBINEALL trains on the test images of {', '.join(both)}: its results are too good")
    return lines
