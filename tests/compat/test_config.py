"""Configs under the plugin: its keys in the defaults, and errors that say what is wrong, where, and what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastreid.config import CfgNode, get_cfg
from fastreid.config.defaults import _C
from fastreid.solver import build as host_solver
from torch import nn

import fastreid_parts
from fastreid_parts import compat
from fastreid_parts.compat.config import ConfigKeyError
from fastreid_parts.config import configs_root


def _merge_list(cfg: CfgNode, key: str, value: Any) -> None:
    cfg.merge_from_list([key, value])


def _merge_other(cfg: CfgNode, key: str, value: Any) -> None:
    node: Any = value
    for part in reversed(key.split(".")):
        node = CfgNode({part: node})
    cfg.merge_from_other_cfg(node)


@pytest.fixture(params=["list", "other", "file"])
def merge(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Every way of setting a key."""

    def from_file(cfg: CfgNode, key: str, value: Any) -> None:
        lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(key.split("."))]
        path = tmp_path / "own.yml"
        path.write_text("\n".join(lines) + f" {value!r}\n")
        cfg.merge_from_file(str(path))

    return {"list": _merge_list, "other": _merge_other, "file": from_file}[request.param]


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("key", "suggestion"),
        [
            ("SOLVER.BASE_LRR", "SOLVER.BASE_LR"),
            ("MODEL.HEAD.POOL_LAYER", "MODEL.HEADS.POOL_LAYER"),
            ("SOLVER.EVAL_PERIOD", "TEST.EVAL_PERIOD"),
            ("IMS_PER_BATCH", "SOLVER.IMS_PER_BATCH or TEST.IMS_PER_BATCH"),
            ("SOLVER.base_lr", "SOLVER.BASE_LR"),
            ("MODEL.CMBN.GRL_LAMDA", "MODEL.CMBN.GRL_LAMBDA"),
        ],
    )
    def test_are_named_with_the_closest(self, merge: Any, key: str, suggestion: str) -> None:
        with pytest.raises(KeyError) as caught:
            merge(get_cfg(), key, 1)
        message = str(caught.value)
        named = key if merge is _merge_list or key != "MODEL.HEAD.POOL_LAYER" else "MODEL.HEAD"
        assert f"there is no config key {named}" in message
        if named == key:
            assert suggestion in message
        else:
            assert "MODEL.HEADS" in message
        assert "\\n" not in message and not message.startswith("'")

    def test_nothing_is_merged(self, merge: Any) -> None:
        cfg = get_cfg()
        before = cfg.dump()
        with pytest.raises(KeyError):
            merge(cfg, "QQ.SUCH.KEY", 1)
        assert cfg.dump() == before

    def test_no_suggestion_where_nothing_is_close(self) -> None:
        with pytest.raises(ConfigKeyError, match="^there is no config key QQQ$"):
            get_cfg().merge_from_list(["QQQ", 1])

    def test_a_key_below_a_leaf(self) -> None:
        with pytest.raises(ConfigKeyError, match="no config key MODEL.DEVICE.cuda"):
            get_cfg().merge_from_list(["MODEL.DEVICE.cuda", 1])

    def test_the_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "own.yml").write_text("SOLVER:\n  BASE_LRR: 0.1\n")
        with pytest.raises(ConfigKeyError, match="own.yml: there is no config key SOLVER.BASE_LRR"):
            get_cfg().merge_from_file(str(tmp_path / "own.yml"))

    def test_the_hosts_own_message(self) -> None:
        with pytest.raises(AssertionError, match="^Non-existent key: SOLVER.BASE_LRR$"):
            CfgNode.merge_from_list.__wrapped__(get_cfg(), ["SOLVER.BASE_LRR", 1])

    def test_sections_that_allow_new_keys(self) -> None:
        cfg = get_cfg()
        cfg.SOLVER.set_new_allowed(True)
        _merge_other(cfg, "SOLVER.MINE", 3)
        assert cfg.SOLVER.MINE == 3

    def test_deprecated_and_renamed_keys(self) -> None:
        cfg = get_cfg()
        cfg.register_deprecated_key("SOLVER.OLD")
        cfg.register_renamed_key("SOLVER.FORMER", "SOLVER.BASE_LR")
        for merge in (_merge_list, _merge_other):
            merge(cfg, "SOLVER.OLD", 3)
            with pytest.raises(KeyError, match="renamed to SOLVER.BASE_LR"):
                merge(cfg, "SOLVER.FORMER", 3)


