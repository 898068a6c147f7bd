import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepseg.label_map import predict_labels, predict_map
from stepseg.metrics.confusion import SegmentationMetric
from stepseg.protocol import (
    Protocol,
    TooMuchWorkError,
    Window,
    _count,
    check_work,
    forward_sizes,
    predict_scores,
    resized_size,
    sliding_windows,
)


def pixel_scorer(images):
    """Scores that depend on the pixel alone: any tiling must give the same map."""
    return torch.stack([images[:, 0], 1 - images[:, 0], images[:, 1] * images[:, 2]], dim=1)


def position_scorer(images):
    """Scores that depend on the place inside the window, so overlaps matter."""
    batch, _, height, width = images.shape
    ramp = torch.arange(height * width, dtype=images.dtype).reshape(1, 1, height, width)
    return ramp.expand(batch, 1, height, width) + images[:, :1]


def images_of(*shape, batch=2):
    return torch.rand(batch, 3, *shape)


def slide(crop, stride, **kwargs):
    return Protocol("slide", crop=crop, stride=stride, **kwargs)


# --- windows ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "crop", "stride", "starts"),
    [
        (512, 512, 341, [0]),
        (300, 512, 341, [0]),
        (683, 512, 341, [0, 171]),  # ceil(171 / 341) + 1 = 2, the last one shifted inside
        (1024, 512, 341, [0, 341, 512]),
        (853, 512, 341, [0, 341]),
        (2048, 768, 512, [0, 512, 1024, 1280]),
        (8, 4, 4, [0, 4]),
        (9, 4, 4, [0, 4, 5]),
    ],
)
def test_starts_along_one_axis(length, crop, stride, starts):
    windows = sliding_windows(10, length, (10, crop), (10, stride))
    assert [w.left for w in windows] == starts
    assert all(w.right == min(w.left + crop, length) for w in windows)


def test_windows_row_by_row():
    assert sliding_windows(6, 5, (4, 4), (2, 3)) == [
        Window(0, 0, 4, 4),
        Window(0, 1, 4, 5),
        Window(2, 0, 6, 4),
        Window(2, 1, 6, 5),
    ]


@pytest.mark.parametrize("size", [(5, 7), (16, 16), (31, 12), (100, 33)])
def test_windows_cover_the_image_and_have_one_size(size):
    windows = sliding_windows(*size, (16, 12), (5, 7))
    seen = np.zeros(size, dtype=int)
    for w in windows:
        seen[w.top : w.bottom, w.left : w.right] += 1
    assert seen.min() >= 1
    assert {w.size for w in windows} == {(min(16, size[0]), min(12, size[1]))}


