from pathlib import Path

import pytest

from stepseg.files.finding import files_below, folders_below


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_folders_come_in_the_order_of_their_paths(tmp_path):
    names = ["b/1.png", "a/10/x", "a/2/x", "a.png", ".hydra/config.yaml"]
    files = sorted(touch(tmp_path / name) for name in names)
    assert sorted(files_below(tmp_path)) == files
    folders = ["", ".hydra", "a", "a/10", "a/2", "b"]
    assert list(folders_below(tmp_path)) == [tmp_path / name for name in folders]


def test_a_link_to_a_folder_is_followed(tmp_path):
    touch(tmp_path / "disk/aachen/1.png")
    (tmp_path / "train").mkdir()
    (tmp_path / "train/aachen").symlink_to(tmp_path / "disk/aachen")
    (tmp_path / "train/bochum").symlink_to(tmp_path / "disk/aachen")
    found = list(files_below(tmp_path / "train"))
    assert found == [tmp_path / "train/aachen/1.png", tmp_path / "train/bochum/1.png"]


def test_links_that_lead_back_end(tmp_path):
    file = touch(tmp_path / "a/x")
    (tmp_path / "a/itself").symlink_to(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "a/across").symlink_to(tmp_path / "b")
    (tmp_path / "b/back").symlink_to(tmp_path / "a")
    assert list(files_below(tmp_path / "a")) == [file]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        list(files_below(tmp_path / "nowhere"))