class TestPluginsKeys:
    @pytest.fixture
    def early(self) -> CfgNode:
        """A config that get_cfg() made before the plugin was imported."""
        cfg = get_cfg()
        del cfg.MODEL["CMBN"], cfg.SOLVER["AMSGRAD"], cfg["SEED"]
        return cfg

    def test_the_hosts_defaults_know_them(self) -> None:
        assert _C.MODEL.CMBN.GRL_LAMBDA == get_cfg().MODEL.CMBN.GRL_LAMBDA == 0.2

    @pytest.mark.parametrize("key", ["MODEL.CMBN.GRL_LAMBDA", "SOLVER.AMSGRAD", "SEED"])
    def test_a_config_from_before_the_import(self, early: CfgNode, key: str) -> None:
        with pytest.raises(ConfigKeyError, match=f"{key}.*Move `import fastreid_parts` above `get_cfg\\(\\)`"):
            early.merge_from_list([key, 1])

    def test_its_file(self, early: CfgNode) -> None:
        with pytest.raises(ConfigKeyError, match="cmbn.yml: .*one of fastreid_parts"):
            early.merge_from_file("Market/cmbn.yml")

    def test_the_other_way_out(self, early: CfgNode) -> None:
        fastreid_parts.add_parts_config(early).merge_from_list(["MODEL.CMBN.GRL_LAMBDA", 0.3])
        assert early.MODEL.CMBN.GRL_LAMBDA == 0.3


class TestWrongTypes:
    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            (
                "SOLVER.IMS_PER_BATCH",
                "many",
                r"PER_BATCH takes a whole number, as in its default 64.*string: 'many'",
            ),
            ("SOLVER.BASE_LR", 1, r"BASE_LR takes a decimal number.*whole number: 1\. Write 1\.0$"),
            ("TEST.FLIP.ENABLED", 1, r"FLIP.ENABLED takes True or False.*whole number: 1$"),
            ("INPUT.SIZE_TRAIN", 384, r"SIZE_TRAIN takes a list, as in its default \[256, 128\]"),
            ("MODEL.DEVICE", 0, r"MODEL.DEVICE takes a string, as in its default 'cuda'"),
            ("MODEL.HEADS", "EmbeddingHead", r"MODEL.HEADS is a section \(NAME.*given 'EmbeddingHead'"),
        ],
    )
    def test_name_both_types(self, merge: Any, key: str, value: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            merge(get_cfg(), key, value)

    def test_a_section_for_a_leaf(self) -> None:
        with pytest.raises(ValueError, match="MODEL.DEVICE takes a string.*a section"):
            _merge_other(get_cfg(), "MODEL.DEVICE.NAME", "cpu")

    def test_the_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "own.yml").write_text("SOLVER:\n  BASE_LR: fast\n")
        with pytest.raises(ValueError, match="own.yml: config key SOLVER.BASE_LR"):
            get_cfg().merge_from_file(str(tmp_path / "own.yml"))

    def test_what_fits_is_merged(self, merge: Any) -> None:
        cfg = get_cfg()
        merge(cfg, "MODEL.LOSSES.NAME", ["TripletLoss"])  # a list for a tuple
        merge(cfg, "SOLVER.BASE_LR", 0.5)
        assert cfg.MODEL.LOSSES.NAME == ("TripletLoss",) and cfg.SOLVER.BASE_LR == 0.5

    def test_numbers_in_words_of_a_command_line(self) -> None:
        cfg = get_cfg()
        cfg.merge_from_list(["SOLVER.BASE_LR", "3e-4", "INPUT.SIZE_TRAIN", "(64, 32)", "MODEL.DEVICE", "cpu"])
        assert cfg.SOLVER.BASE_LR == 3e-4 and cfg.INPUT.SIZE_TRAIN == [64, 32]

    def test_a_key_twice_has_its_last_value(self) -> None:
        for values in (("a", "['x=a']"), ("['x=a']", "a"), ("a", "b")):
            cfg = get_cfg()
            cfg.merge_from_list([word for value in values for word in ("DATASETS.FOLDER.ROOT", value)])
            assert (["x=a"] if "[" in values[1] else values[1]) == cfg.DATASETS.FOLDER.ROOT

    def test_a_folder_whose_name_is_a_number(self) -> None:
        cfg = get_cfg()
        cfg.merge_from_list(["DATASETS.FOLDER.ROOT", "2024"])
        assert cfg.DATASETS.FOLDER.ROOT == "2024"
        cfg.merge_from_list(["DATASETS.FOLDER.ROOT", "['a', 'b']", "DATASETS.FOLDER.CSV", "1e3"])
        cfg.merge_from_list(["DATASETS.FOLDER.ROOT", "007"])
        assert cfg.DATASETS.FOLDER.ROOT == "007" and cfg.DATASETS.FOLDER.CSV == "1e3"

    def test_an_odd_number_of_words(self) -> None:
        with pytest.raises(ValueError, match="odd number"):
            get_cfg().merge_from_list(["MODEL.DEVICE", "cpu", "SEED"])


