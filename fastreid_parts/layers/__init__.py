"""Blocks that several methods share. None of them reads a config."""

from .balanced_pooling import ABPSettings, BalancedStripes, balanced_bounds, maxima_per_row, pool_balanced
from .channel_mask import DetachMaskSettings, MaskedHead, channel_mask
from .checkpointing import run_checkpointed
from .classifier import Classifier
from .contrastive_pooling import ContrastSettings, contrast, contrastive_feature
from .gather import gather_rows
from .grouped import GroupedBlock, GroupedLinear, norm_of_parts
from .numerics import full_precision, widened
from .pooling import ConcatPool, build_pooling
from .stem import PaddedStemPool, StemSettings
from .stripes import pool_rows, pool_stripes, stripe_bounds, window_bounds
