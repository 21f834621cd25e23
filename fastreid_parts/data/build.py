"""Train and test loaders from a config: fast-reid's builders, repeatable, checked, and open to datasets with keys."""

from __future__ import annotations

import itertools
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from fastreid.config import CfgNode, configurable
from fastreid.data import build as host_build
from fastreid.data import samplers
from fastreid.data.common import CommDataset
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset
from fastreid.utils import comm

from ..devices import available
from ..files import file_state
from ..host import datasets_root, registered_names, seed_sampler
from ..seeding import derive_seed, iteration_seed
from ..settings import Settings, choice, key
from ..words import some_of
from .checks import (
    Item,
    check_apart,
    check_evaluation,
    check_images,
    check_named_once,
    check_sampler,
    check_split,
    log_msmt17_version,
)
from .datasets.folder import FolderReID
from .image_files import describe_passed_over, left_out
from .loader import Batch, DeviceLoader, loader_workers
from .names import BY_NUMBER, Names
from .noted import NotingDataset
from .samplers import EqualIdentitySampler
from .transforms import build_transforms

logger = logging.getLogger(__name__)

_SAMPLERS = (
    "TrainingSampler",
    "NaiveIdentitySampler",
    "BalancedIdentitySampler",
    "EqualIdentitySampler",
    "SetReWeightSampler",
    "ImbalancedDatasetSampler",
)

# Images that this process has checked: path -> ((BAD_IMAGES, size and time of change), whether it could be read)
_checked: dict[str, tuple[tuple[str, Any], bool]] = {}
# Datasets of which the log says what they leave out
_told: set[str] = set()


class ImageCheckSettings(Settings, section="DATALOADER"):
    """Images that cannot be read, or not in time."""

    check_images: bool = key(True, "decode every image once before training starts")
    bad_images: str = choice(("stop", "skip"), "an image that cannot be read: stop with its name, or skip it")
    timeout: int = key(
        600,
        "seconds to wait for a batch of the workers before a run stops and names the image being read; 0: for ever",
        low=0,
        role="procedure",
    )

    def check(self) -> None:
        """See `Settings`.

        Raises:
            ValueError: images are to be skipped that nobody looks for.
        """
        if self.bad_images == "skip" and not self.check_images:
            raise ValueError(
                "DATALOADER.BAD_IMAGES skip needs DATALOADER.CHECK_IMAGES True, which finds the images to skip: set "
                "it, or BAD_IMAGES stop"
            )


class NamedDataset(CommDataset):
    """fast-reid's dataset with the names of its identities and cameras.

    A spawned loader worker that unpickles it imports the plugin first, without which the host cannot be imported.

    Args:
        items: (path, identity, camera), the last two as numbers.
        transform: of images.
        names: what the numbers are called.
    """

    def __init__(self, items: Sequence[Item], transform: Any, names: Names = BY_NUMBER) -> None:
        super().__init__(list(items), transform, relabel=False)
        self.names = names


def load_dataset(name: str, cfg: CfgNode | None = None, root: str | None = None, **kwargs: Any) -> ImageDataset:
    """Load a registered dataset.

    Args:
        name: its name in fast-reid's registry; `FolderReID:shop` is one of several sets.
        cfg: read by datasets with keys of their own.
        root: the folder that holds the datasets; the environment's FASTREID_DATASETS, or `datasets`.
        **kwargs: passed to datasets without keys, as the host does.

    Raises:
        ValueError: there is no such dataset, or its files are not where they should be.
    """
    root = datasets_root() if root is None else root
    registered, colon, which = name.partition(":")
    if registered not in (known := registered_names(DATASET_REGISTRY)):
        raise ValueError(f"no dataset is named '{name}'. Known: {', '.join(known)}")
    dataset_class = DATASET_REGISTRY.get(registered)
    has_keys = cfg is not None and hasattr(dataset_class, "from_config")
    if colon and not issubclass(dataset_class, FolderReID):
        raise ValueError(
            f"'{name}': {registered} is one dataset; only {FolderReID.__name__} takes a name after the colon"
        )
    if colon:
        kwargs["name"] = which
    try:
        if name == "MSMT17":
            log_msmt17_version(root)
        with warnings.catch_warnings():  # Market1501 warns of an old layout where there is no dataset at all
            warnings.filterwarnings("ignore", message="The current data structure is deprecated")
            return dataset_class.from_config(cfg, root, **kwargs) if has_keys else dataset_class(root=root, **kwargs)
    except (RuntimeError, AssertionError, FileNotFoundError) as error:
        where = f"\nDatasets are looked for below '{root}'; the environment's FASTREID_DATASETS names another folder."
        raise ValueError(f"dataset {name} cannot be read: {error}{'' if has_keys else where}") from error


