"""Reading images and label files; errors name the file."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

# Pillow stores 16-bit greyscale PNGs in these modes.
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L")
# What Pillow raises on damaged files, by type of file and of damage.
UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip
# Ids are names, not brightness: the next shade is another class.
_LOSSY = ("JPEG", "MPO", "JPEG2000")


class ImageFileError(ValueError):
    """An image or label file that cannot be read."""


def read_image(path: Path) -> Tensor:
    """Decode a file to uint8 [3, H, W] RGB, see `rgb_pixels`.

    Raises:
        ImageFileError: missing, truncated or not an image; names the file.
    """
    try:
        with Image.open(path) as image:
            pixels = rgb_pixels(image)
    except UNREADABLE as error:
        raise ImageFileError(f"{path}: cannot read this image ({error})") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def rgb_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels of a Pillow image of any mode, uint8 ``[H, W, 3]``.

    16-bit values are divided by 256, grey is replicated, palettes are looked up, CMYK is converted
    without its colour profile, and transparency is dropped: the colours beneath it count.

    Raises:
        ValueError: floating-point pixels, whose range nobody knows.

    """
    if image.mode in _WIDE_MODES:
        # Pillow clips 16-bit values to 255 instead of scaling them.
        grey = (np.asarray(image, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("floating-point pixels: convert the image to 8 or 16 bits first")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_label(path: Path) -> NDArray[np.integer]:
    """Read the ids of a label file, [H, W]: PNG (8-bit, 16-bit, palette) or `.mat` (field `S`).

    Raises:
        ImageFileError: missing, damaged, or without one exact id per pixel; names the file.
    """
    if path.suffix == ".mat":
        return read_mat(path)
    try:
        _check_label_file(path)
        with Image.open(path) as image:
            # In palette files the index is the id; the colours are only for viewing.
            mode, ids = image.mode, np.array(image)
    except ImageFileError:
        raise
    except UNREADABLE as error:
        raise ImageFileError(f"{path}: cannot read this label file ({error})") from error
    if mode == "1":  # black and white: ids 0 and 1
        return ids.astype(np.uint8)
    if mode not in ("L", "P", *_WIDE_MODES):
        raise ImageFileError(
            f"{path}: a label file holds one id per pixel (greyscale or palette PNG), this one has "
            f"colours (mode {mode}). Convert the colours to ids first."
        )
    return ids


def _check_label_file(path: Path) -> None:
    """Refuse files whose ids are not what the pixels say, before the pixels are decoded."""
    with Image.open(path) as image:
        if image.format in _LOSSY:
            raise ImageFileError(
                f"{path}: {image.format} changes ids where it saves space. Store labels as PNG."
            )
        if getattr(image, "is_animated", False):
            raise ImageFileError(f"{path}: a label file holds one picture, this one several")
        if image.format == "PNG":
            # Pillow stretches these to 0..255: id 1 of 4 bits would be read as 17.
            if image.tile and image.tile[0].args in ("L;2", "L;4"):
                raise ImageFileError(
                    f"{path}: greyscale of {image.tile[0].args[2:]} bits: ids or shades? Store "
                    f"labels with 8 bits."
                )
            image.verify()  # decoding does not look at the checksums of pixels


def read_mat(path: Path) -> NDArray[np.integer]:
    """Read field `S` (label ids, [H, W]) of a MATLAB file.

    Raises:
        ImageFileError: missing, damaged or without the field; names the file.
    """
    from scipy.io import loadmat  # slow to import, and only one data set needs it

    try:
        ids: NDArray[np.integer] = loadmat(path, variable_names=["S"])["S"]
    except KeyError as error:
        raise ImageFileError(f"{path}: no field 'S' with label ids in this .mat file") from error
    except Exception as error:  # scipy raises many types on damaged files
        raise ImageFileError(f"{path}: cannot read this .mat file ({error})") from error
    if not np.issubdtype(ids.dtype, np.integer):
        raise ImageFileError(f"{path}: field 'S' holds {ids.dtype} instead of whole ids")
    return ids
