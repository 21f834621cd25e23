"""`python -m fastreid_parts`: unmodified scripts of fast-reid's form, and their processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# The host's tools/train_net.py in essence: nothing of the plugin is named.
TRAIN = """
import json, sys
sys.path.append('.')
from fastreid.config import get_cfg
from fastreid.engine import DefaultTrainer, default_argument_parser, default_setup, launch
from fastreid.utils import comm


def main(args):
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    start = sum(float(p.detach().sum()) for p in trainer.model.parameters())
    results = trainer.train()
    if comm.is_main_process():
        end = sum(float(p.detach().sum()) for p in trainer.model.parameters())
        with open(cfg.OUTPUT_DIR + "/done.json", "w") as file:
            json.dump({"processes": comm.get_world_size(), "moved": start != end, "mAP": float(results["mAP"])}, file)


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    launch(main, args.num_gpus, num_machines=args.num_machines, machine_rank=args.machine_rank,
           dist_url=args.dist_url, args=(args,))
"""

# The imports and the export call of the host's tools/deploy/onnx_export.py, without the packages that it needs beside.
EXPORT = """
import io, sys
import torch
from torch.onnx import OperatorExportTypes
from fastreid.config import get_cfg
from fastreid.modeling.meta_arch import build_model
cfg = get_cfg()
cfg.merge_from_file(sys.argv[1])
model = build_model(cfg).eval()
with torch.no_grad(), io.BytesIO() as f:
    torch.onnx.export(model, torch.randn(1, 3, 48, 24), f, operator_export_type=OperatorExportTypes.ONNX_ATEN_FALLBACK)
    open(sys.argv[2], "wb").write(f.getvalue())
"""


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fastreid_parts", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd, env=env)


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.smallest
def test_unmodified_training_script(cmbn_cfg: Callable, tmp_path: Path, processes: int) -> None:
    (tmp_path / "train_net.py").write_text(TRAIN)
    cfg = cmbn_cfg("SOLVER.MAX_EPOCH", 1)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    result = run("train_net.py", "--config-file", "config.yaml", "--num-gpus", str(processes), cwd=tmp_path)
    assert result.returncode == 0, result.stdout[-1500:] + result.stderr[-3000:]
    done = json.loads(Path(cfg.OUTPUT_DIR, "done.json").read_text())
    assert done["processes"] == processes and done["moved"] and done["mAP"] > 0


def test_unmodified_export_script(cmbn_cfg: Callable, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    (tmp_path / "onnx_export.py").write_text(EXPORT)
    (tmp_path / "config.yaml").write_text(cmbn_cfg("MODEL.CMBN.INFERENCE_ONLY", True).dump())
    result = run("onnx_export.py", "config.yaml", "model.onnx", cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "model.onnx").stat().st_size > 1_000_000