def _log_left_out(data: ImageDataset, name: str) -> None:
    """Say once what lies beside the images of a dataset; FolderReID says it itself."""
    if name in _told or isinstance(data, FolderReID):
        return
    _told.add(name)
    for line in describe_passed_over(left_out([item[0] for item in (*data.train, *data.query, *data.gallery)], name)):
        logger.info("%s: %s", name, line)


class EpochBatchSampler(torch.utils.data.Sampler):
    """Batches of an endless sampler, in an order that the epoch decides, each with a seed of its own.

    The host's samplers shuffle on and on from one seed, so a resumed run would see what the first epoch saw. Started
    over with a seed of its own each epoch, a sampler needs no state to be saved; and as the seed of a batch is its
    number's, an epoch can be entered anywhere, with any number of workers.

    Args:
        sampler: one of the host's, endless, with its seed in `_seed`.
        batch_size: images of this process.
    """

    def __init__(self, sampler: Any, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, batch_size
        self.num_batches: int | None = None  # of an epoch; None goes on for ever
        self._epoch: tuple[int, int, int] | None = None

    def set_epoch(self, seed: int, epoch: int, start: int = 0) -> None:
        """Decide the order of the next iteration; all processes must pass the same numbers.

        Args:
            seed: of the run.
            epoch: from 0.
            start: batches to leave out at its start, which were trained on before.
        """
        seed_sampler(self.sampler, derive_seed(seed, epoch))
        self._epoch = seed, epoch, start

    def __iter__(self) -> Iterator[list[int]]:
        batches = torch.utils.data.BatchSampler(self.sampler, self.batch_size, drop_last=True)
        if self._epoch is None or self.num_batches is None:
            return itertools.islice(iter(batches), self.num_batches)
        seed, epoch, start = self._epoch
        # All at once: samplers draw from NumPy's global generator, which others use while an epoch runs
        order = list(itertools.islice(iter(batches), self.num_batches))
        return iter([Batch(order[i], iteration_seed(seed, epoch, i, purpose=1)) for i in range(start, len(order))])

    def __len__(self) -> int:
        if self.num_batches is None:
            raise TypeError("an endless loader has no length")
        return self.num_batches


def _items(cfg: CfgNode, items: list[tuple]) -> list[tuple]:
    settings = ImageCheckSettings.from_cfg(cfg)
    good = None
    if comm.is_main_process():  # once for all processes, whose datasets may have drawn other items
        good = items
        if settings.check_images and items:
            good = _check_once(items, settings.bad_images, workers=max(1, loader_workers(cfg)))
    return comm.all_gather(good)[0]


def _check_once(items: list[tuple], policy: str, workers: int) -> list[tuple]:
    """`check_images`, which decodes only if there is an image that is new or changed since it was last decoded.

    An evaluation reads the test sets anew, and some datasets split them anew, each time; the images are the same.
    """
    states = {item[0]: (policy, file_state(item[0])) for item in items}
    if all(path in _checked and _checked[path][0] == state for path, state in states.items()):
        good = [item for item in items if _checked[item[0]][1]]
        if good:
            return good
    good = check_images(items, policy, workers=workers)
    readable = {item[0] for item in good}
    _checked.update({path: (state, path in readable) for path, state in states.items()})
    return good


def _train_loader_from_config(
    cfg: CfgNode, *, train_set: Any = None, transforms: Any = None, sampler: Any = None, **kwargs: Any
) -> dict[str, Any]:
    if transforms is None:
        transforms = build_transforms(cfg, is_train=True)
    if train_set is None:
        items: list[tuple] = []
        check_named_once("DATASETS.NAMES", cfg.DATASETS.NAMES)
        sets = {name: load_dataset(name, cfg, **kwargs) for name in cfg.DATASETS.NAMES}
        check_apart("DATASETS.NAMES", {name: data.train for name, data in sets.items()})
        for name, data in sets.items():
            if comm.is_main_process():
                data.show_train()
                _log_left_out(data, name)
            check_split(data.train, "train", name)
            items.extend(_items(cfg, data.train))
        train_set = NotingDataset(items, transforms, relabel=True)
        if cfg.MODEL.BACKBONE.CAMERAS:
            train_set.cam_dict = _camera_numbers(cfg, train_set.cams)
    if sampler is None:
        sampler = _build_sampler(cfg, train_set)
    return {
        "train_set": train_set,
        "sampler": sampler,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "num_workers": loader_workers(cfg),
        "timeout": cfg.DATALOADER.TIMEOUT,
        "device": available(cfg.MODEL.DEVICE),
    }


def _camera_numbers(cfg: CfgNode, cameras: Sequence[Any]) -> dict[Any, int]:
    """Number training cameras as test sets do, for a model that has an embedding for each.

    They are `<dataset>_<number>`, or `<dataset>:<set>:<number>` of one of several sets.
    """
    if len(cfg.DATASETS.NAMES) > 1:
        raise ValueError(
            f"MODEL.BACKBONE.CAMERAS is {cfg.MODEL.BACKBONE.CAMERAS}, and cameras of several training sets, "
            f"{', '.join(cfg.DATASETS.NAMES)}, have the same numbers in a test set: set it to 0, or train on one"
        )
    try:
        return {camera: int(re.split("[_:]", str(camera))[-1]) for camera in cameras}
    except ValueError:
        raise ValueError(
            f"MODEL.BACKBONE.CAMERAS is {cfg.MODEL.BACKBONE.CAMERAS}, and not all cameras of "
            f"{', '.join(cfg.DATASETS.NAMES)} end in their number, as in {some_of(sorted(map(str, cameras)))}: set it "
            "to 0, or train on another dataset"
        ) from None


def _build_sampler(cfg: CfgNode, train_set: CommDataset) -> Any:
    name, instances = cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.NUM_INSTANCE
    if name not in _SAMPLERS:
        raise ValueError(f"DATALOADER.SAMPLER_TRAIN is '{name}'; it is one of {', '.join(_SAMPLERS)}")
    items, batch = train_set.img_items, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    check_sampler(items, batch, instances, name, world_size=comm.get_world_size())
    if name == "TrainingSampler":
        return samplers.TrainingSampler(len(train_set))
    if name == "ImbalancedDatasetSampler":
        return samplers.ImbalancedDatasetSampler(items)
    if name == "SetReWeightSampler":
        return samplers.SetReWeightSampler(items, batch, instances, cfg.DATALOADER.SET_WEIGHT)
    if name == "EqualIdentitySampler":
        return EqualIdentitySampler(items, batch, instances)
    return getattr(samplers, name)(items, batch, instances)


@configurable(from_config=_train_loader_from_config)
def build_reid_train_loader(
    train_set: Any,
    *,
    sampler: Any = None,
    total_batch_size: int,
    num_workers: int = 0,
    timeout: int = 0,
    device: torch.device | None = None,
) -> DeviceLoader:
    """Build a loader of batches {"images", "targets", "camids", "img_paths"}; endless unless told otherwise.

    Where augmentations note what they do (`NotingDataset`), a batch has "augmented", {name: (N,) share of pixels}, too.

    Call it with a config, as `build_reid_train_loader(cfg, transforms=..., train_set=..., sampler=...)`, or with its
    arguments. Its `batch_sampler` is an `EpochBatchSampler`.

    Args:
        train_set: of images with their labels.
        sampler: its order.
        total_batch_size: images of a batch, over all processes.
        num_workers: processes that read images.
        timeout: seconds to wait for a batch of theirs; 0: for ever.
        device: of the model, where batches go if it is a GPU; None: this process's GPU, if there is one.

    Raises:
        ValueError: the dataset is missing or empty, an image cannot be read, or batches ask for more than there is.
    """
    batch_size = total_batch_size // comm.get_world_size()
    return DeviceLoader(
        comm.get_local_rank(),
        device,
        dataset=train_set,
        num_workers=num_workers,
        batch_sampler=EpochBatchSampler(sampler, batch_size),
        collate_fn=host_build.fast_batch_collator,
        pin_memory=True,
        timeout=timeout,
    )


def _test_loader_from_config(
    cfg: CfgNode,
    *,
    dataset_name: str | None = None,
    test_set: Any = None,
    num_query: int = 0,
    transforms: Any = None,
    num_workers: int | None = None,
    evaluated: bool = True,
    **kwargs: Any,
) -> dict[str, Any]:
    if transforms is None:
        transforms = build_transforms(cfg, is_train=False)
    if test_set is None:
        if dataset_name is None:
            raise ValueError("name a dataset (dataset_name=...) or pass a test_set")
        data = load_dataset(dataset_name, cfg, **kwargs)
        if comm.is_main_process():
            data.show_test()
            _log_left_out(data, dataset_name)
        for items, what in (
            [(data.query, "query"), (data.gallery, "gallery")] if evaluated else [(data.gallery, "gallery")]
        ):
            check_split(items, what, dataset_name)
        query, gallery = _items(cfg, data.query), _items(cfg, data.gallery)
        if evaluated:
            check_evaluation(query, gallery, dataset_name)
        test_set = NamedDataset(query + gallery, transforms, getattr(data, "names", BY_NUMBER))
        num_query = len(query)
    return {
        "test_set": test_set,
        "test_batch_size": cfg.TEST.IMS_PER_BATCH,
        "num_query": num_query,
        "num_workers": loader_workers(cfg) if num_workers is None else num_workers,
        "timeout": cfg.DATALOADER.TIMEOUT,
        "device": available(cfg.MODEL.DEVICE),
    }


@configurable(from_config=_test_loader_from_config)
def build_reid_test_loader(
    test_set: Any,
    test_batch_size: int,
    num_query: int,
    num_workers: int = 4,
    timeout: int = 0,
    device: torch.device | None = None,
) -> tuple[DeviceLoader, int]:
    """Build a loader of the query images and then the gallery images, and count the queries.

    Called with a config, it also takes `evaluated`: False where no query needs to be scored, or even to be there.

    Args:
        test_set: query images first.
        test_batch_size: images of a batch, over all processes.
        num_query: how many of the images are queries.
        num_workers: processes that read images.
        timeout: seconds to wait for a batch of theirs; 0: for ever.
        device: of the model, where batches go if it is a GPU; None: this process's GPU, if there is one.

    Raises:
        ValueError: the dataset is missing or empty, an image cannot be read, or no query can be scored.
    """
    batch_size = max(1, test_batch_size // comm.get_world_size())
    loader = DeviceLoader(
        comm.get_local_rank(),
        device,
        dataset=test_set,
        batch_sampler=torch.utils.data.BatchSampler(samplers.InferenceSampler(len(test_set)), batch_size, False),
        num_workers=num_workers,
        collate_fn=host_build.fast_batch_collator,
        pin_memory=True,
        timeout=timeout,
    )
    return loader, num_query
