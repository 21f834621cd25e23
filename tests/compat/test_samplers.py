"""Identity samplers: clear errors where the host loops for ever, and batches of the promised make-up."""

from __future__ import annotations

import itertools
import signal
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
import pytest
from fastreid.data import samplers
from fastreid.data.samplers import BalancedIdentitySampler, NaiveIdentitySampler, SetReWeightSampler
from fastreid.utils import comm

IDENTITY_SAMPLERS = [NaiveIdentitySampler, BalancedIdentitySampler]


def _items(identities: int = 8, images: int = 4, cameras: int = 2) -> list:
    return [
        (f"{pid}_{image}.jpg", f"x_{pid}", f"x_{image % cameras}")
        for pid in range(identities)
        for image in range(images)
    ]


def _batches(sampler: object, batch: int, count: int) -> np.ndarray:
    return np.array(list(itertools.islice(iter(sampler), batch * count))).reshape(count, batch)


@pytest.fixture
def no_hang() -> Iterator[None]:
    """A test that loops for ever fails after ten seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError("the sampler hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=[1, 2])
def world_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(comm, "get_world_size", lambda: request.param)
    monkeypatch.setattr(comm, "get_rank", lambda: 0)
    return request.param


@pytest.mark.parametrize("sampler", IDENTITY_SAMPLERS)
class TestIdentitySamplers:
    def test_the_hosts_own_hangs(self, sampler: type) -> None:
        # 10 is no multiple of 4: two identities make 8, and 8, 16, ... never equals 10
        host = object.__new__(sampler)
        sampler.__init__.__wrapped__(host, _items(), 10, 4, seed=0)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            next(iter(host))

    def test_no_multiple(self, sampler: type) -> None:
        with pytest.raises(ValueError, match="no multiple of DATALOADER.NUM_INSTANCE 4"):
            sampler(_items(), 10, 4)

    def test_more_identities_than_there_are(self, sampler: type) -> None:
        with pytest.raises(ValueError, match="wants 4 identities, and the training set has 3"):
            sampler(_items(identities=3, images=8), 16, 4)

    def test_fewer_images_than_an_identity_needs(self, sampler: type) -> None:
        with pytest.raises(ValueError):
            sampler(_items(), 2, 4)

    @pytest.mark.usefixtures("no_hang")
    def test_batches(self, sampler: type, world_size: int) -> None:
        items = _items()
        made = sampler(items, 8, 4, seed=1)
        for batch in _batches(made, 8, 6):
            assert Counter(Counter(items[i][1] for i in batch).values()) == {4: 2}

    @pytest.mark.usefixtures("no_hang")
    def test_exactly_as_many_identities_as_needed(self, sampler: type) -> None:
        items = _items(identities=2)
        for batch in _batches(sampler(items, 8, 4, seed=1), 8, 3):
            assert Counter(items[i][1] for i in batch) == {items[0][1]: 4, items[-1][1]: 4}

    @pytest.mark.usefixtures("no_hang")
    def test_one_image_an_identity(self, sampler: type) -> None:
        items = _items(identities=8, images=1)
        batch = _batches(sampler(items, 8, 4, seed=1), 8, 1)[0]
        assert sorted(Counter(batch.tolist()).values()) == [4, 4]

    def test_two_processes_need_twice_the_identities(self, sampler: type, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(comm, "get_world_size", lambda: 2)
        with pytest.raises(ValueError, match="wants 4 identities"):
            sampler(_items(identities=3, images=6), 8, 4)


class TestSetReWeightSampler:
    @staticmethod
    def _two_sets() -> list:
        """Identities 0-5 in set a, 6-9 in set b; identity 0 has 12 images, the others 4."""
        sizes = {pid: 12 if pid == 0 else 4 for pid in range(10)}
        return [(f"{p}_{i}.jpg", f"x_{p}", "a" if p < 6 else "b") for p, n in sizes.items() for i in range(n)]

    def test_the_hosts_own_always_fails(self) -> None:
        host = object.__new__(SetReWeightSampler)
        SetReWeightSampler.__init__.__wrapped__(host, self._two_sets(), 24, 2, [2, 1], seed=0)
        with pytest.raises(ValueError):
            next(iter(SetReWeightSampler._infinite_indices.__wrapped__(host)))

    @pytest.mark.usefixtures("no_hang")
    @pytest.mark.parametrize(("batch", "groups"), [(6, 1), (12, 2)])
    def test_each_set_gives_its_share(self, batch: int, groups: int) -> None:
        items = self._two_sets()
        for indices in _batches(SetReWeightSampler(items, batch, 2, [2, 1], seed=0), batch, 20):
            assert Counter(items[i][2] for i in indices) == {"a": 4 * groups, "b": 2 * groups}
            for pid, count in Counter(items[i][1] for i in indices).items():
                assert count % 2 == 0, f"{pid}: an identity comes with NUM_INSTANCE images"

    @pytest.mark.usefixtures("no_hang")
    def test_identities_are_drawn_by_their_images(self) -> None:
        items = self._two_sets()
        drawn = Counter()
        for indices in _batches(SetReWeightSampler(items, 2, 1, [1, 1], seed=0), 2, 3000):
            drawn.update(items[i][1] for i in indices)
        # 12 of the 32 images of set a are of identity 0, 4 of each other; in set b all are equal
        assert drawn["x_0"] / 3000 == pytest.approx(12 / 32, abs=0.03)
        assert drawn["x_3"] / 3000 == pytest.approx(4 / 32, abs=0.02)
        assert drawn["x_7"] / 3000 == pytest.approx(1 / 4, abs=0.03)

    @pytest.mark.usefixtures("no_hang")
    def test_images_are_distinct_where_there_are_enough(self) -> None:
        for indices in _batches(SetReWeightSampler(self._two_sets(), 12, 4, [2, 1], seed=0), 12, 10):
            assert len(set(indices.tolist())) == 12

    @pytest.mark.usefixtures("no_hang")
    def test_each_process_gets_whole_identities(self, monkeypatch: pytest.MonkeyPatch) -> None:
        items, shares = self._two_sets(), []
        monkeypatch.setattr(comm, "get_world_size", lambda: 2)
        for rank in range(2):
            monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
            shares.append(_batches(SetReWeightSampler(items, 6, 2, [2, 1], seed=0), 6, 5))
        for batch in zip(*shares):
            counts = [Counter(items[i][1] for i in share) for share in batch]
            assert all(n % 2 == 0 for count in counts for n in count.values())
            assert Counter(items[i][2] for i in np.concatenate(batch)) == {"a": 8, "b": 4}

    def test_the_seed_decides(self) -> None:
        first, second, other = (
            _batches(SetReWeightSampler(self._two_sets(), 6, 2, [2, 1], seed=s), 6, 4).tolist() for s in (5, 5, 6)
        )
        assert first == second != other

    def test_sets_are_counted_not_spelt(self) -> None:
        items = [(f"{c}_{p}_{i}.jpg", f"x_{p}", f"x_{c}") for c in (10, 9, 2) for p in range(4) for i in range(2)]
        assert SetReWeightSampler(items, 6, 2, [1, 1, 1]).sets == ["x_2", "x_9", "x_10"]

    @pytest.mark.parametrize(
        ("weights", "batch", "message"),
        [
            ([1], 12, r"has 1 weights, \[1\], but .* 2 sets: a, b"),
            ([], 12, "has 0 weights"),
            ([2, 5], 14, "wants 5 identities of set b at once, but it has 4"),
            ([0, 0], 12, "one at least above 0"),
            ([3, -1], 12, "none negative"),
            ([1.5, 1], 12, "whole numbers"),
            ([2, 1], 8, "no multiple of 6"),
        ],
    )
    def test_bad_weights(self, weights: list, batch: int, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            SetReWeightSampler(self._two_sets(), batch, 2, weights)


class TestOtherSamplers:
    @pytest.mark.usefixtures("no_hang")
    def test_training_sampler_sees_everything(self) -> None:
        assert sorted(itertools.islice(iter(samplers.TrainingSampler(7, seed=0)), 7)) == list(range(7))

    @pytest.mark.usefixtures("no_hang")
    def test_imbalanced_sampler_evens_identities_out(self) -> None:
        items = [("a", "x", 0)] * 90 + [("b", "y", 0)] * 10
        drawn = defaultdict(int)
        for index in itertools.islice(iter(samplers.ImbalancedDatasetSampler(items, seed=0)), 2000):
            drawn[items[index][1]] += 1
        assert drawn["x"] / 2000 == pytest.approx(0.5, abs=0.06)
