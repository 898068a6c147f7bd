"""A picture within a page: as a data URI, so that the page needs no other file."""

import base64
import io

from PIL import Image

from stepseg.pictures.drawing import Picture

QUALITY = 88
"""Of WebP; text and cell borders stay clean."""


def picture_uri(picture: Picture, longest: int | None = None) -> str:
    """A picture as a data URI, made smaller where a side is longer than `longest`."""
    image = Image.fromarray(picture)
    if longest is not None:
        image.thumbnail((longest, longest))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
