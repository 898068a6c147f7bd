"""What a search chooses among: families of reductions, each with one number from none to most.

Six thresholds have no order; a family has one. The number moves all merge thresholds together, in
logits, from "nothing merges" over the given thresholds (in the middle) to "everything merges"; of a
rule inside the blocks, of CTS and of a smaller input it is their own number; where nothing else is
reduced it is the exit threshold. What is no matter of degree makes families of its own: which exit
heads run, and at how low a confidence tokens leave.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stepseg.data.files import read_image
from stepseg.dcts.merge import MergeRule, moved
from stepseg.merging.rules import Algm, Cropr, ToMe
from stepseg.model_config import ExitConfig, ReductionConfig
from stepseg.protocol import Protocol, forward_sizes

SPAN = 8.0
"""Logits by which the number moves thresholds, up and down."""
BOLDER = 1.5
"""Logits by which the bolder exits lower their threshold."""
SMALLEST = 0.25
"""Side of the smallest input, as a share of the image's."""
MOST_SET_ASIDE = 0.6
MOST_MERGED = 0.5


@dataclass(frozen=True, slots=True)
class Family:
    """Reductions by one number."""

    name: str
    at: Callable[[float], ReductionConfig]
    """From 0, the least that it reduces, to 1; operations fall with it."""


def families(
    base: ReductionConfig, heads: Sequence[int], patch_size: int, cells: int
) -> list[Family]:
    """All families around a reduction.

    Args:
        base: gives the rule, the thresholds in the middle, and whether tokens may leave.
        heads: blocks after which exit heads are trained.
        patch_size: of the encoder, in pixels.
        cells: of `grid_cells`.

    Raises:
        ValueError: nothing of this reduction is a matter of degree.

    """
    leaves = base.exit is not None and bool(base.exit.blocks)
    number = _number(base, patch_size, cells)
    if number is not None:
        plain = replace(base, exit=None)
        exits = _exits(base.exit, heads) if leaves and base.exit else {}
        return [
            Family("no exits", lambda t: number(plain, t)),
            *(
                Family(name, lambda t, exit_=exit_: number(replace(base, exit=exit_), t))  # type: ignore[misc]
                for name, exit_ in exits.items()
            ),
        ]
    if not leaves or base.exit is None:
        raise ValueError(
            f"{base.build().label} has no number to tune: choose another reduction, such as "
            f"reduction=dcts, tome or smaller"
        )
    return [
        Family(name, lambda t, exit_=exit_: replace(base, exit=_shifted_exit(exit_, t)))  # type: ignore[misc]
        for name, exit_ in _exits(base.exit, heads, bolder=False).items()
    ]


def grid_cells(image: Path, protocol: Protocol, cell: int) -> int:
    """Patches that the model is shown at once of images like this one, for numbers of windows.

    Args:
        image: a file.
        protocol: in windows, or the whole image in another size.
        cell: pixels, per side, that a patch shows.

    """
    height, width = read_image(image).shape[1:]
    return math.prod(-(-side // cell) for side in forward_sizes(height, width, protocol)[0])


def together(base: ReductionConfig, patch_size: int, cells: int) -> Family:
    """The one family in which everything that the reduction does moves, for a sequence of tests."""
    number, exit_ = _number(base, patch_size, cells), base.exit
    if exit_ is None or not exit_.blocks:
        return families(base, [], patch_size, cells)[0]
    if number is None:
        return Family("together", lambda t: replace(base, exit=_shifted_exit(exit_, t)))
    return Family("together", lambda t: number(replace(base, exit=_shifted_exit(exit_, t)), t))


def _exits(own: ExitConfig, heads: Sequence[int], *, bolder: bool = True) -> dict[str, ExitConfig]:
    """Which heads run, by a name: the given placement, bolder, and the first and the last alone."""
    found = {_placed(own.blocks): own}
    if bolder:
        lower = round(moved(own.threshold, -BOLDER), 4)
        found[f"{_placed(own.blocks)} above {lower}"] = replace(own, threshold=lower)
    for block in dict.fromkeys([min(heads), max(heads)]):
        found.setdefault(_placed((block,)), replace(own, blocks=(block,), heads=None))
    return found


def _placed(blocks: Sequence[int]) -> str:
    return f"exits after {'+'.join(map(str, blocks))}"


Number = Callable[[ReductionConfig, float], ReductionConfig]


def _number(base: ReductionConfig, patch_size: int, cells: int) -> Number | None:
    """How the family's number enters the reduction; None: only by its exits."""
    merge, inside, exit_ = base.merge, base.inside, base.exit
    if exit_ is not None and exit_.blocks and exit_.rule == "budget":
        raise ValueError(
            "reduction.exit.rule=budget prescribes its numbers: tune confidence exits instead"
        )
    if merge is not None and merge.by != "uniform":
        if merge.thresholds is not None:
            return lambda given, t: replace(given, merge=_shifted_merge(merge, t))
        return lambda given, t: replace(given, merge=_scaled_counts(merge, t, cells))
    if isinstance(inside, ToMe):
        return lambda given, t: replace(given, inside=replace(inside, r=_share(t, MOST_MERGED)))
    if isinstance(inside, Cropr):
        return lambda given, t: replace(given, inside=replace(inside, r=_share(t, MOST_SET_ASIDE)))
    if isinstance(inside, Algm):
        # a cosine: what is alike lies close to 1
        return lambda given, t: replace(
            given, inside=replace(inside, threshold=round(1.01 - _share(t, 1.01), 5))
        )
    if base.input.cell is not None:
        return lambda given, t: replace(
            given, input=replace(given.input, cell=round(patch_size / (1 - (1 - SMALLEST) * t)))
        )
    return None


def _shifted_merge(merge: MergeRule, t: float) -> MergeRule:
    assert merge.thresholds is not None
    return replace(merge, thresholds=tuple(_shifted(value, t) for value in merge.thresholds))


def _shifted_exit(exit_: ExitConfig, t: float) -> ExitConfig:
    return replace(exit_, threshold=_shifted(exit_.threshold, t))


def _shifted(threshold: float, t: float) -> float:
    """A threshold moved in logits; at the ends 1 and 0, which no score passes and every one."""
    if t in (0, 1) or threshold == 1:  # 1 is off, and stays off
        return 1.0 if threshold == 1 else 1.0 - t
    return round(moved(threshold, SPAN * (1 - 2 * t)), 6)


def _scaled_counts(merge: MergeRule, t: float, cells: int) -> MergeRule:
    """As many windows as cover a share t of all cells, in the given proportions."""
    grid = merge.top_k_cells or cells
    covered = sum(n * w**2 for n, w in zip(merge.counts, merge.windows, strict=True))
    if not covered:
        raise ValueError("reduction.merge.top_k=0 merges nothing, and has no share to grow")
    counts = tuple(round(t * grid / covered * count) for count in merge.counts)
    return replace(merge, top_k=counts[0] if isinstance(merge.top_k, int) else counts)


def _share(t: float, most: float) -> float:
    """Finer where the number is small, which is where it is used."""
    return round(most * t**2, 6)
