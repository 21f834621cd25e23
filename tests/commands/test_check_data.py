from __future__ import annotations

import pytest

from fastreid_parts.commands import check_data

from ..data.make_images import truncate, write_folders, write_image


def own_images(root):
    return write_folders(
        root,
        {
            "train": ["1_c1.jpg", "1_c2.jpg", "2_c1.jpg"],
            "query": ["3_c1.jpg"],
            "gallery": ["3_c2.jpg", "4_c1.jpg"],
        },
    )


def cells(output):
    """{split: [identities, images, cameras]} of the printed table."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if line[:1] == "|"]
    return {row[0]: [int(cell) for cell in row[1:]] for row in rows if row[0] in ("train", "query", "gallery")}


@pytest.mark.parametrize("by_name", [False, True])
def test_command_on_sound_images(tmp_path, capsys, by_name):
    own_images(tmp_path)
    where = ["--dataset-name", "FolderReID", "--root"] if by_name else ["--folder"]
    assert check_data.main([*where, str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert cells(output) == {"train": [2, 3, 2], "query": [1, 1, 1], "gallery": [2, 2, 2]}
    assert "No problems" in output


def test_command_lists_bad_entries_and_bad_images_together(tmp_path, capsys):
    own_images(tmp_path)
    truncate(tmp_path / "train" / "1_c1.jpg", 0.6)
    write_image(tmp_path / "gallery" / "stranger.jpg")
    assert check_data.main(["--folder", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert cells(output)["gallery"] == [2, 2, 2]
    assert "2 problems" in output
    assert "gallery/stranger.jpg: the name does not start with" in output
    assert str(tmp_path / "train" / "1_c1.jpg") in output


def test_command_on_a_table(tmp_path, capsys):
    write_image(tmp_path / "1.jpg")
    csv = tmp_path / "people.csv"
    csv.write_text("path,identity,camera,split\n1.jpg,a,x,train\n2.jpg,a,x,train\n")
    assert check_data.main(["--csv", str(csv)]) == 1
    assert f"line 3: no file {tmp_path / '2.jpg'}" in capsys.readouterr().out


def test_command_prints_warnings_and_passes(tmp_path, capsys):
    own_images(tmp_path)
    write_image(tmp_path / "query" / "9_c1.jpg")
    assert check_data.main(["--folder", str(tmp_path)]) == 0
    assert "1 of 2 query images do not count" in capsys.readouterr().out


def market(root, query):
    return write_folders(
        root / "Market-1501-v15.09.15",
        {
            "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0002_c2s1_000451_03.jpg"],
            "query": query,
            "bounding_box_test": ["0003_c2s1_000451_03.jpg", "0000_c2s1_000451_03.jpg"],
        },
    )


def test_command_on_a_registered_dataset(tmp_path, capsys):
    market(tmp_path, ["0003_c1s1_000451_03.jpg", "0004_c1s1_000451_03.jpg"])
    assert check_data.main(["--dataset-name", "Market1501", "--root", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert cells(output) == {"train": [1, 2, 2], "query": [2, 2, 1], "gallery": [2, 2, 1]}
    assert "1 of 2 query images do not count" in output


def test_command_on_missing_empty_and_unknown_datasets(tmp_path, capsys):
    assert check_data.main(["--dataset-name", "Market1501", "--root", str(tmp_path)]) == 1
    assert f'"{tmp_path}' in capsys.readouterr().out
    market(tmp_path, [])
    assert check_data.main(["--dataset-name", "Market1501", "--root", str(tmp_path)]) == 1
    assert "Market1501 has no query images" in capsys.readouterr().out
    assert check_data.main(["--dataset-name", "Market"]) == 1
    assert "no dataset is named 'Market'" in capsys.readouterr().out
    assert check_data.main(["--dataset-name", "MSMT17", "--root", str(tmp_path)]) == 1
    assert "MSMT17_V1 or" in capsys.readouterr().out
    assert check_data.main(["--folder", str(tmp_path / "nowhere")]) == 1
    assert "there is no folder" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["--dataset-name", "Market1501", "--folder", "x"]])
def test_command_needs_one_thing_to_check(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        check_data.main(argv)
    assert stop.value.code == 2
    assert "either --dataset-name, or --folder or --csv" in capsys.readouterr().err
