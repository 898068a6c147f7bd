"""Arrays and pictures as text in a page.

Arrays are compressed by zlib and read by the browser's own `DecompressionStream`; numbers that are
compared keep their 32 bits. Pictures are WebP.
"""

import base64
import json
import zlib

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

THUMBNAIL = 144
"""Longer side of a thumbnail in pixels."""


def pack(values: NDArray) -> str:
    """The bytes of an array, little-endian and compressed, as base64."""
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return base64.b64encode(zlib.compress(little.tobytes(), 9)).decode()


def json_in_html(value: object) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return Markup(text)
