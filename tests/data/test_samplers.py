"""The sampler that draws every identity as often as any other."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import pytest
from fastreid.utils import comm

from fastreid_parts.data.build import build_reid_train_loader
from fastreid_parts.data.samplers import EqualIdentitySampler

# Ten identities of 1 to 40 images
ITEMS = [(f"{p}_{i}.jpg", f"x_{p}", "x_0") for p, n in enumerate([1, 2, 3, 5, 8, 12, 16, 20, 30, 40]) for i in range(n)]


def identities(batch: list[int]) -> list[str]:
    return [ITEMS[i][1] for i in batch]


def test_identities_are_drawn_equally_and_never_twice_in_a_batch() -> None:
    sampler = EqualIdentitySampler(ITEMS, 12, 4, seed=0)
    drawn = list(itertools.islice(iter(sampler), 12 * 100))  # 300 identities: 30 rounds
    batches = [drawn[first : first + 12] for first in range(0, len(drawn), 12)]
    assert all(sorted(Counter(identities(batch)).values()) == [4, 4, 4] for batch in batches)
    counts = Counter(identities(drawn))
    assert len(counts) == 10 and all(count == 4 * 30 for count in counts.values())
    for start in range(0, 300, 10):  # and each round has all, in an order of its own
        assert len(set(identities(drawn[4 * start : 4 * start + 40]))) >= 8
    large = [batch for batch in batches if "x_9" in identities(batch)]
    assert all(len({i for i in batch if ITEMS[i][1] == "x_9"}) == 4 for batch in large)  # no image twice


def test_the_seed_decides() -> None:
    first, same, other = (
        list(itertools.islice(iter(EqualIdentitySampler(ITEMS, 12, 4, seed)), 60)) for seed in (1, 1, 2)
    )
    assert first == same != other


def test_each_process_gets_whole_identities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        shares.append(list(itertools.islice(iter(EqualIdentitySampler(ITEMS, 8, 4, seed=0)), 8)))
    assert all(sorted(Counter(identities(share)).values()) == [4, 4] for share in shares)
    assert not set(identities(shares[0])) & set(identities(shares[1]))


def test_a_config_names_it(tiny_cfg: Callable) -> None:
    cfg = tiny_cfg("DATALOADER.SAMPLER_TRAIN", "EqualIdentitySampler", "DATALOADER.NUM_INSTANCE", 4)
    batches = itertools.islice(iter(build_reid_train_loader(cfg)), 4)
    drawn = Counter(identity for batch in batches for identity in batch["targets"].tolist())
    assert sorted(drawn.values()) == [8] * 6  # 12 identities of 4 images: each of the six twice


def test_an_impossible_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="no multiple"):
        EqualIdentitySampler(ITEMS, 10, 4)
