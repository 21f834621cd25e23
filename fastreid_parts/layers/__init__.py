"""Blocks that several methods share. None of them reads a config."""

from .branched_resnet import BranchedResNet, out_channels
from .classifier import Classifier
from .gather import gather_rows
from .numerics import full_precision
from .pooling import build_pooling
from .stripes import pool_stripes, stripe_bounds

__all__ = [
    "BranchedResNet",
    "Classifier",
    "build_pooling",
    "full_precision",
    "gather_rows",
    "out_channels",
    "pool_stripes",
    "stripe_bounds",
]