# --- sliding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [5, 8, 9, 16, 17, 23, 64])
def test_even_windows_are_few_and_spread(length):
    """As the image processor of EoMT spreads them."""
    protocol = Protocol("slide", crop=(8, 8), even=True)
    windows = protocol.windows(8, length)
    count = -(-length // 8)
    gap = (count * 8 - length) / (count - 1) if count > 1 else 0
    expected = [int(index * (8 - gap) + 1e-9) for index in range(count)]
    assert [window.left for window in windows] == expected
    assert windows[-1].right == length
    assert protocol.number_of_windows(8, length) == len(windows)
    assert forward_sizes(8, length, protocol) == [(8, min(8, length))] * count
    image = torch.rand(2, 3, 8, length)
    torch.testing.assert_close(predict_scores(pixel_scorer, image, protocol), pixel_scorer(image))
    labels = predict_labels(position_scorer, image, protocol)
    assert torch.equal(labels, predict_scores(position_scorer, image, protocol).argmax(1))


def test_images_shrink_with_antialiasing_where_asked():
    stripes = torch.arange(32).remainder(2).float().expand(1, 3, 32, 32)
    plain, smooth = (Protocol(resize_short=12, antialias=chosen) for chosen in (False, True))
    spread = [predict_scores(lambda x: x, stripes, p)[..., 4:-4].std() for p in (plain, smooth)]
    assert spread[1] < spread[0] / 2


def test_sliding_with_stride_of_the_crop_is_tiling():
    images = images_of(8, 12)
    scores = predict_scores(position_scorer, images, slide((4, 4), (4, 4)))
    tiles = [
        torch.cat([position_scorer(images[:, :, y : y + 4, x : x + 4]) for x in (0, 4, 8)], dim=3)
        for y in (0, 4)
    ]
    assert torch.equal(scores, torch.cat(tiles, dim=2))


def test_a_window_larger_than_the_image_is_the_whole_image():
    images = images_of(8, 12)
    for crop in ((8, 12), (20, 30)):
        assert torch.equal(
            predict_scores(position_scorer, images, slide(crop, crop)),
            predict_scores(position_scorer, images, Protocol()),
        )


def test_overlaps_are_averaged():
    # columns 0..2 and 1..3 of a 1 x 4 image; the scorer returns 0, 1, 2 in each window
    images = torch.zeros(1, 3, 1, 4)
    scores = predict_scores(position_scorer, images, slide((1, 3), (1, 1)))
    assert scores.flatten().tolist() == [0.0, 0.5, 1.5, 2.0]


def test_last_window_is_shifted_inside():
    # width 5, crop 3, stride 3: windows at 0 and 2; column 2 is in both
    images = torch.zeros(1, 3, 1, 5)
    scores = predict_scores(position_scorer, images, slide((1, 3), (1, 3)))
    assert scores.flatten().tolist() == [0.0, 1.0, 1.0, 1.0, 2.0]


def test_sliding_equals_an_independent_computation():
    images = images_of(37, 53, batch=3)
    protocol = slide((16, 20), (11, 7), window_batch=4)
    total, count = np.zeros((3, 1, 37, 53)), np.zeros((37, 53))
    for y in [*range(0, 21, 11), 21]:
        for x in [*range(0, 33, 7), 33]:
            window = position_scorer(images[:, :, y : y + 16, x : x + 20]).numpy()
            total[:, :, y : y + 16, x : x + 20] += window
            count[y : y + 16, x : x + 20] += 1
    result = predict_scores(position_scorer, images, protocol).numpy()
    np.testing.assert_allclose(result, total / count, rtol=1e-5)


@pytest.mark.parametrize("window_batch", [1, 3, 100])
@pytest.mark.parametrize("accumulate_on_cpu", [False, True])
def test_batching_and_place_of_the_sum_do_not_matter(window_batch, accumulate_on_cpu):
    images = images_of(19, 23)
    seen = []

    def scorer(crops):
        seen.append(len(crops))
        return position_scorer(crops)

    protocol = slide((8, 8), (5, 5), window_batch=window_batch, accumulate_on_cpu=accumulate_on_cpu)
    expected = predict_scores(position_scorer, images, slide((8, 8), (5, 5)))
    assert torch.equal(predict_scores(scorer, images, protocol), expected)
    assert max(seen) <= window_batch
    # 4 x 4 windows, 2 images
    assert sum(seen) == 32


def test_an_image_does_not_depend_on_its_batch():
    images = images_of(19, 23, batch=3)
    protocol = slide((8, 8), (5, 5), window_batch=5)
    together = predict_scores(pixel_scorer, images, protocol)
    alone = predict_scores(pixel_scorer, images[1:2], protocol)
    assert torch.equal(together[1:2], alone)


# --- sizes, scales, mirroring -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "target", "expected"),
    [
        ((480, 640), None, (480, 640)),
        ((480, 640), 512, (512, 683)),
        ((640, 480), (2048, 512), (683, 512)),
        ((100, 800), (2048, 512), (256, 2048)),
        ((512, 683), (2048, 512), (512, 683)),
    ],
)
def test_keep_ratio_resize(size, target, expected):
    assert resized_size(*size, Protocol(resize_short=target)) == expected


def test_scores_come_back_at_the_requested_size():
    images = images_of(20, 30)
    protocol = Protocol(resize_short=40, scales=(0.5, 1.0), flip=True)
    assert predict_scores(pixel_scorer, images, protocol).shape == (2, 3, 20, 30)
    assert predict_scores(pixel_scorer, images, protocol, (50, 60)).shape == (2, 3, 50, 60)


def test_resize_is_bilinear_without_aligned_corners():
    images = torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2)
    scores = predict_scores(lambda x: x[:, :1], images, Protocol(), (1, 4))
    assert scores.flatten().tolist() == [0.0, 0.25, 0.75, 1.0]


def test_scale_is_applied_before_sliding():
    seen = []

    def scorer(crops):
        seen.append(tuple(crops.shape))
        return crops[:, :1]

    protocol = slide((16, 16), (16, 16), resize_short=16, scales=(1.0, 2.0))
    predict_scores(scorer, images_of(8, 8, batch=1), protocol)
    assert seen == [(1, 3, 16, 16), (4, 3, 16, 16)]


def test_mirroring_averages_aligned_scores():
    images = images_of(4, 6)
    result = predict_scores(position_scorer, images, Protocol(flip=True))
    expected = (position_scorer(images) + position_scorer(images.flip(-1)).flip(-1)) / 2
    assert torch.allclose(result, expected)


def test_forward_sizes_count_every_model_input():
    protocol = Protocol(
        "slide", resize_short=(2048, 512), crop=(512, 512), stride=(341, 341), scales=(1.0, 2.0)
    )
    # 512 x 683 has 2 windows; 1024 x 1366 has 3 x 4 of them
    assert forward_sizes(480, 640, protocol) == [(512, 512)] * (2 + 12)
    assert forward_sizes(480, 640, Protocol(flip=True)) == [(480, 640)] * 2
    assert forward_sizes(300, 200, slide((512, 512), (341, 341))) == [(300, 200)]


