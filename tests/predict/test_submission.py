"""Label maps for a benchmark's server: its own ids, one flat zip file."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from stepseg.predict.submission import check_file_names, published_ids, write_submission


def test_classes_have_the_ids_that_the_data_set_publishes():
    assert published_ids("cityscapes", 19)[[0, 1, 10, 13, 18]].tolist() == [7, 8, 23, 26, 33]
    assert published_ids("ade20k", 150).tolist() == list(range(1, 151))


@pytest.mark.parametrize(("name", "classes"), [("folder", 3), ("lakes", 3), ("cityscapes", 7)])
def test_other_models_are_refused(name, classes):
    with pytest.raises(ValueError, match=f"this one knows {classes} classes of '{name}'"):
        published_ids(name, classes)


def test_the_file_holds_every_map_in_those_ids_and_is_the_same_every_time(tmp_path):
    labels = np.array([[0, 1], [13, 18]], np.uint8)
    maps = [("berlin/berlin_000000_000019_leftImg8bit", labels), ("b", labels[::-1])]
    for name in ("one.zip", "two.zip"):
        write_submission(tmp_path / name, maps, published_ids("cityscapes", 19))
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == ["berlin_000000_000019_leftImg8bit.png", "b.png"]
        picture = Image.open(io.BytesIO(archive.read("berlin_000000_000019_leftImg8bit.png")))
    assert picture.mode == "L"
    assert np.asarray(picture).tolist() == [[7, 8], [26, 33]]


def test_two_images_of_one_name_are_refused():
    check_file_names(["a/x", "b/y"])
    with pytest.raises(ValueError, match="a/x and b/x would have the same name"):
        check_file_names(["a/x", "b/x"])
