"""Blocks that several methods share. None of them reads a config."""

from .branched_resnet import BranchedResNet, out_channels
from .classifier import Classifier
from .gather import gather_rows
from .numerics import full_precision
from .parallel import ParallelBlock, ParallelLinear
from .pooling import ConcatPool, build_pooling
from .stripes import pool_rows, pool_stripes, stripe_bounds, window_bounds

__all__ = [
    "BranchedResNet",
    "Classifier",
    "ConcatPool",
    "ParallelBlock",
    "ParallelLinear",
    "build_pooling",
    "full_precision",
    "gather_rows",
    "out_channels",
    "pool_rows",
    "pool_stripes",
    "stripe_bounds",
    "window_bounds",
]