class TestConfigPath:
    def test_the_plugins_configs_are_found_from_anywhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("Market/cmbn.yml", "configs/Market/cmbn.yml", str(configs_root() / "Market" / "cmbn.yml")):
            cfg = get_cfg()
            cfg.merge_from_file(name)
            assert cfg.MODEL.META_ARCHITECTURE == "CMBN"

    def test_a_file_in_the_way_wins(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "Market").mkdir()
        (tmp_path / "Market" / "cmbn.yml").write_text("SOLVER:\n  MAX_EPOCH: 3\n")
        cfg = get_cfg()
        cfg.merge_from_file("Market/cmbn.yml")
        assert cfg.SOLVER.MAX_EPOCH == 3 and cfg.MODEL.META_ARCHITECTURE == "Baseline"

    def test_a_file_that_is_nowhere(self) -> None:
        with pytest.raises(FileNotFoundError, match="no config file 'Market/nothing.yml': did you mean Market/"):
            get_cfg().merge_from_file("Market/nothing.yml")

    def test_a_base_beside_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "base.yml").write_text("SOLVER:\n  MAX_EPOCH: 3\n")
        (tmp_path / "leaf.yml").write_text("_BASE_: base.yml\nSEED: 4\n")
        cfg = get_cfg()
        cfg.merge_from_file(str(tmp_path / "leaf.yml"))
        assert cfg.SOLVER.MAX_EPOCH == 3 and cfg.SEED == 4


