"""SegViT's own decoder: a cascade of ATM modules that read the encoder at several depths.

The first module reads the last block, each further one an earlier block, with the queries as the
module before left them. Mask logits add up from module to module; the queries of the last module
say which classes are present. Training supervises what each module makes of it.

SegViT classifies each query among all classes (`among_all`, for its checkpoints); otherwise a query
knows its class and says whether it is present, as in every head (DToP).

Letters: B images, T packed tokens, S modules, C classes, Q = B * C packed queries, D channels of
the encoder, E = S * D, d channels of the head.
"""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from stepseg.heads.atm import Answer, AtmHead, within_images
from stepseg.heads.module import AtmModule, Meeting, start_weights
from stepseg.packed import PackedTokens


class CascadedHead(AtmHead):
    """A decoder whose further modules read earlier blocks.

    Its tokens have the values of all that it reads, ``[T, S * D]``, the last block first.

    Args:
        earlier_blocks: what the further modules read, counted from 1, ascending; the deepest is
            read first.
        num_classes: C.
        init: what training starts from, as of `AtmHead`.
        among_all: likewise.
        numbers: of every module (`AtmModule`).

    """

    def __init__(
        self,
        *,
        earlier_blocks: Sequence[int],
        num_classes: int,
        init: str = "segvit",
        among_all: bool = False,
        **numbers: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, init=init, among_all=among_all, **numbers)
        self.earlier_blocks = tuple(earlier_blocks)
        self.further = nn.ModuleList(AtmModule(**numbers) for _ in earlier_blocks)
        start_weights(self.further, init)

    def answers(self, tokens: PackedTokens) -> list[Answer]:
        """In training what every module makes of it, the last one being the answer."""
        if not self.training:
            return [self(tokens)]
        segments = tokens.segments
        images, query_Qd = segments.num_images, self.first_query(segments.num_images)
        queries = self._query_segments(images, query_Qd.device)
        said = self._look_on(tokens.values_TD, query_Qd, within_images(queries, segments))
        return [
            (mask_logits_TC, self.class_logits(query_Qd).unflatten(0, (images, -1)))
            for query_Qd, mask_logits_TC in said
        ]

    def score(self, x_TE: Tensor, query_Qd: Tensor, meeting: Meeting) -> tuple[Tensor, Tensor]:
        """As of a single module, with values ``[T, S * D]``."""
        said = self._look_on(x_TE, query_Qd, meeting)
        query_Qd, mask_logits_TC = said[-1]
        return mask_logits_TC, self.class_logits(query_Qd)

    def _look_on(
        self, x_TE: Tensor, query_Qd: Tensor, meeting: Meeting
    ) -> list[tuple[Tensor, Tensor]]:
        """After every module the queries, and the mask logits so far."""
        last_TD, *earlier = x_TE.chunk(1 + len(self.further), dim=1)
        said = [self.look(last_TD, query_Qd, meeting, have_met=True)]
        for x_TD, module in zip(earlier, self.further, strict=True):
            query_Qd, sum_TC = said[-1]
            query_Qd, mask_logits_TC = cast(AtmModule, module).look(
                x_TD, query_Qd, meeting, have_met=False
            )
            said.append((query_Qd, sum_TC + mask_logits_TC))
        return said


def check_cascade(
    earlier_blocks: Sequence[int], depth: int, exit_blocks: Sequence[int] = ()
) -> None:
    """Refuse a cascade that an encoder, or the exits before it, cannot serve.

    Raises:
        ValueError: blocks outside the encoder or out of order, or beside exit heads.

    """
    blocks = list(earlier_blocks)
    if blocks != sorted({*blocks}) or not all(1 <= block < depth for block in blocks):
        raise ValueError(
            f"heads.cascade={blocks}: a cascade reads blocks within 1..{depth - 1}, ascending "
            f"without repetition, and then block {depth}, the last"
        )
    if blocks and exit_blocks:
        raise ValueError(
            f"heads.cascade={blocks} reads all tokens after the last block, and exit heads after "
            f"blocks {list(exit_blocks)} let some leave before: choose a reduction without exits "
            f"(none, cts, dcts), or heads.cascade=null"
        )
