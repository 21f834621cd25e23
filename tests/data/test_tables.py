"""Tables as users and spreadsheets write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastreid_parts.data.tables import read_table


def test_cells_as_spreadsheets_write_them(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes("\ufeffpath, identity ,more\r\n1.0, 12.0,x\r\n'@b.jpg,'-gus,\r\n\"c,d.jpg\",-1.00\r\n".encode())
    assert list(read_table(path, ("path", "identity"), ("camera",))) == [
        (2, {"path": "1.0", "identity": "12", "camera": ""}),
        (3, {"path": "@b.jpg", "identity": "-gus", "camera": ""}),
        (4, {"path": "c,d.jpg", "identity": "-1", "camera": ""}),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("path,identity,identity\n", "the column identity is there twice"),
        ("path;identity\n", "no column path, identity"),
        ("", "and is: empty"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ValueError, match=problem):
        list(read_table(tmp_path / "table.csv", ("path", "identity")))
