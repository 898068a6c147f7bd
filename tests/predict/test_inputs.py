"""Which files are found, and under which names."""

import builtins
import os
import re
from pathlib import Path

import pytest

from stepseg.data.files import ImageFileError
from stepseg.predict.inputs import File, find_files, first_name, items_of
from stepseg.predict.video import read_frames


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(*arguments, **options):
    return [(file.relative, file.name) for file in find_files(*arguments, **options)]


def test_folders_keep_their_structure(tmp_path):
    touch(tmp_path, "b.JPG", "a.png", "sub/c.tif", "notes.txt", ".hidden.png", "clip.mp4")
    assert found(str(tmp_path)) == [("a.png", "a"), ("b.JPG", "b"), ("sub/c.tif", "sub/c")]
    assert found(str(tmp_path), recursive=False) == [("a.png", "a"), ("b.JPG", "b")]


def test_names_never_collide(tmp_path):
    touch(tmp_path, "a.jpg", "a.png", "b.jpg", "B.png", "a.jpg.png", "c.d.jpg")
    names = dict(found(str(tmp_path)))
    assert names["c.d.jpg"] == "c.d"
    assert names["b.jpg"] == "b.jpg"  # file systems may ignore case
    assert names["a.jpg"] == "a.jpg"
    assert names["a.jpg.png"] == "a.jpg.png"
    assert len({name.casefold() for name in names.values()}) == 6


def test_patterns_files_and_lists(tmp_path):
    touch(tmp_path, "x/1/a.png", "x/2/a.png", "x/2/b.txt", "odd[1].png")
    assert found(f"{tmp_path}/x/*/a.png") == [("1/a.png", "1/a"), ("2/a.png", "2/a")]
    assert found(f"{tmp_path}/**/a.png") == [("x/1/a.png", "x/1/a"), ("x/2/a.png", "x/2/a")]
    assert found(f"{tmp_path}/odd[1].png") == [("odd[1].png", "odd[1]")]  # it exists as it is
    both = [f"{tmp_path}/x/1", f"{tmp_path}/x/2/a.png", f"{tmp_path}/x/1/a.png"]
    assert found(both) == [("1/a.png", "1/a"), ("2/a.png", "2/a")]


def test_a_file_is_found_once_however_it_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "x/a.png", "x/b.png")
    monkeypatch.chdir(tmp_path)
    given = ["x/a.png", f"{tmp_path}/x/a.png", "./x/../x/a.png", f"{tmp_path}/x"]
    assert found(given) == [("a.png", "a"), ("b.png", "b")]


def test_results_of_different_files_never_meet(tmp_path):
    """Each name stands for files and folders: no file may be where another's folder is."""
    touch(tmp_path, "a.mp4", "a/frame_000000.png", "b.jpg", "b.png/c.png", "d.jpg", "d/e.jpg")
    given = [str(tmp_path / "a.mp4"), str(tmp_path)]
    assert dict(found(given)) == {
        "a.mp4": "a.mp4",
        "a/frame_000000.png": "a/frame_000000",
        "b.jpg": "b.jpg",
        "b.png/c.png": "b.png/c",
        "d.jpg": "d",
        "d/e.jpg": "d/e",
    }


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["a.txt"], {}, r"holds 1 file\(s\), but no image"),
        (["a.mp4"], {}, r"1 video\(s\) are there: give one as input"),
        (["sub/a.png"], {"recursive": False}, "recursive=true looks into them"),
        ([], {}, "is empty"),
    ],
)
def test_empty_handed(names, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        find_files(str(touch(tmp_path, *names)), **options)


def test_videos_without_their_extra(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_av(name, *arguments, **options):
        if name == "av":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(ValueError, match=r"pip install 'stepseg\[video\]'"):
        next(read_frames(tmp_path / "a.mp4"))


def test_a_file_that_changes_within_its_size_has_another_stamp(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    os.utime(path, ns=(0, 10**18))
    before = next(items_of(find_files(str(path)))).stamp
    path.write_bytes(b"two")
    os.utime(path, ns=(0, 10**18 + 10**9))
    assert next(items_of(find_files(str(path)))).stamp != before


@pytest.mark.parametrize("name", ["a.png", "a.mp4"])
def test_a_file_that_vanished_is_named(name, tmp_path):
    files = find_files(str(touch(tmp_path, name) / name))
    (tmp_path / name).unlink()
    with pytest.raises(ImageFileError, match=rf"{re.escape(name)}: .*vanished since"):
        next(items_of(files))


def test_every_video_begins_with_its_first_frame():
    assert first_name(File(Path("in/a.png"), "a.png", "a")) == "a"
    assert first_name(File(Path("in/b.mp4"), "b.mp4", "b")) == "b/frame_000000"
