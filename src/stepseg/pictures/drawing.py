"""What tokens did, and what came of it, drawn over the image: aligned with it to the pixel.

Arrays in, Pillow images out, of the size of the image. Captions, legends and panels side by side
are in `pictures`.

Letters: H x W pixels.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stepseg.data.labels import IGNORE_INDEX
from stepseg.pictures.looks import DIFFERENCE, window_colour

Picture = NDArray[np.uint8]
"""RGB, ``[H, W, 3]``."""
Labels = NDArray[np.uint8]
Palette = Sequence[tuple[int, int, int]]

DARK = 0.12
"""Brightness of the image where tokens have left."""
LIGHT, GREY = 255, 60
"""Outlines, on dark and on bright ground."""
WRONG, REPAIRED, SPOILT = (230, 40, 40), (40, 170, 80), (230, 40, 40)
CONFIDENCE_COLOURS = "viridis"
STRIPE = 8
"""Pixels of a stripe where labels are ignored."""


def colourise(labels_HW: Labels, palette: Palette) -> Picture:
    """The picture of training ids; ignored pixels are striped black and grey."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(palette)] = palette
    picture = table[labels_HW]
    rows, columns = np.nonzero(labels_HW == IGNORE_INDEX)
    picture[rows, columns] = (((rows + columns) // STRIPE) % 2 * 90)[:, None]
    return picture


def colour_picture(labels_HW: Labels, palette: Palette) -> Image.Image:
    """The class colours alone; ignored pixels are striped."""
    return Image.fromarray(colourise(labels_HW, palette))


def overlay_picture(
    image_HW3: Picture, labels_HW: Labels, palette: Palette, opacity: float = 0.6
) -> Image.Image:
    """The class colours over the image.

    Raises:
        ValueError: an opacity outside 0..1, or sizes that differ.

    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity lies in 0..1, got {opacity}")
    _check_size(image_HW3, labels_HW)
    return _blend(image_HW3, colourise(labels_HW, palette), opacity)


def superpatch_picture(
    image_HW3: Picture, token_HW: NDArray[np.int64], superpatch_HW: NDArray[np.int64]
) -> Image.Image:
    """The outlines of all tokens over the image; merged windows are tinted by their size."""
    _check_size(image_HW3, token_HW)
    tinted = image_HW3.astype(np.float32)
    for side in np.unique(superpatch_HW):
        if side > 1:
            inside = superpatch_HW == side
            tinted[inside] = 0.68 * tinted[inside] + 0.32 * np.array(window_colour(int(side)))
    lines = token_boundaries(token_HW, line_width(token_HW.shape))
    _draw_lines(tinted, lines, 0.75)
    return _image(tinted)


def remaining_picture(
    image_HW3: Picture, exit_HW: NDArray[np.int64], after: int, token_HW: NDArray[np.int64]
) -> Image.Image:
    """The image, dark where tokens left for good at exits 0 to `after`; outlines of the others."""
    _check_size(image_HW3, exit_HW)
    left = exit_HW <= after
    picture = image_HW3.astype(np.float32)
    lines = token_boundaries(token_HW, 1) & ~left
    _draw_lines(picture, lines, 0.4)
    picture[left] *= DARK
    return _image(picture)


def confidence_picture(confidence_HW: NDArray[np.floating]) -> Image.Image:
    """Confidence in colours, from 0 (dark) to 1 (bright)."""
    colours = matplotlib.colormaps[CONFIDENCE_COLOURS](confidence_HW.clip(0, 1))
    return _image(colours[:, :, :3] * 255)


def error_picture(image_HW3: Picture, labels_HW: Labels, truth_HW: Labels) -> Image.Image:
    """Wrong pixels red over a pale image; where the truth ignores, it is striped."""
    _check_size(image_HW3, labels_HW)
    _check_size(image_HW3, truth_HW)
    ignored = truth_HW == IGNORE_INDEX
    picture = _pale(image_HW3)
    picture[(labels_HW != truth_HW) & ~ignored] = WRONG
    picture[ignored] = colourise(truth_HW, ((0, 0, 0),))[ignored]
    return _image(picture)


def change_picture(
    image_HW3: Picture, before_HW: Labels, after_HW: Labels, truth_HW: Labels | None = None
) -> Image.Image:
    """Where two label maps differ, over a pale image.

    With the truth, the colours say for whom: green where only `after` is right, red where only
    `before` is, violet where neither is or where the truth ignores.
    """
    _check_size(image_HW3, before_HW)
    _check_size(image_HW3, after_HW)
    changed = before_HW != after_HW
    picture = _pale(image_HW3)
    picture[changed] = DIFFERENCE
    if truth_HW is not None:
        _check_size(image_HW3, truth_HW)
        picture[changed & (after_HW == truth_HW)] = REPAIRED
        picture[changed & (before_HW == truth_HW)] = SPOILT
    return _image(picture)


def token_boundaries(token_HW: NDArray[np.int64], width: int = 1) -> NDArray[np.bool_]:
    """Picture on the outline of a token: its first row and column, and with 2 its last ones too."""
    lines = np.zeros(token_HW.shape, bool)
    below = token_HW[1:] != token_HW[:-1]
    right = token_HW[:, 1:] != token_HW[:, :-1]
    lines[1:] |= below
    lines[:, 1:] |= right
    if width > 1:
        lines[:-1] |= below
        lines[:, :-1] |= right
    lines[0] = True
    lines[:, 0] = True
    return lines


def line_width(shape: tuple[int, ...]) -> int:
    """1 px, or 2 where an image is looked at from further away."""
    return 1 if min(shape[:2]) < 768 else 2


def _draw_lines(picture: NDArray[np.float32], lines_HW: NDArray[np.bool_], opacity: float) -> None:
    """Draw in place: light lines, but grey ones where the picture itself is almost white."""
    ground = picture[lines_HW]
    colour = np.where(ground.mean(1, keepdims=True) > 190, GREY, LIGHT)
    picture[lines_HW] = (1 - opacity) * ground + opacity * colour


def _blend(image_HW3: Picture, colours_HW3: Picture, opacity: float) -> Image.Image:
    mixed = image_HW3 * np.float32(1 - opacity) + colours_HW3 * np.float32(opacity)
    return _image(mixed)


def _pale(image_HW3: Picture) -> NDArray[np.float32]:
    """Grey and bright, so that colours stand out."""
    grey = image_HW3.astype(np.float32).mean(2, keepdims=True)
    return np.repeat(150 + 0.4 * grey, 3, 2)


def _image(pixels_HW3: NDArray[np.floating]) -> Image.Image:
    return Image.fromarray(pixels_HW3.round().clip(0, 255).astype(np.uint8))


def _check_size(image_HW3: Picture, map_HW: NDArray) -> None:
    if image_HW3.shape[:2] != map_HW.shape:
        raise ValueError(
            f"the image has {image_HW3.shape[1]}x{image_HW3.shape[0]} pixels, the map "
            f"{map_HW.shape[1]}x{map_HW.shape[0]}"
        )
