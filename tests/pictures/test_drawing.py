"""Drawings: every pixel where it belongs."""

import numpy as np
import pytest

from stepseg.pictures.drawing import (
    DARK,
    REPAIRED,
    SPOILT,
    WRONG,
    change_picture,
    colour_picture,
    colourise,
    confidence_picture,
    error_picture,
    overlay_picture,
    remaining_picture,
    superpatch_picture,
    token_boundaries,
)
from stepseg.pictures.looks import DIFFERENCE

GREY = np.full((8, 10, 3), 100, np.uint8)
"""8 x 10 px: with patches of 4 px a grid of 2 x 3 whose last column is cropped."""
TOKENS = np.repeat(np.repeat([[0, 0, 1], [0, 0, 2]], 4, 0), 4, 1)[:8, :10]
WINDOWS = np.where(TOKENS == 0, 2, 1)


def test_outlines_are_the_first_row_and_column_of_every_token():
    lines = token_boundaries(TOKENS)
    expected = np.zeros((8, 10), bool)
    expected[0] = expected[:, 0] = True  # the image's own edge
    expected[:, 8] = True  # the tokens of the last column begin
    expected[4, 8:] = True  # and the second of them
    assert (lines == expected).all()
    wide = token_boundaries(TOKENS, 2)
    expected[:, 7] = True
    expected[3, 8:] = True
    assert (wide == expected).all()


def test_superpatches_are_outlined_and_tinted():
    picture = np.asarray(superpatch_picture(GREY, TOKENS, WINDOWS))
    lines = token_boundaries(TOKENS)
    assert (picture[lines].mean(1) > 190).all()
    inside = ~lines & (WINDOWS == 2)
    assert (picture[inside] != 100).any(-1).all()
    assert (picture[~lines & (WINDOWS == 1)] == 100).all()


def test_outlines_show_on_white_too():
    white = np.full((8, 10, 3), 255, np.uint8)
    picture = np.asarray(superpatch_picture(white, TOKENS, np.ones_like(WINDOWS)))
    lines = token_boundaries(TOKENS)
    assert (picture[lines] < 130).all()
    assert (picture[~lines] == 255).all()


def test_tokens_that_left_are_dark():
    exits = np.choose(TOKENS, [0, 1, 2])
    first = np.asarray(remaining_picture(GREY, exits, 0, TOKENS))
    assert (first[TOKENS == 0] == round(100 * DARK)).all()
    assert (first[TOKENS > 0] >= 100).all()
    second = np.asarray(remaining_picture(GREY, exits, 1, TOKENS))
    assert (second[TOKENS < 2] == round(100 * DARK)).all()
    assert (second[5:, 9] == 100).all()


def test_colours_and_overlay():
    labels = np.zeros((8, 10), np.uint8)
    labels[:, 5:] = 1
    palette = [(0, 0, 0), (200, 100, 0)]
    assert np.asarray(colour_picture(labels, palette))[3, 7].tolist() == [200, 100, 0]
    picture = np.asarray(overlay_picture(GREY, labels, palette, opacity=0.5))
    assert picture[0, 0].tolist() == [50, 50, 50]
    assert picture[0, 9].tolist() == [150, 100, 50]
    with pytest.raises(ValueError, match="image has 10x8 pixels, the map 9x8"):
        overlay_picture(GREY, labels[:, :9], palette)


def test_errors_are_red_and_ignored_pixels_striped():
    truth = np.array([[0, 1, 255, 1]], np.uint8)
    labels = np.array([[0, 0, 0, 1]], np.uint8)
    picture = np.asarray(error_picture(GREY[:1, :4], labels, truth))
    assert (picture[0] == WRONG).all(-1).tolist() == [False, True, False, False]
    assert picture[0, 2].tolist() == [0, 0, 0]
    assert (picture[0, 0] == picture[0, 3]).all()


def test_changes_say_for_whom():
    truth = np.array([[0, 1, 2, 255, 1]], np.uint8)
    dense = np.array([[0, 1, 0, 0, 0]], np.uint8)
    ours = np.array([[0, 0, 1, 1, 1]], np.uint8)
    picture = np.asarray(change_picture(GREY[:1, :5], dense, ours, truth))
    for column, colour in ((1, SPOILT), (2, DIFFERENCE), (3, DIFFERENCE), (4, REPAIRED)):
        assert tuple(picture[0, column]) == colour
    assert picture[0, 0].tolist() == [190, 190, 190]
    without = np.asarray(change_picture(GREY[:1, :5], dense, ours))
    assert (without[0, 1:] == DIFFERENCE).all()


def test_confidence_runs_from_dark_to_bright():
    picture = np.asarray(confidence_picture(np.array([[0.0, 0.5, 1.0]])), dtype=int)
    assert picture.shape == (1, 3, 3)
    assert (np.diff(picture.sum(-1)[0]) > 0).all()


def test_colourise_stripes_ignored_pixels():
    label = np.array([[0, 1, 255]], dtype=np.uint8)
    picture = colourise(label, [(1, 2, 3), (4, 5, 6)])
    assert picture[0, 0].tolist() == [1, 2, 3]
    assert picture[0, 1].tolist() == [4, 5, 6]
    assert len(set(picture[0, 2].tolist())) == 1
