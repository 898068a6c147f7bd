"""The one reader of images and label files; errors name the file.

Every picture is read upright: as a camera's note (EXIF) turns it, and as viewers and annotation
tools show it. Only the formats below are opened, whatever a file is called: Pillow knows others,
one of which starts programs.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stepseg.data.labels import LabelError

Pixels = NDArray[np.uint8]
"""RGB, ``[H, W, 3]``."""
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF")
# Those that keep whole numbers as they are: in the others the next shade is another class.
_EXACT = ("PNG", "BMP", "GIF", "TIFF")
# Pillow stores 16-bit grey values in these modes.
_WIDE_MODES = ("I;16", "I;16B", "I;16L")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageFileError(ValueError):
    """An image or label file that cannot be read."""


class Decoded(NamedTuple):
    """An image from a file."""

    pixels: Pixels
    turned: bool
    """Whether its file holds it in another orientation."""


def read_image(path: Path) -> Tensor:
    """Decode a file to uint8 [3, H, W] RGB, upright, see `rgb_pixels`.

    Raises:
        ImageFileError: missing, truncated or not an image; names the file.
    """
    return torch.from_numpy(read_pixels(path)).permute(2, 0, 1).contiguous()


def read_pixels(path: Path) -> Pixels:
    """The same as an array, uint8 [H, W, 3].

    Raises:
        ImageFileError: missing, truncated or not an image; names the file.
    """
    return decode(path).pixels


def decode(path: Path) -> Decoded:
    """Decode a file and tell whether it had to be turned.

    Raises:
        ImageFileError: missing, truncated or not an image; names the file.
    """
    with _open(path, "image") as image:
        deep = _is_deep(image)
        turned = image.format == "TIFF" and _orientation(image) in _TURNS
        image.load()  # other formats may keep the note behind the pixels
        turned = turned or _orientation(image) in _TURNS
        return Decoded(rgb_pixels(upright(image), deep=deep), turned)


def upright(image: Image.Image) -> Image.Image:
    """Turn and mirror an image as its camera noted."""
    image.load()  # Pillow turns TIFF by itself and then takes the note away
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def rgb_pixels(image: Image.Image, *, deep: bool = False) -> Pixels:
    """Pixels of a Pillow image, uint8 ``[H, W, 3]``.

    16-bit values are divided by 256, grey is replicated, palettes are looked up, CMYK is converted
    without its colour profile, and transparency is dropped: the colours beneath it count.

    Args:
        deep: whether its file holds more than 8 bits per value.

    Raises:
        ValueError: values whose range nobody knows: floats, 32-bit or signed whole numbers, and
            16 bits of which only few are used.

    """
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        kind = {"F": "floating-point", "I": "32-bit or signed"}[image.mode]
        raise ValueError(f"{kind} pixels: convert the image to 8 or 16 bits first")
    if image.mode in ("I", *_WIDE_MODES):
        # Pillow clips 16-bit values to 255 instead of scaling them.
        grey = (np.asarray(image, dtype=np.int64) >> 8).astype(np.uint8)
        pixels, deep = np.repeat(grey[:, :, None], 3, axis=2), True
    else:
        pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    if deep and pixels.max() < 64:
        raise ValueError(
            "16-bit pixels of which none reaches a quarter of the range, such as a camera's 12 "
            "bits: scale them to 0..65535 or store 8 bits"
        )
    return pixels


def read_label(path: Path, size: tuple[int, int] | None = None) -> NDArray[np.integer]:
    """Read the ids of a label file, [H, W]: PNG (8-bit, 16-bit, palette) or `.mat` (field `S`).

    Args:
        size: (height, width) of its image.

    Raises:
        ImageFileError: missing, damaged, or without one exact id per pixel; names the file.
        LabelError: of another size than its image.
    """
    if path.suffix == ".mat":
        with _named(path, ".mat file"):
            from stepseg.data.mat import read_mat  # with scipy, which only one data set needs

            ids = read_mat(path)
    else:
        ids = _read_ids(path, size)
    _check_size(path, ids.shape, size)
    return ids


def _read_ids(path: Path, size: tuple[int, int] | None) -> NDArray[np.integer]:
    with _open(path, "label file") as image:
        _check_label_file(path, image)
        if size is not None and sorted(image.size) != sorted(size):
            _check_size(path, image.size[::-1], size)  # before the pixels take memory
        if image.format == "PNG":
            image.verify()  # decoding does not look at the checksums of pixels
    with _open(path, "label file") as image:
        # In palette files the index is the id; the colours are only for viewing.
        mode, ids = image.mode, np.array(upright(image))
    if mode == "1":  # black and white: ids 0 and 1
        return ids.astype(np.uint8)
    if mode not in ("L", "P", "I", *_WIDE_MODES):
        raise ImageFileError(
            f"{path}: a label file holds one id per pixel (greyscale or palette PNG), this one has "
            f"colours (mode {mode}). Convert the colours to ids first."
        )
    return ids


def _check_label_file(path: Path, image: Image.Image) -> None:
    """Refuse files whose ids are not what the pixels say, before the pixels are decoded."""
    lossy_tiff = str(image.info.get("compression")) in ("jpeg", "tiff_jpeg", "webp")
    if image.format not in _EXACT or lossy_tiff:
        raise ImageFileError(
            f"{path}: {image.format} changes ids where it saves space. Store labels as PNG."
        )
    if getattr(image, "is_animated", False):
        raise ImageFileError(f"{path}: a label file holds one picture, this one several")
    raw = _raw_mode(image)
    if raw.startswith(("L;", "1;I")):
        # Pillow stretches or inverts these to 0..255: id 1 of 4 bits would be read as 17.
        held = f"greyscale of {raw[2:]} bits" if raw[2:].isdigit() else "inverted greyscale"
        raise ImageFileError(f"{path}: {held}: ids or shades? Store labels with 8 bits.")


def _check_size(path: Path, found: tuple[int, ...], size: tuple[int, int] | None) -> None:
    if size is not None and found != size:
        raise LabelError(
            f"{path} is {found[1]}x{found[0]} pixels, but its image is {size[1]}x{size[0]}; both "
            f"must have the same size"
        )


@contextmanager
def _open(path: Path, what: str) -> Iterator[Image.Image]:
    with _named(path, what), warnings.catch_warnings():
        # A photograph of 100 megapixels is no attack; from 179 on Pillow refuses.
        warnings.simplefilter("ignore")
        with Image.open(path, formats=FORMATS) as image:
            yield image


@contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """Decoders raise anything on damaged bytes; readers of ours say which file it was."""
    try:
        yield
    except (ImageFileError, LabelError):
        raise
    except Exception as error:
        reason = "it does not fit into memory" if isinstance(error, MemoryError) else error
        raise ImageFileError(f"{path}: cannot read this {what} ({reason})") from error


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged notes on an intact picture
        return 1


def _is_deep(image: Image.Image) -> bool:
    return re.search(r";1[26]", _raw_mode(image)) is not None


def _raw_mode(image: Image.Image) -> str:
    """How the file's bytes hold the pixels, as Pillow names it, before they are decoded."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0].args if tiles else ""
    return str(arguments if isinstance(arguments, str) or not arguments else arguments[0])
