"""The homogeneity rule: literals for its switches, a loop over windows for the rest."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference import merging
from stepseg.dcts.targets import HomogeneityRule
from stepseg.ops.padding import pad_to_multiple

IGNORE = 255


def one_window(pixels: list[int], **switches: Any) -> bool:
    """Whether a single 2 x 2 window of 1-px patches is homogeneous."""
    labels = torch.tensor(pixels).view(1, 2, 2)
    return bool(HomogeneityRule(**switches).windows(labels, 1, (2,))[2])


BREAKS = {"ignore_breaks_homogeneity": False}
ALL_IGNORE = {"all_ignore_is_homogeneous": False}


@pytest.mark.parametrize(
    ("pixels", "switches", "homogeneous"),
    [
        ([7, 7, 7, 7], {}, True),
        ([0, 0, 0, 0], {}, True),
        ([7, 7, 7, 8], {}, False),
        ([254, 254, 254, 254], {}, True),
        # One class and ignore: two labels by default.
        ([7, 7, 7, IGNORE], {}, False),
        ([7, 7, 7, IGNORE], BREAKS, True),
        ([0, IGNORE, IGNORE, IGNORE], BREAKS, True),
        ([7, 8, IGNORE, IGNORE], BREAKS, False),
        ([7, 8, IGNORE, IGNORE], {}, False),
        # Nothing annotated: homogeneous by default.
        ([IGNORE] * 4, {}, True),
        ([IGNORE] * 4, ALL_IGNORE, False),
        ([IGNORE] * 4, BREAKS, True),
        ([IGNORE] * 4, BREAKS | ALL_IGNORE, False),
        ([7, 7, 7, 7], BREAKS | ALL_IGNORE, True),
        ([7, 7, 7, IGNORE], BREAKS | ALL_IGNORE, True),
        # Another ignore label.
        ([IGNORE, IGNORE, IGNORE, 0], {"ignore_index": 0}, False),
        ([IGNORE, IGNORE, IGNORE, 0], {"ignore_index": 0} | BREAKS, True),
        ([0, 0, 0, 0], {"ignore_index": 0} | ALL_IGNORE, False),
        ([-1, -1, 3, 3], {"ignore_index": -1} | BREAKS, True),
        ([-1, -1, -1, -1], {"ignore_index": -1} | ALL_IGNORE, False),
    ],
)
def test_one_window(pixels, switches, homogeneous):
    assert one_window(pixels, **switches) is homogeneous


def test_larger_windows_by_hand():
    # 4 x 8 px, patches of 1 px: the left 4 x 4 is uniform, the right has one odd pixel.
    labels = torch.full((1, 4, 8), 3)
    labels[0, 0, 7] = 4
    targets = HomogeneityRule().windows(labels, 1, (2, 4))
    assert targets[2].tolist() == [[[True, True, True, False], [True, True, True, True]]]
    assert targets[4].tolist() == [[[True, False]]]


def test_windows_skip_a_size():
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[0, 7, 7] = 1
    targets = HomogeneityRule().windows(labels, 1, (4, 8))
    assert list(targets) == [4, 8]
    assert targets[4].tolist() == [[[True, True], [True, False]]]
    assert targets[8].tolist() == [[[False]]]


@pytest.mark.parametrize(
    ("height", "width", "shapes"),
    [
        (160, 160, {2: (5, 5), 4: (2, 2), 8: (1, 1), 16: (0, 0)}),
        (75, 101, {2: (2, 3), 4: (1, 1), 8: (0, 0), 16: (0, 0)}),
        (640, 640, {2: (20, 20), 4: (10, 10), 8: (5, 5), 16: (2, 2)}),
        (16, 300, {2: (0, 9), 4: (0, 4), 8: (0, 2), 16: (0, 1)}),
    ],
)
def test_windows_that_do_not_fit_wholly_do_not_exist(height, width, shapes):
    labels = torch.zeros(2, height, width, dtype=torch.int64)
    targets = HomogeneityRule().windows(labels, 16, (2, 4, 8, 16))
    assert {s: tuple(t.shape) for s, t in targets.items()} == {
        s: (2, *shape) for s, shape in shapes.items()
    }


def test_pixels_beyond_the_image_are_ignored_ones():
    # 3 x 4 px, patches of 2 px: the lower window row ends in a padded row.
    labels = torch.full((1, 3, 4), 5)
    assert HomogeneityRule().windows(labels, 2, (2,))[2].tolist() == [[[False]]]
    assert HomogeneityRule(**BREAKS).windows(labels, 2, (2,))[2].tolist() == [[[True]]]


@given(
    seed=st.integers(0, 2**31),
    height=st.integers(1, 21),
    width=st.integers(1, 21),
    patch_size=st.sampled_from([1, 2, 3]),
    windows=st.sampled_from([(2,), (2, 4), (2, 4, 8), (3, 6), (4,)]),
    all_ignore=st.booleans(),
    ignore_breaks=st.booleans(),
)
def test_equals_a_loop_over_windows(
    seed, height, width, patch_size, windows, all_ignore, ignore_breaks
):
    generator = torch.Generator().manual_seed(seed)
    # Coarse blocks with few classes, so that all kinds of windows occur.
    blocks = (
        torch.tensor([0, 1, IGNORE])[torch.randint(0, 3, (2, 4, 4), generator=generator)]
        .repeat_interleave(6, 1)
        .repeat_interleave(6, 2)
    )
    labels = blocks[:, :height, :width]
    switches = {
        "all_ignore_is_homogeneous": all_ignore,
        "ignore_breaks_homogeneity": ignore_breaks,
    }
    targets = HomogeneityRule(**switches).windows(labels, patch_size, windows)
    for size in windows:
        for b in range(2):
            expected = merging.homogeneous(labels[b].tolist(), patch_size, size, **switches)
            assert targets[size][b].tolist() == expected, (size, b)


def test_labels_may_be_bytes():
    labels = torch.tensor([[[7, 7], [7, 255]]], dtype=torch.uint8)
    assert HomogeneityRule().windows(labels, 1, (2,))[2].item() is False


def test_windows_that_do_not_nest_are_refused():
    with pytest.raises(ValueError, match=r"each divide the next; got \(2, 3\)"):
        HomogeneityRule().windows(torch.zeros(1, 12, 12), 1, (2, 3))


def test_pad_to_multiple():
    x = torch.ones(1, 2, 3)
    assert pad_to_multiple(x, 2, 9).tolist() == [[[1, 1, 1, 9], [1, 1, 1, 9]]]
    assert pad_to_multiple(x[..., :2], 2, 9) is not None
    assert pad_to_multiple(torch.ones(1, 4, 4), 2, 9).shape == (1, 4, 4)
