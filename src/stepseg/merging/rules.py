"""What happens to tokens inside the blocks: ToMe, ALGM and Cropr as rules of a reduction.

Written from the papers' descriptions. A rule runs a range of blocks in place of
`StagedViT.run_blocks`; blocks that it leaves alone run there, on whatever runtime. Shares and
numbers are of every image for itself. The host asks the device at most once per block, in `Algm`;
numbers of `ToMe` and `Cropr` follow from those before.

Not here: the comparison of tokens (`stepseg.merging.matching`) and what a merged token is
(`PackedTokens.merge`).

Letters: T packed tokens, D channels, F compared channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from stepseg.merging.block import Merge, run_block
from stepseg.merging.matching import (
    above_mean,
    alike_windows,
    matching_macs,
    propose,
    strongest,
)
from stepseg.merging.scorer import TokenScorer
from stepseg.ops.sized_attention import EXTRA_CHANNELS
from stepseg.packed import PackedTokens, Passed
from stepseg.vit.staged import StagedViT

Lengths = tuple[int, ...]


class InsideRule:
    """A reduction inside the blocks."""

    __slots__ = ()
    name: ClassVar[str]
    """As in tables."""

    @property
    def at_rest(self) -> "InsideRule | None":
        """The rule while all tokens stay, in the dense steps of a training; None: no rule."""
        return None

    def check(self, depth: int, exit_blocks: tuple[int, ...]) -> None:
        """Refuse, by a ValueError, a backbone or exits that it does not go with."""

    def run(
        self,
        vit: StagedViT,
        tokens: PackedTokens,
        span: tuple[int, int],
        grid: tuple[int, int],
        scorers: nn.ModuleDict,
    ) -> PackedTokens:
        """Run the blocks after the first to the second of `span`, as `StagedViT.run_blocks`.

        Args:
            vit: the backbone.
            tokens: in raster order of their first cells.
            span: ``(start, stop)``.
            grid: rows and columns of cells.
            scorers: by block, of `Cropr`.

        """
        raise NotImplementedError

    def foresee(self, vit: StagedViT, cells: int) -> list[Passed]:
        """All blocks for one image without exits, where numbers do not depend on the image.

        Raises:
            ValueError: they do.

        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class ToMe(InsideRule):
    """In every block the most similar pairs merge (arXiv 2210.09461, Sec. 3)."""

    name: ClassVar[str] = "ToMe"
    rule: Literal["tome"] = "tome"
    r: float = 0.05
    """Tokens that each block merges away: a whole number, or below 1 a share of those there; half
    of them at most."""
    proportional: bool = True
    """Whether a merged token counts in attention as often as it stands for tokens."""

    def __post_init__(self) -> None:
        _check_amount("reduction.inside.r", self.r, most=0.5)

    def run(
        self,
        vit: StagedViT,
        tokens: PackedTokens,
        span: tuple[int, int],
        grid: tuple[int, int],
        scorers: nn.ModuleDict,
    ) -> PackedTokens:
        """Between attention and MLP of each block; tokens are compared by their keys."""
        for index in range(*span):
            noted = self._passed(vit, index + 1, tokens.lengths, tokens.size_T is not None)
            tokens = run_block(vit, index + 1, tokens, self._pairs, proportional=self.proportional)
            tokens = replace(tokens, passed=(*tokens.passed, noted))
        return tokens

    def foresee(self, vit: StagedViT, cells: int) -> list[Passed]:
        """All blocks for one image without exits."""
        passed = []
        for block in range(1, vit.depth + 1):
            passed.append(self._passed(vit, block, (cells,), block > 1))
            (cells,) = passed[-1].after
        return passed

    def _pairs(self, tokens: PackedTokens, key_TF: Tensor) -> tuple[Tensor, Lengths]:
        pairs = propose(key_TF, tokens)
        gone = tuple(map(self._gone, tokens.lengths))
        return pairs.accept(strongest(pairs.cosine_T, tokens, gone)), self._after(tokens.lengths)

    def _after(self, before: Lengths) -> Lengths:
        return tuple(tokens - self._gone(tokens) for tokens in before)

    def _gone(self, tokens: int) -> int:
        return min(_amount(self.r, tokens), tokens // 2)

    def _passed(self, vit: StagedViT, block: int, before: Lengths, merged: bool) -> Passed:
        after = self._after(before)
        macs = tuple(matching_macs(tokens, vit.numbers.head_dim) for tokens in before)
        extra = EXTRA_CHANNELS if merged and self.proportional else 0
        return Passed(block, before, after, macs, extra)


@dataclass(frozen=True, slots=True)
class Algm(InsideRule):
    """Alike windows merge early, alike tokens anywhere merge once in the middle (CVPR 2024)."""

    name: ClassVar[str] = "ALGM"
    rule: Literal["algm"] = "algm"
    threshold: float = 0.88
    """What the mean cosine within a window of 2 x 2 has to reach; above 1 none merges."""
    local_block: int = 1
    """Where windows merge, counted from 1."""
    global_block: int | None = None
    """Where pairs merge; None: 5 of 12 blocks, in proportion of others."""

    def __post_init__(self) -> None:
        later = self.global_block is None or self.global_block > self.local_block
        if self.local_block < 1 or not later:
            raise ValueError(
                f"reduction.inside.local_block={self.local_block} is a block from 1 on, and "
                f"global_block={self.global_block} a later one"
            )

    def check(self, depth: int, exit_blocks: tuple[int, ...]) -> None:
        """Both blocks have to be there, and windows whole."""
        if not self.local_block < self._global_block(depth) <= depth:
            raise ValueError(
                f"reduction.inside merges in blocks {self.local_block} and "
                f"{self._global_block(depth)}, the backbone has {depth}: choose local_block and, "
                f"after it, global_block"
            )
        if exit_blocks and exit_blocks[0] < self.local_block:
            raise ValueError(
                f"windows merge in block {self.local_block}, when tokens have left after block "
                f"{exit_blocks[0]}: place exits later"
            )

    def run(
        self,
        vit: StagedViT,
        tokens: PackedTokens,
        span: tuple[int, int],
        grid: tuple[int, int],
        scorers: nn.ModuleDict,
    ) -> PackedTokens:
        """Between attention and MLP of two blocks; tokens are compared by their features."""

        def local(tokens: PackedTokens, key_TF: Tensor) -> tuple[Tensor, None]:
            return alike_windows(tokens.values_TD, grid, self.threshold), None

        def everywhere(tokens: PackedTokens, key_TF: Tensor) -> tuple[Tensor, None]:
            pairs = propose(tokens.values_TD, tokens)
            chosen_T = above_mean(pairs.cosine_T, tokens, 1 / self._global_block(vit.depth))
            return pairs.accept(chosen_T), None

        start, stop = span
        merges: dict[int, Merge] = {self.local_block: local}
        for place, merge in (merges | {self._global_block(vit.depth): everywhere}).items():
            if start < place <= stop:
                tokens = _run_plain(vit, tokens, start, place - 1)
                before, compared = tokens.lengths, 0 if place == self.local_block else vit.dim
                tokens = run_block(vit, place, tokens, merge)
                macs = tuple(matching_macs(number, compared) for number in before)
                noted = Passed(place, before, tokens.lengths, macs)
                tokens = replace(tokens, passed=(*tokens.passed, noted))
                start = place
        return _run_plain(vit, tokens, start, stop)

    def foresee(self, vit: StagedViT, cells: int) -> list[Passed]:
        """Only the images tell."""
        raise ValueError(
            "how many tokens ALGM merges depends on weights and images: measure it with trained "
            "ones (ckpt_path=..., tokens=measured)"
        )

    def _global_block(self, depth: int) -> int:
        return self.global_block or max(self.local_block + 1, round(depth * 5 / 12))


@dataclass(frozen=True, slots=True)
class Cropr(InsideRule):
    """Scorers let the least useful tokens wait aside until the last block (arXiv 2412.00965)."""

    name: ClassVar[str] = "Cropr"
    rule: Literal["cropr"] = "cropr"
    r: float = 0.08
    """Tokens that each scorer sets aside: a whole number, or below 1 a share of the tokens there.
    One stays."""
    blocks: tuple[int, ...] | None = None
    """Before which blocks scorers stand; None: before all but the first and the last."""

    def __post_init__(self) -> None:
        _check_amount("reduction.inside.r", self.r, most=0.999)

    @property
    def at_rest(self) -> "Cropr":
        """Its scorers learn all the same, and nobody waits."""
        return replace(self, r=0)

    def places(self, depth: int) -> tuple[int, ...]:
        """Before which blocks scorers stand."""
        return tuple(range(2, depth)) if self.blocks is None else self.blocks

    def check(self, depth: int, exit_blocks: tuple[int, ...]) -> None:
        """Scorers stand between the first block and the last, and nobody leaves for good."""
        places = self.places(depth)
        if not places or list(places) != sorted({*places} & {*range(2, depth)}):
            raise ValueError(
                f"reduction.inside.blocks={list(places)}: scorers stand, ascending, before blocks "
                f"2 to {depth - 1}, the last block runs on all tokens again"
            )
        if exit_blocks:
            raise ValueError(
                "Cropr brings all tokens back in the last block, exits let them leave for good: "
                "choose one of them (reduction.exit=null)"
            )

    def run(
        self,
        vit: StagedViT,
        tokens: PackedTokens,
        span: tuple[int, int],
        grid: tuple[int, int],
        scorers: nn.ModuleDict,
    ) -> PackedTokens:
        """Before some blocks tokens step aside; before the last all are there again."""
        start, stop = span
        scored: Lengths | None = None
        for place in (*self.places(vit.depth), vit.depth):
            if start < place <= stop:
                tokens = _run_plain(vit, tokens, start, place - 1, scored)
                start, scored = place - 1, None
                if place == vit.depth:
                    tokens = _all_back(tokens)
                else:
                    scored = tokens.lengths
                    tokens = self._set_aside(tokens, cast(TokenScorer, scorers[str(place)]))
        return _run_plain(vit, tokens, start, stop, scored)

    def foresee(self, vit: StagedViT, cells: int) -> list[Passed]:
        """All blocks for one image without exits."""
        passed, left = [], cells
        for block in range(1, vit.depth + 1):
            scored = left if block in self.places(vit.depth) else 0
            left = cells if block == vit.depth else self._left(left) if scored else left
            passed.append(Passed(block, (left,), (left,), (scored * vit.dim,), norms=(scored,)))
        return passed

    def _left(self, tokens: int) -> int:
        return max(tokens - _amount(self.r, tokens), min(tokens, 1))

    def _set_aside(self, tokens: PackedTokens, scorer: TokenScorer) -> PackedTokens:
        patches, votes = tokens.patches(), tokens.votes
        if torch.is_grad_enabled() and scorer.training:
            votes = (*votes, scorer.vote(patches))
        left = tuple(map(self._left, tokens.lengths))
        keep_T = strongest(scorer(patches.values_TD), patches, left)
        waiting = _all_back(tokens)  # everyone, with the values as they are now
        return replace(tokens.select(keep_T, left), aside=waiting, votes=votes)


def _all_back(tokens: PackedTokens) -> PackedTokens:
    """All tokens of the layout: those that waited with the values that they had."""
    if tokens.aside is None:
        return tokens
    everyone = tokens.back_among(tokens.aside)
    return replace(everyone, votes=tokens.votes, passed=tokens.passed)


def _run_plain(
    vit: StagedViT, tokens: PackedTokens, start: int, stop: int, scored: Lengths | None = None
) -> PackedTokens:
    """Blocks in which nothing merges, noted; `scored`: so many tokens had a scorer before them."""
    same = tokens.lengths
    nothing = tuple(0 for _ in same)
    noted = [Passed(block, same, same, nothing) for block in range(start + 1, stop + 1)]
    if scored is not None:
        macs = tuple(number * vit.dim for number in scored)
        noted[0] = replace(noted[0], matching=macs, norms=scored)
    tokens = vit.run_blocks(tokens, start, stop)
    return replace(tokens, passed=(*tokens.passed, *noted))


def _amount(r: float, tokens: int) -> int:
    return int(r) if r >= 1 else round(r * int(tokens))  # a tracer's sizes are tensors


def _check_amount(key: str, r: float, most: float) -> None:
    if r < 0 or (r >= 1 and r != int(r)) or most < r < 1:
        raise ValueError(
            f"{key}={r}: a number of tokens from 1 on, or a share of the tokens up to {most}"
        )


RULES: Mapping[str, type[ToMe | Algm | Cropr]] = {"tome": ToMe, "algm": Algm, "cropr": Cropr}
"""By what one types as `reduction.inside.rule`."""
