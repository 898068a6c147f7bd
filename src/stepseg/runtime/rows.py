"""Rows for as many tokens as there may be: what a graph needs whose tokens differ from run to run.

A graph has as many rows as its bucket. Those that no image needs belong to one more image, the
padding: kernels of variable length write no row outside of all images. Which rows an image has is
known to the device alone; the host's numbers are bounds, the same in every run.

Letters: B images, R rows of a bucket, P prefix rows of each image.
"""

import torch.nn.functional as F
from torch import Tensor

from stepseg.packed import Segments

STEP = 128
"""Of buckets; products are computed in tiles of so many rows, and the rest of a tile is free."""


def bucket(rows: int) -> int:
    """The rows of the smallest bucket that holds so many."""
    return -(-rows // STEP) * STEP


def bounds(images: int, rows: int, longest: int, prefix: int = 0) -> tuple[int, ...]:
    """Lengths that stand for all that images and their padding may have in so many rows.

    Their sum is right and none is exceeded by the longest image, which is what kernels are launched
    with. They are not all the same, which would get kernels for batches.

    Args:
        images: B, without the padding.
        rows: R.
        longest: tokens of the longest image, at most.
        prefix: P, of the padding as well.

    """
    longest, left, lengths = max(longest, 2 * STEP), rows - (images + 1) * prefix, []
    for _ in range(images + 1):
        lengths.append(prefix + min(longest, left))
        left -= lengths[-1] - prefix
    assert left == 0 and len({*lengths}) > 1, "a bucket holds the images and less than two steps"
    return tuple(lengths)


def padded(cu_seqlens: Tensor, lengths: tuple[int, ...]) -> Segments:
    """Segments of images whose rows the device knows, and of the padding behind them.

    Args:
        cu_seqlens: int32, ``[B + 1]`` or more, of which the rest does not matter.
        lengths: from `bounds`.

    """
    images = cu_seqlens[: len(lengths)]
    return Segments(F.pad(images, (0, 1), value=sum(lengths)), lengths)
