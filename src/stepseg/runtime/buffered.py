"""The blocks between two exits on fixed buffers, in buckets of token counts: what CUDA graphs need.

A CUDA graph replays kernels on the addresses and sizes that it was captured with. Token counts
differ from image to image, so that tokens are copied into a buffer of the next larger bucket. What
is left of it belongs to one more image, the padding: variable-length kernels write no row outside
all images, and what an earlier run, or nobody, left there would go on into the next block.

Nothing is captured yet, and no runtime of a user's choice comes here. Each run calls the function
that a graph would hold: the same features as without buffers, slower by the padding. It rehearses
what a capture has to rely on.

Not here: heads, the policy and exits, which stay as they are.

Letters: B images, T packed tokens, R rows of a bucket (T and the padding), D channels.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from stepseg.packed import PackedTokens, Segments
from stepseg.vit.block import Block, within_images
from stepseg.vit.staged import StagedViT


def bucket(tokens: int) -> int:
    """The smallest bucket that holds so many tokens: steps of 64 to 512, 128 to 2048, then 256."""
    step = 64 if tokens <= 512 else 128 if tokens <= 2048 else 256
    return max(1, -(-tokens // step)) * step


class StageBuffers:
    """The tensors of one stage, batch size and bucket; their addresses never change.

    As made, every row is padding. A capture belongs there: it then sees a longest image that
    bounds all others, and not images of one length, which would get kernels for batches.

    Args:
        batch: B.
        rows: R.
        like: values ``[T, D]`` to come, for their channels, type and device.
        placed: whether rows have places.

    """

    values_RD: Tensor
    """What the stage reads: tokens, then zeros."""
    cu_seqlens: Tensor
    """int32 ``[B + 2]`` on the device; image b owns rows as in `Segments`, image B is padding."""
    offsets: Tensor
    """int64 ``[B + 2]``, the same on the host."""
    places_R2: Tensor | None
    """Where the rows lie, for rotary positions; 0 for the padding."""
    out_RD: Tensor
    """What the stage writes."""

    def __init__(self, batch: int, rows: int, like: Tensor, *, placed: bool = False) -> None:
        if like.is_cuda:
            raise NotImplementedError("capturing CUDA graphs has not been run on a GPU yet")
        with torch.inference_mode(False):  # inference tensors could not be filled outside of it
            self.values_RD = like.new_zeros(rows, like.shape[1])
            self.places_R2 = torch.zeros(rows, 2, device=like.device) if placed else None
            self.out_RD = torch.zeros_like(self.values_RD)
            self.offsets = torch.tensor([0] * (batch + 1) + [rows])
            self.cu_seqlens = self.offsets.to(like.device, torch.int32)

    @property
    def segments(self) -> Segments:
        """The rows of the images and, last, of the padding."""
        return Segments.from_offsets(self.cu_seqlens, self.offsets)

    def fill(self, tokens: PackedTokens) -> None:
        """Put these tokens in place of all that was there."""
        self.values_RD[: len(tokens)] = tokens.values_TD
        self.values_RD[len(tokens) :] = 0
        if self.places_R2 is not None:
            assert tokens.places_T2 is not None
            self.places_R2[: len(tokens)] = tokens.places_T2
            self.places_R2[len(tokens) :] = 0
        # The last entry is R for all tokens.
        self.cu_seqlens[:-1] = tokens.segments.cu_seqlens
        self.offsets[:-1] = tokens.segments.host_offsets()


@dataclass(slots=True)
class Usage:
    """How often stages found their buffers."""

    hits: int = 0
    """Runs whose buffers were there."""
    made: int = 0
    """Runs that had to make them first: on a GPU, to capture a graph."""
    evicted: int = 0
    """Buffers given up for others."""
    fallbacks: int = 0
    """Runs without buffers, because of too many tokens."""

    @property
    def hit_rate(self) -> float | None:
        """The share of hits among all runs; None before the first."""
        runs = self.hits + self.made + self.fallbacks
        return self.hits / runs if runs else None


class BufferedStages:
    """Stands in for `StagedViT.run_blocks`, on buffers made at first use; one caller at a time.

    Args:
        vit: the backbone; its weights must not change any more.
        most_tokens: of a batch; more run without buffers. Graphs save launches, and so much work
            should hide them (to be measured).
        most_buffers: kept at a time; the least recently used leave. With the default numbers they
            hold at most 1 GiB, of a ViT-L in fp32.

    """

    def __init__(self, vit: StagedViT, *, most_tokens: int = 4096, most_buffers: int = 32) -> None:
        if most_buffers < 1:
            raise ValueError(f"most_buffers must be at least 1, got {most_buffers}")
        self.vit = vit
        self.most_tokens, self.most_buffers = most_tokens, most_buffers
        self.usage = Usage()
        self._buffers: dict[tuple, StageBuffers] = {}  # the least recently used first

    def __call__(self, tokens: PackedTokens, start: int, stop: int) -> PackedTokens:
        """As the method."""
        fits = len(tokens) <= self.most_tokens
        if torch.is_grad_enabled() or start >= stop or not fits:
            self.usage.fallbacks += not fits
            return StagedViT.run_blocks(self.vit, tokens, start, stop)
        buffers = self._buffers_for(tokens, start, stop)
        buffers.fill(tokens)
        self._stage(buffers, start, stop)
        # A copy: the next run overwrites the buffer, and these tokens may still be needed.
        return tokens.with_values(buffers.out_RD[: len(tokens)].clone())

    def _stage(self, buffers: StageBuffers, start: int, stop: int) -> None:
        """What a graph would hold: reads and writes buffers only, all rows of them."""
        rope, rotation = self.vit.rope, None
        if rope is not None and buffers.places_R2 is not None:
            rotation = rope.rotation(buffers.places_R2)
        attend = within_images(buffers.segments, rotation)
        x_RD = buffers.values_RD
        for block in self.vit.blocks[start:stop]:
            x_RD = cast(Block, block).residuals(x_RD, attend)
        buffers.out_RD.copy_(x_RD)

    def _buffers_for(self, tokens: PackedTokens, start: int, stop: int) -> StageBuffers:
        batch, rows, values_TD = tokens.segments.num_images, bucket(len(tokens)), tokens.values_TD
        key = (start, stop, batch, rows, values_TD.dtype, values_TD.device)
        buffers = self._buffers.pop(key, None)
        if buffers is None:
            self.usage.made += 1
            if len(self._buffers) == self.most_buffers:
                self.usage.evicted += 1
                del self._buffers[next(iter(self._buffers))]
            placed = tokens.places_T2 is not None
            buffers = StageBuffers(batch, rows, values_TD, placed=placed)
        else:
            self.usage.hits += 1
        self._buffers[key] = buffers
        return buffers
