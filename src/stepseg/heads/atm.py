"""The attention-to-mask (ATM) head: final decoder and exit head alike (SegViT, DToP; Sec. 3.2.2).

One learned query per class looks at the tokens through a `stepseg.heads.module`, whose scores are
the answer. A linear layer on the queries says whether the class is present at all.

Not here: which tokens leave (`stepseg.heads.exit`), losses, the assembly of the map, and SegViT's
cascade of modules (`stepseg.heads.cascade`).

Letters: B images, T packed tokens, C classes (one query each), Q = B * C packed queries, D channels
of the encoder, d channels of the head.
"""

from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepseg.heads.module import AtmLayer, AtmModule, Meeting, start_weights
from stepseg.heads.temperature import new_temperature
from stepseg.ops.attention import varlen_attention
from stepseg.ops.segment import segment_scores
from stepseg.packed import PackedTokens, Segments

Answer = tuple[Tensor, Tensor | None]
"""Mask logits, float32 ``[T, C]``, and class logits (present, absent), float32 ``[B, C, 2]``; None
of a head that says nothing of presence."""


class AtmHead(AtmModule):
    """Class queries over packed tokens.

    Args:
        dim: channels of the encoder, D.
        num_classes: C.
        head_dim: channels of this head, d; `dim // 2` in the literature.
        num_heads: attention heads.
        num_layers: decoder layers.
        dropout: on attended values and in the feed-forward layers, in training.
        init: what training starts from, one of `stepseg.heads.module.INITS`.
        calibrated: whether the head has a temperature (`stepseg.heads.temperature`).
        among_all: a query does not say whether its class is present, but which class it is of, as
            in SegViT: class logits are ``[B, C, C + 1]``, the last for none. For decoders out of
            checkpoints, of systems without exits.

    """

    earlier_blocks: tuple[int, ...] = ()
    """Blocks whose output the head reads besides that of its own, counted from 1, ascending."""
    cached_query_Cd: Tensor | None
    """The queries after the first self-attention, which no image enters; at inference only."""
    temperature: Tensor | None
    frozen: bool = False

    def __init__(
        self,
        *,
        dim: int,
        num_classes: int,
        head_dim: int,
        num_heads: int,
        num_layers: int = 3,
        dropout: float = 0.1,
        init: str = "segvit",
        calibrated: bool = False,
        among_all: bool = False,
    ) -> None:
        super().__init__(
            dim=dim,
            head_dim=head_dim,
            num_heads=num_heads,
            num_layers=num_layers,
            dropout=dropout,
        )
        self.num_classes, self.among_all = num_classes, among_all
        self.query_Cd = nn.Parameter(torch.empty(num_classes, head_dim))
        self.presence = nn.Linear(head_dim, num_classes + 1 if among_all else 2)
        self.register_buffer("cached_query_Cd", None, persistent=False)
        self.register_buffer("temperature", new_temperature() if calibrated else None)
        start_weights(self, init)
        nn.init.normal_(self.query_Cd)

    def freeze(self) -> Self:
        """Learn nothing from now on: always in evaluation mode, and no gradients."""
        self.frozen = True
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen head stays in evaluation."""
        return super().train(mode and not self.frozen)

    def forward(self, tokens: PackedTokens) -> tuple[Tensor, Tensor]:
        """Score tokens against classes."""
        values_TD, segments = tokens.values_TD, tokens.segments
        queries = self._query_segments(segments.num_images, values_TD.device)
        query_Qd = self.first_query(segments.num_images)
        mask_logits_TC, class_logits_Q2 = self.answer(values_TD, query_Qd, queries, segments)
        return mask_logits_TC, class_logits_Q2.unflatten(0, (segments.num_images, -1))

    def first_query(self, num_images: int) -> Tensor:
        """The queries after the first self-attention, for every image, ``[Q, d]``."""
        if self.cached_query_Cd is not None:
            return self.cached_query_Cd.repeat(num_images, 1)
        # Equal for all images, unless each draws its own dropout.
        copies = num_images if self.training else 1
        queries = self._query_segments(copies, self.query_Cd.device)
        query_Qd = cast(AtmLayer, self.layers[0]).attend_queries(
            self.query_Cd.repeat(copies, 1),
            lambda q, k, v: varlen_attention(q, k, v, queries, queries),
        )
        return query_Qd if self.training else query_Qd.repeat(num_images, 1)

    def answers(self, tokens: PackedTokens) -> list[Answer]:
        """What a training supervises; the last one is the head's answer."""
        return [self(tokens)]

    def answer(
        self, x_TD: Tensor, query_Qd: Tensor, queries: Segments, tokens: Segments
    ) -> tuple[Tensor, Tensor]:
        """As `score`, for the queries and tokens of these images."""
        return self.score(x_TD, query_Qd, within_images(queries, tokens))

    def score(self, x_TD: Tensor, query_Qd: Tensor, meeting: Meeting) -> tuple[Tensor, Tensor]:
        """The arithmetic of the head, free of the layout.

        Args:
            x_TD: values of the tokens.
            query_Qd: from `first_query`.
            meeting: as for `AtmModule.look`.

        Returns:
            Mask logits, float32 ``[T, C]``, and class logits (present, absent), float32 ``[Q, 2]``.

        """
        query_Qd, mask_logits_TC = self.look(x_TD, query_Qd, meeting, have_met=True)
        return mask_logits_TC, self.class_logits(query_Qd)

    def class_logits(self, query_Qd: Tensor) -> Tensor:
        """(present, absent) of every query, float32 ``[Q, 2]``, or all classes and none."""
        with torch.autocast(query_Qd.device.type, enabled=False):
            weight, bias = self.presence.weight.float(), self.presence.bias.float()
            return F.linear(query_Qd.float(), weight, bias)

    @torch.no_grad()
    def cache_first_query(self) -> None:
        """For inference: what no image enters is computed once; weights are final."""
        self.cached_query_Cd = None
        self.cached_query_Cd = self.eval().first_query(1)

    def _query_segments(self, num_images: int, device: torch.device) -> Segments:
        return Segments.uniform(num_images, self.num_classes, device)


def within_images(queries: Segments, tokens: Segments) -> Meeting:
    """Queries and tokens of an image meet, of two images never."""
    return Meeting(
        among_queries=lambda q, k, v: varlen_attention(q, k, v, queries, queries),
        to_tokens=lambda q, k, v: varlen_attention(q, k, v, queries, tokens),
        compare=lambda k_Td, q_Qd: segment_scores(k_Td, q_Qd, tokens),
    )


def presence_probability(class_logits_BC2: Tensor) -> Tensor:
    """Softmax over (present, absent), the probability of present, ``[B, C]``."""
    return class_logits_BC2.softmax(-1)[..., 0]
