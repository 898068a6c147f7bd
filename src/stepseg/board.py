"""What the heads have said about every token so far, and where it left.

A board is a value: writing on it makes a new one, so that several reductions can go on from the
same place (`stepseg.grid`). Who leaves is decided by `stepseg.heads.exit`.

Letters: B images, T active tokens, T0 tokens after merging, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from stepseg.heads.atm import Answer
from stepseg.heads.temperature import tempered
from stepseg.ops.query_masks import Early, QueryMasks
from stepseg.packed import PackedTokens, TokenLayout
from stepseg.segmentation import HeadOutput, Segmentation


@dataclass(frozen=True, slots=True)
class Board:
    """The answers so far, over all tokens of a layout."""

    layout: TokenLayout
    own_presence: bool
    """Whether a token's class probabilities are those of the head at which it left."""
    exit_T0: Tensor
    """int64; the number of exits that each token has passed."""
    exits: int = 0
    """How many exits lie behind."""
    heads: tuple[HeadOutput, ...] = ()
    presence_T0C: Tensor | None = None
    presence_BC: Tensor | None = None
    """P(class present) by the last head that saw the image; None: no head has spoken yet."""
    root_T0: Tensor | None = None
    """int64; the token that stands for each; None: each for itself."""
    masks: QueryMasks | None = None
    """Of a decoder with queries of its own."""
    read_T0D: Tensor | None = None
    """What the last head to see each token read of it, for a decoder that reads the whole grid."""

    @classmethod
    def empty(cls, layout: TokenLayout, *, own_presence: bool) -> Self:
        """Nothing said, nobody gone."""
        return cls(layout, own_presence, torch.zeros_like(layout.anchor_T0))

    def write(
        self,
        block: int,
        tokens: PackedTokens,
        answers: Sequence[Answer],
        temperature: Tensor | None = None,
    ) -> Self:
        """Record what the head after a block says of the active tokens (`AtmHead.answers`).

        `temperature`: of this head, for who is confident.
        """
        *earlier, (mask_logits_TC, class_logits_BC2) = answers
        previous = self.heads[-1].mask_logits_T0C if self.heads else None
        head = HeadOutput(
            block=block,
            mask_logits_T0C=tokens.spread(mask_logits_TC, previous),
            class_logits_BC2=class_logits_BC2,
            tokens_per_image=tokens.segments.lengths,
            exits=self.exits,
            temperature=temperature,
            earlier=tuple(earlier),
            passed=tokens.passed,
            votes=tokens.votes,
        )
        presence_BC = head.presence_BC
        if self.presence_BC is not None:  # an image without tokens has nothing to ask this head
            seen_B1 = tokens.segments.cu_seqlens.diff()[:, None] > 0
            presence_BC = torch.where(seen_B1, presence_BC, self.presence_BC)
        presence_T0C = None
        if self.own_presence:
            presence_T0C = tokens.spread(presence_BC[tokens.image_ids_T], self.presence_T0C)
        return replace(
            self,
            heads=(*self.heads, head),
            presence_T0C=presence_T0C,
            presence_BC=presence_BC,
            root_T0=None if tokens.size_T is None else tokens.root_T0,
        )

    def keep_read(self, tokens: PackedTokens) -> Self:
        """Note what is read of the active tokens; those that leave keep it."""
        return replace(self, read_T0D=tokens.spread(tokens.values_TD, self.read_T0D))

    def draw(self, block: int, tokens: PackedTokens, masks: QueryMasks) -> Self:
        """Record what a decoder with queries of its own says of the whole grid.

        Where a token had left, what the exit head said of it stays.
        """
        if self.exits:
            left_BYX = self.layout.unmerge(self.exit_T0 < self.exits)
            p_BYXC = self.layout.unmerge(self.heads[-1].mask_logits_T0C.sigmoid())
            masks = replace(masks, early=Early(left_BYX, p_BYXC.permute(0, 3, 1, 2)))
        nothing = masks.class_logits_BQC.new_zeros(0)
        head = HeadOutput(block, nothing, None, tokens.segments.lengths, exits=self.exits)
        presence_BC = masks.class_logits_BQC.softmax(2)[..., :-1].amax(1)
        return replace(self, heads=(*self.heads, head), masks=masks, presence_BC=presence_BC)

    def probabilities(self, tokens: PackedTokens, mask_logits_TC: Tensor) -> Tensor:
        """p of every active token and class, at the head's temperature: for exit rules."""
        head = self.heads[-1]
        p_TC = head.probabilities(mask_logits_TC, tokens.image_ids_T)
        return tempered(p_TC, head.temperature)

    def release(self, tokens: PackedTokens, keep_T: Tensor) -> Self:
        """Note who leaves at the next exit: the active tokens where `keep_T` is False."""
        exit_T0 = tokens.spread(self.exits + keep_T.long(), self.exit_T0)
        return replace(self, exit_T0=exit_T0, exits=self.exits + 1)

    @property
    def tokens_per_stage(self) -> list[tuple[int, ...]]:
        """Tokens of each image in the blocks before each head, as host numbers."""
        return [head.tokens_per_image for head in self.heads]

    def result(
        self, image_size: tuple[int, int], patch_size: int, policy_logits: Mapping[int, Tensor]
    ) -> Segmentation:
        """The segmentation, once the last head has spoken."""
        assert self.presence_BC is not None
        return Segmentation(
            image_size=image_size,
            patch_size=patch_size,
            layout=self.layout,
            heads=list(self.heads),
            exit_T0=self.exit_T0,
            presence_T0C=self.presence_T0C,
            presence_BC=self.presence_BC,
            policy_logits=policy_logits,
            root_T0=self.root_T0,
            masks=self.masks,
        )
