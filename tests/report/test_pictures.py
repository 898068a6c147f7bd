"""Pictures: every pixel where it belongs."""

import numpy as np
import torch

from stepseg.report.pictures import (
    DARK,
    describe_image,
    label_overlay,
    remaining_tokens,
    superpatch_grid,
)
from toys import SYSTEMS, toy_images, toy_segmenter

GREY = np.full((8, 10, 3), 100, np.uint8)
"""8 x 10 px: with patches of 4 px a grid of 2 x 3 whose last column is cropped."""


def test_superpatch_grid_outlines_every_token():
    windows = np.array([[2, 2, 1], [2, 2, 1]])
    picture = superpatch_grid(GREY, windows, 4)
    white = (picture == 255).all(-1)
    # the merged window of 8 px has its frame at row 0 and column 0, none inside
    assert white[0, :8].all()
    assert white[:, 0].all()
    assert not white[1:, 1:8].any()
    # the single patches have a frame each
    assert white[4, 8:].all()
    assert white[:, 8].all()
    assert (picture[1:, 1:8] != 100).any(-1).all()  # tinted
    assert (picture[1, 9] == 100).all()  # not merged: untouched


def test_tokens_that_left_are_dark():
    exits = np.array([[0, 1, 2], [2, 2, 2]])
    first = remaining_tokens(GREY, exits, 0, 4)
    assert (first[:4, :4] == round(100 * DARK)).all()
    assert (first[:4, 4:] == 100).all()
    assert (first[4:] == 100).all()
    second = remaining_tokens(GREY, exits, 1, 4)
    assert (second[:4, :8] == round(100 * DARK)).all()
    assert (second[:, 8:] == 100).all()


def test_overlay_mixes_colours():
    labels = np.zeros((8, 10), np.uint8)
    labels[:, 5:] = 1
    picture = label_overlay(GREY, labels, [(0, 0, 0), (200, 100, 0)], opacity=0.5)
    assert picture[0, 0].tolist() == [50, 50, 50]
    assert picture[0, 9].tolist() == [150, 100, 50]


def test_the_whole_row():
    model = toy_segmenter()
    images = toy_images(1, 75, 101)
    with torch.no_grad():
        output = model(images, reduction=SYSTEMS["step"])
    picture = (images[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    palette = [(40 * c, 0, 255 - 40 * c) for c in range(5)]
    label = np.zeros((75, 101), np.uint8)
    row = describe_image(picture, output, palette, label)
    # image, superpatches, two exits, prediction, label
    assert row.shape == (75 + 24, 6 * 101, 3)
    assert (row[24:, :101] == picture).all()
