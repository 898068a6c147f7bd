"""Labels as colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stepseg.data.labels import IGNORE_INDEX

_STRIPE = 8


def colourise(
    label: NDArray[np.uint8], palette: Sequence[tuple[int, int, int]]
) -> NDArray[np.uint8]:
    """RGB picture [H, W, 3] of training ids [H, W]; ignored pixels are striped black and grey."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(palette)] = palette
    picture = table[label]
    rows, columns = np.nonzero(label == IGNORE_INDEX)
    picture[rows, columns] = (((rows + columns) // _STRIPE) % 2 * 90)[:, None]
    return picture
