"""The pre-norm transformer block of timm's ViT, on packed tokens.

Parameter names equal timm's (``norm1``, ``attn.qkv``, ``attn.proj``, ``norm2``, ``mlp.fc1``,
``mlp.fc2``), so that its checkpoints load as they are.

Letters: T packed tokens, D channels, N heads, K channels of a head.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from stepseg.ops.attention import Attend, varlen_attention
from stepseg.ops.drop_path import DropPath
from stepseg.packed import PackedTokens


class Attention(nn.Module):
    """Multi-head self-attention within each image."""

    def __init__(self, *, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{dim} channels do not divide into {num_heads} attention heads")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_TD: Tensor, attend: Attend) -> Tensor:
        """Project, attend within images, project: ``[T, D] -> [T, D]``."""
        q_TNK, k_TNK, v_TNK = self.qkv(x_TD).unflatten(1, (3, self.num_heads, -1)).unbind(1)
        return self.proj(attend(q_TNK, k_TNK, v_TNK).flatten(1))


class Mlp(nn.Module):
    """Two linear layers with the exact GELU between them."""

    def __init__(self, *, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x_TD: Tensor) -> Tensor:
        """``[T, D] -> [T, D]``, every token by itself."""
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
        """The same tokens with new values."""
        segments = tokens.segments

        def attend(q_TNK: Tensor, k_TNK: Tensor, v_TNK: Tensor) -> Tensor:
            return varlen_attention(q_TNK, k_TNK, v_TNK, segments, segments)

        def drop(branch_TD: Tensor) -> Tensor:
            return self.drop_path(branch_TD, tokens.image_ids_T, segments.num_images)

        return tokens.with_values(self.residuals(tokens.values_TD, attend, drop))

    def residuals(
        self, x_TD: Tensor, attend: Attend, drop: Callable[[Tensor], Tensor] = lambda x: x
    ) -> Tensor:
        """The arithmetic of the block, free of the layout: both branches added to their input.

        Args:
            x_TD: values of the tokens.
            attend: attention within images.
            drop: stochastic depth of a branch ``[T, D]``.

        Returns:
            ``[T, D]``.

        """
        x_TD = x_TD + drop(self.attn(self.norm1(x_TD), attend))
        return x_TD + drop(self.mlp(self.norm2(x_TD)))
