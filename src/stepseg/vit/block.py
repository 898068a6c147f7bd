"""The pre-norm transformer block of timm's ViT, on packed tokens.

Parameter names equal timm's (``norm1``, ``attn.qkv``, ``attn.proj``, ``norm2``, ``mlp.fc1``,
``mlp.fc2``), so that its checkpoints load as they are.

Letters: T packed tokens, D channels, N heads, K channels of a head.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from stepseg.ops.attention import varlen_attention
from stepseg.ops.drop_path import DropPath
from stepseg.packed import PackedTokens, Segments


class Attention(nn.Module):
    """Multi-head self-attention within each image."""

    def __init__(self, *, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{dim} channels do not divide into {num_heads} attention heads")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_TD: Tensor, segments: Segments) -> Tensor:
        q_TNK, k_TNK, v_TNK = self.qkv(x_TD).unflatten(1, (3, self.num_heads, -1)).unbind(1)
        out_TNK = varlen_attention(q_TNK, k_TNK, v_TNK, segments, segments)
        return self.proj(out_TNK.flatten(1))


class Mlp(nn.Module):
    """Two linear layers with the exact GELU between them."""

    def __init__(self, *, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x_TD)))


class Block(nn.Module):
    """Attention and MLP, each with pre-norm, a residual and stochastic depth per image."""

    def __init__(self, *, dim: int, num_heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim=dim, num_heads=num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim=dim, hidden_dim=int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: PackedTokens) -> PackedTokens:
        x_TD, images, count = tokens.values_TD, tokens.image_ids_T, tokens.segments.num_images
        attended = self.attn(self.norm1(x_TD), tokens.segments)
        x_TD = x_TD + self.drop_path(attended, images, count)
        x_TD = x_TD + self.drop_path(self.mlp(self.norm2(x_TD)), images, count)
        return tokens.with_values(x_TD)
