"""Reductions that have decided alike so far, on the images at hand: what walks through a model.

A group has everything in common up to the first decision in which its members differ. There it
splits, and each part walks on (`stepseg.model.StepSegmenter.walk`). What counts are the decisions,
not the thresholds behind them. Most groups have one member, which decides alone.

Letters: T active tokens, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from stepseg.board import Board
from stepseg.heads.exit import ExitRule, RandomExit, UniformExit, matched_control
from stepseg.packed import PackedTokens
from stepseg.reduction import Reduction

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Group:
    """Reductions on their way, of one layout."""

    members: tuple[Reduction, ...]
    heads: tuple[int, ...] | None = None
    """Blocks whose heads are asked on the way to the last; None: those where a member exits."""
    done: dict[Reduction, Board] = field(default_factory=dict)
    """What has arrived, shared by all parts of a group."""

    @property
    def reduction(self) -> Reduction:
        """A member, for what all have in common: input, windows, and rules inside the blocks."""
        return self.members[0]

    def by_next_head(self, start: int, depth: int) -> list[tuple[int, "Group"]]:
        """Parts by the block after which their next head stands, ascending."""
        upcoming: dict[int, list[Reduction]] = {}
        for member in self.members:
            heads = member.exit_blocks if self.heads is None else self.heads
            block = next((block for block in heads if block > start), depth)
            upcoming.setdefault(block, []).append(member)
        return [(block, self._part(upcoming[block])) for block in sorted(upcoming)]

    @torch.no_grad()
    def exits(
        self, block: int, tokens: PackedTokens, board: Board, mask_logits_TC: Tensor
    ) -> Iterator[tuple[Tensor | None, "Group"]]:
        """Parts by what they keep of the tokens when the head after a block has spoken.

        Yields:
            One part after the other, to be walked before the next is asked for; with it True where
            a token stays, ``[T]``, or None where nobody may leave.

        """
        leaving = [member for member in self.members if block in member.exit_blocks]
        if len(leaving) < len(self.members):
            yield None, self._part([member for member in self.members if member not in leaving])
        p_TC = board.probabilities(tokens, mask_logits_TC)
        # Controls last: they take over the counts of their base, which branches off here.
        for control in (False, True):
            by_rule: dict[ExitRule, list[Reduction]] = {}
            for member in leaving:
                if is_control(member) is control:
                    by_rule.setdefault(self._rule(member), []).append(member)
            keeps = {rule: rule.keep(p_TC, tokens, board.exits) for rule in by_rule}
            for rules in alike(keeps):
                yield keeps[rules[0]], self._part([r for rule in rules for r in by_rule[rule]])

    def arrive(self, board: Board) -> None:
        """All members have the answers of the last head."""
        self.done.update(dict.fromkeys(self.members, board))

    def _part(self, members: Sequence[Reduction]) -> "Group":
        return replace(self, members=tuple(members))

    def _rule(self, member: Reduction) -> ExitRule:
        """A member's rule; a control is matched to its base where that one walks, too."""
        rule = member.exit
        assert rule is not None
        if isinstance(rule, RandomExit | UniformExit):
            base = self.done.get(base_of(member))
            return matched_control(rule, base.tokens_per_stage) if base else rule
        return rule


def is_control(reduction: Reduction) -> bool:
    """Whether tokens leave without regard to confidence, as many as with a confident rule."""
    return isinstance(reduction.exit, RandomExit | UniformExit)


def base_of(control: Reduction) -> Reduction:
    """The confident run that a control is matched to."""
    assert isinstance(control.exit, RandomExit | UniformExit)
    return replace(control, exit=control.exit.base)


def alike(decisions: Mapping[Key, Tensor]) -> list[list[Key]]:
    """Keys of equal tensors together, in the order of their first; all have one shape."""
    if len(decisions) < 2:
        return [[key] for key in decisions]
    rows = torch.stack(list(decisions.values())).to(torch.int16).cpu().numpy()  # host sync
    groups: dict[bytes, list[Key]] = {}
    for key, row in zip(decisions, rows, strict=True):
        groups.setdefault(row.tobytes(), []).append(key)
    return list(groups.values())
