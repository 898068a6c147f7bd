"""The blocks between two exits as one compiled graph (`stepseg.runtime.graph`).

Letters: T packed tokens, D channels, N heads, K channels of a head.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from stepseg.packed import PackedTokens
from stepseg.runtime.graph import Compiled, as_tensors, attend
from stepseg.vit.block import Block, turned
from stepseg.vit.staged import StagedViT


class CompiledStages(Compiled[StagedViT]):
    """Stands in for `StagedViT.run_blocks`: a graph for each range that is asked for."""

    def __call__(self, tokens: PackedTokens, start: int, stop: int) -> PackedTokens:
        """As the method."""
        # Sizes of 0 and 1 are constants to the compiler: they would cost a graph of their own.
        if torch.is_grad_enabled() or start >= stop or len(tokens) < 2:
            return StagedViT.run_blocks(self.module, tokens, start, stop)
        graph = self.graph((start, stop))
        places = () if tokens.places_T2 is None else (tokens.places_T2,)
        return tokens.with_values(graph(tokens.values_TD, *as_tensors(tokens.segments), *places))

    def function(self, key: tuple[int, int]) -> Callable[..., Tensor]:
        """A range of blocks, with the images as tensors."""
        blocks, rope = list(self.module.blocks)[slice(*key)], self.module.rope

        def stage(x_TD: Tensor, cu_seqlens: Tensor, offsets: Tensor, *places: Tensor) -> Tensor:
            def within_images(q_TNK: Tensor, k_TNK: Tensor, v_TNK: Tensor) -> Tensor:
                return attend(q_TNK, k_TNK, v_TNK, cu_seqlens, offsets, cu_seqlens, offsets)

            rotation = rope.rotation(*places) if rope is not None else None
            for block in blocks:
                x_TD = cast(Block, block).residuals(x_TD, turned(within_images, rotation))
            return x_TD

        return stage
