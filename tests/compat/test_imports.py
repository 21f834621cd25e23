"""Importing: before or after the host, without it, too late for torchrun; and what is lent is given back."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(code: str, **env: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, env=environment)


CHECK = """
from fastreid.config import get_cfg
from fastreid.modeling import META_ARCH_REGISTRY, REID_HEADS_REGISTRY
cfg = get_cfg()
assert cfg.MODEL.CMBN.GRL_LAMBDA == 0.2
assert META_ARCH_REGISTRY.get("CMBN") and REID_HEADS_REGISTRY.get("CMBNHead")
from fastreid.engine import DefaultTrainer, launch
from fastreid_parts.engine import launch as ours
assert launch is ours
"""


@pytest.mark.parametrize(
    "order",
    [
        "import fastreid.config\nimport fastreid_parts",
        "from fastreid.config import get_cfg\nfrom fastreid.modeling import build_model\nimport fastreid_parts",
    ],
    ids=["after config", "after modeling"],
)
def test_order_does_not_matter(order: str) -> None:
    result = run(order + CHECK)
    assert result.returncode == 0, result.stderr
    assert "Cython" not in result.stderr


def test_lent_names_are_taken_away() -> None:
    assert "torch._six" not in sys.modules
    assert not hasattr(collections, "Mapping")


def test_without_the_host_the_error_is_the_command_that_installs_it() -> None:
    hide = "import sys\nsys.modules['fastreid'] = None\n"
    code = hide + "import importlib.util as u\nfind = u.find_spec\n"
    code += "u.find_spec = lambda name, *a: None if name == 'fastreid' else find(name, *a)\nimport fastreid_parts"
    result = run(code)
    assert result.returncode != 0
    assert "pip install --no-deps fastreid==1.4.0" in result.stderr


def test_a_config_made_too_early_says_what_to_move() -> None:
    code = "from fastreid.config import get_cfg\ncfg = get_cfg()\nimport fastreid_parts\n"
    result = run(code + "cfg.merge_from_file('Market/cmbn.yml')")
    assert result.returncode != 0
    assert "Move `import fastreid_parts` above `get_cfg()`" in result.stderr


def test_a_checkout_on_the_path_serves_as_the_host(tmp_path: Path) -> None:
    """Development checkouts differ from the wheel in data/build.py: they no longer need torch._six."""
    import fastreid

    source = Path(fastreid.__file__).parent
    checkout = tmp_path / "checkout" / "fastreid"
    import shutil

    shutil.copytree(source, checkout, ignore=shutil.ignore_patterns("__pycache__"))
    build = checkout / "data" / "build.py"
    text = build.read_text().replace("from torch._six import string_classes", "string_classes = str")
    build.write_text(text)
    code = f"import fastreid_parts, fastreid\nassert fastreid.__file__.startswith({str(tmp_path)!r})"
    result = run(code + CHECK, PYTHONPATH=str(checkout.parent))
    assert result.returncode == 0, result.stderr


def test_importing_installs_nothing_and_writes_nothing_into_the_host() -> None:
    import fastreid

    host = Path(fastreid.__file__).parent
    before = {p: p.stat().st_mtime_ns for p in host.rglob("*") if "__pycache__" not in p.parts}
    result = run("import fastreid_parts" + CHECK)
    assert result.returncode == 0, result.stderr
    assert "Cython" not in result.stderr
    assert {p: p.stat().st_mtime_ns for p in host.rglob("*") if "__pycache__" not in p.parts} == before


LATER = """
for name in ("sklearn", "scipy.stats", "matplotlib", "pandas", "torch._dynamo", "sympy"):
    assert name not in sys.modules, name
import torchvision, torch
assert torchvision.ops.roi_align(torch.rand(1, 3, 8, 8), [torch.tensor([[0.0, 0, 4, 4]])], 2).shape == (1, 3, 2, 2)
assert sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu") is True
assert type(torch._dynamo) is type(torch._dynamo.utils) is type(torch)
from fastreid.evaluation import reid_evaluation
from fastreid.utils import visualizer
assert reid_evaluation.metrics.auc([0, 1], [0, 1]) == visualizer.metrics.auc([0, 1], [0, 1]) == 0.5
assert visualizer.plt.Rectangle((0, 0), 1, 1).get_width() == 1 and 0.39 < visualizer.norm.pdf(0) < 0.4
import matplotlib.pyplot, scipy.stats, sklearn.metrics
assert matplotlib.pyplot.Rectangle is visualizer.plt.Rectangle and sklearn.metrics.auc is visualizer.metrics.auc
"""


def test_what_few_programs_need_is_imported_when_it_is_used() -> None:
    """Half of the import: scikit-learn, with pandas and SciPy's statistics, matplotlib, and torch's compiler."""
    result = run("import fastreid_parts, sys" + LATER)
    assert result.returncode == 0, result.stderr
    before = "import sys, sklearn, scipy.stats, matplotlib.pyplot, torch._dynamo\nbefore = dict(sys.modules)\n"
    after = "assert all(sys.modules[name] is module for name, module in before.items())"
    early = run(f"{before}import fastreid_parts\n{after}")
    assert early.returncode == 0, early.stderr


@pytest.mark.parametrize(
    "wanted",
    [
        "from torch._dynamo.utils import is_compile_supported, counters",
        pytest.param("import torch._dynamo.config", marks=pytest.mark.slow),
    ],
)
def test_who_wants_more_of_the_compiler_has_it(wanted: str) -> None:
    """As a version of torchvision may that comes later."""
    code = "import sys, types, torch, fastreid_parts\nfrom fastreid_parts.compat import imports\n"
    code += f"with imports._lent_modules(imports._COMPILER):\n    {wanted}\n"
    code += "assert type(sys.modules['torch._dynamo']) is type(sys.modules['torch._dynamo.utils']) is types.ModuleType"
    result = run(code)
    assert result.returncode == 0, result.stderr
