"""The same function on many items, in several processes where that helps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_items(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int, chunk: int = 16
) -> Iterator[Result]:
    """Results in the order of the items; one process works in this one.

    `function` and the items must be picklable. An exception ends the iteration.
    """
    workers = min(processes, len(items))
    if workers <= 1:
        yield from map(function, items)
        return
    # "spawn" because a forked child of a process with running torch threads may hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(function, items, chunksize=chunk)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
