"""What the rows of a grid belong to: other data are refused, the same ones anywhere are not."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from stepseg.data.dataset import SegmentationDataset
from stepseg.data.sets.folder import load_spec
from stepseg.grid.store import GridStore, data_identity, file_hash

PLAIN = "classes: [road, sky]\n"


@pytest.fixture
def data(tmp_path):
    for folder in ("images/val", "masks/val"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "data/images/val/a.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "data/masks/val/a.png")
    return tmp_path / "data"


def test_a_checkpoint_may_be_a_folder(data):
    before = file_hash(data)
    assert file_hash(data) == before
    (data / "masks" / "val" / "a.png").write_bytes(b"other")
    assert file_hash(data) != before


def identity(root, described):
    (root / "classes.yaml").write_text(described)
    dataset = SegmentationDataset(load_spec(root), root, "val")
    return {"data": data_identity(dataset, "folder")}


@pytest.mark.parametrize(
    "described",
    [
        "classes: [road, sky]\nlabel_map: {0: sky, 1: road}",
        "classes: [road, sky]\nlabel_map: {0: ignore, 1: sky}",
        "classes: [road, sky]\nignore_index: 0",
        "classes: [sky, road]",
        "classes: [road, sky, tree]",
    ],
)
def test_rows_of_other_classes_are_refused(described, data, tmp_path):
    GridStore(tmp_path / "grid", identity(data, PLAIN)).add({"point": {"mIoU": 50.0}})
    with pytest.raises(ValueError, match=r'another data: .*"classes": .*hydra\.run\.dir') as error:
        GridStore(tmp_path / "grid", identity(data, described))
    assert "..." not in str(error.value).replace(str(tmp_path), "")
    assert "images" not in str(error.value).replace(str(tmp_path), "")  # they are the same


def test_rows_of_the_same_classes_are_taken(data, tmp_path):
    GridStore(tmp_path / "grid", identity(data, PLAIN)).add({"point": {"mIoU": 50.0}})
    moved = shutil.copytree(data, tmp_path / "moved")
    colours = f"{PLAIN}name: lakes\ncolours: [[1, 2, 3], [4, 5, 6]]\nlabel_map: {{0: road, 1: sky}}"
    store = GridStore(tmp_path / "grid", identity(moved, colours))
    assert store.rows == {"point": {"mIoU": 50.0}}


def test_rows_from_before_classes_counted_are_refused(data, tmp_path):
    ours = identity(data, PLAIN)
    GridStore(tmp_path / "grid", ours)
    path = tmp_path / "grid" / "rows.json"
    content = json.loads(path.read_text())
    del content["identity"]["data"]["classes"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r'another data: \{"classes": null\}, not .*delete'):
        GridStore(tmp_path / "grid", ours)