def test_forward_sizes_are_what_the_model_sees():
    seen = []

    def scorer(crops):
        seen.extend([tuple(crops.shape[-2:])] * len(crops))
        return crops[:, :1]

    protocol = slide((16, 24), (7, 9), resize_short=30, scales=(0.75, 1.25), flip=True)
    predict_scores(scorer, images_of(41, 37, batch=1), protocol)
    assert seen == forward_sizes(41, 37, protocol)


def test_bytes_and_floats_agree():
    images = torch.randint(0, 256, (1, 3, 5, 7), dtype=torch.uint8)
    assert torch.equal(
        predict_scores(pixel_scorer, images, Protocol()),
        predict_scores(pixel_scorer, images.float() / 255, Protocol()),
    )


def test_sliding_miou_equals_a_recomputation_in_numpy():
    torch.manual_seed(1)
    model = torch.nn.Conv2d(3, 4, 5, padding=2).double()  # sees its window's border
    images = torch.rand(3, 3, 37, 53, dtype=torch.float64)
    labels = torch.randint(0, 4, (3, 37, 53))
    labels[:, :3] = 255
    protocol = slide((16, 20), (11, 7), window_batch=4)
    metric = SegmentationMetric(num_classes=4)
    confusion = np.zeros((4, 4))
    for image, label in zip(images, labels, strict=True):
        metric.update(predict_labels(model, image[None], protocol)[0], label)
        total, count = np.zeros((4, 37, 53)), np.zeros((37, 53))
        for y in (0, 11, 21):
            for x in (0, 7, 14, 21, 28, 33):
                window = model(image[None, :, y : y + 16, x : x + 20])[0].detach().numpy()
                total[:, y : y + 16, x : x + 20] += window
                count[y : y + 16, x : x + 20] += 1
        predicted = (total / count).argmax(0)
        for row, column in np.argwhere(label.numpy() != 255):
            confusion[label[row, column], predicted[row, column]] += 1
    ious = np.diag(confusion) / (confusion.sum(0) + confusion.sum(1) - np.diag(confusion))
    assert metric.compute()["mIoU"].item() == pytest.approx(100 * ious.mean(), abs=1e-9)


def test_half_precision_scores_are_summed_in_single():
    def scorer(crops):
        return position_scorer(crops).bfloat16()

    images = images_of(20, 20)
    for protocol in (Protocol(), slide((8, 8), (3, 3))):
        assert predict_scores(scorer, images, protocol).dtype == torch.float32


def test_nothing_is_tracked():
    weight = torch.nn.Parameter(torch.ones(1))
    scores = predict_scores(lambda x: x * weight, images_of(4, 4), Protocol(scales=(1.0, 2.0)))
    assert not scores.requires_grad


def test_the_scorers_own_tensor_is_left_alone():
    kept = torch.tensor([[[[1.0, 2.0]]]])
    predict_scores(lambda _: kept, torch.ones(1, 3, 1, 2), Protocol(flip=True))
    assert kept.tolist() == [[[[1.0, 2.0]]]]


# --- protocol -----------------------------------------------------------------------------------


def test_lists_from_yaml_become_tuples_and_plain_values_again():
    protocol = Protocol("slide", resize_short=[2048, 512], crop=[512, 512], scales=[1])
    assert protocol.crop == (512, 512)
    assert hash(protocol) == hash(Protocol("slide", (2048, 512), (512, 512)))
    described = protocol.as_dict()
    assert described["stride"] == [341, 341]  # two thirds of the crop
    assert described["resize_short"] == [2048, 512]
    assert Protocol(**described) == protocol


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mode": "tiles"}, "'tiles'"),
        ({"mode": "slide"}, "needs crop"),
        ({"crop": (4, 4)}, "belong to mode 'slide'"),
        ({"mode": "slide", "crop": (4, 4), "stride": (5, 4)}, r"stride \(5, 4\).*crop \(4, 4\)"),
        ({"mode": "slide", "crop": (4, 4), "stride": (0, 4)}, r"stride \(0, 4\)"),
        ({"scales": ()}, "scales"),
        ({"scales": (0.0,)}, "scales"),
        ({"window_batch": 0}, "window_batch"),
        ({"resize_short": (1, 2, 3)}, "resize_short"),
        ({"resize_short": 0}, "number of pixels in 1..65536"),
        ({"resize_short": (512, -1)}, "number of pixels in 1..65536"),
    ],
)
def test_impossible_protocols_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**kwargs)


