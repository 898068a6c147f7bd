"""The blocks of a stage as one compiled graph, for any images and any number of tokens.

For inference. A graph is made once per stage and serves all batches: the number of tokens is a
symbol in it, and attention, which has to know the images, is one opaque operator whose images
arrive as data. Everything around it (LayerNorm, residuals, GELU, products) is the compiler's.

On CPUs the weights are laid out for the processor's kernels at compile time, where PyTorch's linear
layers repack them in every call.

Not here: training (the operator has no derivative) and CUDA graphs.

Letters: T packed tokens, D channels, N heads, K channels of a head, B images.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
import torch._inductor.config as inductor_config
from torch import Tensor

from stepseg.ops.attention import varlen_attention
from stepseg.packed import PackedTokens, Segments
from stepseg.vit.block import Block

Stage = Callable[[Tensor, Tensor, Tensor], Tensor]


class CompiledStages:
    """Runs ranges of blocks as compiled graphs; the weights must not change any more.

    Args:
        blocks: of the backbone.
        backend: of `torch.compile`.

    """

    def __init__(self, blocks: Sequence[Block], backend: str | Callable = "inductor") -> None:
        self.blocks = blocks
        self.backend = backend
        self._stages: dict[tuple[int, int], Stage] = {}

    def run(self, tokens: PackedTokens, start: int, stop: int) -> PackedTokens:
        """Run the blocks ``start + 1`` to ``stop``, counted from 1."""
        if (start, stop) not in self._stages:
            self._stages[start, stop] = self._compile(start, stop)
        segments = tokens.segments
        # On the host, so that the operator knows the images without waiting for the device.
        offsets = torch.tensor(list(accumulate(segments.lengths, initial=0)))
        stage = self._stages[start, stop]
        with inductor_config.patch(freezing=tokens.values_TD.device.type == "cpu"):
            values_TD = stage(tokens.values_TD, segments.cu_seqlens, offsets)
        return tokens.with_values(values_TD)

    def _compile(self, start: int, stop: int) -> Stage:
        blocks = self.blocks[start:stop]

        def stage(x_TD: Tensor, cu_seqlens: Tensor, offsets: Tensor) -> Tensor:
            def attend(q_TNK: Tensor, k_TNK: Tensor, v_TNK: Tensor) -> Tensor:
                return _attend(q_TNK, k_TNK, v_TNK, cu_seqlens, offsets)

            for block in blocks:
                x_TD = block.residuals(x_TD, attend)
            return x_TD

        # The compiler counts graphs by code object and gives up after some: a code for each stage.
        stage.__code__ = stage.__code__.replace(co_name=f"blocks_{start + 1}_{stop}")
        return torch.compile(stage, dynamic=True, fullgraph=True, backend=self.backend)


@torch.library.custom_op("stepseg::attend", mutates_args=())
def _attend(
    q_TNK: Tensor, k_TNK: Tensor, v_TNK: Tensor, cu_seqlens: Tensor, offsets: Tensor
) -> Tensor:
    """Self-attention within each image; `offsets` are `cu_seqlens` on the host."""
    segments = Segments(cu_seqlens, tuple(offsets.diff().tolist()))
    return varlen_attention(q_TNK, k_TNK, v_TNK, segments, segments).contiguous()


@_attend.register_fake
def _(q_TNK: Tensor, k_TNK: Tensor, v_TNK: Tensor, cu_seqlens: Tensor, offsets: Tensor) -> Tensor:
    return torch.empty_like(v_TNK, memory_format=torch.contiguous_format)
