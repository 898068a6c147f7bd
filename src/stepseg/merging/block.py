"""A block whose tokens become fewer between attention and MLP.

Letters: T packed rows, M of them tokens, D channels, N heads, K channels of a head.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stepseg.ops.attention import varlen_attention
from stepseg.ops.sized_attention import sized_attention
from stepseg.packed import PackedTokens
from stepseg.vit.block import Block, turned
from stepseg.vit.staged import StagedViT

Merge = Callable[[PackedTokens, Tensor], tuple[Tensor, tuple[int, ...] | None]]
"""From tokens after the attention, without prefix rows, and their keys in it, means over the heads:
which token each becomes part of, and how many are left of each image, where that is known."""


def run_block(
    vit: StagedViT, number: int, tokens: PackedTokens, merge: Merge, *, proportional: bool = False
) -> PackedTokens:
    """As the block, with `merge` in its middle.

    Args:
        vit: whose block.
        number: of the block, counted from 1.
        tokens: what it reads.
        merge: decides and merges.
        proportional: whether tokens count in attention as often as they stand for others.

    """
    block, rotation = cast(Block, vit.blocks[number - 1]), vit.rotation(tokens)
    segments, size_T = tokens.segments, tokens.size_T
    keys: list[Tensor] = []

    def among_rows(q_TNK: Tensor, k_TNK: Tensor, v_TNK: Tensor) -> Tensor:
        if size_T is None or not proportional:
            return varlen_attention(q_TNK, k_TNK, v_TNK, segments, segments)
        return sized_attention(q_TNK, k_TNK, v_TNK, segments, size_T)

    turned_attention = turned(among_rows, rotation)

    def attend(q_TNK: Tensor, k_TNK: Tensor, v_TNK: Tensor) -> Tensor:
        keys.append(k_TNK.detach().mean(1))  # before they turn: what is there, not where
        return turned_attention(q_TNK, k_TNK, v_TNK)

    def attention(x_TD: Tensor) -> Tensor:
        return block.add_attention(x_TD, attend, block.dropping(tokens))

    def mlp(x_TD: Tensor) -> Tensor:
        return block.add_mlp(x_TD, block.dropping(tokens))

    def run(half: Callable[[Tensor], Tensor], tokens: PackedTokens) -> PackedTokens:
        if number <= vit.recomputed_blocks and torch.is_grad_enabled():
            return tokens.with_values(checkpoint(half, tokens.values_TD, use_reentrant=False))
        return tokens.with_values(half(tokens.values_TD))

    tokens = run(attention, tokens)
    key_MK = keys[0][tokens.patch_rows()] if tokens.prefix else keys[0]
    tokens = tokens.merge(*merge(tokens.patches(), key_MK))
    return run(mlp, tokens)
