"""The attention-to-mask (ATM) head: final decoder and exit head alike (SegViT, DToP; Sec. 3.2.2).

One learned query per class attends to the tokens through a few decoder layers. What the last
cross-attention compares before its softmax is the answer: the score of token t and query c says how
much t belongs to class c. A linear layer on the queries says whether the class is present at all.

Not here: which tokens leave (`stepseg.heads.exit`), losses, the assembly of the map.

Letters: B images, T packed tokens, C classes (one query each), Q = B * C packed queries, D channels
of the encoder, d channels of the head, N attention heads, K channels of one.
"""

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepseg.ops.attention import Attend, varlen_attention
from stepseg.ops.segment import segment_scores
from stepseg.packed import PackedTokens, Segments

INITS = ("segvit", "pytorch")
"""Linear maps from a truncated normal of 0.02 without bias, as published; or as PyTorch draws them,
three times as wide in a head of 96 channels, which learns faster from random weights."""


class AtmHead(nn.Module):
    """Class queries over packed tokens.

    Args:
        dim: channels of the encoder, D.
        num_classes: C.
        head_dim: channels of this head, d; `dim // 2` in the literature.
        num_heads: attention heads.
        num_layers: decoder layers.
        dropout: on attended values and in the feed-forward layers, in training.
        init: what training starts from, one of `INITS`.

    """

    cached_query_Cd: Tensor | None
    """The queries after the first self-attention, which no image enters; at inference only."""

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
    ) -> None:
        super().__init__()
        if head_dim % num_heads:
            raise ValueError(f"{head_dim} channels do not divide into {num_heads} ATM heads")
        if init not in INITS:
            raise ValueError(f"heads.init={init!r}: choose one of {', '.join(INITS)}")
        self.head_dim, self.num_heads = head_dim, num_heads
        self.num_classes = num_classes
        self.input_proj = nn.Linear(dim, head_dim)
        self.input_norm = nn.LayerNorm(head_dim)
        self.query_Cd = nn.Parameter(torch.empty(num_classes, head_dim))
        # Keys and values of all layers depend on the tokens alone: one product makes them all.
        self.cross_kv = nn.Linear(head_dim, 2 * head_dim * num_layers)
        self.layers = nn.ModuleList(
            AtmLayer(dim=head_dim, num_heads=num_heads, dropout=dropout) for _ in range(num_layers)
        )
        self.presence = nn.Linear(head_dim, 2)
        self.register_buffer("cached_query_Cd", None, persistent=False)
        if init == "segvit":
            self.apply(_init_linear)
        nn.init.normal_(self.query_Cd)

    def forward(self, tokens: PackedTokens) -> tuple[Tensor, Tensor]:
        """Score tokens against classes.

        Returns:
            Mask logits, float32 ``[T, C]``, and class logits (present, absent), float32
            ``[B, C, 2]``.

        """
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

    def answer(
        self, x_TD: Tensor, query_Qd: Tensor, queries: Segments, tokens: Segments
    ) -> tuple[Tensor, Tensor]:
        """As `score`, for the queries and tokens of these images."""
        return self.score(
            x_TD,
            query_Qd,
            among_queries=lambda q, k, v: varlen_attention(q, k, v, queries, queries),
            to_tokens=lambda q, k, v: varlen_attention(q, k, v, queries, tokens),
            compare=lambda k_Td, q_Qd: segment_scores(k_Td, q_Qd, tokens),
        )

    def score(
        self,
        x_TD: Tensor,
        query_Qd: Tensor,
        among_queries: Attend,
        to_tokens: Attend,
        compare: Callable[[Tensor, Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """The arithmetic of the head, free of the layout.

        Args:
            x_TD: values of the tokens.
            query_Qd: from `first_query`.
            among_queries: attention of an image's queries to each other.
            to_tokens: attention of an image's queries to its tokens.
            compare: keys ``[T, d]`` and queries ``[Q, d]`` to scores ``[T, C]``.

        Returns:
            Mask logits, float32 ``[T, C]``, and class logits (present, absent), float32 ``[Q, 2]``.

        """
        x_Td = self.input_norm(self.input_proj(x_TD))
        keys_and_values = self.cross_kv(x_Td).chunk(2 * len(self.layers), dim=1)
        q_Qd, k_Td = query_Qd, x_Td
        for index, module in enumerate(self.layers):
            layer = cast(AtmLayer, module)
            if index > 0:
                query_Qd = layer.attend_queries(query_Qd, among_queries)
            k_Td, v_Td = keys_and_values[2 * index : 2 * index + 2]
            query_Qd, q_Qd = layer.attend_tokens(query_Qd, k_Td, v_Td, to_tokens)
        # Averaged over heads, the scores are one product of the concatenated heads:
        # mean_h(q_h . k_h) / sqrt(K) == (q . k) / (N * sqrt(K)).
        scale = self.num_heads * math.sqrt(self.head_dim // self.num_heads)
        with torch.autocast(x_Td.device.type, enabled=False):
            # float32: near the threshold a half-precision score is too coarse to decide an exit
            mask_logits_TC = compare(k_Td.float(), q_Qd.float() / scale)
            class_logits_Q2 = F.linear(
                query_Qd.float(), self.presence.weight.float(), self.presence.bias.float()
            )
        return mask_logits_TC, class_logits_Q2

    @torch.no_grad()
    def cache_first_query(self) -> None:
        """For inference: what no image enters is computed once; weights are final."""
        self.cached_query_Cd = None
        self.cached_query_Cd = self.eval().first_query(1)

    def _query_segments(self, num_images: int, device: torch.device) -> Segments:
        return Segments.from_lengths([self.num_classes] * num_images, device)


class AtmLayer(nn.Module):
    """Self-attention of queries, cross-attention to tokens, feed-forward; post-norm throughout."""

    def __init__(self, *, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.self_qkv = nn.Linear(dim, 3 * dim)
        self.self_proj = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_q = nn.Linear(dim, dim)
        self.cross_proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def attend_queries(self, query_Qd: Tensor, attend: Attend) -> Tensor:
        """Self-attention: ``[Q, d] -> [Q, d]``."""
        qkv_Q3NK = self.self_qkv(query_Qd).unflatten(1, (3, self.num_heads, -1))
        attended = self.self_proj(attend(*qkv_Q3NK.unbind(1)).flatten(1))
        return self.norm1(query_Qd + self.dropout(attended))

    def attend_tokens(
        self, query_Qd: Tensor, k_Td: Tensor, v_Td: Tensor, attend: Attend
    ) -> tuple[Tensor, Tensor]:
        """Cross-attention and feed-forward.

        Returns:
            The queries ``[Q, d]``, and what was compared with the keys, ``[Q, d]``.

        """
        q_Qd = self.cross_q(query_Qd)
        q_QNK, k_TNK, v_TNK = (x.unflatten(1, (self.num_heads, -1)) for x in (q_Qd, k_Td, v_Td))
        attended = self.cross_proj(attend(q_QNK, k_TNK, v_TNK).flatten(1))
        query_Qd = self.norm2(query_Qd + self.dropout(attended))
        hidden = self.dropout(F.relu(self.fc1(query_Qd)))
        return self.norm3(query_Qd + self.dropout(self.fc2(hidden))), q_Qd


def _init_linear(module: nn.Module) -> None:
    """As SegViT and DToP; norms start at 1 and 0 as they are."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    if isinstance(module, AtmLayer):  # theirs is PyTorch's, which they leave alone
        nn.init.xavier_uniform_(module.self_qkv.weight)


def presence_probability(class_logits_BC2: Tensor) -> Tensor:
    """Softmax over (present, absent), the probability of present, ``[B, C]``."""
    return class_logits_BC2.softmax(-1)[..., 0]
