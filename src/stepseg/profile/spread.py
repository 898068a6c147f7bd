"""Prescribed counts that differ between the images of a batch, as those of real images do.

Equal counts make rectangular batches, which ragged kernels never see. Here an image has a share of
the prescribed counts: 1 for the first of a batch, then spread evenly around it.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stepseg.dcts.merge import MergeRule, highest
from stepseg.heads.exit import BudgetExit
from stepseg.model import Reduction
from stepseg.ops.segment import rank_in_group
from stepseg.packed import PackedTokens
from stepseg.packed.segments import constant
from stepseg.profile.tokens import merged_windows, tokens_after

IMAGES = 64
"""That differ; in larger batches they come again."""
GOLDEN = 0.618033988749895
"""Multiples of it, without their whole part, fill an interval evenly from the first few on."""


@dataclass(frozen=True, slots=True)
class SpreadMerge(MergeRule):
    """Merges another number of windows in every image; `top_k` is that of the first."""

    by_image: tuple[tuple[int, ...], ...] = ()
    """Per image and window size."""

    def decide(
        self, scores_BYX: Tensor, free_BYX: Tensor, window: int, *_: Tensor | None, **__: Any
    ) -> Tensor:
        """As `MergeRule.decide`, without what moves thresholds."""
        size = self.windows.index(window)
        counts_B = _counts(self.by_image, size, len(scores_BYX), scores_BYX.device)
        return highest(scores_BYX, free_BYX, counts_B[:, None])


@dataclass(frozen=True, slots=True)
class SpreadExit(BudgetExit):
    """Keeps another number of tokens in every image; `tokens` are those of the first."""

    by_image: tuple[tuple[int, ...], ...] = ()
    """Per image and exit."""

    def keep(self, probabilities_TC: Tensor, tokens: PackedTokens, exit_index: int) -> Tensor:
        """As `BudgetExit.keep`."""
        batch = tokens.segments.num_images
        counts_B = _counts(self.by_image, exit_index, batch, probabilities_TC.device)
        doubt_T = -probabilities_TC.amax(dim=1)
        return rank_in_group(doubt_T, tokens.image_ids_T, batch) < counts_B[tokens.image_ids_T]


def spread_tokens(reduction: Reduction, grid: tuple[int, int], spread: float) -> Reduction:
    """The same system with counts between ``1 - spread`` and ``1 + spread`` of its own.

    As far as windows can leave them.

    Args:
        reduction: from `stepseg.profile.tokens`; what prescribes no counts stays as it is.
        grid: rows and columns of patches.
        spread: in [0, 1).

    Raises:
        ValueError: a spread outside of that.

    """
    if not 0 <= spread < 1:
        raise ValueError(f"tokens_spread is a share in [0, 1), got {spread}")
    factors = [1 + spread * (2 * ((GOLDEN * b + 0.5) % 1) - 1) for b in range(IMAGES)]
    merge, exit_ = reduction.merge, reduction.exit
    if not spread or reduction.inside is not None or reduction.cell is not None:
        return reduction
    if merge is not None and merge.by == "policy" and merge.top_k is not None:
        merge = merge.on_grid(grid)
        cells, first = grid[0] * grid[1], tokens_after(merge, grid)
        wanted = [min(cells, round(first * factor)) for factor in factors[1:]]
        counts = [_windows_near(grid, merge.windows, number, first) for number in wanted]
        merge = SpreadMerge(
            windows=merge.windows,
            thresholds=None,
            top_k=merge.counts,
            resize=merge.resize,
            by_image=(merge.counts, *counts),
        )
    if isinstance(exit_, BudgetExit):
        # The last number holds for all further exits.
        budgets = [
            exit_.tokens[min(k, len(exit_.tokens) - 1)] for k in range(len(reduction.exit_blocks))
        ]
        shares = tuple(tuple(round(n * factor) for n in budgets) for factor in factors)
        exit_ = SpreadExit(tokens=exit_.tokens, by_image=shares)
    return replace(reduction, merge=merge, exit=exit_)


def _counts(
    by_image: tuple[tuple[int, ...], ...], column: int, batch: int, device: torch.device
) -> Tensor:
    """Of every image of a batch, int64 ``[B]``."""
    counts = tuple(by_image[b % len(by_image)][column] for b in range(batch))
    return constant(counts, torch.int64, device)


def _windows_near(
    grid: tuple[int, int], windows: tuple[int, ...], wanted: int, first: int
) -> tuple[int, ...]:
    """The windows that leave as many tokens as wanted, or else the next number towards `first`."""
    step = 1 if wanted < first else -1
    for tokens in range(wanted, first, step):
        try:
            return merged_windows(grid, windows, tokens)
        except ValueError:
            continue
    return merged_windows(grid, windows, first)
