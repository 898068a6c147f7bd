"""Blocks in training as compiled graphs, for any number of tokens.

Attention has to know the images and has kernels of its own, so that a block is two graphs around
it: from its input to queries, keys and values, and from what was attended to its output. Sizes are
symbols in them and weights are inputs, so that all blocks share the two.

Not here: inference (`stepseg.runtime`), to which blocks are what they were.

Letters: T packed rows, D channels, N heads, K channels of a head.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from stepseg.ops.attention import Attend
from stepseg.runtime.apply import stand_in
from stepseg.vit.block import Block, Drop
from stepseg.vit.staged import StagedViT


def compile_blocks(vit: StagedViT, backend: Any = "inductor") -> None:
    """Let every block compute its residuals by compiled graphs while it trains, in place."""
    for block in vit.blocks:
        assert isinstance(block, Block)
        stand_in(block, "residuals", CompiledResiduals(block, backend))


class CompiledResiduals:
    """Stands in for `Block.residuals` where gradients are wanted.

    Args:
        block: whose weights may change.

    """

    def __init__(self, block: Block, backend: Any) -> None:
        self.block = block
        self._before, self._after = _compiled(_before, backend), _compiled(_after, backend)

    def __call__(self, x_TD: Tensor, attend: Attend, drop: Drop = lambda x: x) -> Tensor:
        """As the method."""
        # Sizes of 0 and 1 are constants to the compiler: they would cost graphs of their own.
        if not torch.is_grad_enabled() or len(x_TD) < 2:
            return Block.residuals(self.block, x_TD, attend, drop)
        attended_TD = attend(*self._before(self.block, x_TD)).flatten(1)
        drops = self.block.training and self.block.drop_path.rate > 0
        # What is drawn for the rows of an image is a factor, first of attention, then of the MLP.
        factors = [drop(x_TD.new_ones(len(x_TD), 1)) if drops else None for _ in range(2)]
        return self._after(self.block, x_TD, attended_TD, *factors)


def _before(block: Block, x_TD: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values, each ``[T, N, K]``."""
    qkv_TX = block.attn.project(block.norm1(x_TD))
    return qkv_TX.unflatten(1, (3, block.attn.num_heads, -1)).unbind(1)


def _after(
    block: Block,
    x_TD: Tensor,
    attended_TD: Tensor,
    first_T1: Tensor | None,
    second_T1: Tensor | None,
) -> Tensor:
    """Both branches added, each by its factor of stochastic depth; None: 1."""
    branch_TD = block.ls1(block.attn.proj(attended_TD))
    x_TD = x_TD + (branch_TD if first_T1 is None else branch_TD * first_T1)
    branch_TD = block.ls2(block.mlp(block.norm2(x_TD)))
    return x_TD + (branch_TD if second_T1 is None else branch_TD * second_T1)


@cache
def _compiled(function: Callable[..., Any], backend: Any) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True, fullgraph=True, backend=backend)
