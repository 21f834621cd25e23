"""Blocks that several methods share. None of them reads a config."""

from .branched_resnet import BranchedResNet, out_channels
from .classifier import Classifier
from .numerics import full_precision

__all__ = ["BranchedResNet", "Classifier", "full_precision", "out_channels"]
