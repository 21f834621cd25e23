"""Every key that fastreid_parts adds to fast-reid's config, one section a topic, each tied to the paper's symbol."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastreid.config import CfgNode as CN
from fastreid.config import get_cfg

__all__ = ["add_parts_config", "configs_root", "find_config", "flat_keys", "load_config", "word_pairs"]


def add_parts_config(cfg: CN) -> CN:
    """Add the plugin's keys, with their defaults, to `cfg`; keys that are there already keep their values.

    Importing `fastreid_parts` does this to fast-reid's defaults, so `get_cfg()` knows the keys afterwards. Call it
    yourself on a config that was made before the import, between `get_cfg()` and `merge_from_file()`.

    Args:
        cfg: a fast-reid config, changed in place.

    Returns:
        The same config.
    """
    _add_missing(cfg, _parts_defaults())
    return cfg


def _parts_defaults() -> CN:
    d = CN()

    # Base seed of a run: initial weights, sampling order, augmentation. Negative: drawn at the start and logged.
    d.SEED = -1

    # ---- the shared frame -------------------------------------------------------------------------------------
    d.SOLVER = CN()
    d.SOLVER.AMSGRAD = False  # the AMSGrad variant of SOLVER.OPT Adam or AdamW
    # Keep MODEL.FREEZE_LAYERS frozen for so many epochs (the host's FREEZE_ITERS counts iterations; PartsTrainer only)
    d.SOLVER.FREEZE_EPOCHS = 0
    # Warm-up in epochs, where positive, instead of WARMUP_ITERS
    d.SOLVER.WARMUP_EPOCHS = 0
    # The host's SOLVER.WARMUP_METHOD takes "exponential" too: from WARMUP_FACTOR * BASE_LR by an equal factor each
    # iteration, as RMGL's (Sec. IV.A) from 1e-5 to 0.01, which is WARMUP_FACTOR 0.001
    # True: STEPS count epochs from the start of the run; False, as in fast-reid: from the end of warm-up and delay
    d.SOLVER.STEPS_FROM_START = False
    # Several processes, and a model of which a step leaves parameters without a gradient
    d.SOLVER.FIND_UNUSED_PARAMETERS = False
    # Pairs [name, factor]: learning rate of the parameters below a module name (a regular expression up to a dot)
    d.SOLVER.LR_FACTORS = []
    d.SOLVER.AMP = CN()
    # AMP without a GPU: "auto" is bfloat16 where the processor computes it natively and float32 elsewhere
    d.SOLVER.AMP.CPU_DTYPE = "auto"  # auto, bfloat16, float32

    d.INPUT = CN()
    # Names from fastreid_parts.data.TRANSFORMS, applied in this order, each at the stage that it declares
    d.INPUT.EXTRA_TRANSFORMS = []
    # Random erasing (Zhong et al.); the defaults are what fast-reid does
    d.INPUT.REA = CN()
    d.INPUT.REA.S_L = 0.02  # s_l and s_h: smallest and largest erased share of the image
    d.INPUT.REA.S_H = 0.33
    d.INPUT.REA.R_E = 0.3  # r_e: smallest ratio of height to width
    d.INPUT.REA.R_E_MAX = 3.3  # the largest; 0: 1 / r_e
    d.INPUT.REA.FILL = "value"  # value: INPUT.REA.VALUE; random: each pixel drawn uniformly from 0 to 255
    # Random shifting (RMGL, Sec. III.D), at the image's original size; with any model
    d.INPUT.RSA = CN()
    d.INPUT.RSA.ENABLED = False
    d.INPUT.RSA.CROP_PROB = 0.5  # p_c: probability of the crop; every image is resized and shifted
    d.INPUT.RSA.CROP_MIN = 0.7  # r_c^(min): smallest share of height and width that a crop keeps
    d.INPUT.RSA.HEIGHT_MIN = 0.5  # r_h^(min): the crop's height is multiplied by at least this and at most 1 / r_c
    d.INPUT.RSA.WIDTH_MIN = 0.5  # r_w^(min): its width by at least this and at most 1
    d.INPUT.RSA.FILL = 127  # grey level around the patch, before normalisation
    # RandomCropResizeShift in EXTRA_TRANSFORMS: RCRS of RMGL's Table VI, which prints no ranges
    d.INPUT.RCRS = CN()
    d.INPUT.RCRS.CROP_MIN = 0.7  # smallest share of the height, and of the width, that the crop keeps
    d.INPUT.RCRS.SHIFT_MAX = 0.1  # largest translation, as a share of height and width
    d.INPUT.RCRS.FILL = 127  # grey level of what the translation uncovers

    d.DATALOADER = CN()
    d.DATALOADER.CHECK_IMAGES = True  # decode every image once before training starts
    d.DATALOADER.BAD_IMAGES = "stop"  # an image that cannot be read: "stop" with its name, or "skip" it

    # ---- datasets of the plugin -------------------------------------------------------------------------------
    d.DATASETS = CN()
    d.DATASETS.FOLDER = CN()
    d.DATASETS.FOLDER.ROOT = ""  # FolderReID: a folder in Market-1501 naming, or the folder that CSV paths start from
    d.DATASETS.FOLDER.CSV = ""  # FolderReID: a table with the columns path, identity, camera, split
    d.DATASETS.SYNTHETIC = CN()
    d.DATASETS.SYNTHETIC.SCALE = "demo"  # demo, small, market
    d.DATASETS.SYNTHETIC.SEED = 0
    # Strength of each nuisance, from 0 (off) to 2; see fastreid_parts.pedestrians.Nuisances
    d.DATASETS.SYNTHETIC.NUISANCES = CN()
    for name in ("BACKGROUND", "OCCLUSION", "POSE", "VIEWPOINT", "ILLUMINATION", "DETECTOR", "CAMERA"):
        d.DATASETS.SYNTHETIC.NUISANCES[name] = 1.0

    d.TEST = CN()
    # Evaluate with these features of a head that has several, by name (`heads.feature_names`); empty: all side by side
    d.TEST.FEATURES = []
    # blocked: ranks are counted some queries at a time, memory is that of the features; host: fast-reid's own evaluator
    d.TEST.EVALUATOR = "blocked"
    d.TEST.BLOCK_ROWS = 0  # queries that are compared at once; 0: chosen for the device
    d.TEST.HALF = False  # keep features in float16

    # ---- activation balanced pooling, RMGL's Sec. III.C; for RMGL, RRID and fast-reid's MGN ---------------------
    d.MODEL = CN()
    d.MODEL.ABP = CN()
    d.MODEL.ABP.MODE = "off"  # stripes with equal shares of the channels' maxima: off, at test, always
    d.MODEL.ABP.POOL = "max"  # what they are pooled by: max; avg, as Eq. (11) prints it; layer, as uniform ones are

    # ---- CMBN ---------------------------------------------------------------------------------------------------
    d.MODEL.CMBN = CN()
    d.MODEL.CMBN.REVERSAL_BRANCH = True  # RB of Table 4 (Sec. 3.2)
    d.MODEL.CMBN.MASK_GENERATOR = True  # MG of Table 4 (Sec. 3.3)
    d.MODEL.CMBN.CONTEXTUAL_DETACHMENT = True  # CDS of Table 4 (Alg. 1); it needs the reversal branch
    d.MODEL.CMBN.GRL_LAMBDA = 0.2  # lambda of Eq. (1)
    d.MODEL.CMBN.CHAOS_WEIGHT = 0.4  # beta of Alg. 1, the weight of L_CS
    # The representation: "embedding" is the compressed feature, "pooled" what the pooling layer gives
    d.MODEL.CMBN.FEATURE = "embedding"
    d.MODEL.CMBN.DETACH_MASK = False  # True: L_ID2 does not reach W_ID through the mask of Eq. (3)
    d.MODEL.CMBN.INFERENCE_ONLY = False  # build what is deployed: no reversal branch, no generator, no classifiers

    # ---- CGE ----------------------------------------------------------------------------------------------------
    d.MODEL.HEADS = CN()
    # GlobalHead in evaluation: the feature "before" or "after" BNNeck; fast-reid's own head gives the latter
    d.MODEL.HEADS.TEST_FEAT = "after"
    d.MODEL.CGE = CN()
    d.MODEL.CGE.HEAD = "GlobalHead"  # the head that CGEHead builds and revises
    d.MODEL.CGE.NUM_STRIPES = 3  # n local regions (Sec. 3.1)
    d.MODEL.CGE.REVISE = True  # False: memories without GLR (Table 2)
    # alpha of Eq. (1): linear, Eq. (11); exponential, Eq. (12) as printed; ramp_up, Eq. (12) with 1 - t/E; constant
    d.MODEL.CGE.ALPHA = "linear"
    d.MODEL.CGE.ALPHA_VALUE = 0.01  # of the constant schedule (Table 4)
    d.MODEL.CGE.DETACH_LOCAL = False  # True: no gradient through the weights of Eq. (2)
    d.MODEL.CGE.BRANCHES = []  # branches of logits to revise; empty: those that the head declares as global

    # ---- RRID ---------------------------------------------------------------------------------------------------
    # The defaults are the recipe of the authors' code; the other value of a key is the text's reading or an ablation
    d.MODEL.RRID = CN()
    d.MODEL.RRID.PARTS = [2, 4, 6]  # P of each scale; [6] is "Ours-S"
    d.MODEL.RRID.GLOBAL_POOL = "gcp"  # gcp, Eq. (2); gmp, gap, gap_gmp, gem; none: local features only (Table 2)
    d.MODEL.RRID.LOCAL_POOL = "gmp"  # gmp, gap, gem; none: global features only (Table 2)
    d.MODEL.RRID.RELATION = "one_vs_rest"  # Eq. (1); rest: R_p(r) in place of R_p(T(p, r)); none
    d.MODEL.RRID.CONTRAST = "rest_mean"  # (sum - max) / (P - 1); avg_minus_max: the text's
    d.MODEL.RRID.REDUCTION = "conv_bn_relu"  # conv: a bare 1x1 convolution
    d.MODEL.RRID.CLASSIFY = "all"  # cross-entropy on final features and what they are made of; final: the text's
    d.MODEL.RRID.CLASSIFIER_BIAS = True  # Eq. (5) has none
    d.MODEL.RRID.TRIPLET = "each"  # Eq. (6) on each feature; concatenation: on the whole representation

    # ---- CAN ----------------------------------------------------------------------------------------------------
    d.MODEL.CAN = CN()
    d.MODEL.CAN.PARTS = [1, 3, 5, 7]  # parts of each branch (Tables 2, 3)
    d.MODEL.CAN.COLLABORATIVE_ATTENTION = True  # CA of Table 3
    d.MODEL.CAN.WINDOWS = "equation"  # Eq. (1); adaptive: PyTorch's adaptive pooling
    d.MODEL.CAN.POOL = "concat"  # maximum and average side by side, or a pooling layer of fast-reid's by name
    d.MODEL.CAN.EMBEDDING = "normalized"  # batch norm before and after, PReLU; conv: the text's convolution alone
    d.MODEL.CAN.CLUSTER = "global_local"  # features of triplet and centre loss; global (Table 4)

    # ---- RMGL ---------------------------------------------------------------------------------------------------
    d.MODEL.RMGL = CN()
    d.MODEL.RMGL.BRANCHES = [2, 3]  # stripes of each branch
    d.MODEL.RMGL.PATHS = ["original", "receptive"]  # RP of Table V; one of them alone is the baseline or "only RP"
    d.MODEL.RMGL.PARTITION_AT = "res2"  # after which stage stripes are cut: stem, res2, res3, res4, res5 (Fig. 9)
    d.MODEL.RMGL.PARTITIONS = 0  # stripes that the receptive path is cut into (Fig. 8); 0: those of the branch
    # Other papers' parts on the global features; no part of RMGL
    d.MODEL.RMGL.GLOBAL_POOL = "layer"  # MODEL.HEADS.POOL_LAYER; gcp: RRID's Eq. (2), with MODEL.RRID.CONTRAST
    d.MODEL.RMGL.MASK = False  # CMBN's Eq. (3), with MODEL.CMBN.DETACH_MASK
    # What it costs; no result depends on these
    d.MODEL.RMGL.CHECKPOINT = False  # less memory in training, for a second forward pass of each stage
    d.MODEL.RMGL.CHANNELS_LAST = False  # maps pixel by pixel in memory

    # ---- losses, for every method (fastreid_parts.losses); each section's SCALE is the weight of its term ------------
    # The host's own sections stay: CE.EPSILON is CGE's epsilon of Eq. (5), CE.SCALE its lambda_1; FL (FocalLoss) with
    # ALPHA 0.5 and GAMMA 1 is its Sec. 4.2.1; CIRCLE with MARGIN 0.25 and GAMMA 2 is m and gamma of its Table 5
    d.MODEL.LOSSES = CN()
    d.MODEL.LOSSES.TRI = CN()
    # TripletLoss: "host" is the host's rule (HARD_MINING or weighted, soft margin where MARGIN is 0); "hinge" is CGE's
    # Eq. (6), batch-hard, with m = MARGIN, 0 included; "soft_margin" is batch-hard too and has no margin
    d.MODEL.LOSSES.TRI.FORM = "host"
    d.MODEL.LOSSES.TRI.SQUARED = False  # "hinge" and "soft_margin": squared distances, as in CAN's Eq. (7)
    d.MODEL.LOSSES.CENTER = CN()
    d.MODEL.LOSSES.CENTER.LR = 0.5  # CenterLoss: learning rate of the centres
    d.MODEL.LOSSES.CENTER.SCALE = 0.0005  # lambda of CAN's Eq. (5)
    d.MODEL.LOSSES.WRT = CN()
    d.MODEL.LOSSES.WRT.SCALE = 1.0  # WRTLoss, Eq. (7) and (8) of CGE; lambda_2 of Eq. (10)
    d.MODEL.LOSSES.SPHERE = CN()
    d.MODEL.LOSSES.SPHERE.MARGIN = 4  # SphereLoss: m of SphereFace, a whole number (CGE, Sec. 4.2.3)
    d.MODEL.LOSSES.SPHERE.NORM_FEAT = False  # True: logits are cosines, not cosines times the feature's length
    d.MODEL.LOSSES.SPHERE.SCALE = 1.0
    d.MODEL.LOSSES.LIFTED = CN()
    d.MODEL.LOSSES.LIFTED.POS_MARGIN = 0.0  # LiftedLoss: subtracted from the distances of positive pairs
    d.MODEL.LOSSES.LIFTED.NEG_MARGIN = 1.0  # from which the distances of negative pairs are subtracted
    d.MODEL.LOSSES.LIFTED.SCALE = 1.0
    d.MODEL.LOSSES.INSTANCE = CN()
    d.MODEL.LOSSES.INSTANCE.GAMMA = 64.0  # InstanceLoss: factor on the cosines
    d.MODEL.LOSSES.INSTANCE.SCALE = 1.0
    d.MODEL.LOSSES.CONTRASTIVE = CN()
    d.MODEL.LOSSES.CONTRASTIVE.POS_MARGIN = 0.0  # ContrastiveLoss: positive pairs are pulled to this distance
    d.MODEL.LOSSES.CONTRASTIVE.NEG_MARGIN = 1.0  # negative pairs are pushed to this distance
    d.MODEL.LOSSES.CONTRASTIVE.SCALE = 1.0

    return d


def _add_missing(cfg: CN, defaults: CN) -> None:
    for key, value in defaults.items():
        if key not in cfg:
            cfg[key] = value.clone() if isinstance(value, CN) else value
        elif isinstance(value, CN) and isinstance(cfg[key], CN):
            _add_missing(cfg[key], value)


def find_config(name: str) -> str:
    """Find a config file, given as a path or by its name below the plugin's configs (`Market/cmbn.yml`).

    Args:
        name: a path that exists, or a name relative to the `configs` folder, with or without a leading `configs/`.

    Returns:
        A path that exists.

    Raises:
        FileNotFoundError: neither is there; the message names the nearest of the plugin's configs.
    """
    if os.path.exists(name):
        return name
    below = Path(name)
    if below.parts[:1] == ("configs",):
        below = Path(*below.parts[1:])
    root = configs_root()
    if not below.is_absolute() and (root / below).is_file():
        return str(root / below)
    known = sorted(path.relative_to(root).as_posix() for path in root.glob("**/*.yml"))
    nearest = difflib.get_close_matches(below.as_posix(), known, n=3)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else "`fastreid-parts configs` lists the plugin's own"
    raise FileNotFoundError(f"no config file '{name}': {hint}")


def configs_root() -> Path:
    """Find the folder of the plugin's configs: package data in a wheel, `configs/` in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