# --- properties ---------------------------------------------------------------------------------


@st.composite
def axes(draw):
    crop = draw(st.integers(1, 12))
    return draw(st.integers(1, 40)), crop, draw(st.integers(1, crop))


@given(axis=axes(), other=axes())
def test_windows_see_every_pixel_and_are_as_few_as_the_stride_allows(axis, other):
    (height, tall, down), (width, wide, right) = axis, other
    windows = sliding_windows(height, width, (tall, wide), (down, right))
    seen = np.zeros((height, width), dtype=int)
    for w in windows:
        assert 0 <= w.top < w.bottom <= height
        assert 0 <= w.left < w.right <= width
        seen[w.top : w.bottom, w.left : w.right] += 1
    assert seen.min() >= 1
    assert {w.size for w in windows} == {(min(tall, height), min(wide, width))}
    assert len(set(windows)) == len(windows)
    count = 1
    for length, crop, stride in (axis, other):
        count *= 1 + max(0, -(-(length - crop) // stride))
    assert len(windows) == count
    protocol = slide((tall, wide), (down, right))
    assert len(forward_sizes(height, width, protocol)) == count


@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    crop=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    window_batch=st.integers(1, 5),
    data=st.data(),
)
def test_scores_of_pixels_do_not_depend_on_the_windows(size, crop, window_batch, data):
    stride = tuple(data.draw(st.integers(1, edge)) for edge in crop)
    images = torch.rand(2, 3, *size)
    scores = predict_scores(pixel_scorer, images, slide(crop, stride, window_batch=window_batch))
    torch.testing.assert_close(scores, pixel_scorer(images), rtol=0, atol=1e-6)


# --- absurd protocols ---------------------------------------------------------------------------

ABSURD = {
    "resized": ({"resize_short": 20_000}, (480, 640), "resize_short=20000"),
    "a line resized": ({"resize_short": 512}, (1, 10_000), "resize_short=512"),
    "stride 1": ({"mode": "slide", "crop": 512, "stride": 1}, (1024, 2048), r"stride=\[1, 1\]"),
    "windows of a pixel": ({"mode": "slide", "crop": 1, "stride": 1}, (500, 500), "crop"),
    "one scale": ({"scales": [64.0]}, (2000, 2000), r"scales=\[64.0\]"),
    "many scales": ({"scales": [0.01] * 100_000}, (64, 64), r"scales=\[0.01, 0.01, .{9,40}\.\.\.,"),
    "windows at once": (
        {"mode": "slide", "crop": 512, "stride": 256, "window_batch": 2**30},
        (20_000, 20_000),
        "window_batch=1073741824",
    ),
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_protocols_are_refused_before_the_first_window(name):
    values, size, message = ABSURD[name]
    protocol = Protocol(**values)
    image = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(1, 3, *size)
    calls = (
        lambda scorer: predict_scores(scorer, image, protocol),
        lambda scorer: predict_labels(scorer, image, protocol),
        lambda scorer: predict_map(scorer, image, protocol),
    )
    for call in calls:
        with pytest.raises(
            TooMuchWorkError, match=f"an image of {size[1]} x {size[0]} .*{message}"
        ):
            call(lambda *_: pytest.fail("a window was computed"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resize_short": 10**6}, "resize_short is a number of pixels in 1..65536 .*1000000"),
        ({"resize_short": [10**6, 5]}, "resize_short"),
        ({"scales": [1e300]}, "scales must be positive and at most 64, got .1e.300"),
        ({"scales": [float("nan")]}, "scales"),
        ({"scales": [float("inf")]}, "scales"),
        ({"mode": "slide", "crop": 10**9}, "crop .* at most 65536"),
    ],
)
def test_absurd_values_are_refused_as_such(values, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**values)


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ({"mode": "slide", "crop": 512}, (20_000, 20_000)),
        ({"mode": "slide", "crop": 768, "scales": (0.5, 0.75, 1, 1.25, 1.5, 1.75), "flip": True},
         (1024, 2048)),
        ({"resize_short": (2048, 512), "mode": "slide", "crop": 512}, (375, 500)),
        ({"resize_short": 1024}, (48, 64)),
        ({"mode": "slide", "crop": 8, "stride": 1}, (96, 128)),
        ({"mode": "slide", "crop": 1024, "stride": 128, "window_batch": 64}, (4000, 6000)),
        ({}, (30_000, 30_000)),
    ],
)  # fmt: skip
def test_what_people_ask_for_is_allowed(values, size):
    check_work(*size, Protocol(**values))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300))
def test_windows_are_counted_as_they_are_made(length, crop, stride):
    stride = min(stride, crop)
    windows = sliding_windows(length, 1, (crop, 1), (stride, 1))
    assert _count(length, crop, stride) == len(windows)
