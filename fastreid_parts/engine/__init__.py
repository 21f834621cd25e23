"""Training: the trainer, its step, its solver, and several processes."""

from .distributed import launch
from .trainer import PartsTrainer
