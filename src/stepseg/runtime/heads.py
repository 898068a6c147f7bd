"""A head as one compiled graph (`stepseg.runtime.graph`).

Letters: T packed tokens, C classes, Q packed queries, D channels of the encoder, d channels of the
head, N attention heads, K channels of one.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from stepseg.heads.atm import AtmHead
from stepseg.heads.linear import LinearHead
from stepseg.heads.module import Meeting
from stepseg.packed import Segments
from stepseg.runtime.graph import Compiled, as_tensors, attend, compare


class CompiledHead(Compiled[AtmHead]):
    """Stands in for `AtmHead.answer`."""

    def __call__(
        self, x_TD: Tensor, query_Qd: Tensor, queries: Segments, tokens: Segments
    ) -> tuple[Tensor, Tensor]:
        """As the method."""
        # Sizes of 0 and 1 are constants to the compiler: they would cost a graph of their own.
        if torch.is_grad_enabled() or min(len(x_TD), len(query_Qd)) < 2:
            return AtmHead.answer(self.module, x_TD, query_Qd, queries, tokens)
        return self.graph()(x_TD, query_Qd, *as_tensors(queries), *as_tensors(tokens))

    def function(self, key: None) -> Callable[..., tuple[Tensor, Tensor]]:
        """`AtmHead.score` with the images as tensors."""
        head = self.module

        def score(
            x_TD: Tensor,
            query_Qd: Tensor,
            q_cu_seqlens: Tensor,
            q_offsets: Tensor,
            cu_seqlens: Tensor,
            offsets: Tensor,
        ) -> tuple[Tensor, Tensor]:
            def among_queries(q_QNK: Tensor, k_QNK: Tensor, v_QNK: Tensor) -> Tensor:
                queries = (q_cu_seqlens, q_offsets)
                return attend(q_QNK, k_QNK, v_QNK, *queries, *queries)

            def to_tokens(q_QNK: Tensor, k_TNK: Tensor, v_TNK: Tensor) -> Tensor:
                return attend(q_QNK, k_TNK, v_TNK, q_cu_seqlens, q_offsets, cu_seqlens, offsets)

            def compare_images(k_Td: Tensor, q_Qd: Tensor) -> Tensor:
                return compare(k_Td, q_Qd, cu_seqlens, offsets)

            meeting = Meeting(among_queries, to_tokens, compare_images)
            return head.score(x_TD, query_Qd, meeting)

        return score


class CompiledLinearHead(Compiled[LinearHead]):
    """Stands in for `LinearHead.mask_logits`."""

    def __call__(self, x_TD: Tensor) -> Tensor:
        """As the method."""
        if torch.is_grad_enabled() or len(x_TD) < 2:
            return LinearHead.mask_logits(self.module, x_TD)
        return self.graph()(x_TD)

    def function(self, key: None) -> Callable[..., Tensor]:
        """The method, bound to the head."""
        head = self.module
        return lambda x_TD: LinearHead.mask_logits(head, x_TD)
