"""Prescribed token counts: time what a trained model would process, without trained weights.

An untrained policy merges nothing of sense, and untrained heads are never confident. For timing it
is enough that as many windows merge and as many tokens leave as they would: `prescribe_paper` and
`prescribe` return a reduction of the same kind whose rules take exact counts, by rank of the same
scores. Policy, ranking, merging, heads and the choice of who leaves are all still carried out.

The paper's counts are the means of its Tables 2 (merging) and 7 (exits) on Cityscapes. How they are
carried to other grids is said at `paper_tokens` and `merged_windows`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import torch

from stepseg.dcts.merge import MergeRule, build_layout, merge_windows
from stepseg.heads.exit import BudgetExit
from stepseg.model import Reduction


@dataclass(frozen=True, slots=True)
class PaperCounts:
    """Mean counts per image at one resolution."""

    cells: int
    tokens: Mapping[int, float]
    """Table 2: tokens by the side of their window in cells."""
    left: Mapping[int, Sequence[float]]
    """Table 7: by the number of exits, the tokens that have left for good by each of them."""

    @property
    def token_share(self) -> float:
        """Tokens after merging per cell."""
        return sum(self.tokens.values()) / self.cells

    def left_share(self, exits: int) -> list[float]:
        """Tokens that have left for good by each exit, as shares of the tokens after merging."""
        return [left / sum(self.tokens.values()) for left in self.left[exits]]


PAPER = (
    PaperCounts(
        cells=32 * 32,
        tokens={1: 640, 2: 52, 4: 9, 8: 0.3, 16: 0},
        left={1: (273,), 2: (245, 269)},  # ViT-B @[8] and @[6,8]
    ),
    PaperCounts(
        cells=64 * 64,
        tokens={1: 1108, 2: 452, 4: 50, 8: 10, 16: 0.8},
        left={1: (833,), 2: (717, 885)},  # ViT-L @[18] and @[8,16]
    ),
)
"""512 x 512 and 1024 x 1024. Table 7 counts cumulatively: its text says that 39 % of the tokens
leave at 512 x 512, which is 269 of 701 and not 245 + 269."""


def prescribe_paper(reduction: Reduction, grid: tuple[int, int]) -> Reduction:
    """The same system with the paper's mean counts on this grid; CTS keeps its own number.

    Raises:
        ValueError: the paper gives no counts for that many exits, or they cannot be met.

    """
    rule = reduction.merge
    if _is_its_own(reduction):
        return reduction
    if rule is None:
        first = grid[0] * grid[1]
    elif rule.top_k is not None:  # CTS: its numbers are its own
        first = tokens_after(rule, grid)
    else:
        first = paper_tokens(grid)
    exits = len(reduction.exit_blocks)
    if exits not in (0, *PAPER[0].left):
        raise ValueError(
            f"the paper counts tokens for one exit and for two, not for {exits} (blocks "
            f"{reduction.exit_blocks}): prescribe them with tokens=[...], one number per stage"
        )
    left = _between([counts.left_share(exits) for counts in PAPER], grid) if exits else []
    return prescribe(reduction, grid, [first, *(round(first * (1 - share)) for share in left)])


def prescribe(reduction: Reduction, grid: tuple[int, int], tokens: Sequence[int]) -> Reduction:
    """The same system with exact token counts.

    Args:
        reduction: what is merged and where tokens leave.
        grid: rows and columns of patches.
        tokens: of an image in the stage before the first exit, before the second, ... and before
            the decoder. A system without merging takes all cells in the first stage instead; more
            numbers than stages are ignored, so that one list serves several systems.

    Raises:
        ValueError: too few numbers, numbers that grow, or counts that no windows can give.

    """
    if _is_its_own(reduction):
        return reduction
    cells, exits = grid[0] * grid[1], len(reduction.exit_blocks)
    if len(tokens) <= exits:
        raise ValueError(
            f"{exits} exit(s) make {exits + 1} stages, tokens={list(tokens)} has {len(tokens)}"
        )
    stages = [tokens[0] if reduction.merge else cells, *tokens[1 : exits + 1]]
    if sorted(stages, reverse=True) != stages or stages[-1] < 0 or stages[0] > cells:
        raise ValueError(
            f"tokens can only become fewer, from at most {cells} cells ({grid[0]} x {grid[1]}) "
            f"down to 0: got {stages} for exits after blocks {reduction.exit_blocks}"
        )
    merge = reduction.merge
    if merge is not None:
        counts = merged_windows(grid, merge.windows, stages[0])
        merge = replace(merge, thresholds=None, top_k=counts, top_k_cells=None, edge_weight=0.0)
        stages[0] = tokens_after(merge, grid)
        stages[1:] = [min(stage, stages[0]) for stage in stages[1:]]
    if not exits:
        return Reduction(merge=merge)
    return Reduction(
        merge=merge, exit=BudgetExit(tuple(stages[1:])), exit_blocks=reduction.exit_blocks
    )


def _is_its_own(reduction: Reduction) -> bool:
    """Whether its own numbers say how many tokens are left, not those of the paper.

    Raises:
        ValueError: exits besides, which nothing prescribes.

    """
    if reduction.gmacs_per_image is not None:
        raise ValueError(
            f"a budget decides by the policy's scores how much {reduction.label} merges: measure "
            f"it with trained weights (ckpt_path=..., tokens=measured)"
        )
    uniform = reduction.merge is not None and reduction.merge.by == "uniform"
    own = reduction.inside is not None or reduction.cell is not None or uniform
    if own and reduction.exit is not None:
        raise ValueError(
            f"token counts of {reduction.label} are not prescribed: measure them with trained "
            f"weights (ckpt_path=..., tokens=measured)"
        )
    return own


def tokens_after(rule: MergeRule, grid: tuple[int, int]) -> int:
    """Tokens of every image after merging by counts."""
    merged = zip(rule.windows, rule.on_grid(grid).counts, strict=True)
    return grid[0] * grid[1] - sum(count * (window**2 - 1) for window, count in merged)


def stage_tokens(reduction: Reduction, grid: tuple[int, int]) -> tuple[int, ...]:
    """Tokens of every image in each stage, for a reduction with prescribed counts."""
    rule, exit_ = reduction.merge, reduction.exit
    if rule is not None and rule.by == "uniform":
        scores = {w: torch.zeros(1, grid[0] // w, grid[1] // w) for w in rule.windows}
        return (build_layout(merge_windows(scores, rule, 1, grid), rule.windows).num_tokens,)
    if (rule is not None and rule.top_k is None) or not isinstance(exit_, BudgetExit | None):
        raise ValueError(
            f"thresholds leave as many tokens as the image decides, {reduction} prescribes none"
        )
    stages = [tokens_after(rule, grid) if rule else grid[0] * grid[1]]
    for index in range(len(reduction.exit_blocks)):
        assert exit_ is not None
        stages.append(min(stages[-1], exit_.budget(index)))
    return tuple(stages)


def paper_tokens(grid: tuple[int, int]) -> int:
    """Tokens after merging on this grid, from the totals of Table 2.

    Tokens per cell are interpolated linearly over the side of the grid (the square root of its
    cells) between 32 and 64, and constant beyond: 701 of 1024, 1245 of 2304 and 1621 of 4096.
    """
    [share] = _between([[counts.token_share] for counts in PAPER], grid)
    return round(share * grid[0] * grid[1])


def merged_windows(grid: tuple[int, int], windows: Sequence[int], tokens: int) -> tuple[int, ...]:
    """How many windows of each size merge, so that `tokens` tokens are left.

    The sizes occur in the proportions of Table 2 (interpolated as in `paper_tokens`), all scaled by
    one factor: its means do not cover their grid exactly (1011 of 1024 cells, 4561 of 4096), so
    that not all of them can be kept, and what costs is the number of tokens. The smallest size
    takes what rounding leaves over: the total is met to within one and a half tokens with 2 x 2.

    Raises:
        ValueError: no such mixture leaves that few tokens.

    """
    rows, columns = grid
    cells = rows * columns
    saved = cells - tokens
    mixes = [[counts.tokens[w] / counts.cells for w in (2, 4, 8, 16)] for counts in PAPER]
    per_cell = dict(zip((2, 4, 8, 16), _between(mixes, grid), strict=True))
    weights = {w: per_cell.get(w, 0.0) if min(grid) >= w else 0.0 for w in windows}
    smallest = min(windows)
    if not any(weights.values()):
        weights[smallest] = 1.0
    factor = saved / sum(weight * (w**2 - 1) for w, weight in weights.items())
    counts = dict.fromkeys(windows, 0)
    for window in sorted(windows, reverse=True):
        covered = sum(n * (w // window) ** 2 for w, n in counts.items() if w > window)
        free = (rows // window) * (columns // window) - covered
        wanted = factor * weights[window]
        if window == smallest:
            rest = saved - sum(n * (w**2 - 1) for w, n in counts.items())
            wanted = rest / (window**2 - 1)
        counts[window] = max(0, min(round(wanted), free))
    left = cells - sum(n * (w**2 - 1) for w, n in counts.items())
    if abs(left - tokens) > (smallest**2 - 1) / 2:
        raise ValueError(
            f"windows {tuple(windows)} on {rows} x {columns} cells, in the proportions of the "
            f"paper, cannot leave {tokens} tokens, only {left}: ask for more, or add larger windows"
        )
    return tuple(counts[window] for window in windows)


def _between(values: Sequence[Sequence[float]], grid: tuple[int, int]) -> list[float]:
    """Interpolate the two resolutions of `PAPER` at this grid; constant outside of them."""
    low, high = (sqrt(counts.cells) for counts in PAPER)
    side = min(max(sqrt(grid[0] * grid[1]), low), high)
    weight = (side - low) / (high - low)
    return [(1 - weight) * a + weight * b for a, b in zip(*values, strict=True)]
