import numpy as np
import pytest
import torch
from PIL import Image

from stepseg.data.dataset import (
    AugmentedDataset,
    Sample,
    SegmentationDataset,
    collate,
)
from stepseg.data.files import ImageFileError
from stepseg.data.labels import LabelError
from stepseg.data.sampler import SampleKey
from stepseg.data.specs import get_spec
from stepseg.data.transforms import Augmentation, TrainTransform


def sample(height, width, name="x"):
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    return Sample(image=image, label=image[0].clone(), name=name)


def test_size_mismatch_names_the_label_and_both_sizes(tmp_path, builders):
    root = builders["camvid"](tmp_path)
    ids = np.zeros((40, 64), dtype=np.uint8)
    Image.fromarray(ids).save(root / "annotations/train/0001.png")
    dataset = SegmentationDataset(get_spec("camvid"), root, "train")
    with pytest.raises(LabelError, match=r"0001\.png is 64x40.*its image is 64x48"):
        dataset[1]


def test_wrong_id_names_file_and_id(tmp_path, builders):
    root = builders["ade20k"](tmp_path)
    folder = root / "ADEChallengeData2016/annotations/validation"
    path = sorted(folder.iterdir())[0]
    Image.fromarray(np.full((48, 64), 200, dtype=np.uint8)).save(path)
    with pytest.raises(LabelError, match=f"{path.name}.*label id 200"):
        SegmentationDataset(get_spec("ade20k"), root, "val")[0]


def test_truncated_jpeg_is_named(tmp_path, builders):
    root = builders["camvid"](tmp_path)
    path = root / "images/train/0002.jpg"
    path.write_bytes(path.read_bytes()[:800])
    with pytest.raises(ImageFileError, match=r"0002\.jpg"):
        SegmentationDataset(get_spec("camvid"), root, "train")[2]


def test_augmentation_depends_on_seed_and_position_alone(roots):
    dataset = SegmentationDataset(get_spec("camvid"), roots["camvid"], "train")
    transform = TrainTransform(Augmentation(), (32, 32))
    first = AugmentedDataset(dataset, transform, seed=5)[SampleKey(2, 17)]
    torch.manual_seed(123)
    torch.rand(7)
    again = AugmentedDataset(dataset, transform, seed=5)[SampleKey(2, 17)]
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["label"], again["label"])
    for seed, position in ((5, 18), (6, 17)):
        other = AugmentedDataset(dataset, transform, seed=seed)[SampleKey(2, position)]
        assert not torch.equal(first["image"], other["image"])


def test_augmentation_leaves_the_callers_random_numbers_alone(roots):
    dataset = SegmentationDataset(get_spec("camvid"), roots["camvid"], "train")
    augmented = AugmentedDataset(dataset, TrainTransform(Augmentation(), (32, 32)), seed=5)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    augmented[SampleKey(0, 0)]
    assert torch.equal(torch.rand(3), expected)


def test_collate_stacks():
    batch = collate([sample(4, 6, "a"), sample(4, 6, "b")])
    assert batch["image"].shape == (2, 3, 4, 6)
    assert batch["label"].shape == (2, 4, 6)
    assert batch["image"].dtype == batch["label"].dtype == torch.uint8
    assert batch["name"] == ["a", "b"]


def test_collate_names_the_remedy_for_different_sizes():
    with pytest.raises(ValueError, match=r"a 6x4, b 6x5.*data\.val_batch_size=1"):
        collate([sample(4, 6, "a"), sample(5, 6, "b")])
