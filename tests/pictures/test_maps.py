"""Maps of where tokens went: worked out by hand, then on a model."""

import numpy as np
import pytest
import torch

from stepseg.dcts.merge import build_layout
from stepseg.pictures.token_maps import View, to_pixels
from stepseg.segmentation import HeadOutput, Segmentation
from toys import SYSTEMS, toy_images, toy_segmenter

WINDOWS_BYX = torch.tensor(
    [
        [[1, 1, 2, 2], [1, 1, 2, 2]],
        [[2, 2, 1, 1], [2, 2, 1, 1]],
    ]
)
"""Two images of 2 x 4 cells with five tokens each, in raster order of their top-left cells."""


def logit(p: float) -> float:
    return float(torch.tensor(p).logit())


def made_by_hand() -> Segmentation:
    """Patches of 4 px, 7 x 15 pixels; tokens 0 .. 9, two classes, both present for certain."""
    layout = build_layout(WINDOWS_BYX, (2,))
    # tokens of image 0: (0,0) (0,1) window (1,0) (1,1); of image 1: window (0,2) (0,3) (1,2) (1,3)
    confidence = [0.9, 0.6, 0.7, 0.55, 0.8, 0.95, 0.65, 0.75, 0.85, 0.5]
    mask_logits = torch.tensor([[logit(p), logit(0.25)] for p in confidence])
    heads = [
        HeadOutput(block, mask_logits, torch.zeros(2, 2, 2), lengths)
        for block, lengths in ((3, (5, 5)), (6, (3, 4)), (8, (2, 3)))
    ]
    return Segmentation(
        image_size=(7, 15),
        patch_size=4,
        layout=layout,
        heads=heads,
        exit_T0=torch.tensor([0, 2, 0, 1, 2, 0, 2, 1, 2, 2]),
        presence_T0C=None,
        presence_BC=torch.ones(2, 2),
    )


def test_superpatch_map_gives_the_window_of_each_cell():
    output = made_by_hand()
    assert View.of(output).superpatches_YX.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]
    assert View.of(output, 1).superpatches_YX.tolist() == [[2, 2, 1, 1], [2, 2, 1, 1]]


def test_token_map_counts_from_zero_in_every_image():
    output = made_by_hand()
    assert View.of(output).tokens_YX.tolist() == [[0, 1, 2, 2], [3, 4, 2, 2]]
    assert View.of(output, 1).tokens_YX.tolist() == [[0, 0, 1, 2], [0, 0, 3, 4]]


def test_exit_map_gives_the_exit_of_each_cells_token():
    output = made_by_hand()
    assert View.of(output).exits_YX.tolist() == [[0, 2, 0, 0], [1, 2, 0, 0]]
    assert View.of(output, 1).exits_YX.tolist() == [[0, 0, 2, 1], [0, 0, 2, 2]]


def test_pixels_repeat_cells_and_lose_the_padding():
    pixels = to_pixels(np.array([[1, 2], [3, 4]]), 2, (3, 4))
    assert pixels.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4]]
    colours = to_pixels(np.zeros((2, 2, 3)), 2, (4, 3))
    assert colours.shape == (4, 3, 3)
    with pytest.raises(ValueError, match="5x4 pixels has 2x3 patches of 2, the map has 2x2"):
        to_pixels(np.zeros((2, 2)), 2, (4, 5))


def test_maps_agree_with_the_models_own_counts():
    with torch.no_grad():
        output = toy_segmenter()(toy_images(3, 75, 101), reduction=SYSTEMS["step"])
    for index in range(3):
        view = View.of(output, index)
        tokens, exits = view.tokens_YX, view.exits_YX
        assert view.superpatches_YX.shape == tokens.shape == (5, 7)
        counts = [lengths[index] for lengths in output.tokens_per_stage]
        assert np.unique(tokens).tolist() == list(range(counts[0]))
        _, first = np.unique(tokens, return_index=True)
        exit_of_token = exits.flatten()[first]
        assert [(exit_of_token >= stage).sum() for stage in range(3)] == counts
