"""SyntheticReID: pedestrians that are drawn here, so that everything can be tried without a download."""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import Any

from fastreid.config import CfgNode
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset
from fastreid.utils import comm

from ...pedestrians import SCALES, Nuisances, dataset_folder, generate, is_complete
from ...settings import Settings, choice, key
from ..image_files import find_images
from .market_naming import JUNK, parse_market_name

logger = logging.getLogger(__name__)


class SyntheticSettings(Settings, section="DATASETS.SYNTHETIC"):
    """SyntheticReID, drawn people."""

    scale: str = choice(tuple(SCALES), "how many")
    seed: int = key(0, "of the drawings")


#: Strength of each nuisance, DATASETS.SYNTHETIC.NUISANCES: the generator, which knows no config, names them
NuisanceSettings: type[Settings] = type(
    "NuisanceSettings",
    (Settings,),
    {
        "__doc__": "Strength of each nuisance, from 0, off, to 2.",
        "__annotations__": {field.name: "float" for field in dataclasses.fields(Nuisances)},
        **{f.name: key(f.default, f.metadata["about"], low=0, high=2) for f in dataclasses.fields(Nuisances)},
    },
    section="DATASETS.SYNTHETIC.NUISANCES",
)


@DATASET_REGISTRY.register()
class SyntheticReID(ImageDataset):
    """Synthetic pedestrians in Market-1501's layout, generated below `root` on first use.

    Of several processes on a machine one generates and the others wait. As with Market-1501, images of identity -1
    are left out and identity 0 is a distractor of the gallery.

    Args:
        root: folder of all datasets.
        scale: "demo", "small" or "market" (751 training identities in 12,936 images, as Market-1501).
        seed: decides people, places and cameras.
        nuisances: strengths of what makes the task hard; all of them 1 by default.
        **kwargs: for fast-reid's `ImageDataset`.

    Raises:
        ValueError: an argument is out of range, or the folder was made with other parameters.
        RuntimeError: the process that generates could not finish.
    """

    _junk_pids = [0, JUNK]
    dataset_name = "synthetic"

    def __init__(
        self,
        root: str = "datasets",
        scale: str = "demo",
        seed: int = 0,
        nuisances: Nuisances | None = None,
        **kwargs: Any,
    ) -> None:
        folder = dataset_folder(root, scale, seed, nuisances)
        try:
            if comm.get_local_rank() == 0:
                if not is_complete(folder):
                    logger.info(f"Drawing SyntheticReID ({scale}, seed {seed}) into {folder}")
                generate(root, scale, seed, nuisances)
        finally:  # where it failed the others must not wait for ever
            comm.synchronize()
        if not is_complete(folder):
            raise RuntimeError(f"{folder} is not complete; the process with local rank 0 says why")
        self.root = root
        self.data_dir = str(folder)
        train = self._read("bounding_box_train", is_train=True)
        query, gallery = self._read("query"), self._read("bounding_box_test")
        super().__init__(train, query, gallery, **kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode, root: str, **kwargs: Any) -> SyntheticReID:
        """The dataset that DATASETS.SYNTHETIC of a config describes, below `root`."""
        settings, strengths = SyntheticSettings.from_cfg(cfg), NuisanceSettings.from_cfg(cfg).as_dict()
        return cls(root, settings.scale, settings.seed, Nuisances(**strengths), **kwargs)

    def _read(self, name: str, is_train: bool = False) -> list[tuple]:
        """(path, identity, camera) of the images of a folder, cameras from 0, junk left out."""
        folder = os.path.join(self.data_dir, name)
        items: list[tuple] = []
        for image in find_images(folder)[0]:
            found = parse_market_name(image)
            if found is None or found[0] == JUNK:
                continue
            pid, camera = found[0], found[1] - 1
            path = os.path.join(folder, image)
            if is_train:
                items.append((path, f"{self.dataset_name}_{pid}", f"{self.dataset_name}_{camera}"))
            else:
                items.append((path, pid, camera))
        return items
