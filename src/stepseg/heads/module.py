"""The attention-to-mask (ATM) module: class queries attend to tokens through a few decoder layers.

What the last cross-attention compares before its softmax is the answer: the score of token t and
query c says how much t belongs to class c (SegViT). A head has one module (`stepseg.heads.atm`) or
a cascade of them (`stepseg.heads.cascade`).

Letters: T packed tokens, C classes, Q packed queries, D channels of the encoder, d channels of the
head, N attention heads, K channels of one.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepseg.ops.attention import Attend

Compare = Callable[[Tensor, Tensor], Tensor]
"""Keys ``[T, d]`` and queries ``[Q, d]`` to the scores of each image, ``[T, C]``."""


class Meeting(NamedTuple):
    """Where queries and tokens of an image meet; it knows the images, the arithmetic does not."""

    among_queries: Attend
    """An image's queries to each other."""
    to_tokens: Attend
    """An image's queries to its tokens."""
    compare: Compare
    """The last layer's keys and queries."""


INITS = ("segvit", "pytorch")
"""Linear maps from a truncated normal of 0.02 without bias, as published; or as PyTorch draws them,
three times as wide in a head of 96 channels, for training from random weights."""


class AtmModule(nn.Module):
    """Decoder layers over the tokens of one depth of the encoder.

    Args:
        dim: channels of the encoder, D.
        head_dim: channels of the module, d.
        num_heads: attention heads.
        num_layers: decoder layers.
        dropout: on attended values and in the feed-forward layers, in training.

    """

    def __init__(
        self,
        *,
        dim: int,
        head_dim: int,
        num_heads: int,
        num_layers: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if head_dim % num_heads:
            raise ValueError(f"{head_dim} channels do not divide into {num_heads} ATM heads")
        self.head_dim, self.num_heads = head_dim, num_heads
        self.input_proj = nn.Linear(dim, head_dim)
        self.input_norm = nn.LayerNorm(head_dim)
        # Keys and values of all layers depend on the tokens alone: one product makes them all.
        self.cross_kv = nn.Linear(head_dim, 2 * head_dim * num_layers)
        self.layers = nn.ModuleList(
            AtmLayer(dim=head_dim, num_heads=num_heads, dropout=dropout) for _ in range(num_layers)
        )

    def look(
        self,
        x_TD: Tensor,
        query_Qd: Tensor,
        meeting: Meeting,
        *,
        have_met: bool,
    ) -> tuple[Tensor, Tensor]:
        """Let queries look at tokens.

        Args:
            x_TD: values of the tokens.
            query_Qd: what the queries are so far.
            meeting: of the images that both belong to.
            have_met: whether the queries come out of the first layer's self-attention already.

        Returns:
            The queries ``[Q, d]`` and mask logits, float32 ``[T, C]``.

        """
        x_Td = self.input_norm(self.input_proj(x_TD))
        keys_and_values = self.cross_kv(x_Td).chunk(2 * len(self.layers), dim=1)
        q_Qd, k_Td = query_Qd, x_Td
        for index, module in enumerate(self.layers):
            layer = cast(AtmLayer, module)
            if index > 0 or not have_met:
                query_Qd = layer.attend_queries(query_Qd, meeting.among_queries)
            k_Td, v_Td = keys_and_values[2 * index : 2 * index + 2]
            query_Qd, q_Qd = layer.attend_tokens(query_Qd, k_Td, v_Td, meeting.to_tokens)
        # Averaged over heads, the scores are one product of the concatenated heads:
        # mean_h(q_h . k_h) / sqrt(K) == (q . k) / (N * sqrt(K)).
        scale = self.num_heads * math.sqrt(self.head_dim // self.num_heads)
        with torch.autocast(x_Td.device.type, enabled=False):
            # float32: near the threshold a half-precision score is too coarse to decide an exit
            return query_Qd, meeting.compare(k_Td.float(), q_Qd.float() / scale)


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


def start_weights(module: nn.Module, init: str) -> None:
    """Draw what training starts from, one of `INITS`; norms start at 1 and 0 as they are."""
    if init not in INITS:
        raise ValueError(f"heads.init={init!r}: choose one of {', '.join(INITS)}")
    if init == "segvit":
        module.apply(_as_segvit)


def _as_segvit(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    if isinstance(module, AtmLayer):  # theirs is PyTorch's, which they leave alone
        nn.init.xavier_uniform_(module.self_qkv.weight)
