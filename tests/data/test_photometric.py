import colorsys

import pytest
import torch
from torchvision import tv_tensors

from stepseg.data.photometric import (
    Distortion,
    PhotometricDistortion,
    adjust_colour,
    distort,
)

NOTHING = Distortion(None, None, None, None, contrast_first=True)


def pixels(*colours):
    return torch.tensor(colours, dtype=torch.uint8).t().reshape(3, 1, -1)


def values(image):
    return image.reshape(3, -1).t().tolist()


@pytest.fixture(scope="module")
def drawn():
    torch.manual_seed(0)
    step = PhotometricDistortion()
    return [step.make_params([])["distortion"] for _ in range(4000)]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("brightness", -32, 32),
        ("contrast", 0.5, 1.5),
        ("saturation", 0.5, 1.5),
        ("hue", -0.1, 0.1),  # 18 of the 180 units that OpenCV divides the circle into
    ],
)
def test_parameters_follow_the_published_distributions(drawn, name, low, high):
    values = torch.tensor([v for d in drawn if (v := getattr(d, name)) is not None])
    assert len(values) / len(drawn) == pytest.approx(0.5, abs=0.03)
    assert values.min() >= low
    assert values.max() <= high
    span = high - low
    assert values.mean() == pytest.approx((low + high) / 2, abs=0.03 * span)
    assert values.var() == pytest.approx(span**2 / 12, rel=0.07)


def test_contrast_comes_first_in_half_of_the_cases(drawn):
    assert sum(d.contrast_first for d in drawn) / len(drawn) == pytest.approx(0.5, abs=0.03)


def test_draws_are_independent(drawn):
    both = [d for d in drawn if d.brightness is not None and d.hue is not None]
    assert len(both) / len(drawn) == pytest.approx(0.25, abs=0.03)


def test_nothing_drawn_changes_nothing():
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    assert torch.equal(distort(image, NOTHING), image)


def test_brightness_adds_and_clips():
    d = Distortion(20.0, None, None, None, True)
    assert values(distort(pixels((0, 100, 250)), d)) == [[20, 120, 255]]
    d = Distortion(-20.0, None, None, None, True)
    assert values(distort(pixels((0, 100, 250)), d)) == [[0, 80, 230]]


def test_contrast_scales_and_clips():
    d = Distortion(None, 1.5, None, None, True)
    assert values(distort(pixels((0, 100, 250)), d)) == [[0, 150, 255]]


def test_order_of_contrast_matters():
    # contrast first saturates the red channel, then saturation 0.5 halves the gap to it
    first = Distortion(None, 1.5, 0.5, None, True)
    last = Distortion(None, 1.5, 0.5, None, False)
    image = pixels((200, 100, 100))
    assert values(distort(image, first)) == [[255, 202, 202]]  # (255, 150, 150) -> gap 52.5
    assert values(distort(image, last)) == [[255, 225, 225]]  # (200, 150, 150) * 1.5


def test_saturation_keeps_greys_and_stops_at_one():
    image = pixels((90, 90, 90), (200, 100, 50), (0, 0, 0))
    assert values(adjust_colour(image, 1.5, 0.0)) == [[90, 90, 90], [200, 67, 0], [0, 0, 0]]
    assert values(adjust_colour(image, 0.5, 0.0))[1] == [200, 150, 125]


@pytest.mark.parametrize("turn", [-0.1, 0.05, 1 / 3])
def test_hue_agrees_with_the_standard_library(turn):
    image = torch.randint(0, 256, (3, 1, 300), dtype=torch.uint8)
    result = values(adjust_colour(image, 1.0, turn))
    for before, after in zip(values(image), result, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(c / 255 for c in before))
        expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
        assert after == pytest.approx([c * 255 for c in expected], abs=0.51)


def test_a_third_of_the_circle_rotates_the_channels():
    image = pixels((255, 0, 0), (10, 200, 50))
    assert values(adjust_colour(image, 1.0, 1 / 3)) == [[0, 255, 0], [50, 10, 200]]


def test_labels_pass():
    label = tv_tensors.Mask(torch.randint(0, 9, (4, 4)))
    for _ in range(5):
        _, after = PhotometricDistortion()(tv_tensors.Image(torch.zeros(3, 4, 4).byte()), label)
        assert torch.equal(after, label)
