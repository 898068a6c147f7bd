import dataclasses

import numpy as np
import pytest
from PIL import Image

from stepseg.data.dataset import SegmentationDataset
from stepseg.data.labels import LabelMap
from stepseg.data.sets.cocostuff10k import ABSENT_IDS
from stepseg.data.specs import available, get_spec
from stepseg.model_config import ModelConfig

CLASSES = {
    "ade20k": 150,
    "camvid": 11,
    "cityscapes": 19,
    "cocostuff10k": 171,
    "drives": 11,
    "synthetic": 8,
}


@pytest.mark.parametrize(("name", "num_classes"), CLASSES.items())
def test_specification_is_consistent(name, num_classes):
    spec = get_spec(name)
    assert spec.name == name
    assert spec.num_classes == num_classes == len(set(spec.classes)) == len(set(spec.palette))
    # every class can be written in a file, in every encoding
    for label_map in spec.label_maps.values():
        reached = set(label_map.table[label_map.table >= 0].tolist()) - {255}
        assert reached == set(range(num_classes))


def test_all_built_in_sets_are_covered():
    assert set(available()) == {*CLASSES, "folder"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ade20k", [255, 0, 149, 6]),
        ("cityscapes", [0, 10, 255, 18]),
        ("cocostuff10k", [255, 0, 11, 170]),  # 13 is the twelfth used thing: 12 does not occur
        ("camvid", [0, 10, 255]),
        ("folder", [0, 1, 255]),
    ],
)
def test_fixture_loads_with_training_ids(name, expected, roots):
    dataset = SegmentationDataset(get_spec(name, roots[name]), roots[name], "val")
    sample = dataset[0]
    assert len(dataset) == 3
    assert sample["image"].shape == (3, 48, 64)
    assert sample["label"].shape == (48, 64)
    assert list(dict.fromkeys(sample["label"][0].tolist())) == expected


def test_cityscapes_ids_by_hand():
    table = get_spec("cityscapes").label_map.table
    assert [table[i] for i in (7, 8, 11, 12, 13, 17, 19, 20, 33)] == [0, 1, 2, 3, 4, 5, 6, 7, 18]
    assert (table[[0, 1, 6, 9, 10, 14, 18, 29, 30, 255]] == 255).all()
    assert (table[34:255] == -1).all()


def test_cityscapes_training_ids_are_accepted(tmp_path, builders):
    root = builders["cityscapes"](tmp_path)
    for path in list(root.rglob("*_labelIds.png")):
        path.unlink()
        converted = path.with_name(path.name.replace("labelIds", "labelTrainIds"))
        Image.fromarray(np.full((48, 64), 18, dtype=np.uint8)).save(converted)
    sample = SegmentationDataset(get_spec("cityscapes"), root, "val")[0]
    assert sample["label"].unique().tolist() == [18]
    assert sample["name"] == "lindau/lindau_000000_000019"


def test_cocostuff_leaves_out_eleven_ids():
    spec = get_spec("cocostuff10k")
    assert len(ABSENT_IDS) == 11
    assert (spec.label_map.table[sorted(ABSENT_IDS)] == -1).all()
    assert spec.label_map.table[92] == 80  # the first stuff id follows the 80 things
    assert spec.classes[80] == "banner"
    assert spec.label_map.table[182] == 170


def test_specification_refuses_contradictions():
    spec = get_spec("camvid")
    with pytest.raises(ValueError, match="11 classes but 1 colours"):
        dataclasses.replace(spec, palette=((0, 0, 0),))
    with pytest.raises(ValueError, match="training id 11, but there are 11 classes"):
        dataclasses.replace(spec, label_maps={"ids": LabelMap.identity(12)})


def test_a_single_class_is_refused_by_data_and_model_alike():
    """Nothing else could be predicted, and its mIoU is 100."""
    spec = get_spec("camvid")
    with pytest.raises(ValueError, match=r"2 to 255 classes are possible, got 1; .* background"):
        dataclasses.replace(spec, classes=spec.classes[:1], palette=spec.palette[:1])
    with pytest.raises(ValueError, match=r"at least 2, got 1: .* background"):
        ModelConfig(num_classes=1)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'pascal'.*ade20k.*data=folder"):
        get_spec("pascal")
    with pytest.raises(ValueError, match="pass root"):
        get_spec("folder")


@pytest.mark.parametrize(
    ("folder", "given", "name"),
    [("lakes", "", "lakes"), ("lakes", "name: ponds", "ponds"), ("camvid", "", "own camvid")],
)
def test_own_data_are_called_what_they_are(folder, given, name, tmp_path):
    (tmp_path / folder).mkdir()
    text = f"classes: [shore, lake]\n{given}\n"
    (tmp_path / folder / "classes.yaml").write_text(text)
    assert get_spec("folder", tmp_path / folder).name == name
