from __future__ import annotations

import pytest

from ..data.make_images import truncate, write_folders, write_image
from .run import problem, run


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
    output = run(capsys, "check-data", *where, tmp_path).out
    assert cells(output) == {"train": [2, 3, 2], "query": [1, 1, 1], "gallery": [2, 2, 2]}
    assert "No problems" in output


def test_command_lists_bad_entries_and_bad_images_together(tmp_path, capsys):
    own_images(tmp_path)
    truncate(tmp_path / "train" / "1_c1.jpg", 0.6)
    write_image(tmp_path / "gallery" / "stranger.jpg")
    output = run(capsys, "check-data", "--folder", tmp_path, code=1).out
    assert cells(output)["gallery"] == [2, 2, 2]
    assert "2 problems" in output
    assert "gallery/stranger.jpg: the name does not start with" in output
    assert str(tmp_path / "train" / "1_c1.jpg") in output


def test_command_on_a_table(tmp_path, capsys):
    write_image(tmp_path / "1.jpg")
    csv = tmp_path / "people.csv"
    csv.write_text("path,identity,camera,split\n1.jpg,a,x,train\n2.jpg,a,x,train\n")
    assert f"line 3: no file {tmp_path / '2.jpg'}" in run(capsys, "check-data", "--csv", csv, code=1).out


def test_command_prints_warnings_and_passes(tmp_path, capsys):
    own_images(tmp_path)
    write_image(tmp_path / "query" / "9_c1.jpg")
    assert "1 of 2 query images do not count" in run(capsys, "check-data", "--folder", tmp_path).out


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
    output = run(capsys, "check-data", "--dataset-name", "Market1501", "--root", tmp_path).out
    assert cells(output) == {"train": [1, 2, 2], "query": [2, 2, 1], "gallery": [2, 2, 1]}
    assert "1 of 2 query images do not count" in output


def test_command_on_missing_empty_and_unknown_datasets(tmp_path, capsys):
    registered = ["check-data", "--root", tmp_path, "--dataset-name"]
    assert f'"{tmp_path}' in problem(capsys, *registered, "Market1501")
    market(tmp_path, [])
    assert "Market1501 has no query images" in run(capsys, *registered, "Market1501", code=1).out
    assert "no dataset is named 'Market'" in problem(capsys, *registered, "Market")
    assert "MSMT17_V1 or" in problem(capsys, *registered, "MSMT17")
    assert "there is no folder" in problem(capsys, "check-data", "--folder", tmp_path / "nowhere")


@pytest.mark.parametrize("words", [[], ["--dataset-name", "Market1501", "--folder", "x"]])
def test_command_needs_one_thing_to_check(words, capsys):
    assert "either --dataset-name, or --folder or --csv" in problem(capsys, "check-data", *words)


def test_all_that_is_not_read_is_counted_and_named(tmp_path, capsys):
    own_images(tmp_path)
    (tmp_path / "train" / "7_c1.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "train" / "list.txt").touch()
    (tmp_path / "train" / ".DS_Store").touch()
    output = run(capsys, "check-data", "--folder", tmp_path).out
    assert "Passed over for 3 reasons:" in output and "can be read. 3 files passed over." in output
    assert "1 file passed over, a link to nothing: train/7_c1.jpg" in output and "1 warning" not in output
    write_image(tmp_path / "query" / "9_c1.jpg")
    assert "1 warning:\n" in run(capsys, "check-data", "--folder", tmp_path).out


def test_images_that_a_registered_dataset_leaves_out_are_named(tmp_path, capsys):
    root = market(tmp_path, ["0003_c1s1_000451_03.jpg"])
    write_image(root / "query" / "0003_c3s1_000001_01.png")
    write_image(root / "bounding_box_test" / "-1_c2s1_000451_03.jpg")
    output = run(capsys, "check-data", "--dataset-name", "Market1501", "--root", tmp_path).out
    assert "2 files passed over, an image that Market1501 leaves out" in output and "0003_c3s1_000001_01.png" in output


def test_needs_of_an_evaluation_are_no_needs_of_training(tmp_path, capsys):
    write_folders(tmp_path / "train_only", {"gus": ["1.jpg"], "hana": ["1.jpg", "2.tif"]})
    output = run(capsys, "check-data", "--folder", tmp_path / "train_only").out
    assert cells(output)["train"] == [2, 3, 1] and "to be trained on and not evaluated" in output
    write_folders(tmp_path / "one_camera", {"train": ["1_c1.jpg"], "query": ["2_c1.jpg"], "gallery": ["2_c1_1.jpg"]})
    output = run(capsys, "check-data", "--folder", tmp_path / "one_camera", code=1).out
    assert "1 problem:\n  none of the 1 query can be scored" in output
