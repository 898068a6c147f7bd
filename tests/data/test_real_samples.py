"""On real images, where a folder with them is given by STEPSEG_TEST_DATA."""

import numpy as np
import pytest
import torch
from PIL import Image

from stepseg.data.check import check_split
from stepseg.data.dataset import SegmentationDataset
from stepseg.data.specs import get_spec
from stepseg.dcts.targets import HomogeneityRule


def test_cityscapes_histogram_agrees_with_a_recount(real_data):
    root = real_data / "cityscapes_sample"
    report = check_split(get_spec("cityscapes"), root, "train")
    assert report.pairs == 4
    assert report.problems == []
    ids = np.concatenate([np.array(Image.open(p)).ravel() for p in root.rglob("*_labelIds.png")])
    counts = np.bincount(ids, minlength=256)
    # file ids of road, car, sky, bicycle and their training ids
    for file_id, training_id in ((7, 0), (26, 13), (23, 10), (33, 18)):
        assert report.counts[training_id] == counts[file_id]
    evaluated = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
    assert report.counts[255] == counts.sum() - counts[evaluated].sum()
    assert report.counts.argmax() == 0  # most of every image is road


def test_cityscapes_oracle_superpatches_agree_with_a_count_on_a_crop(real_data):
    dataset = SegmentationDataset(get_spec("cityscapes"), real_data / "cityscapes_sample", "train")
    label = dataset[0]["label"][:512, 512:1024]
    found = HomogeneityRule().windows(label[None], patch_size=16, windows=(2, 4, 8, 16))
    for window, homogeneous in found.items():
        side = 16 * window
        by_hand = [
            [
                len(np.unique(label[y : y + side, x : x + side].numpy())) == 1
                for x in range(0, 512, side)
            ]
            for y in range(0, 512, side)
        ]
        assert homogeneous[0].tolist() == by_hand
    assert found[2].sum() > found[4].sum() > 0


def test_ade20k_ids_shift_by_one(real_data):
    root = real_data / "ade20k_sample"
    dataset = SegmentationDataset(get_spec("ade20k"), root, "val")
    assert len(dataset) == 2
    for pair, sample in zip(dataset.pairs, dataset, strict=True):
        ids = np.array(Image.open(pair.label)).astype(int)
        label = sample["label"].numpy()
        assert np.array_equal(label[ids > 0], ids[ids > 0] - 1)
        assert (label[ids == 0] == 255).all()
        assert sample["image"].shape[1:] == label.shape


@pytest.mark.parametrize(("split", "pairs"), [("train", 367), ("val", 101)])
def test_camvid_is_complete(real_data, split, pairs):
    dataset = SegmentationDataset(get_spec("camvid"), real_data / "camvid", split)
    assert len(dataset) == pairs
    sample = dataset[0]
    assert sample["image"].shape == (3, 360, 480)
    assert set(torch.unique(sample["label"]).tolist()) <= {*range(11), 255}
