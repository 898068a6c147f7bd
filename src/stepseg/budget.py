"""A number of operations that no image may exceed, and the merging that keeps to it.

The operations of an image follow from its number of tokens (`stepseg.macs`), so that a budget is a
number of tokens, which merging meets image by image (`MergeRule.most_tokens`). Exits are counted as
if nobody left: they only save.

Here is the arithmetic of the host, once per model, reduction and size of images. Not here: which
windows merge (`stepseg.dcts.merge`).
"""

from dataclasses import replace
from math import prod
from typing import Any
from weakref import WeakKeyDictionary

from stepseg.dcts.merge import fewest_tokens
from stepseg.macs import Parts, macs_of_stages, policy_macs
from stepseg.reduction import Reduction

_limits: WeakKeyDictionary[Any, dict[tuple[Reduction, tuple[int, int]], int]]
_limits = WeakKeyDictionary()


def within_budget(model: Parts, reduction: Reduction, shown: tuple[int, int]) -> Reduction:
    """The reduction on images of one size: its budget as a number of tokens after merging.

    Args:
        model: whose operations count.
        reduction: without a budget it stays as it is.
        shown: height and width of the images as the networks see them.

    Raises:
        ValueError: not even merging all that may merge is enough; says what is possible.

    """
    if reduction.gmacs_per_image is None:
        return reduction
    limits = _limits.setdefault(model, {})
    key = (reduction, shown)
    if key not in limits:
        limits[key] = _most_tokens(model, reduction, shown)
    assert reduction.merge is not None
    merge = replace(reduction.merge, most_tokens=limits[key])
    return replace(reduction, merge=merge, gmacs_per_image=None)


def budget_range(model: Parts, reduction: Reduction, shown: tuple[int, int]) -> tuple[float, float]:
    """GMACs of an image of this size with all merged that may merge, and with nothing merged."""
    assert reduction.merge is not None
    grid = _grid(model, shown)
    fewest = fewest_tokens(reduction.merge, grid)
    least, most = (_macs(model, reduction, shown, tokens) for tokens in (fewest, prod(grid)))
    return least / 1e9, most / 1e9


def _most_tokens(model: Parts, reduction: Reduction, shown: tuple[int, int]) -> int:
    assert reduction.merge is not None and reduction.gmacs_per_image is not None
    budget = reduction.gmacs_per_image * 1e9
    grid = _grid(model, shown)
    low, high = fewest_tokens(reduction.merge, grid), prod(grid)
    if _macs(model, reduction, shown, low) > budget:
        least, most = budget_range(model, reduction, shown)
        raise ValueError(
            f"reduction.budget.gmacs_per_image={reduction.gmacs_per_image:g} is less than this "
            f"model can do: an image of {shown[1]} x {shown[0]} px costs from {least:.4g} GMACs, "
            f"with all merged that may merge, to {most:.4g}, with nothing merged"
        )
    while low < high:  # the greatest number that is within the budget
        middle = (low + high + 1) // 2
        within = _macs(model, reduction, shown, middle) <= budget
        low, high = (middle, high) if within else (low, middle - 1)
    return low


def _macs(model: Parts, reduction: Reduction, shown: tuple[int, int], tokens: int) -> int:
    """Of an image with so many tokens after merging, of which nobody leaves."""
    blocks = (*reduction.exit_blocks, model.backbone.depth)
    on_grid = prod(_grid(model, shown))
    stages = macs_of_stages(model, [(block, tokens) for block in blocks], on_grid=on_grid)
    return policy_macs(model.policy, shown) + sum(stages.values())


def _grid(model: Parts, shown: tuple[int, int]) -> tuple[int, int]:
    side = model.backbone.patch_size
    return -(-shown[0] // side), -(-shown[1] // side)