class TestBrokenFiles:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("SOLVER:\n  BASE_LR: [0.1\n", "own.yml is not valid YAML in line 3, column 1: expected"),
            ("SOLVER:\n\tBASE_LR: 0.1\n", "own.yml is not valid YAML in line 2, column 1: found"),
            ("SOLVER: !!python/object:os.system {}\n", "own.yml is not valid YAML in line 1, column 9: could not"),
            ("", "own.yml holds no keys"),
            ("- SOLVER\n", "own.yml holds no keys"),
            ("SOLVER:\n  OPT: SGD\nSEED: 1\nSOLVER:\n  MAX_EPOCH: 3\n", "SOLVER stands in line 1 and again in line 4"),
            ("SOLVER:\n  BASE_LR: 0.1\n  BASE_LR: 0.2\n", "SOLVER.BASE_LR stands in line 2 and again in line 3"),
            ("_BASE_: [a.yml, b.yml]\n", "own.yml: _BASE_ is the path of one file"),
            ("_BASE_:\n", "own.yml: _BASE_ is the path of one file"),
            ("_BASE_: base.yml\nSOLVER:\n  BASE_LR:\n    X: 1\n", "own.yml: Cannot inherit key 'BASE_LR'"),
            ("SEED: 2020-01-01\n", "own.yml: Key SEED with value .*date"),
            ("1: 2\n", "own.yml: "),
        ],
    )  # fmt: skip
    def test_is_named(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "base.yml").write_text("SOLVER:\n  BASE_LR: 0.3\n")
        (tmp_path / "own.yml").write_text(text)
        with pytest.raises((ValueError, KeyError), match=message) as error:
            get_cfg().merge_from_file(str(tmp_path / "own.yml"))
        assert str(error.value).count("own.yml") == 1 and "\n" not in str(error.value)

    def test_bases_in_a_circle(self, tmp_path: Path) -> None:
        for name, base in (("a", "b"), ("b", "sub/../c"), ("c", "b"), ("alone", "alone")):
            (tmp_path / f"{name}.yml").write_text(f"_BASE_: {base}.yml\n")
        (tmp_path / "sub").mkdir()
        b, c = tmp_path / "b.yml", tmp_path / "c.yml"
        for _ in range(2):  # what was being read is forgotten
            with pytest.raises(ValueError, match=f"each other's _BASE_: {b} -> {c} -> {b}"):
                get_cfg().merge_from_file(str(tmp_path / "a.yml"))
        with pytest.raises(ValueError, match=r"alone.yml -> \S+alone.yml"):
            get_cfg().merge_from_file(str(tmp_path / "alone.yml"))

    def test_a_base_that_is_missing_or_broken(self, tmp_path: Path) -> None:
        (tmp_path / "own.yml").write_text("_BASE_: base.yml\n")
        with pytest.raises(FileNotFoundError, match=r"own.yml: its _BASE_ is \S+base.yml, and there is no such file"):
            get_cfg().merge_from_file(str(tmp_path / "own.yml"))
        (tmp_path / "base.yml").write_text("SOLVER: [\n")
        with pytest.raises(ValueError, match="base.yml is not valid YAML in line 2"):
            get_cfg().merge_from_file(str(tmp_path / "own.yml"))

    def test_nothing_is_merged(self, tmp_path: Path) -> None:
        (tmp_path / "own.yml").write_text("SEED: 5\nSOLVER:\n  MAX_EPOCH: 3\nSOLVER:\n  MAX_EPOCH: 4\n")
        cfg = get_cfg()
        with pytest.raises(ValueError, match="line 2 and again in line 4"):
            cfg.merge_from_file(str(tmp_path / "own.yml"))
        assert cfg == get_cfg()


class TestBiasDecay:
    @staticmethod
    def _decays(cfg: CfgNode) -> dict:
        groups = host_solver.get_default_optimizer_params(
            nn.Linear(1, 1),
            base_lr=0.1,
            weight_decay=cfg.SOLVER.WEIGHT_DECAY,
            weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        )
        return {("weight" if p.ndim == 2 else "bias"): g["weight_decay"] for g in groups for p in g["params"]}

    def test_follows_weight_decay(self) -> None:
        cfg = get_cfg()
        cfg.merge_from_list(["SOLVER.WEIGHT_DECAY", "0.1"])
        assert self._decays(cfg) == {"weight": 0.1, "bias": 0.1}

    def test_a_number_still_counts(self, merge: Any) -> None:
        cfg = get_cfg()
        merge(cfg, "SOLVER.WEIGHT_DECAY_BIAS", 0.25)
        assert self._decays(cfg) == {"weight": 5e-4, "bias": 0.25}

    def test_survives_a_dump(self, tmp_path: Path) -> None:
        (tmp_path / "config.yaml").write_text(get_cfg().dump())
        cfg = get_cfg()
        cfg.merge_from_file(str(tmp_path / "config.yaml"))
        assert cfg == get_cfg()


def test_applying_twice_changes_nothing() -> None:
    before = CfgNode.merge_from_list
    compat.apply()
    assert CfgNode.merge_from_list is before
