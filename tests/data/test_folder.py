import numpy as np
import pytest
from PIL import Image

from stepseg.data.dataset import SegmentationDataset
from stepseg.data.sets.folder import load_spec

FULL = """
classes: [road, sky]
colours: [[1, 2, 3], [4, 5, 6]]
ignore_index: [9, 255]
label_map: {7: road, 8: 0, 23: sky, 3: ignore}
splits:
  train: {images: img, masks: gt, names: lists/train.txt}
  val: {images: img, masks: gt, names: lists/val.txt}
image_suffix: _rgb.png
mask_suffix: _ids.png
"""


def describe(root, text):
    (root / "classes.yaml").write_text(text)
    return load_spec(root)


def test_all_keys(tmp_path):
    spec = describe(tmp_path, FULL)
    for folder in ("img", "gt", "lists"):
        (tmp_path / folder).mkdir()
    for name in "abc":
        Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / f"img/{name}_rgb.png")
        ids = np.array([[7, 8, 23], [3, 9, 255]], dtype=np.uint8)
        Image.fromarray(ids).save(tmp_path / f"gt/{name}_ids.png")
    (tmp_path / "lists/train.txt").write_text("a\nc\n")
    (tmp_path / "lists/val.txt").write_text("b\n")
    train = SegmentationDataset(spec, tmp_path, "train")
    assert [pair.name for pair in train.pairs] == ["a", "c"]
    assert train[0]["label"].tolist() == [[0, 0, 1], [255, 255, 255]]
    assert len(SegmentationDataset(spec, tmp_path, "val")) == 1
    assert spec.palette == ((1, 2, 3), (4, 5, 6))


def test_least_description(tmp_path):
    spec = describe(tmp_path, "classes: [a, b, c]")
    assert spec.num_classes == 3
    assert spec.label_map.allowed_ids == [0, 1, 2, 255]
    assert len(set(spec.palette)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colours: []", "needs the key 'classes'"),
        ("[1, 2]", "needs the key 'classes'"),
        ("classes: [a, a]", "must differ"),
        ("classes: [a]\nclases: [b]", "unknown key clases; did you mean 'classes'"),
        ("classes: [a]\nlabel_map: {0: grass}", "'grass' is neither"),
        ("classes: [a, b]\nlabel_map: {0: 5}", "training id 5, but there are 2 classes"),
        (
            "classes: [a]\nsplits: {train: {image: x}}",
            "unknown key splits.train.image; did you mean 'images'",
        ),
        ("classes: [a, b]\ncolours: [[0, 0, 0]]", "2 classes but 1 colours"),
        ("classes: [a", "not valid YAML"),
    ],
)
def test_faults_are_named_with_the_file(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        describe(tmp_path, text)
    assert "classes.yaml" in str(error.value)


def test_missing_description_shows_an_example(tmp_path):
    with pytest.raises(ValueError, match=r"classes\.yaml not found.*classes: \[road, sky\]"):
        load_spec(tmp_path)