# ---- reading configs ---------------------------------------------------------------------------------------------


def load_config(path: str, opts: Sequence[Any] = ()) -> CN:
    """Read a config: fast-reid's and the plugin's defaults, then a file, then single keys.

    Args:
        path: of the file, as `find_config` takes it.
        opts: KEY, VALUE, KEY, VALUE ...

    Raises:
        FileNotFoundError: there is no such config file.
        KeyError: a key does not exist.
        ValueError: a value does not fit its key, or a key has no value.
    """
    cfg = get_cfg()
    cfg.merge_from_file(find_config(path))
    cfg.merge_from_list(list(opts))
    return cfg


def flat_keys(cfg: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Name every key of a nested config in full: {"SECTION.KEY": value}.

    Args:
        cfg: the config, or the dictionary that its YAML gives.
        above: what stands before the names.
    """
    flat: dict[str, Any] = {}
    for key, value in cfg.items():
        flat.update(flat_keys(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value})
    return flat


def word_pairs(words: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Pair the words of an option: NAME VALUE NAME VALUE ...

    Raises:
        ValueError: a value is missing.
    """
    if len(words) % 2:
        raise ValueError(
            f"'{words[-1]}' has no value: give pairs of a name and a value, not {' '.join(map(str, words))}"
        )
    return list(zip(words[::2], words[1::2]))
