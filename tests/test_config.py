"""The plugin's keys, and finding configs by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling import build_model

from fastreid_parts.config import add_parts_config, configs_root, find_config, flat_keys, load_config, word_pairs
from fastreid_parts.engine.solver import build_lr_scheduler, build_optimizer, parameter_settings


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


def with_resnet18(name: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(find_config(name))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.DEPTH", "18x", "MODEL.BACKBONE.FEAT_DIM", 512])
    cfg.merge_from_list(["MODEL.BACKBONE.PRETRAIN", False, "MODEL.HEADS.NUM_CLASSES", 3])
    return cfg


@pytest.mark.parametrize("name", ["Market/rrid_f.yml", "Duke/rrid_s.yml"])
def test_the_rates_of_rrid(name: str) -> None:
    """Paragraph "Training": 1e-3 for the backbone, 1e-2 for the rest, weight decay 5e-4. R16: its code's decays."""
    cfg = with_resnet18(name)
    model = build_model(cfg)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates: dict[str, set] = {}
    for settings in parameter_settings(cfg, model):
        child = names[id(settings["params"][0])].split(".")[0]
        rates.setdefault(child, set()).add((settings["lr"], settings["weight_decay"]))
    assert rates == {"backbone": {(0.001, 0.0005)}, "heads": {(0.01, 0.0005)}}
    assert len(names) == sum(1 for _ in parameter_settings(cfg, model))
    assert rates_by_epoch(cfg, model) == [[0.001, 0.01]] * 156 + [[0.0001, 0.001]] * 80 + [[0.00001, 0.0001]] * 84


@pytest.mark.parametrize(
    ("name", "epochs"), [("Market/can.yml", (58, 23, 24, 35)), ("CUHK03-mixed/can.yml", (52, 21, 21, 31))]
)
def test_the_rates_of_can(name: str, epochs: tuple[int, ...]) -> None:
    """Sec. 4.6: 3e-4, and a tenth of it at 250, 350 and 450 of 600 of its epochs; A17: no weight decay."""
    cfg = with_resnet18(name)
    model = build_model(cfg)
    assert {(s["lr"], s["weight_decay"]) for s in parameter_settings(cfg, model)} == {(0.0003, 0.0)}
    rates = (0.0003, 0.00003, 0.000003, 0.0000003)
    assert rates_by_epoch(cfg, model) == [[rate] for rate, number in zip(rates, epochs) for _ in range(number)]


def rates_by_epoch(cfg: CfgNode, model: torch.nn.Module) -> list[list[float]]:
    """Sorted rates of the parameter groups in each epoch, to eight digits."""
    optimizer, _ = build_optimizer(cfg, model)
    schedulers = build_lr_scheduler(cfg, optimizer, iters_per_epoch=1)
    assert set(schedulers) == {"lr_sched"}  # no warm-up
    result = []
    for _ in range(cfg.SOLVER.MAX_EPOCH):
        result.append(sorted({round(group["lr"], 8) for group in optimizer.param_groups}))
        optimizer.step()
        schedulers["lr_sched"].step()
    return result


def test_a_file_and_single_keys_make_a_config(tmp_path: Path) -> None:
    (tmp_path / "own.yml").write_text("SEED: 3\nMODEL:\n  CMBN:\n    GRL_LAMBDA: 0.5\n")
    cfg = load_config(str(tmp_path / "own.yml"), ["SEED", "4"])
    assert (cfg.SEED, cfg.MODEL.CMBN.GRL_LAMBDA) == (4, 0.5) and load_config("Market/cmbn.yml").SEED == get_cfg().SEED
    with pytest.raises(KeyError, match="SEEDS"):
        load_config("Market/cmbn.yml", ["SEEDS", "4"])
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yml"):
        load_config("nowhere.yml")


def test_flat_keys() -> None:
    flat = flat_keys({"A": {"B": {"C": 1}, "D": [2]}, "E": None})
    assert flat == {"A.B.C": 1, "A.D": [2], "E": None}
    assert flat_keys(get_cfg())["MODEL.CMBN.GRL_LAMBDA"] == get_cfg().MODEL.CMBN.GRL_LAMBDA


def test_word_pairs() -> None:
    assert word_pairs(["A", "1", "B", "2"]) == [("A", "1"), ("B", "2")] and word_pairs([]) == []
    with pytest.raises(ValueError, match="'B' has no value"):
        word_pairs(["A", "1", "B"])
