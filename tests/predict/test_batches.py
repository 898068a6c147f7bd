"""Which images are computed together."""

import numpy as np

from stepseg.predict import batches
from stepseg.predict.batches import batches_of_one_size


def read_ahead(images, batch_size):
    return batches.read_ahead(images, batch_size, lambda image: image.shape)


def test_equal_sizes_share_a_batch():
    sizes = [(4, 6), (4, 4), (4, 6), (4, 6), (4, 4)]
    assert batches_of_one_size(sizes, 2) == [[0, 2], [3], [1, 4]]
    assert batches_of_one_size(sizes, 1) == [[0], [2], [3], [1], [4]]


def test_reading_ahead_is_bounded(monkeypatch):
    images = [np.zeros((4, 5, 3), np.uint8)] * 9
    assert [len(held) for held in read_ahead(images, 2)] == [8, 1]
    assert [len(held) for held in read_ahead(images, 1)] == [1] * 9
    monkeypatch.setattr(batches, "MAX_PIXELS", 50)
    assert [len(held) for held in read_ahead(images, 2)] == [2, 2, 2, 2, 1]
    assert [len(held) for held in read_ahead([np.zeros((9, 9, 3))] * 2, 2)] == [1, 1]


def test_reading_ahead_reads_no_further():
    taken = []

    def source():
        for index in range(100):
            taken.append(index)
            yield np.zeros((4, 5, 3), np.uint8)

    next(read_ahead(source(), 2))
    assert len(taken) == 8
