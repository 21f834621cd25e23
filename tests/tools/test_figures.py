"""tools/figures.py: the committed figures are what it draws, and they say of the methods what the code says."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from fastreid.modeling import build_model
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from fastreid_parts.checkpoints import training_only
from fastreid_parts.config import load_config
from fastreid_parts.paper_results import load_ledger

from .load import load_tool

figures = load_tool("figures")
NAMES = sorted(path.stem for path in figures.FOLDER.glob("*.yml"))
CONFIGS = {"cmbn": "cmbn", "cge": "cge_bot", "rrid": "rrid_f", "can": "can", "rmgl": "rmgl"}


def boxes_of(name: str) -> list[dict[str, Any]]:
    return [box for row in figures.read(figures.FOLDER / f"{name}.yml")["rows"] for box in row]


@pytest.mark.parametrize("name", NAMES)
def test_committed_figures_are_what_is_drawn(name: str) -> None:
    source = figures.FOLDER / f"{name}.yml"
    drawn = figures.draw(figures.read(source))
    assert source.with_suffix(".svg").read_text(encoding="utf-8") == drawn, "run `make figures`"
    assert ElementTree.fromstring(drawn).get("aria-label") == figures.read(source)["title"]


@pytest.mark.parametrize("name", NAMES)
def test_words_fit_their_boxes(name: str) -> None:
    for row in figures.read(figures.FOLDER / f"{name}.yml")["rows"]:
        for box in figures._place([row])[0].values():
            for number, line in enumerate(box.spec["text"]):
                weight = "bold" if number == 0 and len(box.spec["text"]) > 1 else "normal"
                font = FontProperties(family="DejaVu Sans", weight=weight)  # the widest of those that are named
                width = TextPath((0, 0), line, size=figures._SIZE, prop=font).get_extents().width
                assert width < box.width, line


@pytest.mark.parametrize("name", CONFIGS)
def test_a_method_is_drawn_as_it_is_built(name: str) -> None:
    """What is dashed is what evaluation does without, and the representation is as wide as it says."""
    opts = ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.PRETRAIN", False, "MODEL.BACKBONE.DEPTH", "18x"]
    cfg = load_config(
        f"Market/{CONFIGS[name]}.yml", [*opts, "MODEL.BACKBONE.FEAT_DIM", 512, "MODEL.HEADS.NUM_CLASSES", 4]
    )
    model = build_model(cfg)
    dashed = {box["training"] for box in boxes_of(name) if "training" in box}
    modules = {path for path in dashed if path.partition(".")[0] in dict(model.named_children())}
    assert all(path in cfg or path.partition(".")[0] in cfg for path in dashed - modules), "a key"
    state = model.state_dict()
    declared = {prefix for prefix in training_only(model) if any(key.startswith(prefix) for key in state)}
    assert modules == declared
    (width,) = [re.match(r"(\d+)-d", box["text"][0])[1] for box in boxes_of(name) if box["kind"] == "output"]
    dims = (
        model.heads.feature_dims.values()
        if name != "cge"
        else [load_config("Market/cge_bot.yml").MODEL.BACKBONE.FEAT_DIM]
    )
    assert sum(dims) == int(width)


def test_every_paper_has_a_figure_and_its_page_shows_it() -> None:
    assert set(CONFIGS) == set(load_ledger().papers) <= set(NAMES)
    for name in CONFIGS:
        page = (figures.FOLDER.parent / "methods" / f"{name}.md").read_text(encoding="utf-8")
        assert f"](../figures/{name}.svg)" in page and f"{{include}} ../../fastreid_parts/methods/{name}.py" in page


@pytest.mark.parametrize(("figure", "named"), [("data", r"([a-z_]+/|[a-z_]+\.py)")])
def test_the_packages_of_the_datas_way_exist(figure: str, named: str) -> None:
    root = figures.FOLDER.parents[1]
    names = [name for box in boxes_of(figure) for line in box["text"] for name in re.findall(named, line)]
    assert len(names) > 8
    assert [
        name for name in names if not (root / name).exists() and not (root / "fastreid_parts" / name).exists()
    ] == []


def test_an_arrow_to_nowhere_is_named() -> None:
    rows = [[{"id": "a", "at": [0, 12], "kind": "data", "text": ["a"]}]]
    with pytest.raises(ValueError, match="'a -> b' names b; there is a"):
        figures.draw({"title": "", "rows": rows, "arrows": ["a -> b"]})
