"""Label maps in bounded memory: equal to the argmax of all scores, number for number."""

import pytest
import torch

from stepseg import label_map
from stepseg.label_map import predict_labels, resized_argmax
from stepseg.protocol import Protocol, predict_scores

WEIGHT = torch.randn(7, 3, 5, 5, generator=torch.Generator().manual_seed(1))


def scorer(images):
    """Seven classes that look at the surroundings, so that windows disagree where they overlap."""
    return torch.nn.functional.conv2d(images, WEIGHT, padding=2)


@pytest.mark.parametrize("window_batch", [1, 3, 100])
@pytest.mark.parametrize(
    ("crop", "stride"), [((16, 24), (11, 13)), ((50, 24), (7, 24)), ((8, 64), (8, 64))]
)
def test_windows_row_by_row_give_the_map_of_all_scores(crop, stride, window_batch):
    images = torch.randint(0, 256, (2, 3, 45, 61), dtype=torch.uint8)
    protocol = Protocol(mode="slide", crop=crop, stride=stride, window_batch=window_batch)
    expected = predict_scores(scorer, images, protocol).argmax(1)
    assert torch.equal(predict_labels(scorer, images, protocol), expected)


@pytest.mark.parametrize("chunk", [1, 2 * 64 * 80 * 3, 2**24])
def test_classes_bit_by_bit_give_the_map_of_all_scores(chunk, monkeypatch):
    monkeypatch.setattr(label_map, "CHUNK", chunk)
    images = torch.randint(0, 256, (2, 3, 45, 61), dtype=torch.uint8)
    protocol = Protocol(resize_short=30)
    expected = predict_scores(scorer, images, protocol, (64, 80)).argmax(1)
    assert torch.equal(predict_labels(scorer, images, protocol, (64, 80)), expected)


@pytest.mark.parametrize("chunk", [1, 2**24])
def test_ties_go_to_the_first_class(chunk, monkeypatch):
    monkeypatch.setattr(label_map, "CHUNK", chunk)
    assert resized_argmax(torch.ones(1, 4, 2, 2), (3, 3)).eq(0).all()


def test_only_open_rows_are_held(monkeypatch):
    held = []
    monkeypatch.setattr(
        label_map, "_settle", lambda sums, count: held.append(sums.shape[2]) or sums.argmax(1)
    )
    protocol = Protocol(mode="slide", crop=(16, 16), stride=(8, 16), window_batch=2)
    images = torch.zeros(1, 3, 160, 32, dtype=torch.uint8)
    assert predict_labels(scorer, images, protocol).shape == (1, 160, 32)
    assert max(held) <= 16
    assert sum(held) == 160
