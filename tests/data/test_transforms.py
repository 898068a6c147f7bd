import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from stepseg.data.transforms import (
    Augmentation,
    PadToSize,
    RandomResizeCrop,
    TrainTransform,
    resize_crop_image,
    resize_crop_label,
    resized_size,
)


def mask(tensor):
    return tv_tensors.Mask(tensor.to(torch.uint8))


def image_of(height, width):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("size", "factor", "base", "expected"),
    [
        ((480, 640), 1.0, (2048, 512), (512, 683)),  # short edge to 512
        ((480, 640), 0.5, (2048, 512), (256, 341)),
        ((100, 800), 1.0, (2048, 512), (256, 2048)),  # long edge to 2048
        ((1024, 2048), 2.0, (2048, 1024), (2048, 4096)),
        ((100, 60), 1.5, None, (150, 90)),
        ((2, 2), 0.1, None, (1, 1)),
    ],
)
def test_resized_size(size, factor, base, expected):
    assert resized_size(size, factor, base) == expected


@pytest.mark.parametrize("resized", [(37, 53), (61, 90), (100, 141), (40, 60)])
def test_resize_crop_equals_resizing_then_cropping(resized):
    image, label = image_of(40, 60), torch.randint(0, 9, (40, 60), dtype=torch.uint8)
    whole = F.resize(image, list(resized), antialias=False).int()
    whole_label = F.resize(label[None], list(resized), interpolation=InterpolationMode.NEAREST)[0]
    for top, left in ((0, 0), (resized[0] - 30, resized[1] - 32), (3, 11)):
        box = {"resized": resized, "top": top, "left": left, "height": 30, "width": 32}
        crop = resize_crop_image(image, **box).int()
        expected = whole[:, top : top + 30, left : left + 32]
        assert (crop - expected).abs().max() <= 1  # rounding only
        assert (crop - expected).abs().float().mean() < 0.3
        expected_label = whole_label[top : top + 30, left : left + 32]
        assert torch.equal(resize_crop_label(label, **box), expected_label)


def test_resize_crop_of_the_same_size_is_the_image():
    image = image_of(9, 7)
    box = {"resized": (9, 7), "top": 2, "left": 1, "height": 5, "width": 6}
    assert torch.equal(resize_crop_image(image, **box), image[:, 2:7, 1:7])


def test_resize_factor_is_uniform_in_its_range():
    label = mask(torch.arange(200).reshape(1, 200).repeat(100, 1) % 2)
    crop = RandomResizeCrop((1, 1), ratio=(0.5, 2.0), max_ratio=1.0)
    widths = torch.tensor([crop.make_params([label])["resized"][1] for _ in range(2000)]) / 200
    assert widths.min() >= 0.5
    assert widths.max() <= 2.0
    # mean and variance of the uniform distribution on 0.5..2
    assert widths.float().mean() == pytest.approx(1.25, abs=0.03)
    assert widths.float().var() == pytest.approx(1.5**2 / 12, rel=0.08)


def test_crop_position_is_uniform_and_reaches_both_ends():
    label = mask(torch.zeros(10, 14))
    crop = RandomResizeCrop((8, 8), ratio=(1.0, 1.0), max_ratio=1.0)
    params = [crop.make_params([label]) for _ in range(700)]
    tops, lefts = [p["top"] for p in params], [p["left"] for p in params]
    assert set(tops) == {0, 1, 2}
    assert set(lefts) == set(range(7))
    assert min(lefts.count(i) for i in range(7)) > 60  # 100 expected


@pytest.mark.parametrize(
    ("counts", "accepted"),
    [
        ({0: 74, 1: 26}, True),
        ({0: 75, 1: 25}, False),  # less than 0.75 is wanted
        ({0: 100}, False),  # one class only
        ({0: 30, 255: 70}, False),  # ignored pixels are not a class
        ({0: 10, 1: 10, 255: 80}, True),  # shares are those of the labelled pixels
        ({255: 100}, False),
    ],
)
def test_category_limit(counts, accepted):
    values = [value for value, count in counts.items() for _ in range(count)]
    label = torch.tensor(values, dtype=torch.uint8).reshape(10, 10)
    assert RandomResizeCrop((10, 10)).accepts(label) is accepted


def test_ten_refused_crops_then_the_next_is_taken(monkeypatch):
    crop = RandomResizeCrop((4, 4), ratio=(1.0, 1.0))
    looked_at = []
    monkeypatch.setattr(crop, "accepts", lambda label: looked_at.append(1) and False)
    crop.make_params([mask(torch.zeros(8, 8))])
    assert len(looked_at) == 10


def test_category_limit_finds_the_mixed_part():
    label = torch.zeros(100, 400)
    label[:, 300:] = torch.arange(100) % 2  # the right quarter holds two classes
    crop = RandomResizeCrop((100, 100), ratio=(1.0, 1.0))
    lefts = [crop.make_params([mask(label)])["left"] for _ in range(100)]
    # a crop passes from left = 251 on; without the limit one sixth would be there
    assert sum(left > 250 for left in lefts) > 70


def test_padding_is_black_and_ignored():
    pad = PadToSize((3, 4))
    image, label = pad(tv_tensors.Image(torch.full((3, 2, 2), 9)), mask(torch.ones(2, 2)))
    assert image[0].tolist() == [[9, 9, 0, 0], [9, 9, 0, 0], [0, 0, 0, 0]]
    assert label.tolist() == [[1, 1, 255, 255], [1, 1, 255, 255], [255] * 4]


@pytest.mark.parametrize("size", [(20, 30), (70, 90), (31, 200)])
def test_result_has_the_crop_size_and_plain_types(size):
    transform = TrainTransform(Augmentation(), (32, 48))
    for _ in range(10):
        image, label = transform(image_of(*size), torch.zeros(size, dtype=torch.uint8))
        assert image.shape == (3, 32, 48)
        assert label.shape == (32, 48)
        assert type(image) is type(label) is torch.Tensor
        assert image.dtype == label.dtype == torch.uint8


def test_image_and_label_stay_aligned():
    # the label is readable from the image: the same geometry must have been applied to both
    label = (torch.arange(64).reshape(1, 64) // 16 + torch.arange(48).reshape(48, 1) // 24 * 4).to(
        torch.uint8
    )
    image = (label * 30).expand(3, -1, -1).contiguous()
    transform = TrainTransform(
        Augmentation(resize_ratio=(1.0, 1.0), photometric=False, category_max_ratio=1.0), (40, 40)
    )
    flipped = 0
    for _ in range(40):
        crop, crop_label = transform(image, label)
        assert torch.equal(crop[0], crop_label * 30)
        flipped += bool(crop_label[0, 0] > crop_label[0, -1])
    assert 8 < flipped < 32  # half of 40


@pytest.mark.parametrize(
    "wrong",
    [{"resize_ratio": (2.0, 0.5)}, {"flip": 1.5}, {"category_max_ratio": 0.0}],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augmentation(**wrong)
