"""Pictures with captions, legends and colour bars, in rows and columns. Pillow images throughout.

Nothing is resampled: small pictures grow by whole factors, large ones stay as they are.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stepseg.pictures.drawing import confidence_picture

Entry = tuple[str, tuple[int, int, int]]
INK, PAPER = "black", "white"
SMALL = 320
"""Pixels of the longer side below which a picture is enlarged."""


def enlarge(picture: Image.Image, longer_side: int = SMALL) -> Image.Image:
    """Repeat the pixels of a small picture so that its longer side reaches `longer_side`."""
    factor = -(-longer_side // max(picture.size))
    if factor <= 1:
        return picture
    return picture.resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
    )


def captioned(picture: Image.Image, text: str) -> Image.Image:
    """A picture under its caption, which shrinks until it fits."""
    size = font_size(picture.width)
    face = _fitting_font(text, size, picture.width - 8)
    strip = round(size * 1.6)
    out = Image.new("RGB", (picture.width, picture.height + strip), PAPER)
    ImageDraw.Draw(out).text((4, strip // 2), text, fill=INK, font=face, anchor="lm")
    out.paste(picture, (0, strip))
    return out


def arrange(pictures: Sequence[Image.Image], columns: int, gap: int = 6) -> Image.Image:
    """Pictures row by row, at their own size, on white."""
    columns = max(1, min(columns, len(pictures)))
    rows = [pictures[first : first + columns] for first in range(0, len(pictures), columns)]
    widths = [max(row[index].width for row in rows if index < len(row)) for index in range(columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    size = (sum(widths) + gap * (columns + 1), sum(heights) + gap * (len(rows) + 1))
    out = Image.new("RGB", size, PAPER)
    y = gap
    for row, height in zip(rows, heights, strict=True):
        x = gap
        for picture, width in zip(row, widths, strict=False):
            out.paste(picture, (x, y))
            x += width + gap
        y += height + gap
    return out


def good_columns(count: int, width: int, height: int, aspect: float = 1.8) -> int:
    """Columns for `count` panels of a size so that the whole is closest to `aspect`."""

    def distance(columns: int) -> tuple[float, int]:
        rows = -(-count // columns)
        shape = (columns * width) / (rows * height)
        empty = columns * rows - count
        return abs(np.log(shape / aspect)) + 0.6 * empty, columns

    return min(range(1, count + 1), key=distance)


def legend(entries: Sequence[Entry], width: int, size: int = 16) -> Image.Image:
    """Squares of colour with their names, in lines that fit into `width`."""
    face = font(size)
    places: list[tuple[int, int]] = []
    x, y, line = 4, 4, round(size * 1.5)
    for name, _ in entries:
        length = size + size // 2 + int(face.getlength(name)) + size
        if x + length > width and x > 4:
            x, y = 4, y + line
        places.append((x, y))
        x += length
    out = Image.new("RGB", (width, y + line + 2), PAPER)
    draw = ImageDraw.Draw(out)
    for (name, colour), (left, top) in zip(entries, places, strict=True):
        draw.rectangle((left, top, left + size, top + size), fill=colour, outline=(90, 90, 90))
        draw.text((left + size + size // 2, top + size / 2), name, fill=INK, font=face, anchor="lm")
    return out


def below(picture: Image.Image, *strips: Image.Image) -> Image.Image:
    """Pictures under each other."""
    parts = (picture, *strips)
    size = (max(part.width for part in parts), sum(part.height for part in parts))
    out = Image.new("RGB", size, PAPER)
    y = 0
    for part in parts:
        out.paste(part, (0, y))
        y += part.height
    return out


def colour_bar(height: int, size: int = 16, marks: Sequence[tuple[float, str]] = ()) -> Image.Image:
    """The colours of confidence from 1 at the top to 0, with numbers and named marks."""
    face = font(size)
    bar, margin = round(size * 1.4), size
    names = [(value, f"{value:g}") for value in (0.0, 0.25, 0.5, 0.75, 1.0)]
    named = [(value, f"{value:g} {text}") for value, text in marks]
    # A mark replaces the number that it would print over.
    reach = size * 1.3 / max(1, height - 2 * margin)
    names = [n for n in names if all(abs(n[0] - value) > reach for value, _ in named)] + named
    text_width = max(int(face.getlength(text)) for _, text in names)
    out = Image.new("RGB", (bar + 14 + text_width + 6, height), PAPER)
    length = max(2, height - 2 * margin)
    ramp = np.linspace(1, 0, length)[:, None].repeat(bar, 1)
    out.paste(confidence_picture(ramp), (4, margin))
    draw = ImageDraw.Draw(out)
    for value, text in names:
        y = margin + round((1 - value) * (length - 1))
        draw.line((4, y, bar + 8, y), fill=INK)
        draw.text((bar + 12, y), text, fill=INK, font=face, anchor="lm")
    return out


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with Matplotlib: class names are not always ASCII."""
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), size
    )


def font_size(width: int) -> int:
    """A size that can be read when a picture of this width is looked at whole."""
    return max(13, min(44, width // 28))


def _fitting_font(text: str, size: int, width: int) -> ImageFont.FreeTypeFont:
    for smaller in range(size, 8, -1):
        face = font(smaller)
        if face.getlength(text) <= width:
            return face
    return font(8)
