"""Pictures of where tokens go: superpatches over the image, tokens that left, the map.

STEP, Figures 3, 7 and 8. Arrays in, arrays out: uint8 ``[H, W, 3]``, aligned to the pixel.

Letters: H x W pixels, Y x X cells of the patch grid.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stepseg.data.overlay import colourise
from stepseg.model import Segmentation

Picture = NDArray[np.uint8]
Palette = Sequence[tuple[int, int, int]]

DARK = 0.15
"""Brightness of the image where tokens have left."""


def superpatch_grid(image_HW3: Picture, window_YX: NDArray[np.int64], patch_size: int) -> Picture:
    """Outline every token on the image; merged windows are tinted by their size."""
    picture = image_HW3.astype(np.float32)
    window_HW = _to_pixels(window_YX, patch_size, image_HW3.shape)
    for side, colour in zip((2, 4, 8, 16), _TINTS, strict=True):
        picture[window_HW == side] = 0.65 * picture[window_HW == side] + 0.35 * np.array(colour)
    y, x = np.ogrid[: image_HW3.shape[0], : image_HW3.shape[1]]
    length = window_HW * patch_size
    picture[(y % length == 0) | (x % length == 0)] = (255, 255, 255)
    return picture.round().astype(np.uint8)


def remaining_tokens(
    image_HW3: Picture, exit_YX: NDArray[np.int64], after: int, patch_size: int
) -> Picture:
    """The image with the tokens dark that have left at exits 0 to `after`."""
    left_HW = _to_pixels(exit_YX, patch_size, image_HW3.shape) <= after
    picture = image_HW3.astype(np.float32)
    picture[left_HW] *= DARK
    return picture.round().astype(np.uint8)


def label_overlay(
    image_HW3: Picture, label_HW: NDArray[np.uint8], palette: Palette, opacity: float = 0.6
) -> Picture:
    """The colours of a label map over the image."""
    colours = colourise(label_HW, palette).astype(np.float32)
    return (image_HW3 * (1 - opacity) + colours * opacity).round().astype(np.uint8)


def describe_image(
    image_HW3: Picture,
    output: Segmentation,
    palette: Palette,
    label_HW: NDArray[np.uint8] | None = None,
) -> Picture:
    """One row of captioned panels for the only image of a batch: the whole story of STEP.

    Image, superpatches, what is left after each exit, prediction and, if given, the label.
    """
    cells = output.layout.window_BYX[0].cpu().numpy()
    exit_YX = output.layout.unmerge(output.exit_T0)[0].cpu().numpy()
    prediction = output.prediction()[0].to("cpu").numpy().astype(np.uint8)
    counts = [lengths[0] for lengths in output.tokens_per_stage]
    panels = [
        ("image", image_HW3),
        (f"{counts[0]} tokens", superpatch_grid(image_HW3, cells, output.patch_size)),
    ]
    for index, (head, left) in enumerate(zip(output.heads, counts[1:], strict=False)):
        picture = remaining_tokens(image_HW3, exit_YX, index, output.patch_size)
        panels.append((f"{left} left after block {head.block}", picture))
    panels.append(("prediction", label_overlay(image_HW3, prediction, palette)))
    if label_HW is not None:
        panels.append(("label", label_overlay(image_HW3, label_HW, palette)))
    return np.concatenate([_with_caption(picture, text) for text, picture in panels], axis=1)


_TINTS = ((66, 133, 244), (52, 168, 83), (251, 188, 5), (234, 67, 53))


def _to_pixels(
    cells_YX: NDArray[np.int64], patch_size: int, shape: tuple[int, ...]
) -> NDArray[np.int64]:
    pixels = cells_YX.repeat(patch_size, 0).repeat(patch_size, 1)
    return pixels[: shape[0], : shape[1]]


def _with_caption(picture: Picture, text: str, height: int = 24) -> Picture:
    strip = Image.new("RGB", (picture.shape[1], height), "white")
    ImageDraw.Draw(strip).text((4, 3), text, fill="black", font=ImageFont.load_default(15))
    return np.concatenate([np.asarray(strip, dtype=np.uint8), picture])
