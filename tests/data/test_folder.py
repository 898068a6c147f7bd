import numpy as np
import pytest
from PIL import Image

from stepseg.data.dataset import SegmentationDataset
from stepseg.data.files import FORMATS
from stepseg.data.layouts import IMAGE_SUFFIXES, LayoutError
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


def test_every_format_that_is_read_counts(tmp_path):
    kinds = Image.registered_extensions()
    assert {kinds[suffix] for suffix in IMAGE_SUFFIXES} == set(FORMATS)
    spec = describe(tmp_path, "classes: [a, b]")
    for folder in ("images/val", "masks/val"):
        (tmp_path / folder).mkdir(parents=True)
    for index, suffix in enumerate((*IMAGE_SUFFIXES, ".Jpg")):
        grey = suffix == ".pgm"
        pixels = np.full((16, 16) if grey else (16, 16, 3), 100 + index, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/val/{index:02d}{suffix}")
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / f"masks/val/{index:02d}.png")
    dataset = SegmentationDataset(spec, tmp_path, "val")
    assert len(dataset) == len(IMAGE_SUFFIXES) + 1
    for index, sample in enumerate(dataset):
        assert abs(sample["image"].float().mean() - 100 - index) < 2


def test_images_beside_their_masks_are_told_apart_by_their_suffix(tmp_path):
    (tmp_path / "both").mkdir()
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "both/a.jpg")
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(tmp_path / "both/a.png")
    text = "classes: [a, b]\nsplits: {val: {images: both, masks: both}}\n"
    spec = describe(tmp_path, text)
    with pytest.raises(LayoutError, match=r"'image_suffix: \.jpg' in classes\.yaml"):
        SegmentationDataset(spec, tmp_path, "val")
    remedied = describe(tmp_path, f"{text}image_suffix: .jpg")
    assert len(SegmentationDataset(remedied, tmp_path, "val")) == 1


def test_words_that_yaml_takes_for_truth_values_are_classes_in_quotes(tmp_path):
    spec = describe(tmp_path, "classes: ['Yes', 'No']\nlabel_map: {0: 'No', 1: 'Yes'}")
    assert spec.classes == ("Yes", "No")
    assert spec.label_map.table[:2].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: [Yes, No]", "classes: True is no name; yes, no, .* put the name in quotes"),
        ("classes: [a, ~]", "classes: None is no name; put the name in quotes"),
        (
            "classes: ['Yes', 'No']\nlabel_map: {0: No, 1: Yes}",
            "label_map: 0: False is no class; .*quotes",
        ),
        ("classes: [a, b]\nlabel_map: {No: a}", "label_map: False is no id of a mask"),
        ("classes: [a, b]\nlabel_map: {1.5: a}", r"label_map: 1\.5 is no id of a mask"),
        ("classes: [a, b]\nlabel_map: {0: [a]}", "label_map: .* is neither a class name"),
        ("classes: [a, b]\nlabel_map: [a, b]", "'label_map' has lines such as '7: road'"),
        ("classes: [a, b]\nignore_index: no", "ignore_index: False is no id of a mask"),
        (
            "classes: [a, b]\ncolours: [[0, 0, 300], [1, 1, 1]]",
            r"colours: \[0, 0, 300\] is not .*0\.\.255",
        ),
        (
            "classes: [a, b]\ncolours: [[0, 0, -1], [1, 1, 1]]",
            r"colours: .* whole numbers in 0\.\.255",
        ),
        (
            "classes: [a, b]\ncolours: [[0, 0], [1, 1, 1]]",
            r"colours: \[0, 0\] is not \[red, green, blue\]",
        ),
        ("classes: [a, b]\ncolours: [red, blue]", "colours: red is not"),
        ("classes: [a, b]\ncolours: red", "'colours' is a list"),
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
