"""Randomness of a run as a function of its seed and the iteration, so that a resumed run repeats an unbroken one."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from fastreid.utils import comm

from .settings import Settings, key


class SeedSettings(Settings, section=""):
    """A run's randomness."""

    seed: int = key(-1, "base seed: initial weights, order, augmentation; negative: drawn at the start and logged")


def derive_seed(*keys: int) -> int:
    """Derive a 32-bit seed from several numbers, well mixed: neighboring keys give unrelated seeds."""
    return int(np.random.SeedSequence([k & 0xFFFFFFFF for k in keys]).generate_state(1)[0])


def draw_seed(configured: int) -> int:
    """Return the base seed of a run: the configured one, or if that is negative one drawn for all processes."""
    if configured >= 0:
        return configured
    return int(comm.all_gather(random.SystemRandom().randrange(2**31))[0])


def seed_epoch(seed: int, epoch: int) -> None:
    """Seed Python, NumPy and torch for one epoch; every process gets numbers of its own.

    Nothing that happened before, an evaluation or an interruption, changes what follows. Loader workers take their
    seeds from torch's generator when the epoch's iterator starts.

    Args:
        seed: the base seed.
        epoch: the epoch about to start; -1 before the first, for the initial weights.
    """
    value = derive_seed(seed, epoch + 1, comm.get_rank())
    seed_generators(value)
    torch.manual_seed(value)  # on devices that are not in use yet, too


def iteration_seed(seed: int, epoch: int, iteration: int, purpose: int) -> int:
    """Derive the seed of one iteration in this process.

    Args:
        seed: the base seed.
        epoch: from 0.
        iteration: within the epoch, from 0.
        purpose: 0 for the model, 1 for reading the images, which workers do ahead of it.
    """
    return derive_seed(seed, epoch + 1, comm.get_rank(), iteration, purpose)


def seed_generators(value: int) -> None:
    """Seed Python, NumPy and torch, the GPU of this process included if it is in use; quick enough for each batch."""
    random.seed(value)
    np.random.seed(value)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(value)


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Leave the CPU's generators as they were, whatever is drawn within."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
