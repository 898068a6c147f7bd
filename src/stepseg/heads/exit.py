"""Exit rules: which tokens stay after an exit head. Pure functions of scores.

`ConfidenceExit` is the method (DToP; STEP, Sec. 3.2.2), `MarginExit` asks for distance from the
second class instead. `RandomExit` and `UniformExit` are
controls: they release as many tokens per image, chosen without looking at confidence. After several
exits, what confidence would release depends on who left before; evaluation therefore hands the
controls the counts of the confident run (`leaving`), so that both release the very same numbers.
`BudgetExit` keeps a fixed number per image, for static shapes.

No rule lets one image's decision depend on another image of the batch.

Letters: T packed tokens, B images, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from stepseg.ops.noise import hash_numbers, seeded
from stepseg.ops.segment import count_per_image, position_in_image, rank_in_group
from stepseg.packed import PackedTokens, upload

Leaving = tuple[tuple[int, ...], ...]


class ExitRule(Protocol):
    """What decides which tokens stay."""

    def keep(self, probabilities_TC: Tensor, tokens: PackedTokens, exit_index: int) -> Tensor:
        """Boolean ``[T]``: True where a token stays in.

        Args:
            probabilities_TC: p of every active token and class, float32.
            tokens: the active tokens.
            exit_index: 0 for the first active head, and so on.

        """
        ...


@dataclass(frozen=True, slots=True)
class ThresholdExit:
    """Sure tokens leave, but for the k surest of every class in every image.

    The k that stay carry the context of their class through the remaining blocks.
    """

    threshold: float = 0.9
    """Sure means: the measure is strictly greater. 1 turns exits off."""
    keep_per_class: int = 5
    """k, per image and predicted class, among the sure tokens."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"the exit threshold is a probability in [0, 1], got {self.threshold}")
        if self.keep_per_class < 0:
            raise ValueError(f"keep_per_class counts tokens and cannot be {self.keep_per_class}")

    def keep(self, probabilities_TC: Tensor, tokens: PackedTokens, exit_index: int) -> Tensor:
        """Boolean ``[T]``: doubtful tokens, and the k surest of every class."""
        sureness_T, class_T = self.measure(probabilities_TC)
        sure_T = sureness_T > self.threshold
        num_classes = probabilities_TC.shape[1]
        group_T = tokens.image_ids_T * num_classes + class_T
        num_groups = tokens.segments.num_images * num_classes
        # Sure tokens rank before the others of their group, hence among themselves.
        rank_T = rank_in_group(sureness_T, group_T, num_groups)
        return ~sure_T | (rank_T < self.keep_per_class)

    def measure(self, probabilities_TC: Tensor) -> tuple[Tensor, Tensor]:
        """How sure each token is, and of which class, ``[T]``."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class ConfidenceExit(ThresholdExit):
    """By the highest class probability."""

    def measure(self, probabilities_TC: Tensor) -> tuple[Tensor, Tensor]:
        """p of the best class, and that class."""
        confidence_T, class_T = probabilities_TC.max(dim=1)
        return confidence_T, class_T


@dataclass(frozen=True, slots=True)
class MarginExit(ThresholdExit):
    """By the highest class probability less the second. Not in the literature of the method."""

    def measure(self, probabilities_TC: Tensor) -> tuple[Tensor, Tensor]:
        """How far p of the best class is above that of the next one, and the best class."""
        best_T, class_T = probabilities_TC.max(dim=1)
        others_TC = probabilities_TC.scatter(1, class_T[:, None], 0)
        return best_T - others_TC.amax(dim=1), class_T


@dataclass(frozen=True, slots=True)
class RandomExit:
    """As many tokens of each image leave as with `base`, drawn at random.

    The draw is a hash of (seed, exit, position in the image): the same image gives the same
    result, alone or in a batch.
    """

    base: ConfidenceExit = ConfidenceExit()
    seed: int = 0
    leaving: Leaving | None = None
    """How many leave, per exit and image; None: as many as `base` would release here and now."""

    def keep(self, probabilities_TC: Tensor, tokens: PackedTokens, exit_index: int) -> Tensor:
        """Boolean ``[T]``: all but a drawn set of `leaving` tokens per image."""
        leaving_B = _leaving_per_image(self, probabilities_TC, tokens, exit_index)
        position_T = position_in_image(tokens.segments, tokens.image_ids_T)
        noise_T = hash_numbers(position_T + seeded(self.seed, exit_index + 1))
        rank_T = rank_in_group(noise_T, tokens.image_ids_T, tokens.segments.num_images)
        return rank_T >= leaving_B[tokens.image_ids_T]


@dataclass(frozen=True, slots=True)
class UniformExit:
    """As many tokens of each image leave as with `base`, evenly spread over its token sequence."""

    base: ConfidenceExit = ConfidenceExit()
    leaving: Leaving | None = None
    """As for `RandomExit`."""

    def keep(self, probabilities_TC: Tensor, tokens: PackedTokens, exit_index: int) -> Tensor:
        """Boolean ``[T]``: all but evenly spread `leaving` tokens per image."""
        leaving_B = _leaving_per_image(self, probabilities_TC, tokens, exit_index)
        leaving_T = leaving_B[tokens.image_ids_T]
        length_T = tokens.segments.cu_seqlens.diff().long()[tokens.image_ids_T]
        position_T = position_in_image(tokens.segments, tokens.image_ids_T)
        # Of the first i tokens floor(i * leaving / length) leave.
        return (position_T + 1) * leaving_T // length_T == position_T * leaving_T // length_T


@dataclass(frozen=True, slots=True)
class BudgetExit:
    """Exactly the n least confident tokens of each image stay (all, when it has fewer)."""

    tokens: tuple[int, ...]
    """n after each exit head; the last number holds for all further heads."""

    def __post_init__(self) -> None:
        if not self.tokens or min(self.tokens) < 0:
            raise ValueError(
                f"the exit budget needs a number of tokens >= 0 per exit head, got {self.tokens}"
            )

    def keep(self, probabilities_TC: Tensor, tokens: PackedTokens, exit_index: int) -> Tensor:
        """Boolean ``[T]``: the n tokens of each image whose best class is least probable."""
        doubt_T = -probabilities_TC.amax(dim=1)
        rank_T = rank_in_group(doubt_T, tokens.image_ids_T, tokens.segments.num_images)
        return rank_T < self.budget(exit_index)

    def budget(self, exit_index: int) -> int:
        """n after an exit head, counted from 0."""
        return self.tokens[min(exit_index, len(self.tokens) - 1)]


def matched_control(
    rule: RandomExit | UniformExit, tokens_per_stage: Sequence[Sequence[int]]
) -> RandomExit | UniformExit:
    """The control with the counts of a run of its `base` on the same batch.

    Args:
        rule: the control.
        tokens_per_stage: of the confident run, per stage and image.

    """
    leaving = tuple(
        tuple(before - after for before, after in zip(*stages, strict=True))
        for stages in pairwise(tokens_per_stage)
    )
    return replace(rule, leaving=leaving)


def _leaving_per_image(
    rule: RandomExit | UniformExit, probabilities_TC: Tensor, tokens: PackedTokens, exit_index: int
) -> Tensor:
    if rule.leaving is not None:
        return upload(rule.leaving[exit_index], torch.int64, probabilities_TC.device)
    return count_per_image(~rule.base.keep(probabilities_TC, tokens, exit_index), tokens.segments)
