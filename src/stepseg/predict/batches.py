"""Which images are computed together: those of one size among the next few.

Only equal sizes share a batch. Padding a smaller image would be simpler, but the policy network and
the edges would see the padding, and a result would depend on its neighbours.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

Thing = TypeVar("Thing")

LOOKAHEAD = 4
"""Batches that are read ahead in search of images of one size."""
MAX_PIXELS = 2**26
"""Pixels of all images that are held at once, unless one alone has more."""


def read_ahead(
    things: Iterable[Thing], batch_size: int, size: Callable[[Thing], tuple[int, ...]]
) -> Iterator[list[Thing]]:
    """A few batches at a time, of no more than `MAX_PIXELS` in all, or one image.

    Args:
        size: (height, width) of a thing's image.

    """
    limit = batch_size * LOOKAHEAD if batch_size > 1 else 1
    held: list[Thing] = []
    held_pixels = 0
    for thing in things:
        height, width = size(thing)[:2]
        if held and held_pixels + height * width > MAX_PIXELS:
            yield held
            held, held_pixels = [], 0
        held.append(thing)
        held_pixels += height * width
        if len(held) >= limit:
            yield held
            held, held_pixels = [], 0
    if held:
        yield held


def batches_of_one_size(sizes: Sequence[tuple[int, ...]], batch_size: int) -> list[list[int]]:
    """Indices grouped by size, in order, in batches of at most `batch_size`."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, size in enumerate(sizes):
        groups.setdefault(size, []).append(index)
    batches = []
    for group in groups.values():
        indices = iter(group)
        while batch := list(islice(indices, batch_size)):
            batches.append(batch)
    return batches
