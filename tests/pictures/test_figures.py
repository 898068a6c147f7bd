"""Pictures made of panels: what is in them, where, and under which words."""

import numpy as np
import pytest
import torch

from stepseg.pictures.figures import (
    change_figure,
    class_entries,
    confidence_figure,
    error_figure,
    exit_figure,
    label_figure,
    superpatch_figure,
)
from stepseg.pictures.panels import (
    arrange,
    captioned,
    colour_bar,
    enlarge,
    font_size,
    good_columns,
    legend,
)
from stepseg.pictures.token_maps import TokenMaps, View
from stepseg.protocol import Window
from toys import SYSTEMS, toy_images, toy_segmenter

PALETTE = [(40 * c, 0, 255 - 40 * c) for c in range(5)]
CLASSES = ["sky", "road", "tree", "car", "person"]


@pytest.fixture(scope="module")
def scene():
    torch.manual_seed(0)
    images = toy_images(1, 75, 101)
    with torch.no_grad():
        output = toy_segmenter()(images, reduction=SYSTEMS["step"])
    picture = (images[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    return picture, output, output.prediction()[0].numpy().astype(np.uint8)


def test_figures_hold_their_panels_at_whole_factors(scene):
    picture, output, labels = scene
    maps = TokenMaps.of(output)
    figure = exit_figure(picture, maps, (1, 3), labels, CLASSES, PALETTE, labels)
    factor = -(-320 // 101)
    enlarged = picture.repeat(factor, 0).repeat(factor, 1)
    pixels = np.asarray(figure)
    top = 6 + round(font_size(101 * factor) * 1.6)
    assert (pixels[top : top + 75 * factor, 6 : 6 + 101 * factor] == enlarged).all()
    for other in (
        superpatch_figure(picture, maps),
        confidence_figure(maps, 0.9),
        error_figure(picture, labels, labels, CLASSES, PALETTE),
        change_figure(picture, labels, labels, CLASSES, PALETTE, labels),
    ):
        assert other.width >= 101 * factor
        assert other.height >= 75 * factor


def test_legends_name_the_classes_that_occur_by_frequency():
    labels = np.array([[3, 3, 1], [1, 3, 255]], np.uint8)
    expected = [("car", PALETTE[3]), ("road", PALETTE[1])]
    assert class_entries([labels], CLASSES, PALETTE) == expected


def test_views_are_cut_halfway_and_keep_their_tokens_apart():
    def view(left, value):
        cells = np.full((1, 2), value)
        window = Window(0, left, 4, left + 8)
        return View(window, 4, np.array([[0, 1]]), cells, cells, cells.astype(np.float32))

    maps = TokenMaps.assemble([view(0, 1), view(6, 2)])
    # two windows of 8 px overlap in columns 6 and 7: the cut is at 7
    assert maps.superpatch_HW.shape == (4, 14)
    assert maps.superpatch_HW[0].tolist() == [1] * 7 + [2] * 7
    assert maps.token_HW[0].tolist() == [0] * 4 + [1] * 3 + [2] * 3 + [3] * 4
    assert maps.thinned(2).exit_HW[0].tolist() == [1] * 4 + [2] * 3


def test_panels_keep_to_their_sizes():
    from PIL import Image

    red = Image.new("RGB", (100, 40), "red")
    assert enlarge(red).size == (400, 160)
    assert enlarge(red, 100) is red
    out = captioned(red, "a caption that is much too long for such a narrow picture")
    assert out.width == 100
    assert out.getpixel((50, out.height - 1)) == (255, 0, 0)
    assert arrange([red, red, red], 2, gap=5).size == (215, 95)
    names = [(f"class number {index}", (index, 0, 0)) for index in range(20)]
    assert legend(names, 300).height > legend(names, 3000).height
    assert colour_bar(200, marks=[(0.9, "exit")]).height == 200
    assert good_columns(3, 480, 360) == 3
    assert good_columns(6, 480, 360) == 3
    assert good_columns(5, 2048, 1024) in (2, 3)


def test_labels_stand_beside_their_image_with_the_names_of_what_occurs(scene):
    picture, _, labels = scene
    labels = labels.copy()
    plain = label_figure(picture, labels, CLASSES, PALETTE)
    labels[:20] = 255
    striped = label_figure(picture, labels, CLASSES, PALETTE)
    assert plain.width == striped.width > 2 * 4 * 101  # both enlarged
    assert plain.height > 4 * 75  # captions above, names below
    assert np.asarray(plain).tobytes() != np.asarray(striped).tobytes()
