"""The command receptive-fields: the paper's numbers in its tables, and what other configs get."""

from __future__ import annotations

import pytest

from tests.commands.run import problem, run


def tables(capsys: pytest.CaptureFixture, *words: str) -> tuple[str, list[list[str]]]:
    out = run(capsys, "receptive-fields", *words).out
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    return out, [row for row in cells if not row[0].startswith(":")]


def test_the_numbers_of_the_paper(capsys: pytest.CaptureFixture) -> None:
    out, rows = tables(capsys, "--config-file", "Market/rmgl.yml")
    assert "which has 24, sees 363 rows; the image has 384" in out
    layers = {row[0]: row[1:] for row in rows}
    assert layers["layer1.2.conv3"] == ["1", "1", "96", "35", "4", "0"]
    assert layers["layer4.2.conv2"] == ["3", "1", "24", "363", "16", "0"]
    assert "after res2" in out
    stripes = [row for row in rows if row[0].startswith("part")]
    assert [row[:5] for row in stripes] == [
        [branch, str(stripe), f"83 of {rows}", "yes", size]
        for branch, stripe, rows, size in [
            ("parts_of_2", 1, 48, "223"), ("parts_of_2", 2, 48, "223"),
            ("parts_of_3", 1, 32, "159"), ("parts_of_3", 2, 32, "159"), ("parts_of_3", 3, 32, "159"),
        ]
    ]  # fmt: skip
    assert [row[5:] for row in stripes[:2]] == [["0 to 205", "206", "54%"], ["175 to 383", "209", "54%"]]


def test_keys_of_the_partition(capsys: pytest.CaptureFixture) -> None:
    words = ["--config-file", "Synthetic/rmgl.yml", "--opts", "MODEL.RMGL.BRANCHES", "[1, 2]"]
    out, rows = tables(capsys, *words, "MODEL.RMGL.PARTITIONS", "3", "MODEL.RMGL.PARTITION_AT", "res4")
    assert [row[:4] for row in rows if row[0].startswith("part")] == [
        ["parts_of_2", str(stripe), "9 of 2", "yes"] for stripe in (1, 2, 3)
    ]
    out, rows = tables(capsys, *words, "MODEL.RMGL.PATHS", "['original']")
    assert "No branch has a receptively partitioned path" in out
    assert not [row for row in rows if row[0].startswith("part")]


def test_any_method_on_a_resnet(capsys: pytest.CaptureFixture) -> None:
    out, rows = tables(capsys, "--config-file", "Market/cmbn.yml", "--opts", "MODEL.BACKBONE.WITH_SE", "True")
    assert "sees all rows" in out and "parts_of_2" not in out
    assert ["layer1.0.se", "all", "1", "96", "all", "4", ""] in rows
    out, _ = tables(capsys, "--config-file", "Synthetic/mgn.yml")
    assert "sees 339 rows; the image has 96" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config-file", "nowhere.yml"], "nowhere.yml"),
        (["--config-file", "Market/rmgl.yml", "--opts", "MODEL.RMGL.BRANCHES", "[5]"], "96 rows, which 5 stripes"),
        (["--config-file", "Market/rmgl.yml", "--opts", "MODEL.RMGL.PARTITION_AT", "res9"], "PARTITION_AT is 'res9'"),
        (["--config-file", "Market/rmgl.yml", "--opts", "MODEL.NO_SUCH_KEY", "1"], "NO_SUCH_KEY"),
        (
            ["--config-file", "Market/cmbn.yml", "--opts", "MODEL.BACKBONE.NAME", "build_mobilenetv2_backbone"]
            + ["MODEL.BACKBONE.DEPTH", "1.0x"],
            "InvertedResidual, whose receptive field cannot be read",
        ),
    ],
)
def test_bad_input_is_named(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert message in problem(capsys, "receptive-fields", *words)
