"""The attention-to-mask (ATM) head: final decoder and exit head alike (SegViT, DToP; Sec. 3.2.2).

One learned query per class attends to the tokens through a few decoder layers. What the last
cross-attention compares before its softmax is the answer: the score of token t and query c says how
much t belongs to class c. A linear layer on the queries says whether the class is present at all.

Not here: which tokens leave (`stepseg.heads.exit`), losses, the assembly of the map.

Letters: B images, T packed tokens, C classes (one query each), D channels of the encoder, d
channels of the head, N attention heads, K channels of one.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepseg.ops.attention import varlen_attention
from stepseg.ops.segment import segment_matmul
from stepseg.packed import PackedTokens, Segments


class AtmHead(nn.Module):
    """Class queries over packed tokens.

    Args:
        dim: channels of the encoder, D.
        num_classes: C.
        head_dim: channels of this head, d; `dim // 2` in the literature.
        num_heads: attention heads.
        num_layers: decoder layers.
        dropout: on attended values and in the feed-forward layers, in training.

    """

    def __init__(
        self,
        *,
        dim: int,
        num_classes: int,
        head_dim: int,
        num_heads: int,
        num_layers: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if head_dim % num_heads:
            raise ValueError(f"{head_dim} channels do not divide into {num_heads} ATM heads")
        self.head_dim, self.num_heads = head_dim, num_heads
        self.num_classes = num_classes
        self.input_proj = nn.Linear(dim, head_dim)
        self.input_norm = nn.LayerNorm(head_dim)
        self.query_Cd = nn.Parameter(torch.empty(num_classes, head_dim))
        self.layers = nn.ModuleList(
            AtmLayer(dim=head_dim, num_heads=num_heads, dropout=dropout) for _ in range(num_layers)
        )
        self.presence = nn.Linear(head_dim, 2)
        nn.init.trunc_normal_(self.query_Cd, std=1.0)

    def forward(self, tokens: PackedTokens) -> tuple[Tensor, Tensor]:
        """Score tokens against classes.

        Returns:
            Mask logits, float32 ``[T, C]``, and class logits (present, absent), float32
            ``[B, C, 2]``.

        """
        num_images = tokens.segments.num_images
        x_Td = self.input_norm(self.input_proj(tokens.values_TD))
        query_BCd = self.query_Cd.expand(num_images, -1, -1)
        for layer in self.layers:
            query_BCd, q_BCd, k_Td = layer(query_BCd, x_Td, tokens.segments)
        # Averaged over heads, the scores are one product of the concatenated heads:
        # mean_h(q_h . k_h) / sqrt(K) == (q . k) / (N * sqrt(K)).
        scale = self.num_heads * math.sqrt(self.head_dim // self.num_heads)
        with torch.autocast(x_Td.device.type, enabled=False):
            # float32: near the threshold a half-precision score is too coarse to decide an exit
            scores_BdC = (q_BCd.float() / scale).transpose(1, 2)
            mask_logits_TC = segment_matmul(k_Td.float(), scores_BdC, tokens.segments)
            class_logits_BC2 = F.linear(
                query_BCd.float(), self.presence.weight.float(), self.presence.bias.float()
            )
        return mask_logits_TC, class_logits_BC2


class AtmLayer(nn.Module):
    """Self-attention of queries, cross-attention to tokens, feed-forward; post-norm throughout."""

    def __init__(self, *, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.self_qkv = nn.Linear(dim, 3 * dim)
        self.self_proj = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_q = nn.Linear(dim, dim)
        self.cross_kv = nn.Linear(dim, 2 * dim)
        self.cross_proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, query_BCd: Tensor, x_Td: Tensor, segments: Segments
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Update the queries.

        Returns:
            The queries ``[B, C, d]``, and what this layer's cross-attention compares: its queries
            ``[B, C, d]`` and keys ``[T, d]``.

        """
        query_BCd = self.norm1(query_BCd + self.dropout(self._self_attend(query_BCd)))
        q_BCd = self.cross_q(query_BCd)
        k_Td, v_Td = self.cross_kv(x_Td).chunk(2, dim=1)
        attended = self._cross_attend(q_BCd, k_Td, v_Td, segments)
        query_BCd = self.norm2(query_BCd + self.dropout(attended))
        hidden = self.dropout(F.relu(self.fc1(query_BCd)))
        query_BCd = self.norm3(query_BCd + self.dropout(self.fc2(hidden)))
        return query_BCd, q_BCd, k_Td

    def _self_attend(self, query_BCd: Tensor) -> Tensor:
        qkv = self.self_qkv(query_BCd).unflatten(2, (3, self.num_heads, -1))
        q_BNCK, k_BNCK, v_BNCK = qkv.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q_BNCK, k_BNCK, v_BNCK)
        return self.self_proj(out.transpose(1, 2).flatten(2))

    def _cross_attend(
        self, q_BCd: Tensor, k_Td: Tensor, v_Td: Tensor, segments: Segments
    ) -> Tensor:
        batch, classes, _ = q_BCd.shape
        queries = Segments.from_lengths([classes] * batch, q_BCd.device)
        q_QNK, k_TNK, v_TNK = (
            x.unflatten(1, (self.num_heads, -1)) for x in (q_BCd.flatten(0, 1), k_Td, v_Td)
        )
        out_QNK = varlen_attention(q_QNK, k_TNK, v_TNK, queries, segments)
        return self.cross_proj(out_QNK.flatten(1)).view_as(q_BCd)


def presence_probability(class_logits_BC2: Tensor) -> Tensor:
    """Softmax over (present, absent), the probability of present, ``[B, C]``."""
    return class_logits_BC2.softmax(-1)[..., 0]
