"""What the blocks of the documents find where they are run: tiny datasets, a trained model, features, an index.

Names are those that the documents use. Every config of the plugin's that is read there becomes tiny, and so do the
scales of the generated dataset; all else is as a user has it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fastreid.config import CfgNode

from fastreid_parts.command_line import main
from fastreid_parts.config import configs_root, find_config
from fastreid_parts.pedestrians import SCALES
from tests.conftest import write_market

#: 192 rows are twelve of the map, which the parts of all methods divide or fit
TINY = (
    "MODEL.DEVICE", "cpu",
    "MODEL.BACKBONE.PRETRAIN", False,
    "INPUT.SIZE_TRAIN", [192, 64],
    "INPUT.SIZE_TEST", [192, 64],
    "DATALOADER.NUM_WORKERS", 0,
    "SOLVER.IMS_PER_BATCH", 16,
    "SOLVER.MAX_EPOCH", 1,
    "SOLVER.WARMUP_ITERS", 0,
    "SOLVER.WARMUP_EPOCHS", 0,
    "SOLVER.FREEZE_ITERS", 0,
    "SOLVER.FREEZE_EPOCHS", 0,
    "TEST.IMS_PER_BATCH", 16,
    "SEED", 0,
)  # fmt: skip
RESNET = ("MODEL.BACKBONE.DEPTH", "18x", "MODEL.BACKBONE.FEAT_DIM", 512)
RUN = Path("logs/Market/cmbn")


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make what is trained and generated tiny."""
    merge = CfgNode.merge_from_file

    def merge_tiny(self: CfgNode, name: str, *args: object, **kwargs: object) -> None:
        merge(self, name, *args, **kwargs)
        if Path(find_config(name)).is_relative_to(configs_root()):
            self.merge_from_list([*TINY, *(RESNET if self.MODEL.BACKBONE.NAME == "build_resnet_backbone" else ())])

    monkeypatch.setattr(CfgNode, "merge_from_file", merge_tiny)
    for name, scale in SCALES.items():
        tiny = scale._replace(train_ids=4, train_images=16, test_ids=4, queries=12, gallery=16, distractors=2, junk=1)
        monkeypatch.setitem(SCALES, name, tiny)


def build(root: Path) -> Path:
    """Fill a folder; the working directory is it, and `shrink` is in force."""
    market = write_market(root / "datasets" / "Market-1501-v15.09.15")
    for name in ("datasets/DukeMTMC-reID", "my_images", "data/shop", "data/street"):
        shutil.copytree(market, root / name)
    for number, image in enumerate(sorted((market / "bounding_box_test").glob("*.jpg"))):
        for folder in ("some/folder", "shop") if number < 12 else ("more",):
            (root / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(image, root / folder / f"till_{number:04d}.png")
    shop = sorted(path.relative_to(root) for path in (root / "shop").iterdir())
    seen = [f"{path},shop,{number % 3},2026-05-01T15:{number:02d}:00" for number, path in enumerate(shop)]
    (root / "shop.csv").write_text("\n".join(["path,site,track,time", *seen, ""]), encoding="utf-8")
    assert main(["train", "--config-file", "Market/cmbn.yml"]) == 0
    model = ["--config-file", "Market/cmbn.yml", "--weights", str(RUN / "model_final.pth")]
    assert main(["extract", *model, "--output", "features"]) == 0
    assert main(["extract", *model, "--images", "shop", "--output", "others"]) == 0
    assert main(["index", "build", "--index", "people", "--features", "features"]) == 0
    return root


#: Runs that the documents name and that are not called as their config
VARIANTS = {
    "bot": ("cge_bot", "MODEL.HEADS.NAME", "GlobalHead"),
    "rrid_plain": ("rrid_s", "MODEL.RRID.RELATION", "none"),
}


def train_what_is_named(words: list[str]) -> None:
    """Train the runs that a command reads, logs/DATASET/CONFIG/..., where they are not there yet."""
    for dataset, run in {found.groups() for word in words if (found := re.match(r"logs/(\w+)/(\w+)/.", word))}:
        if not Path("logs", dataset, run).is_dir():
            config, *keys = VARIANTS.get(run, (run,))
            line = ["train", "--config-file", f"{dataset}/{config}.yml", "OUTPUT_DIR", f"logs/{dataset}/{run}", *keys]
            assert main(line) == 0


def copy(source: Path, target: Path) -> Path:
    """Give a page a sandbox of its own. Files are replaced and never changed in place, so links are enough."""
    link: Callable = os.link
    return Path(shutil.copytree(source, target, copy_function=link))
