import json

import numpy as np
import pytest
from PIL import Image

from stepseg.cli.data import main
from stepseg.data.check import check_split
from stepseg.data.layouts import LayoutError
from stepseg.data.specs import get_spec


def test_a_sound_split_counts_every_pixel(roots):
    report = check_split(get_spec("camvid"), roots["camvid"], "val")
    assert report.problems == []
    assert report.pairs == 3
    # 64 columns in three stripes of 22, 21, 21 columns for the ids 0, 10 and 11 = void
    assert report.counts[0] == 3 * 48 * 22
    assert report.counts[10] == 3 * 48 * 21
    assert report.ignored_share == pytest.approx(21 / 64)
    assert report.sizes == {(48, 64): 3}
    assert report.images_with_class[[0, 1, 10]].tolist() == [3, 0, 3]
    assert report.expected_pairs == 101


def test_every_fault_is_listed_with_its_file(tmp_path, builders):
    root = builders["camvid"](tmp_path)
    images, labels = root / "images/train", root / "annotations/train"
    Image.fromarray(np.full((48, 64), 77, dtype=np.uint8)).save(labels / "0000.png")
    Image.fromarray(np.zeros((40, 64), dtype=np.uint8)).save(labels / "0001.png")
    (images / "0002.jpg").write_bytes((images / "0002.jpg").read_bytes()[:700])
    (labels / "0003.png").unlink()
    (images / "0004.jpg").unlink()
    report = check_split(get_spec("camvid"), root, "train")
    assert report.pairs == 3
    text = "\n".join(report.problems)
    assert len(report.problems) == 5
    for expected in (
        r"0000.png: label id 77",
        "0001.png is 64x40",
        "0002.jpg: cannot read",
        "0003.jpg: image without a label",
        "0004.png: label without an image",
    ):
        assert expected in text


def test_processes_do_not_change_the_report(tmp_path, builders):
    root = builders["camvid"](tmp_path)
    Image.fromarray(np.full((48, 64), 77, dtype=np.uint8)).save(root / "annotations/train/0003.png")
    one, two = (check_split(get_spec("camvid"), root, "train", n) for n in (1, 2))
    assert one.as_dict() == two.as_dict()


def test_wrong_root_is_an_error(tmp_path):
    with pytest.raises(LayoutError, match="expected"):
        check_split(get_spec("camvid"), tmp_path, "train")


def test_command_writes_json_and_overlays(roots, tmp_path, capsys):
    arguments = ["check", "camvid", str(roots["camvid"]), "--split", "val", "--processes", "1"]
    assert main([*arguments, "--out", str(tmp_path), "--overlays", "2"]) == 0
    written = json.loads((tmp_path / "check.json").read_text())
    assert written["pairs"] == 3
    assert written["class_pixels"]["0"] == 3 * 48 * 22
    assert len(written["class_pixels"]) == 11
    assert written["ignored_share"] == pytest.approx(21 / 64)
    assert written["problems"] == []
    overlays = sorted((tmp_path / "overlays").iterdir())
    assert [p.name for p in overlays] == ["0000.png", "0001.png"]
    width, height = Image.open(overlays[0]).size  # two panels and the names of the classes
    assert width > 2 * 64
    assert height > 48
    table = capsys.readouterr().out
    assert "3 pairs (published: 101)" in table
    assert "bicyclist" in table
    assert "without pixels: building, pole" in table
    assert "ignored: 32.81%" in table


def test_command_fails_on_faults_and_still_writes(tmp_path, builders, capsys):
    root = builders["ade20k"](tmp_path / "data")
    folder = root / "ADEChallengeData2016/annotations/validation"
    path = sorted(folder.iterdir())[0]
    Image.fromarray(np.full((48, 64), 200, dtype=np.uint8)).save(path)
    out = tmp_path / "out"
    command = ["check", "ade20k", str(root), "--split", "val", "--out", str(out)]
    assert main([*command, "--processes", "1"]) == 1
    (problem,) = json.loads((out / "check.json").read_text())["problems"]
    assert path.name in problem
    assert "200" in problem
    assert path.name in capsys.readouterr().out
    assert len(list((out / "overlays").iterdir())) == 2  # the faulty one has no picture


@pytest.mark.parametrize(
    ("out", "message"), [("/proc/foo", "--out /proc/foo: "), ("FILE/out", "--out ")]
)
def test_command_refuses_a_folder_that_cannot_be_made(
    out, message, roots, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("stepseg.data.check.check_split", lambda *_: pytest.fail("read images"))
    (tmp_path / "file").touch()
    out = out.replace("FILE", str(tmp_path / "file"))
    assert main(["check", "camvid", str(roots["camvid"]), "--split", "val", "--out", out]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"stepseg-data: {message}")
    assert line.endswith("; choose another one")


def test_command_tells_in_one_line_what_cannot_be_written(roots, tmp_path, capsys):
    (tmp_path / "check.json").mkdir()
    command = ["check", "camvid", str(roots["camvid"]), "--split", "val", "--processes", "1"]
    assert main([*command, "--out", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stepseg-data: ")
    assert str(tmp_path) in line


def test_command_reports_a_wrong_root_without_traceback(tmp_path, capsys):
    assert main(["check", "cityscapes", str(tmp_path), "--split", "val"]) == 1
    assert "leftImg8bit/val" in capsys.readouterr().err
