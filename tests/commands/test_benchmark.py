"""The rate of training: what is measured, kept, gone on with, and refused."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastreid_parts.commands import _throughput, benchmark
from fastreid_parts.commands._throughput import BASELINES, METHODS, Amount, Case, epoch_images, measure
from fastreid_parts.config import configs_root, load_config

from .run import problem, run

TINY = ["--device", "cpu", "--batch", "8", "--rounds", "1", "--steps", "1", "--warm-up", "1", "--read", "8"]


@pytest.fixture
def config(tiny_cfg: Callable, tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(tiny_cfg("DATALOADER.NUM_WORKERS", 0, "DATASETS.NAMES", ("Market1501",)).dump())
    return str(path)


def in_this_process(function: Callable, *arguments: Any) -> Any:
    return function(*arguments)


def test_a_model_beside_fast_reids_step(config: str, tmp_path: Path, capsys: Any) -> None:
    """In processes of their own, without a dataset."""
    output = tmp_path / "out" / "training.json"
    words = ["benchmark", "training", "--config-file", config, *TINY, "--baselines", "--output", output]
    answer = run(capsys, *words)
    table = [[c.strip() for c in line.split("|")[1:-1]] for line in answer.out.splitlines() if line.startswith("|")]
    (row,) = table[2:]
    cells = dict(zip(table[0], row))
    (found,) = json.loads(output.read_text())["rounds"].values()
    assert found[0]["images"] == "drawn people" and 0 < found[0]["data_share"] < 1
    assert float(cells["images/s"].replace(",", "")) == pytest.approx(found[0]["images_per_second"], abs=0.06)
    assert cells["of epochs x images"].endswith("x 12,936") and cells["model"] == config
    hours = int(cells["of epochs x images"].split()[0]) * 12936 / found[0]["loaded_images_per_second"] / 3600
    assert float(cells["hours"]) == pytest.approx(hours, abs=0.06)
    assert float(cells["cores to feed"]) == pytest.approx(
        found[0]["images_per_second"] / found[0]["read_per_core"], abs=0.06
    )


@pytest.mark.parametrize("step", _throughput.STEPS)
def test_each_step_trains(tiny_cfg: Callable, config: str, tmp_path: Path, step: str) -> None:
    """A round moves the weights, waits for the loader, and sees as many batches as it says."""
    opts = ["MODEL.META_ARCHITECTURE", "Baseline", "MODEL.HEADS.NAME", "EmbeddingHead", "MODEL.HEADS.NUM_CLASSES", 8]
    case = Case("tiny", step, config, opts)
    seen: list[Any] = []
    stepper = _throughput._stepper

    def watched(*arguments: Any) -> Any:
        trainer, one = stepper(*arguments)
        model = trainer.model
        before = [p.detach().clone() for p in model.parameters()]
        seen.append(lambda: any(not torch.equal(a, b) for a, b in zip(before, model.parameters())))
        return trainer, lambda: (seen.append(1), one())[1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_throughput, "_stepper", watched)
        people = tmp_path / "people"
        people.mkdir()
        _throughput.draw_images(str(people), 32)
        numbers = measure(case, 8, Amount(1, 2, 8), str(people))
    moved, *steps = seen
    assert moved() and len(steps) == 1 + (1 + 2) + (1 + 2)
    assert numbers["batch"] == 8 and numbers["precision"] == "float32"
    assert min(numbers[key] for key in ("images_per_second", "read_per_core", "loaded_images_per_second")) > 0


class TestFile:
    """With rounds that are made up."""

    @pytest.fixture(autouse=True)
    def rounds(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        done: list[str] = []

        def made_up(function: Callable, case: Case, *rest: Any) -> dict[str, Any]:
            done.append(f"{case.name} {case.step}")
            return {
                **{"images_per_second": 10.0 * len(done), "peak_gb": None, "read_per_core": 100.0, "data_share": 0.1},
                **{"loaded_images_per_second": 9.0, "workers": 0, "images": "drawn people", "first_step_seconds": 1.0},
                **{"precision": "float32", "cudnn_benchmark": True, "size": [96, 32]},
            }

        monkeypatch.setattr(benchmark, "in_own_process", made_up)
        monkeypatch.setattr(benchmark, "draw_images", lambda *_: None)
        return done

    def words(self, config: str, output: Path, *more: str) -> list[Any]:
        return ["benchmark", "training", "--config-file", config, *TINY, "--rounds", "2", "--output", output, *more]

    def test_rounds_take_turns(self, config: str, tmp_path: Path, capsys: Any, rounds: list[str]) -> None:
        run(capsys, *self.words(config, tmp_path / "a.json", "--variants", "base", "amp"))
        turn = ["bot fast-reid", "bot fastreid_parts", f"{config} fastreid_parts", f"{config} amp fastreid_parts"]
        assert rounds == turn * 2

    def test_stopped_and_gone_on_with(
        self, config: str, tmp_path: Path, capsys: Any, rounds: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        output, made_up = tmp_path / "a.json", benchmark.in_own_process

        def stopped(*arguments: Any) -> Any:
            if len(rounds) == 4:
                raise KeyboardInterrupt
            return made_up(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(benchmark, "in_own_process", stopped)
            answer = run(capsys, *self.words(config, output), code=130)
        assert "interrupted" in answer.err and "| bot" in answer.out
        assert sum(map(len, json.loads(output.read_text())["rounds"].values())) == 4
        run(capsys, *self.words(config, output))
        assert len(rounds) == 6
        run(capsys, *self.words(config, output))
        assert len(rounds) == 6  # nothing is left to do
        run(capsys, *self.words(config, output, "--rounds", "3"))
        assert len(rounds) == 9

    def test_another_measurement_is_kept(self, config: str, tmp_path: Path, capsys: Any, rounds: list[str]) -> None:
        output = tmp_path / "a.json"
        run(capsys, *self.words(config, output))
        before = output.read_bytes()
        assert "--overwrite" in problem(capsys, *self.words(config, output, "--batch", "16"))
        assert output.read_bytes() == before
        run(capsys, *self.words(config, output, "--batch", "16", "--overwrite"))
        assert output.read_bytes() != before
        output.write_text("not JSON")
        assert "--overwrite" in problem(capsys, *self.words(config, output))

    def test_what_cannot_be_measured_is_a_row_without_numbers(
        self, config: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made_up = benchmark.in_own_process

        def full(function: Callable, case: Case, *rest: Any) -> Any:
            if case.step == "fast-reid":
                raise RuntimeError("CUDA out of memory\nlong")
            return made_up(function, case, *rest)

        monkeypatch.setattr(benchmark, "in_own_process", full)
        answer = run(capsys, *self.words(config, tmp_path / "a.json"), code=1)
        lines = [line for line in answer.out.splitlines() if "bot" in line and line.startswith("|")]
        assert "out of memory" in lines[0] and "float32" not in lines[0] and "float32" in lines[1]

    def test_variants(self, config: str, tmp_path: Path, capsys: Any) -> None:
        words = self.words(config, tmp_path / "a.json")
        assert "no variant is named 'nonsense'" in problem(capsys, *words, "--variants", "nonsense")
        assert "config_fast.yaml" in problem(capsys, *words, "--variants", "fast")
        Path(config).with_name("config_fast.yaml").write_text(Path(config).read_text())
        answer = run(capsys, *words, "--variants", "fast", "--variant", "small", "INPUT.SIZE_TRAIN", "[48,16]")
        assert "config.yaml fast" in answer.out and "config.yaml small" in answer.out
        assert "has no value" in problem(capsys, *words, "--variant", "small", "INPUT.SIZE_TRAIN")
        assert "INPUT.SIZES" in problem(capsys, *words, "--opts", "INPUT.SIZES", "1")


def test_no_gpu_is_said_at_once(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "no GPU here" in problem(capsys, "benchmark", "training", "--device", "cuda")
    assert "--device is 'tpu'" in problem(capsys, "benchmark", "training", "--device", "tpu")


def test_the_defaults_are_models_that_build() -> None:
    """The five methods and fast-reid's baselines, each with its paper's epochs on a training set of known size."""
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    cases = benchmark.list_cases(parser.parse_args(["training", "--device", "cpu"]))
    assert [case.config for case in cases if case.name not in BASELINES] == list(METHODS)
    assert [case.name for case in cases[:8:2]] == list(BASELINES)
    for case in cases:
        assert epoch_images(case.load()) == 12936
    architectures = {case.name: case.load().MODEL.META_ARCHITECTURE for case in cases}
    assert [architectures[name] for name in BASELINES] == ["Baseline"] * 3 + ["MGN"]


def test_a_training_set_that_is_here_is_read(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    monkeypatch.setattr("fastreid_parts.data.build.datasets_root", lambda: str(root))
    cfg = load_config(config, ["SOLVER.IMS_PER_BATCH", 8])
    _, source = _throughput._train_loader(cfg, _people(tmp_path))
    assert source == "drawn people"
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (root / "Market-1501-v15.09.15" / folder).mkdir(parents=True)
        for number, path in enumerate(sorted(Path(_people(tmp_path)).iterdir())[:32]):
            name = f"{number // 8 + 1:04d}_c{number % 2 + 1}s1_{number:06d}_00.jpg"
            shutil.copy(path, root / "Market-1501-v15.09.15" / folder / name)
    loader, source = _throughput._train_loader(cfg, _people(tmp_path))
    assert source == "Market1501" and len(loader.dataset) == 32


def _people(tmp_path: Path) -> str:
    folder = tmp_path / "people"
    if not folder.exists():
        folder.mkdir()
        _throughput.draw_images(str(folder), 64)
    return os.fspath(folder)


def test_sizes_of_all_training_sets_of_configs_are_known() -> None:
    configs = [load_config(str(path)) for path in configs_root().glob("*/*.yml")]
    assert len({cfg.DATASETS.NAMES for cfg in configs}) > 6 and all(epoch_images(cfg) for cfg in configs)
