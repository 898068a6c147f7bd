"""An ATM head as one compiled graph (`stepseg.runtime.graph`).

Letters: T packed tokens, C classes, Q packed queries, D channels of the encoder, d channels of the
head, N attention heads, K channels of one.
"""

from torch import Tensor

from stepseg.heads.atm import AtmHead
from stepseg.packed import Segments
from stepseg.runtime.graph import Backend, Graph, as_tensors, attend, compare


class CompiledHead:
    """Runs a head as a graph.

    Args:
        head: its weights must not change any more.
        backend: who compiles.

    """

    def __init__(self, head: AtmHead, backend: Backend = "inductor") -> None:
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

            return head.score(x_TD, query_Qd, among_queries, to_tokens, compare_images)

        self._graph = Graph(score, "atm_head", backend)

    def run(
        self, x_TD: Tensor, query_Qd: Tensor, tokens: Segments, queries: Segments
    ) -> tuple[Tensor, Tensor]:
        """As `AtmHead.score`, for these images."""
        return self._graph(x_TD, query_Qd, *as_tensors(queries), *as_tensors(tokens))
