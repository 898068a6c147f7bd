"""The blocks between two exits as one compiled graph (`stepseg.runtime.graph`).

Letters: T packed tokens, D channels, N heads, K channels of a head.
"""

from collections.abc import Sequence

from torch import Tensor

from stepseg.packed import PackedTokens
from stepseg.runtime.graph import Backend, Graph, as_tensors, attend
from stepseg.vit.block import Block


class CompiledStages:
    """Runs ranges of blocks as graphs, one for each range that is asked for.

    Args:
        blocks: of the backbone; their weights must not change any more.
        backend: who compiles.

    """

    def __init__(self, blocks: Sequence[Block], backend: Backend = "inductor") -> None:
        self.blocks = blocks
        self.backend = backend
        self._graphs: dict[tuple[int, int], Graph] = {}

    def run(self, tokens: PackedTokens, start: int, stop: int) -> PackedTokens:
        """Run the blocks ``start + 1`` to ``stop``, counted from 1."""
        if (start, stop) not in self._graphs:
            self._graphs[start, stop] = self._graph(start, stop)
        graph = self._graphs[start, stop]
        return tokens.with_values(graph(tokens.values_TD, *as_tensors(tokens.segments)))

    def _graph(self, start: int, stop: int) -> Graph:
        blocks = self.blocks[start:stop]

        def stage(x_TD: Tensor, cu_seqlens: Tensor, offsets: Tensor) -> Tensor:
            def within_images(q_TNK: Tensor, k_TNK: Tensor, v_TNK: Tensor) -> Tensor:
                return attend(q_TNK, k_TNK, v_TNK, cu_seqlens, offsets, cu_seqlens, offsets)

            for block in blocks:
                x_TD = block.residuals(x_TD, within_images)
            return x_TD

        return Graph(stage, f"blocks_{start + 1}_{stop}", self.backend)
