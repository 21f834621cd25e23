"""The plugin's keys, and finding configs by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastreid.config import CfgNode, get_cfg

from fastreid_parts.config import add_parts_config, configs_root, find_config


def test_adding_twice_keeps_values() -> None:
    cfg = add_parts_config(CfgNode())
    cfg.MODEL.CMBN.GRL_LAMBDA = 0.7
    cfg.SEED = 5
    add_parts_config(cfg)
    assert (cfg.MODEL.CMBN.GRL_LAMBDA, cfg.SEED) == (0.7, 5)


def test_defaults_do_not_share_lists_with_a_config() -> None:
    cfg = add_parts_config(CfgNode())
    cfg.SOLVER.LR_FACTORS.append(["heads", 10.0])
    assert add_parts_config(CfgNode()).SOLVER.LR_FACTORS == []
    assert get_cfg().SOLVER.LR_FACTORS == []


def test_paths_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yml").write_text("SEED: 1")
    assert find_config("own.yml") == "own.yml"
    expected = str(configs_root() / "Market" / "cmbn.yml")
    assert find_config("Market/cmbn.yml") == find_config("configs/Market/cmbn.yml") == expected
    with pytest.raises(FileNotFoundError, match="Market/cmbn.yml"):
        find_config("Market/cmnb.yml")


@pytest.mark.parametrize("path", sorted(configs_root().glob("**/*.yml")), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_config_loads(path: Path) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    assert cfg.MODEL.META_ARCHITECTURE
