"""What a segmenter returns for a batch: the map, and the way to it.

Letters: B images, H x W pixels, Y x X cells of the patch grid, T0 tokens after merging, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from stepseg.heads.atm import Answer, presence_probability
from stepseg.heads.temperature import tempered
from stepseg.ops.query_masks import QueryMasks
from stepseg.ops.upsample import upsampled_argmax
from stepseg.packed import Passed, TokenLayout


class NonFiniteScoresError(ValueError):
    """Scores are no numbers, and the class of a pixel would be any."""

    def __init__(self, where: str = "this image") -> None:
        super().__init__(
            f"the model's scores for {where} are not finite numbers: its weights are far too "
            f"large, or its training had diverged; try 32 bits (dtype=fp32, "
            f"trainer.precision=32-true), or an earlier checkpoint"
        )


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """What one head says, over all tokens: those that left keep what an earlier head said."""

    block: int
    """The head reads the output of this block, counted from 1."""
    mask_logits_T0C: Tensor
    """Empty of a decoder that answers by `Segmentation.masks`."""
    class_logits_BC2: Tensor | None
    """(present, absent) per class, by this head; None: it says nothing of them."""
    tokens_per_image: tuple[int, ...]
    """How many tokens of each image this head saw."""
    exits: int = 0
    """Exits before this head: it saw the tokens that passed so many."""
    temperature: Tensor | None = None
    """Of its confidences."""
    earlier: tuple[Answer, ...] = ()
    """In training the answers of a cascade's modules before the last: mask and class logits."""
    passed: tuple[Passed, ...] = ()
    """The blocks so far, where rules act inside them; empty: all on `tokens_per_image`."""
    votes: tuple[Tensor, ...] = ()
    """In training, class logits of scorers for the parts of the image, ``[B, Q, C]``."""

    @property
    def presence_BC(self) -> Tensor:
        """P(class present) by this head; 1 where it says nothing."""
        if self.class_logits_BC2 is None:
            masks_T0C = self.mask_logits_T0C
            return masks_T0C.new_ones(len(self.tokens_per_image), masks_T0C.shape[1])
        return presence_probability(self.class_logits_BC2)

    def probabilities(self, mask_logits_TC: Tensor, image_ids_T: Tensor) -> Tensor:
        """p of every token and class as this head means it, ``[T, C]``."""
        return self.presence_BC[image_ids_T] * mask_logits_TC.sigmoid()


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The result for a batch: the map and the way to it."""

    image_size: tuple[int, int]
    """Height and width in pixels, before padding to the patch grid."""
    patch_size: int
    """Side of a cell in pixels of the image: that of a patch, unless the input was resized."""
    layout: TokenLayout
    heads: list[HeadOutput]
    """Active exit heads (in training: all exit heads) and, last, the decoder."""
    exit_T0: Tensor
    """int64; index of the active exit at which each token left, their number if it never did."""
    presence_T0C: Tensor | None
    """P(class present) by the head at which a token left; None: the decoder speaks for all."""
    presence_BC: Tensor
    """P(class present) by the last head that saw the image."""
    policy_logits: Mapping[int, Tensor] = field(default_factory=dict)
    """Per window side, where the policy was asked; of one that learns, what its loss is for."""
    root_T0: Tensor | None = None
    """int64; the token that stands for each after the blocks; None: none merged inside them."""
    masks: QueryMasks | None = None
    """Of a decoder that has queries of its own; they speak for all tokens."""

    @property
    def tokens_per_stage(self) -> list[tuple[int, ...]]:
        """Tokens of each image in the blocks before each head, as host numbers."""
        return [head.tokens_per_image for head in self.heads]

    @property
    def is_finite(self) -> Tensor:
        """Whether all scores are numbers: one truth value on the device, waits for nothing."""
        if self.masks is not None:
            return self.masks.is_finite
        p_T0C, p_BC = self.heads[-1].mask_logits_T0C.sigmoid(), self.presence_BC
        parts = (p_T0C, p_BC) if self.presence_T0C is None else (p_T0C, self.presence_T0C)
        return torch.stack([part.isfinite().all() for part in parts]).all()

    def confidences(self, head: HeadOutput) -> tuple[Tensor, Tensor, Tensor]:
        """What a head says of every token, as its exit compares it.

        Returns:
            The confidence that each token's best class is right and that class, ``[T0]``, and p of
            all of them, ``[T0, C]``. Of tokens that had left before by an earlier head's scores.

        """
        p_T0C = head.probabilities(head.mask_logits_T0C, self.layout.segments.image_ids())
        confidence_T0, class_T0 = p_T0C.max(1)
        return tempered(confidence_T0, head.temperature), class_T0, p_T0C

    def mask_logits(self, head: HeadOutput) -> Tensor:
        """A head's logits on the grid, ``[B, C, Y, X]``."""
        return self._on_grid(head.mask_logits_T0C)

    def answers(self, head: HeadOutput) -> list[Answer]:
        """What a training supervises of a head, its own answer last.

        Returns:
            Mask logits ``[B, C, Y, X]`` and class logits ``[B, C, 2]``, if it says any.

        """
        said = [*head.earlier, (head.mask_logits_T0C, head.class_logits_BC2)]
        return [(self._on_grid(masks_T0C), classes_BC2) for masks_T0C, classes_BC2 in said]

    def _on_grid(self, values_T0C: Tensor) -> Tensor:
        return self.layout.unmerge(values_T0C).permute(0, 3, 1, 2)

    def cell_scores(self) -> Tensor:
        """p of every class on the patch grid, ``[B, C, Y, X]``."""
        if self.masks is not None:
            return self.masks.cell_scores(self.layout.grid)
        p_T0C = self.heads[-1].mask_logits_T0C.sigmoid()
        if self.presence_T0C is not None:
            p_T0C = p_T0C * self.presence_T0C
        p_BCYX = self.layout.unmerge(p_T0C).permute(0, 3, 1, 2)
        return (
            p_BCYX if self.presence_T0C is not None else p_BCYX * self.presence_BC[..., None, None]
        )

    def scores(self) -> Tensor:
        """p of every class in every pixel of the image, ``[B, C, H, W]``."""
        height, width = self.image_size
        if self.masks is not None:
            return self.masks.scores(self._padded_size)[:, :, :height, :width]
        p_BCHW = F.interpolate(
            self.cell_scores(), size=self._padded_size, mode="bilinear", align_corners=False
        )
        return p_BCHW[:, :, :height, :width]

    def prediction(self, dtype: torch.dtype = torch.int64) -> Tensor:
        """The most probable class of every pixel, ``[B, H, W]``: argmax of `scores`."""
        height, width = self.image_size
        if self.masks is not None:
            return self.masks.prediction(self._padded_size, dtype)[:, :height, :width]
        p_BYXC = self.cell_scores().permute(0, 2, 3, 1)
        return upsampled_argmax(p_BYXC, self.patch_size, dtype)[:, :height, :width]

    @property
    def _padded_size(self) -> tuple[int, int]:
        rows, columns = self.layout.grid
        return rows * self.patch_size, columns * self.patch_size
